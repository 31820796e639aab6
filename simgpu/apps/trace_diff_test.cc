#include "simgpu/apps/trace_diff.h"

#include <gtest/gtest.h>

namespace simgpu::apps {
namespace {

using Lines = std::vector<std::string>;

Lines Differences(const std::string& a, const std::string& b, const Lines& ignore = {}) {
  const TraceDiff diff = CompareTraces(a, b, ignore);
  EXPECT_EQ(diff.error, "");
  return diff.differences;
}

TEST(TraceDiff, ReadsALine) {
  TraceCall call;
  std::string thread;
  ASSERT_TRUE(
      ParseCall("12 t3 cuX(a=\"x, \\\")=\", b=[node#1 node#2], c={1x2 type 1 to 2}, d=&~) = "
                "CUDA_SUCCESS",
                &thread, &call));
  EXPECT_EQ(call.sequence, "12");
  EXPECT_EQ(thread, "3");
  EXPECT_EQ(call.name, "cuX");
  ASSERT_EQ(call.arguments.size(), 4u);
  EXPECT_EQ(call.arguments[0].second, "\"x, \\\")=\"");
  EXPECT_EQ(call.arguments[1].second, "[node#1 node#2]");
  EXPECT_EQ(call.arguments[3].first, "d");
  EXPECT_EQ(call.result, "CUDA_SUCCESS");
  TraceCall empty;
  ASSERT_TRUE(ParseCall("1 t0 cuY() = 77777", &thread, &empty));
  EXPECT_TRUE(empty.arguments.empty());
  EXPECT_EQ(empty.result, "77777");
  for (const char* bad : {"", "1", "x t0 cuA() = 1", "1 t cuA() = 1", "1 t0 A() = 1", "1 t0 cuA(",
                          "1 t0 cuA()", "1 t0 cuA(x) = 1", "1 t0 cuA() = ",
                          "99999999999999999999 t0 cuA() = 1", "1 t99999999999 cuA() = 1"}) {
    TraceCall none;
    EXPECT_FALSE(ParseCall(bad, &thread, &none)) << bad;
  }
}

TEST(TraceDiff, NumbersOfHandlesAreMatched) {
  // B makes one stream more, and numbers its events the other way round.
  const std::string a =
      "1 t0 cuStreamCreate(phStream=&stream#1, Flags=0) = CUDA_SUCCESS\n"
      "2 t0 cuEventRecord(hEvent=event#1, hStream=stream#1) = CUDA_SUCCESS\n"
      "3 t0 cuEventRecord(hEvent=event#2, hStream=stream#1) = CUDA_SUCCESS\n"
      "4 t0 cuEventRecord(hEvent=event#1, hStream=stream#1) = CUDA_SUCCESS\n";
  std::string b =
      "# process 1 x\n"
      "1 t0 cuInit(Flags=0) = CUDA_SUCCESS\n"
      "2 t0 cuStreamCreate(phStream=&stream#2, Flags=0) = CUDA_SUCCESS\n"
      "3 t0 cuEventRecord(hEvent=event#2, hStream=stream#2) = CUDA_SUCCESS\n"
      "4 t0 cuEventRecord(hEvent=event#1, hStream=stream#2) = CUDA_SUCCESS\n";
  EXPECT_EQ(Differences(a, b + "5 t0 cuEventRecord(hEvent=event#2, hStream=stream#2) = "
                               "CUDA_SUCCESS\n"),
            Lines({"t0 B 1: only there: cuInit(Flags=0) = CUDA_SUCCESS"}));
  EXPECT_EQ(Differences(a,
                        b + "5 t0 cuEventRecord(hEvent=event#1, hStream=stream#2) = "
                            "CUDA_SUCCESS\n",
                        {"cuInit"}),
            Lines({"t0 A 4, B 5: cuEventRecord: hEvent event#1 | event#1"}));
}

TEST(TraceDiff, OffsetsAndResultsCount) {
  const std::string a =
      "1 t0 cuMemAlloc_v2(dptr=&mem#1, bytesize=16) = CUDA_SUCCESS\n"
      "2 t0 cuMemFree_v2(dptr=mem#1+0x10) = CUDA_ERROR_INVALID_VALUE\n";
  const std::string b =
      "1 t0 cuMemAlloc_v2(dptr=&, bytesize=16) = CUDA_ERROR_OUT_OF_MEMORY\n"
      "2 t0 cuMemFree_v2(dptr=mem#1+0x20) = CUDA_ERROR_INVALID_VALUE\n";
  EXPECT_EQ(Differences(a, b),
            Lines({"t0 A 1, B 1: cuMemAlloc_v2: result CUDA_SUCCESS | CUDA_ERROR_OUT_OF_MEMORY",
                   "t0 A 2, B 2: cuMemFree_v2: dptr mem#1+0x10 | mem#1+0x20"}));
  EXPECT_EQ(Differences(a, b, {"cuMemFree_v2.dptr", "cuMemAlloc_v2"}), Lines());
}

TEST(TraceDiff, ThreadsAreComparedApart) {
  const std::string a = "1 t0 cuA() = 0\n2 t1 cuB() = 0\n3 t0 cuC() = 0\n";
  const std::string b = "1 t1 cuB() = 0\n2 t0 cuA() = 0\n3 t0 cuC() = 0\n";
  EXPECT_EQ(Differences(a, b), Lines());
  EXPECT_EQ(Differences(a, b + "4 t2 cuD() = 0\n"), Lines({"t2 B 4: only there: cuD() = 0"}));
}

// Random edits of a trace: the list must name exactly what was added.
TEST(TraceDiff, FindsWhatWasAdded) {
  unsigned seed = 1;
  auto draw = [&](unsigned n) { return (seed = seed * 1664525 + 1013904223) / 65536 % n; };
  for (int round = 0; round < 200; ++round) {
    std::string a, b;
    size_t added = 0;
    int sequence = 0;
    for (unsigned i = 0; i < 50; ++i) {
      const std::string call =
          " t0 cu" + std::string(1, static_cast<char>('A' + draw(4))) + "() = 0\n";
      ++sequence;
      a += std::to_string(sequence) + call;
      b += std::to_string(sequence) + call;
      if (draw(10) == 0) {
        ++added;
        (draw(2) == 0 ? a : b) +=
            std::to_string(++sequence) + " t0 cuNew" + std::to_string(i) + "() = 0\n";
      }
    }
    EXPECT_EQ(Differences(a, b).size(), added) << a << "\n" << b;
  }
}

TEST(TraceDiff, SaysWhatItCannotCompare) {
  EXPECT_EQ(CompareTraces("nonsense\n", "", {}).error,
            "A:1: expected a call as in \"1 t0 cuInit(Flags=0) = CUDA_SUCCESS\"");
  std::string a, b;
  for (size_t i = 1; i <= kTraceStepsMax; ++i) {
    a += std::to_string(i) + " t0 cuA() = 0\n";
    b += std::to_string(i) + " t0 cuB() = 0\n";
  }
  EXPECT_EQ(CompareTraces(a, b, {}).error,
            "t0: more than kTraceStepsMax = 4000 calls that only one side has");
  EXPECT_EQ(CompareTraces(a, a, {}).calls, kTraceStepsMax);
}

}  // namespace
}  // namespace simgpu::apps
