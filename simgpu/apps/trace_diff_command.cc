// simgpu trace-diff: 0 when the traces say the same, 1 with a list when not.
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include <fstream>
#include <iterator>

#include "simgpu/apps/commands.h"
#include "simgpu/apps/trace_diff.h"

namespace simgpu::apps {
namespace {

bool ReadFile(const std::string& path, std::string* text) {
  std::ifstream in(path, std::ios::binary);
  text->assign(std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>());
  if (in.is_open() && !in.bad()) return true;
  Complain(path + ": " + strerror(errno));
  return false;
}

}  // namespace

int TraceDiffCommand(const Words& words) {
  Options options;
  if (!options.Read(words, {"ignore"}, {})) return kExitUsage;
  if (options.rest().size() != 2) {
    Complain("trace-diff: expected two files");
    return kExitUsage;
  }
  std::string a, b;
  if (!ReadFile(options.rest()[0], &a) || !ReadFile(options.rest()[1], &b)) return kExitUsage;
  const TraceDiff diff = CompareTraces(a, b, options.All("ignore"));
  if (!diff.error.empty()) {
    Complain("trace-diff: " + diff.error);
    return kExitUsage;
  }
  for (const std::string& line : diff.differences) printf("%s\n", line.c_str());
  printf("%zu calls on both sides, %zu differences\n", diff.calls, diff.differences.size());
  return diff.differences.empty() ? 0 : kExitFailed;
}

}  // namespace simgpu::apps
