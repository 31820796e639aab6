// demo-train [--steps N] [--size S] [--pause-ms M]
// A training-shaped loop: gradient = weights * data (tiled matmul), weights += rate * gradient
// (saxpy), then a checksum of all weights. The CPU runs the same operations in the same order;
// fused multiply-add is exact on both, so every checksum must be equal to the last bit.
#include <time.h>

#include <cmath>
#include <cstdio>
#include <cstring>
#include <vector>

#include "demo/programs/cuda.h"

namespace {

uint64_t Checksum(const std::vector<float>& values) {
  uint64_t sum = 0xcbf29ce484222325ull;
  for (float value : values) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    sum = (sum ^ bits) * 0x100000001b3ull;
  }
  return sum;
}

void ReferenceStep(std::vector<float>* weights, const std::vector<float>& data, size_t n,
                   float rate) {
  std::vector<float> gradient(n * n);
  for (size_t row = 0; row < n; ++row) {
    for (size_t column = 0; column < n; ++column) {
      float sum = 0;
      for (size_t k = 0; k < n; ++k)
        sum = std::fma((*weights)[row * n + k], data[k * n + column], sum);
      gradient[row * n + column] = sum;
    }
  }
  for (size_t i = 0; i < n * n; ++i) (*weights)[i] = std::fma(rate, gradient[i], (*weights)[i]);
}

}  // namespace

int main(int argc, char** argv) {
  demo::CheckOptions(argc, argv, {"--steps", "--size", "--pause-ms"});
  const uint64_t steps = demo::NumberOption(argc, argv, "--steps", 20, 1, 1000000);
  const size_t n = demo::NumberOption(argc, argv, "--size", 64, 1, 4096);
  const uint64_t pause_ms = demo::NumberOption(argc, argv, "--pause-ms", 0, 0, 60000);
  const demo::Session session("demo-train");
  const demo::Driver& cuda = session.driver();
  const demo::Function matmul = session.Kernel("matmul_tiled");
  const demo::Function saxpy = session.Kernel("saxpy");
  const size_t bytes = n * n * sizeof(float);
  std::vector<float> weights(n * n), data(n * n);
  for (size_t i = 0; i < n * n; ++i) {
    weights[i] = static_cast<float>(i % 13) / 13.0f;
    data[i] = (static_cast<float>(i % 7) - 3.0f) / static_cast<float>(n);
  }
  demo::DevicePointer dw = 0, dd = 0, dg = 0;
  session.Check(cuda.MemAlloc(&dw, bytes), "cuMemAlloc");
  session.Check(cuda.MemAlloc(&dd, bytes), "cuMemAlloc");
  session.Check(cuda.MemAlloc(&dg, bytes), "cuMemAlloc");
  session.Check(cuda.MemcpyHtoD(dw, weights.data(), bytes), "cuMemcpyHtoD");
  session.Check(cuda.MemcpyHtoD(dd, data.data(), bytes), "cuMemcpyHtoD");
  std::printf("program=demo-train device=%s steps=%llu size=%zu\n", session.device().c_str(),
              static_cast<unsigned long long>(steps), n);
  float rate = 0.01f;
  uint64_t wrong = 0;
  uint32_t size = static_cast<uint32_t>(n);
  uint64_t elements = n * n;
  std::vector<float> back(n * n);
  for (uint64_t step = 1; step <= steps; ++step) {
    void* matmul_params[] = {&dw, &dd, &dg, &size};
    const unsigned tiles = static_cast<unsigned>((n + 15) / 16);
    session.Launch(matmul, tiles, tiles, 16, 16, matmul_params);
    void* saxpy_params[] = {&rate, &dg, &dw, &elements};
    session.Launch(saxpy, static_cast<unsigned>((elements + 255) / 256), 1, 256, 1, saxpy_params);
    session.Check(cuda.CtxSynchronize(), "cuCtxSynchronize");
    session.Check(cuda.MemcpyDtoH(back.data(), dw, bytes), "cuMemcpyDtoH");
    ReferenceStep(&weights, data, n, rate);
    const uint64_t found = Checksum(back), expected = Checksum(weights);
    wrong += found != expected;
    std::printf("step=%llu checksum=%016llx expected=%016llx\n",
                static_cast<unsigned long long>(step), static_cast<unsigned long long>(found),
                static_cast<unsigned long long>(expected));
    if (pause_ms != 0) {
      const timespec pause{static_cast<time_t>(pause_ms / 1000),
                           static_cast<long>(pause_ms % 1000 * 1'000'000)};
      nanosleep(&pause, nullptr);
    }
  }
  for (demo::DevicePointer p : {dw, dd, dg}) session.Check(cuda.MemFree(p), "cuMemFree");
  std::printf("program=demo-train steps=%llu wrong=%llu ok=%d\n",
              static_cast<unsigned long long>(steps), static_cast<unsigned long long>(wrong),
              wrong == 0 ? 1 : 0);
  return wrong == 0 ? 0 : 1;
}
