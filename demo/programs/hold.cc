// demo-hold [--seconds N] [--bytes B] [--samples S] [--granule G]
// Takes all the memory that cuMemGetInfo calls free (or B bytes of it) in ONE allocation, asks for
// one granule more and prints the driver's answer, then keeps writing and checking a pattern in its
// memory with kernels until N seconds have passed or SIGTERM arrives. S words are touched, spread
// over the whole allocation and including its last word.
#include <time.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>

#include "demo/programs/cuda.h"

namespace {

volatile std::sig_atomic_t g_stop = 0;
void OnSignal(int) { g_stop = 1; }

double Now() {
  timespec t{};
  clock_gettime(CLOCK_MONOTONIC, &t);
  return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_nsec) * 1e-9;
}

unsigned long long Wide(uint64_t value) { return value; }

// The pattern in one allocation. Everything free is taken, so the kernels' result lies in the
// allocation's own tail.
class Pattern {
 public:
  static constexpr uint64_t kResultBytes = 32;
  static constexpr uint64_t kMinBytes = kResultBytes + 64;

  Pattern(const demo::Session& session, demo::DevicePointer data, uint64_t bytes, uint64_t samples)
      : session_(session),
        data_(data),
        words_((bytes - kResultBytes) / 8 - 1),
        step_(words_ > samples ? words_ / samples : 1),
        last_(data + words_ * 8),
        result_(last_ + 8),
        fill_(session.Kernel("fill_pattern")),
        check_(session.Kernel("check_pattern")) {}

  void Fill(uint64_t seed) {
    void* params[] = {&data_, &words_, &step_, &seed};
    session_.Launch(fill_, kBlocks, 1, 256, 1, params);
    uint64_t one = 1;
    void* last[] = {&last_, &one, &one, &seed};
    session_.Launch(fill_, 1, 1, 32, 1, last);
  }

  // Answers how many sampled words differ from what Fill(seed) wrote; a word that was not looked at
  // counts too.
  uint64_t Wrong(uint64_t seed) {
    const demo::Driver& cuda = session_.driver();
    uint64_t result[3] = {0, 0, 0};
    session_.Check(cuda.MemcpyHtoD(result_, result, sizeof result), "cuMemcpyHtoD");
    void* params[] = {&data_, &words_, &step_, &seed, &result_};
    session_.Launch(check_, kBlocks, 1, 256, 1, params);
    uint64_t one = 1;
    void* last[] = {&last_, &one, &one, &seed, &result_};
    session_.Launch(check_, 1, 1, 32, 1, last);
    session_.Check(cuda.CtxSynchronize(), "cuCtxSynchronize");
    session_.Check(cuda.MemcpyDtoH(result, result_, sizeof result), "cuMemcpyDtoH");
    const uint64_t expected = (words_ + step_ - 1) / step_ + 1;
    return result[1] + (expected > result[0] ? expected - result[0] : result[0] - expected);
  }

 private:
  static constexpr unsigned kBlocks = 8;
  const demo::Session& session_;
  demo::DevicePointer data_;
  uint64_t words_;  // Without the last one, which the strided kernels may step over.
  uint64_t step_;
  demo::DevicePointer last_;
  demo::DevicePointer result_;
  demo::Function fill_;
  demo::Function check_;
};

}  // namespace

int main(int argc, char** argv) {
  demo::CheckOptions(argc, argv, {"--seconds", "--bytes", "--samples", "--granule"});
  const uint64_t seconds = demo::NumberOption(argc, argv, "--seconds", 86400, 0, 31536000);
  const uint64_t wanted =
      demo::NumberOption(argc, argv, "--bytes", 0, Pattern::kMinBytes, uint64_t{1} << 50);
  const uint64_t samples = demo::NumberOption(argc, argv, "--samples", 8192, 1, uint64_t{1} << 40);
  const uint64_t granule =
      demo::NumberOption(argc, argv, "--granule", 2 << 20, 1, uint64_t{1} << 40);
  struct sigaction action{};
  action.sa_handler = OnSignal;
  sigaction(SIGTERM, &action, nullptr);
  sigaction(SIGINT, &action, nullptr);

  const demo::Session session("demo-hold");
  const demo::Driver& cuda = session.driver();
  size_t free_bytes = 0, total_bytes = 0;
  session.Check(cuda.MemGetInfo(&free_bytes, &total_bytes), "cuMemGetInfo");
  const uint64_t bytes = wanted != 0 ? wanted : free_bytes;
  std::printf("program=demo-hold device=%s free=%llu total=%llu\n", session.device().c_str(),
              Wide(free_bytes), Wide(total_bytes));
  demo::DevicePointer data = 0;
  const demo::Result allocated = cuda.MemAlloc(&data, bytes);
  std::printf("alloc_bytes=%llu alloc_error=%d\n", Wide(bytes), allocated);
  if (allocated != 0) return 2;
  demo::DevicePointer more = 0;
  const demo::Result refused = cuda.MemAlloc(&more, granule);
  std::printf("granule_bytes=%llu granule_error=%d\n", Wide(granule), refused);
  if (refused == 0) session.Check(cuda.MemFree(more), "cuMemFree");

  Pattern pattern(session, data, bytes, samples);
  const double start = Now();
  double next_line = start + 1;
  uint64_t rounds = 0, wrong = 0;
  uint64_t seed = static_cast<uint64_t>(getpid()) << 20;
  pattern.Fill(seed);
  do {
    // A pause between writing and checking is what gives a neighbour's stray write time to show.
    const timespec pause{0, 100'000'000};
    nanosleep(&pause, nullptr);
    wrong += pattern.Wrong(seed);
    ++rounds;
    pattern.Fill(++seed);
    if (Now() >= next_line) {
      std::printf("rounds=%llu wrong=%llu\n", Wide(rounds), Wide(wrong));
      next_line = Now() + 1;
    }
  } while (g_stop == 0 && Now() - start < static_cast<double>(seconds));
  wrong += pattern.Wrong(seed);
  ++rounds;
  session.Check(cuda.MemFree(data), "cuMemFree");
  std::printf("program=demo-hold rounds=%llu wrong=%llu stopped=%s ok=%d\n", Wide(rounds),
              Wide(wrong), g_stop != 0 ? "signal" : "time", wrong == 0 ? 1 : 0);
  return wrong == 0 ? 0 : 1;
}
