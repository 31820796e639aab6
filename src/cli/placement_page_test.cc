#include "cli/placement_page.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <regex>

namespace tessera::cli {
namespace {

using testing::HasSubstr;
using testing::Not;

std::size_t Count(const std::string& text, const std::string& what) {
  std::size_t count = 0;
  for (std::size_t at = text.find(what); at != std::string::npos; at = text.find(what, at + 1)) {
    ++count;
  }
  return count;
}

std::vector<PlacementCurve> TwoCurves() {
  std::vector<double> rising(101), late(101, -1);
  for (std::size_t load = 0; load <= 100; ++load) rising[load] = static_cast<double>(load) * 0.95;
  late[90] = 80;
  late[100] = 90;
  return {{"ours", rising, late}, {"theirs", late, rising}};
}

// Every element is closed in the order in which they were opened.
void ExpectWellFormed(const std::string& page) {
  std::vector<std::string> open;
  const std::regex tag("<(/?)([a-zA-Z0-9!]+)[^>]*?(/?)>");
  for (std::sregex_iterator at(page.begin(), page.end(), tag), end; at != end; ++at) {
    const std::string name = (*at)[2];
    if (name == "!DOCTYPE" || name == "meta" || (*at)[3].length() > 0) continue;
    if ((*at)[1].length() == 0) {
      open.push_back(name);
      continue;
    }
    ASSERT_FALSE(open.empty()) << name;
    ASSERT_EQ(open.back(), name);
    open.pop_back();
  }
  EXPECT_TRUE(open.empty());
}

TEST(PlacementPage, IsOnePageWithThreeChartsAndATable) {
  const std::string page = PlacementPage("what fits", TwoCurves(), "load");
  ExpectWellFormed(page);
  EXPECT_EQ(Count(page, "role=\"img\""), 3u);
  EXPECT_EQ(Count(page, "<tr>"), 3u) << "a head and a row a policy";
  EXPECT_THAT(page, HasSubstr("<td>95.00</td>"));
  EXPECT_THAT(page, HasSubstr("<td>-</td>")) << "unknown is not zero";
  // In the close-up, 100 % of load is at the right edge and 95 % of cards in the middle of 80..100.
  EXPECT_THAT(page, HasSubstr("848.0,"));
}

TEST(PlacementPage, LoadsNothingAndRunsNothing) {
  const std::string page = PlacementPage("t", TwoCurves(), "load");
  for (const char* never : {"<script", "http://", "https://", "src=", "href=", "url(", "@import"}) {
    EXPECT_THAT(page, Not(HasSubstr(never)));
  }
  EXPECT_THAT(page, HasSubstr("default-src 'none'"));
}

TEST(PlacementPage, EscapesWhatItIsGiven) {
  auto curves = TwoCurves();
  curves[0].policy = "<b onclick='x'>\"&\n";
  const std::string page = PlacementPage("</title><script>alert(1)</script>", curves, "load");
  ExpectWellFormed(page);
  EXPECT_THAT(page, Not(HasSubstr("<script")));
  EXPECT_THAT(page, Not(HasSubstr("<b ")));
  EXPECT_THAT(page, HasSubstr("&lt;b onclick=&#39;x&#39;&gt;&quot;&amp;?"));
}

TEST(PlacementPage, StandsWithoutCurves) {
  ExpectWellFormed(PlacementPage("t", {}, "load"));
  ExpectWellFormed(PlacementPage("t", {{"p", {}, {}}, {"q", {5}, {5}}}, "load"));
}

}  // namespace
}  // namespace tessera::cli
