// libtessera.so in programs that are not ours: it must load everywhere, cost nothing where no GPU
// is used, and stand at every door where one is.
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <map>
#include <sstream>
#include <string>

namespace {

const std::string kLibrary = TESSERA_GUEST_LIBRARY;
const std::string kPrograms = TESSERA_GUEST_PROGRAMS;

struct Outcome {
  int code;
  std::string text;  // stdout and stderr
};

// Runs a shell command with the preload; a program that never touches the GPU must not speak or
// ask.
Outcome Preloaded(const std::string& command, const std::string& environment = "") {
  const std::string whole = "env -u TESSERA_SOCKET LD_PRELOAD='" + kLibrary + "' " + environment +
                            " " + command + " 2>&1";
  std::FILE* pipe = popen(whole.c_str(), "r");
  Outcome outcome = {-1, ""};
  if (pipe == nullptr) return outcome;
  for (int c; (c = std::fgetc(pipe)) != EOF;) outcome.text += static_cast<char>(c);
  const int status = pclose(pipe);
  outcome.code = WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + status;
  return outcome;
}

bool Has(const std::string& program) {
  return std::system(("command -v " + program + " >/dev/null 2>&1").c_str()) == 0;
}

TEST(PreloadTest, GlibcProgram) {
  const Outcome outcome = Preloaded(kPrograms + "/plain " + kPrograms + "/plain");
  EXPECT_EQ(outcome.code, 0);
  EXPECT_EQ(outcome.text, "plain 0\nplain 0\n");
}

TEST(PreloadTest, MuslProgram) {
  const Outcome outcome = Preloaded(kPrograms + "/plain-musl " + kPrograms + "/plain-musl");
  EXPECT_EQ(outcome.code, 0) << outcome.text;
  EXPECT_EQ(outcome.text, "plain 0\nplain 0\n");
}

TEST(PreloadTest, IsReallyLoadedInBoth) {
  // Without this the two tests above could pass with no preload at all.
  for (const char* program : {"/plain", "/plain-musl"}) {
    const Outcome outcome =
        Preloaded("sh -c 'exec " + kPrograms + program + " /bin/cat /proc/self/maps'");
    EXPECT_NE(outcome.text.find("libtessera.so"), std::string::npos) << program;
  }
  const Outcome musl = Preloaded("strace -f -e trace=openat,open " + kPrograms + "/plain-musl");
  if (Has("strace")) {
    EXPECT_NE(musl.text.find("libtessera.so"), std::string::npos) << musl.text;
  }
}

TEST(PreloadTest, Shell) {
  const Outcome outcome =
      Preloaded("bash -c 'for i in 1 2 3; do (echo $i | cat); done; printf done'");
  EXPECT_EQ(outcome.code, 0);
  EXPECT_EQ(outcome.text, "1\n2\n3\ndone");
}

TEST(PreloadTest, Python) {
  ASSERT_TRUE(Has("python3"));
  const Outcome outcome = Preloaded(
      "python3 -c \"import ctypes, subprocess, threading, os; "
      "t=[threading.Thread(target=lambda: subprocess.run(['true'], check=True)) for _ in "
      "range(4)]; "
      "[x.start() for x in t]; [x.join() for x in t]; "
      "print(ctypes.CDLL(None).getpid() == os.getpid(), hasattr(ctypes.CDLL(None), 'cuInit'))\"");
  EXPECT_EQ(outcome.code, 0);
  EXPECT_EQ(outcome.text, "True False\n");
}

TEST(PreloadTest, Node) {
  if (!Has("node")) {
    std::fprintf(stderr, "node is not installed: its run under the preload is left out\n");
    return;
  }
  const Outcome outcome =
      Preloaded("node -e 'require(\"child_process\").execSync(\"true\"); console.log(6*7)'");
  EXPECT_EQ(outcome.code, 0);
  EXPECT_EQ(outcome.text, "42\n");
}

TEST(PreloadTest, StormsOfThreadsForksAndClosedDescriptors) {
  const Outcome outcome = Preloaded(kPrograms + "/storm");
  EXPECT_EQ(outcome.code, 0) << outcome.text;
  EXPECT_EQ(outcome.text, "");
}

TEST(PreloadTest, StormsUnderMusl) {
  const Outcome outcome = Preloaded(kPrograms + "/storm-musl");
  EXPECT_EQ(outcome.code, 0) << outcome.text;
}

// Every door, and where it leads.
TEST(PreloadTest, Doors) {
  const Outcome outcome =
      Preloaded(kPrograms + "/doors", "LD_LIBRARY_PATH=" + kPrograms + "/driver");
  ASSERT_EQ(outcome.code, 0) << outcome.text;
  std::map<std::string, std::string> lines;
  std::stringstream text(outcome.text);
  for (std::string line; std::getline(text, line);) {
    const size_t colon = line.find(": ");
    if (colon != std::string::npos) lines[line.substr(0, colon)] = line.substr(colon + 2);
  }
  const std::string ours = "libtessera.so", drivers = "libcuda.so.1";
  // No driver is loaded: a lookup finds nothing, and says so properly.
  EXPECT_EQ(lines["default before loading"], "null");
  EXPECT_EQ(lines["error before loading"], "some");
  EXPECT_EQ(lines["next before loading"], "null");
  EXPECT_EQ(lines["program before loading"], "null");
  EXPECT_EQ(lines["handle wrapped"], ours);
  EXPECT_EQ(lines["handle passed"], drivers);
  EXPECT_EQ(lines["handle export table"], drivers);
  EXPECT_EQ(lines["handle missing"], "null")
      << "a wrapper of what the driver lacks must not appear";
  EXPECT_EQ(lines["handle unknown"], "null");
  EXPECT_EQ(lines["default wrapped"], ours);
  EXPECT_EQ(lines["next wrapped"], ours);
  EXPECT_EQ(lines["dlvsym right version"], ours);
  EXPECT_EQ(lines["dlvsym wrong version"], "null");
  EXPECT_EQ(lines["default libc"].substr(0, 4), "libc");
  EXPECT_EQ(lines["get proc address"], ours);
  // The driver's lookup: the wrapper of exactly the form that was asked for, as its number shows.
  EXPECT_EQ(lines["asked cuInit 13000 0"], "0 " + ours);
  EXPECT_EQ(lines["asked cuDeviceGetCount 13000 0"], "0 " + drivers);
  EXPECT_EQ(lines["asked cuMemcpyHtoD 13000 0"], "0 " + ours + " -> 5003");
  EXPECT_EQ(lines["asked cuMemcpyHtoD 13000 2"], "0 " + ours + " -> 5004");
  EXPECT_EQ(lines["asked cuMemPrefetchAsync 8000 0"], "0 " + ours + " -> 5005");
  EXPECT_EQ(lines["asked cuMemPrefetchAsync 8000 2"], "0 " + ours + " -> 5007");
  EXPECT_EQ(lines["asked cuMemPrefetchAsync 12020 0"], "0 " + ours + " -> 5006");
  EXPECT_EQ(lines["asked cuMemPrefetchAsync 13000 2"], "0 " + ours + " -> 5008");
  EXPECT_EQ(lines["asked cuGetProcAddress 12000 0"], "0 " + ours);
  EXPECT_EQ(lines["asked cuNoSuchFunction 13000 0"], "500 null");
  EXPECT_EQ(lines["denied"], "801");
  EXPECT_NE(outcome.text.find("tessera: cuArrayCreate is refused inside a slice"),
            std::string::npos);
  EXPECT_EQ(lines["handed on"], "5009");
  EXPECT_EQ(lines["init"], "800");
  EXPECT_NE(outcome.text.find("tessera: no node answers"), std::string::npos);
  // RTLD_NEXT means next after the asker, not next after us.
  EXPECT_EQ(lines["next of two"], "3");
  EXPECT_EQ(lines["next of two again"], "3");
  EXPECT_EQ(lines["next of two by version"], "3");
}

// The same walk without the preload: so that the one above is about the preload and nothing else.
TEST(PreloadTest, DoorsWithoutThePreloadLeadToTheDriver) {
  const std::string command =
      "env -u LD_PRELOAD LD_LIBRARY_PATH=" + kPrograms + "/driver " + kPrograms + "/doors";
  std::FILE* pipe = popen(command.c_str(), "r");
  ASSERT_NE(pipe, nullptr);
  std::string text;
  for (int c; (c = std::fgetc(pipe)) != EOF;) text += static_cast<char>(c);
  EXPECT_EQ(pclose(pipe), 0);
  EXPECT_EQ(text.find("libtessera"), std::string::npos);
  EXPECT_NE(text.find("handle wrapped: libcuda.so.1"), std::string::npos);
  EXPECT_NE(text.find("next of two: 3"), std::string::npos);
}

}  // namespace
