// demo-vecadd [--n N]: adds two vectors on the device and checks every element against the CPU.
#include <cstdio>
#include <vector>

#include "demo/programs/cuda.h"

int main(int argc, char** argv) {
  demo::CheckOptions(argc, argv, {"--n"});
  uint64_t n = demo::NumberOption(argc, argv, "--n", 1 << 20, 1, uint64_t{1} << 30);
  const demo::Session session("demo-vecadd");
  const demo::Driver& cuda = session.driver();
  const size_t bytes = n * sizeof(float);
  std::vector<float> a(n), b(n), c(n);
  for (uint64_t i = 0; i < n; ++i) {
    a[i] = static_cast<float>(i % 1000) * 0.25f;
    b[i] = static_cast<float>(i % 777) - 300.0f;
  }
  demo::DevicePointer da = 0, db = 0, dc = 0;
  session.Check(cuda.MemAlloc(&da, bytes), "cuMemAlloc");
  session.Check(cuda.MemAlloc(&db, bytes), "cuMemAlloc");
  session.Check(cuda.MemAlloc(&dc, bytes), "cuMemAlloc");
  session.Check(cuda.MemcpyHtoD(da, a.data(), bytes), "cuMemcpyHtoD");
  session.Check(cuda.MemcpyHtoD(db, b.data(), bytes), "cuMemcpyHtoD");
  void* params[] = {&da, &db, &dc, &n};
  session.Launch(session.Kernel("vector_add"), static_cast<unsigned>((n + 255) / 256), 1, 256, 1,
                 params);
  session.Check(cuda.CtxSynchronize(), "cuCtxSynchronize");
  session.Check(cuda.MemcpyDtoH(c.data(), dc, bytes), "cuMemcpyDtoH");
  uint64_t wrong = 0;
  for (uint64_t i = 0; i < n; ++i) wrong += c[i] != a[i] + b[i];
  for (demo::DevicePointer p : {da, db, dc}) session.Check(cuda.MemFree(p), "cuMemFree");
  std::printf("program=demo-vecadd device=%s n=%llu wrong=%llu ok=%d\n", session.device().c_str(),
              static_cast<unsigned long long>(n), static_cast<unsigned long long>(wrong),
              wrong == 0 ? 1 : 0);
  return wrong == 0 ? 0 : 1;
}
