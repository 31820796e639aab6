// The house rules that a machine can check: the include table, README sizes, file lengths,
// forbidden words. The table is the one of docs/architecture.md; a room that is not in it may not
// exist.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <regex>
#include <set>
#include <string>
#include <vector>

namespace {

namespace fs = std::filesystem;
using Names = std::set<std::string>;

const fs::path kRoot = TESSERA_SOURCE_DIR;

// Room -> rooms it may include, itself left out.
const std::map<std::string, Names>& IncludeTable() {
  static const Names services_below = {"base",      "wire",     "abi",     "os",      "device",
                                       "placement", "commerce", "vendors", "runtime", "config",
                                       "metrics",   "crypto",   "store",   "http",    "broker"};
  static const Names everything = {
      "base",    "wire",    "abi",       "os",      "device", "placement", "commerce",
      "vendors", "runtime", "config",    "metrics", "crypto", "store",     "http",
      "broker",  "node",    "scheduler", "cloud",   "cli",    "apps",      "simulate"};
  static const std::map<std::string, Names> table = {
      {"base", {}},
      {"wire", {}},
      {"abi", {}},
      {"os", {"base"}},
      {"device", {"base"}},
      {"placement", {"base", "device"}},
      {"commerce", {"base"}},
      {"guest", {"wire", "abi"}},
      {"broker", {"base", "wire", "os"}},
      {"vendors", {"base", "abi", "os", "device"}},
      {"runtime", {"base", "os", "wire"}},
      {"config", {"base", "os", "device"}},
      {"metrics", {"base", "os", "device"}},
      {"crypto", {"base", "os", "device"}},
      {"store", {"base", "os"}},
      {"http", {"base", "os"}},
      {"node", services_below},
      {"scheduler", services_below},
      {"cloud", services_below},
      {"simulate", services_below},
      {"cli", everything},
      {"apps", everything},
  };
  return table;
}

std::vector<fs::path> FilesUnder(const fs::path& folder, const Names& endings) {
  std::vector<fs::path> files;
  if (!fs::exists(folder)) return files;
  for (const auto& entry : fs::recursive_directory_iterator(folder)) {
    if (entry.is_regular_file() && endings.contains(entry.path().extension().string()))
      files.push_back(entry.path());
  }
  std::sort(files.begin(), files.end());
  return files;
}

std::vector<std::string> Lines(const fs::path& path) {
  std::ifstream in(path);
  std::vector<std::string> lines;
  for (std::string line; std::getline(in, line);) lines.push_back(line);
  return lines;
}

std::string Shown(const fs::path& path) { return fs::relative(path, kRoot).string(); }

// Problems of one include line, as the test and the test of the test use it.
std::string IncludeProblem(const std::string& room, const std::string& line) {
  static const std::regex quoted(R"re(^\s*#\s*include\s+"([^"]+)")re");
  std::smatch match;
  if (!std::regex_search(line, match, quoted)) return "";
  const std::string target = match[1];
  const auto slash = target.find('/');
  if (slash == std::string::npos) return "includes \"" + target + "\" without its room";
  const std::string other = target.substr(0, slash);
  if (other == room) return "";
  if (other == "simgpu") return "a room of src/ includes simgpu";
  if (!IncludeTable().contains(other)) return "includes \"" + target + "\": no such room";
  if (!IncludeTable().at(room).contains(other)) return "room " + room + " may not include " + other;
  return "";
}

TEST(Tidy, RoomsAreTheTable) {
  for (const auto& entry : fs::directory_iterator(kRoot / "src")) {
    if (entry.is_directory()) {
      EXPECT_TRUE(IncludeTable().contains(entry.path().filename().string()))
          << Shown(entry.path()) << " is in no tier";
    }
  }
}

TEST(Tidy, IncludesPointDown) {
  for (const auto& [room, allowed] : IncludeTable()) {
    for (const fs::path& file : FilesUnder(kRoot / "src" / room, {".h", ".cc", ".S", ".inc"})) {
      // A test may stand on the rooms it needs to play the other side.
      const bool test = file.filename().string().find("_test") != std::string::npos ||
                        file.filename().string().find("test_") == 0;
      if (test) continue;
      int number = 0;
      for (const std::string& line : Lines(file)) {
        ++number;
        const std::string problem = IncludeProblem(room, line);
        EXPECT_EQ(problem, "") << Shown(file) << ":" << number;
      }
    }
  }
}

TEST(Tidy, TheIncludeCheckBites) {
  EXPECT_NE(IncludeProblem("base", "#include \"os/files.h\""), "");
  EXPECT_NE(IncludeProblem("cloud", "#include \"scheduler/nodes.h\""), "");
  EXPECT_NE(IncludeProblem("guest", "#include \"base/result.h\""), "");
  EXPECT_NE(IncludeProblem("os", "#include \"nowhere/x.h\""), "");
  EXPECT_NE(IncludeProblem("os", "#include \"files.h\""), "");
  EXPECT_EQ(IncludeProblem("os", "#include \"base/result.h\""), "");
  EXPECT_EQ(IncludeProblem("cloud", "#include <vector>"), "");
}

TEST(Tidy, ThirdPartyHeadersStayInTheirRoom) {
  const std::map<std::string, Names> owners = {
      {"sqlite3.h", {"store"}},  {"boost/beast", {"http"}}, {"boost/asio", {"http"}},
      {"curl/", {"http"}},       {"yaml-cpp", {"config"}},  {"prometheus/", {"metrics"}},
      {"openssl/", {"crypto"}},  {"sodium.h", {"crypto"}},  {"CLI/", {"cli"}},
      {"libpq-fe.h", {"store"}},
  };
  for (const fs::path& file : FilesUnder(kRoot / "src", {".h", ".cc"})) {
    if (file.filename().string().find("_test") != std::string::npos) continue;
    const std::string room = fs::relative(file, kRoot / "src").begin()->string();
    int number = 0;
    for (const std::string& line : Lines(file)) {
      ++number;
      if (line.find("#include <") == std::string::npos) continue;
      for (const auto& [header, rooms] : owners) {
        if (line.find("<" + header) == std::string::npos) continue;
        EXPECT_TRUE(rooms.contains(room)) << Shown(file) << ":" << number << " " << line;
        EXPECT_EQ(file.extension(), ".cc")
            << Shown(file) << ":" << number << " third-party header in a header";
      }
    }
  }
}

TEST(Tidy, EveryFolderHasAShortReadme) {
  std::vector<fs::path> folders;
  for (const auto& entry : fs::directory_iterator(kRoot / "src")) {
    if (entry.is_directory()) folders.push_back(entry.path());
  }
  for (const char* name :
       {"simgpu", "bench", "tests", "tools", "packages", "docs", "api", "demo"}) {
    folders.push_back(kRoot / name);
  }
  for (const fs::path& folder : folders) {
    const fs::path readme = folder / "README.md";
    ASSERT_TRUE(fs::exists(readme)) << Shown(readme) << " is missing";
    EXPECT_LE(Lines(readme).size(), 10u) << Shown(readme);
  }
}

TEST(Tidy, FilesAreReadable) {
  for (const char* top : {"src", "simgpu", "bench", "tests", "tools", "demo"}) {
    for (const fs::path& file : FilesUnder(kRoot / top, {".h", ".cc", ".S", ".cu", ".py"})) {
      const auto lines = Lines(file);
      EXPECT_LE(lines.size(), 1200u)
          << Shown(file) << ": is there a room inside waiting to be its own?";
      for (size_t i = 0; i < lines.size(); ++i) {
        // Split so that this file does not find itself.
        for (const std::string& word :
             {std::string("TO") + "DO", std::string("FIX") + "ME", std::string("XX") + "X "}) {
          EXPECT_EQ(lines[i].find(word), std::string::npos)
              << Shown(file) << ":" << i + 1 << " says " << word;
        }
      }
    }
  }
}

TEST(Tidy, HeadersHavePragmaOnce) {
  for (const char* top : {"src", "simgpu"}) {
    for (const fs::path& file : FilesUnder(kRoot / top, {".h"})) {
      const auto lines = Lines(file);
      EXPECT_TRUE(std::find(lines.begin(), lines.end(), "#pragma once") != lines.end())
          << Shown(file);
    }
  }
}

TEST(Tidy, ReadmesGiveTheTwoCommands) {
  for (const char* name : {"README.md", "README_zh.md"}) {
    std::string text;
    for (const std::string& line : Lines(kRoot / name)) text += line + "\n";
    EXPECT_NE(text.find("./dev demo"), std::string::npos) << name;
    EXPECT_NE(text.find("./dev test"), std::string::npos) << name;
    EXPECT_NE(text.find("simgpu"), std::string::npos) << name;
  }
}

TEST(Tidy, DecisionNotesFitOnAPage) {
  for (const fs::path& file : FilesUnder(kRoot / "docs" / "decisions", {".md"})) {
    EXPECT_LE(Lines(file).size(), 60u) << Shown(file);
  }
}

}  // namespace
