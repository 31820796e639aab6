// Compares two call traces (simgpu/front/trace.h says what a line is).
//
// Calls are lined up thread by thread by their names, so that one call more on a side does not make
// all that follows differ. Handles and addresses are matched as they first appear in lined-up
// calls, not by their numbers. Values; no threads.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace simgpu::apps {

inline constexpr size_t kTraceLinesMax = 1 << 20;  // of one file
// Calls that only one side has; beyond it the traces are of different programs.
inline constexpr size_t kTraceStepsMax = 4000;

struct TraceCall {
  std::string sequence;
  std::string name;
  std::vector<std::pair<std::string, std::string>> arguments;
  std::string result;
};

// Reads one line; false when it is none of a trace.
bool ParseCall(std::string_view line, std::string* thread, TraceCall* call);

struct TraceDiff {
  size_t calls = 0;                      // that both sides have
  std::vector<std::string> differences;  // one a line, for people
  std::string error;                     // not comparable: why
};

// `ignore` holds names of calls, or CALL.PARAMETER.
TraceDiff CompareTraces(std::string_view a, std::string_view b,
                        const std::vector<std::string>& ignore);

}  // namespace simgpu::apps
