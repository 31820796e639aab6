// The rules libtessera.so is linked by, read from the file itself with binutils.
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <regex>
#include <set>
#include <sstream>
#include <string>
#include <vector>

namespace {

const std::string kLibrary = TESSERA_GUEST_LIBRARY;

std::vector<std::string> Lines(const std::string& command) {
  std::FILE* pipe = popen(command.c_str(), "r");
  EXPECT_NE(pipe, nullptr) << command;
  std::vector<std::string> lines;
  std::string line;
  for (int c; (c = std::fgetc(pipe)) != EOF;) {
    if (c != '\n') {
      line += static_cast<char>(c);
    } else {
      lines.push_back(std::move(line));
      line.clear();
    }
  }
  EXPECT_EQ(pclose(pipe), 0) << command;
  EXPECT_FALSE(lines.empty()) << command;
  return lines;
}

TEST(LinkTest, NeedsLibcAndNothingElse) {
  std::vector<std::string> needed;
  for (const std::string& line : Lines("readelf -dW " + kLibrary)) {
    std::smatch match;
    if (std::regex_search(line, match, std::regex("\\(NEEDED\\).*\\[(.*)\\]")))
      needed.push_back(match[1]);
  }
  EXPECT_EQ(needed, std::vector<std::string>{"libc.so.6"});
}

TEST(LinkTest, AsksForNothingNewerThanTheFloor) {
#if defined(__x86_64__)
  const std::string kFloor = "GLIBC_2.2.5";
#else
  const std::string kFloor = "GLIBC_2.17";
#endif
  const std::set<std::string> kAllowed = {"__environ", "environ", "__errno_location",
                                          "dl_iterate_phdr"};
  int seen = 0;
  for (const std::string& line : Lines("nm -D --undefined-only " + kLibrary)) {
    std::smatch match;
    ASSERT_TRUE(std::regex_search(line, match, std::regex("[Uw] ([^@ ]+)@?@?(\\S*)$"))) << line;
    EXPECT_TRUE(kAllowed.contains(match[1])) << line;
    EXPECT_EQ(match[2], kFloor) << line;
    ++seen;
  }
  EXPECT_GT(seen, 0);
}

TEST(LinkTest, ThreadLocalsNeedNoLoaderCall) {
  for (const std::string& line : Lines("nm -D " + kLibrary)) {
    EXPECT_EQ(line.find("__tls_get_addr"), std::string::npos);
  }
  bool static_tls = false;
  for (const std::string& line : Lines("readelf -rW " + kLibrary)) {
    EXPECT_EQ(line.find("DTPMOD"), std::string::npos) << line;
    EXPECT_EQ(line.find("TLSDESC"), std::string::npos) << line;
  }
  for (const std::string& line : Lines("readelf -dW " + kLibrary)) {
    static_tls |= line.find("STATIC_TLS") != std::string::npos;
  }
  EXPECT_TRUE(static_tls);
}

TEST(LinkTest, RunsOneFunctionWhenLoadedAndNoneAtExit) {
  int one = 0;
  for (const std::string& line : Lines("readelf -dW " + kLibrary)) {
    EXPECT_FALSE(std::regex_search(line, std::regex("\\((INIT|FINI|FINI_ARRAY|PREINIT_ARRAY)\\)")))
        << line;
    one += std::regex_search(line, std::regex("\\(INIT_ARRAYSZ\\) +8 "));
  }
  EXPECT_EQ(one, 1);
}

TEST(LinkTest, IsBoundAtOnceSymbolicAndStays) {
  std::string all;
  for (const std::string& line : Lines("readelf -dlW " + kLibrary)) all += line + "\n";
  for (const char* word : {"BIND_NOW", "SYMBOLIC", "NODELETE", "GNU_RELRO"}) {
    EXPECT_NE(all.find(word), std::string::npos) << word;
  }
  EXPECT_EQ(all.find("TEXTREL"), std::string::npos);
  EXPECT_FALSE(std::regex_search(all, std::regex("GNU_STACK.*RWE")));
}

TEST(LinkTest, IsSmall) {
  struct stat file = {};
  ASSERT_EQ(stat(kLibrary.c_str(), &file), 0);
  EXPECT_LT(file.st_size, 128 * 1000);  // docs/decisions/0003
}

TEST(LinkTest, ExportsExactlyTheGoldenList) {
  std::vector<std::string> exported;
  for (const std::string& line : Lines("nm -D --defined-only " + kLibrary)) {
    std::smatch match;
    ASSERT_TRUE(std::regex_search(line, match, std::regex("([A-Za-z]) (\\S+)$"))) << line;
    if (match[1] != "A") exported.push_back(match[2]);  // version nodes are no symbols
  }
  std::sort(exported.begin(), exported.end());
  std::string text;
  for (const std::string& symbol : exported) text += symbol + "\n";
#if !defined(__x86_64__)
  text = std::regex_replace(text, std::regex("GLIBC_2\\.17"), "GLIBC_2.2.5");
#endif
  const std::string golden = TESSERA_GUEST_SOURCE "/exports.golden";
  if (std::getenv("TESSERA_GOLDEN_WRITE") != nullptr) std::ofstream(golden) << text;
  std::stringstream expected;
  expected << std::ifstream(golden).rdbuf();
  EXPECT_EQ(text, expected.str()) << "./dev golden rewrites " << golden;
}

// Devices, their identity and the driver's version must reach the program as the driver says them:
// CUDA's own runtime compares them and stops with error 103 when somebody stands between.
TEST(LinkTest, NobodyStandsBeforeTheCardsIdentity) {
  std::string all = "\n";
  for (const std::string& line : Lines("nm -D --defined-only " + kLibrary)) {
    all += line.substr(line.rfind(' ') + 1) + "\n";
  }
  for (const char* name :
       {"cuDeviceGetCount", "cuDeviceGet", "cuDeviceGetUuid", "cuDeviceGetUuid_v2",
        "cuDriverGetVersion", "cuDeviceGetAttribute", "cuDeviceGetPCIBusId",
        "cuDeviceGetByPCIBusId", "cuDeviceGetLuid", "cuGetExportTable"}) {
    EXPECT_EQ(all.find("\n" + std::string(name) + "\n"), std::string::npos) << name;
  }
}

#ifdef TESSERA_WALL_LIBRARY

// The library that is the driver: under its name, with every name of both driver libraries and no
// other.
TEST(WallLinkTest, ExportsTheDriversOwnNames) {
  std::vector<std::string> exported;
  for (const std::string& line : Lines("nm -D --defined-only " TESSERA_WALL_LIBRARY)) {
    exported.push_back(line.substr(line.rfind(' ') + 1));
  }
  std::vector<std::string> named;
  for (const char* manifest : {"cuda", "nvml"}) {
    const auto symbols =
        Lines(std::string(TESSERA_MANIFEST " symbols " TESSERA_GUEST_SOURCE "/../abi/") + manifest +
              ".manifest");
    named.insert(named.end(), symbols.begin(), symbols.end());
  }
  std::sort(exported.begin(), exported.end());
  std::sort(named.begin(), named.end());
  EXPECT_EQ(exported, named);
  EXPECT_GT(exported.size(), 1000u);
}

TEST(WallLinkTest, IsTheDriverByNameAndNeedsLibcAlone) {
  std::vector<std::string> needed, names;
  for (const std::string& line : Lines("readelf -dW " TESSERA_WALL_LIBRARY)) {
    std::smatch match;
    if (std::regex_search(line, match, std::regex("\\(NEEDED\\).*\\[(.*)\\]")))
      needed.push_back(match[1]);
    if (std::regex_search(line, match, std::regex("\\(SONAME\\).*\\[(.*)\\]")))
      names.push_back(match[1]);
  }
  EXPECT_EQ(needed, std::vector<std::string>{"libc.so.6"});
  EXPECT_EQ(names, std::vector<std::string>{"libcuda.so.1"});
  for (const std::string& line : Lines("nm -D --undefined-only " TESSERA_WALL_LIBRARY)) {
    EXPECT_NE(line.find("GLIBC_2.2.5"), std::string::npos) << line;
  }
}

#endif

}  // namespace
