// Our own programs on the public driver API, for comparing a real driver with simgpu. It opens
// libcuda.so.1 by name, so whoever runs it says which one that is.
//
//   gpu-acceptance results     runs every program; one line "NAME: what came out" each. The same on
//                              every card.
//   gpu-acceptance questions   asks what only a driver knows; one line "QUESTION | ANSWER" each.
//   gpu-acceptance name        the first card's name
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <string>
#include <vector>

#include "abi/cuda.h"
#include "simgpu/kernels/demo_kernels.h"

namespace tessera::abi {
#include "simgpu/cuda_declarations.inc"
}  // namespace tessera::abi

namespace {

using namespace tessera::abi;  // NOLINT

void* g_library = nullptr;

template <typename F>
F* Find(const char* name) {
  auto* function = reinterpret_cast<F*>(dlsym(g_library, name));
  if (function == nullptr) {
    fprintf(stderr, "gpu-acceptance: the driver has no %s\n", name);
    exit(1);
  }
  return function;
}
#define CU(name) Find<decltype(name)>(#name)

void Check(CUresult result, const char* what) {
  if (result == CUDA_SUCCESS) return;
  printf("%s answered %u\n", what, static_cast<unsigned>(result));
  exit(1);
}
#define MUST(name, ...) Check(CU(name)(__VA_ARGS__), #name)

CUmodule g_module = nullptr;

CUcontext Start() {
  CUcontext context = nullptr;
  MUST(cuInit, 0);
  MUST(cuDevicePrimaryCtxRetain, &context, 0);
  MUST(cuCtxSetCurrent, context);
  return context;
}

CUfunction Kernel(const char* name) {
  CUfunction function = nullptr;
  MUST(cuModuleGetFunction, &function, g_module, name);
  return function;
}

void Launch(CUfunction function, unsigned grid_x, unsigned grid_y, unsigned block_x,
            unsigned block_y, CUstream stream, std::vector<void*> params) {
  MUST(cuLaunchKernel, function, grid_x, grid_y, 1, block_x, block_y, 1, 0, stream, params.data(),
       nullptr);
}

class Device {
 public:
  explicit Device(size_t bytes) : bytes_(bytes) { MUST(cuMemAlloc_v2, &address, bytes); }
  template <typename T>
  explicit Device(const std::vector<T>& values) : Device(values.size() * sizeof(T)) {
    MUST(cuMemcpyHtoD_v2, address, values.data(), bytes_);
  }
  ~Device() { MUST(cuMemFree_v2, address); }
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;
  template <typename T>
  std::vector<T> Read() const {
    std::vector<T> values(bytes_ / sizeof(T));
    MUST(cuMemcpyDtoH_v2, values.data(), address, bytes_);
    return values;
  }
  CUdeviceptr address = 0;

 private:
  size_t bytes_;
};

std::vector<float> Numbers(size_t count, uint32_t seed) {
  std::vector<float> values(count);
  for (float& value : values) {
    seed = seed * 1664525 + 1013904223;
    value = static_cast<float>(seed >> 24) / 16;  // sums of these are exact
  }
  return values;
}

// The bits, so that a last-place difference shows.
uint64_t Hash(const void* data, size_t bytes) {
  uint64_t hash = 0xcbf29ce484222325;
  for (size_t i = 0; i < bytes; ++i) {
    hash = (hash ^ static_cast<const unsigned char*>(data)[i]) * 0x100000001b3;
  }
  return hash;
}
template <typename T>
void Report(const char* name, const std::vector<T>& values) {
  printf("%s: %zu values, %016lx\n", name, values.size(),
         static_cast<unsigned long>(Hash(values.data(), values.size() * sizeof(T))));
}

void VectorAdd() {
  uint64_t n = 10'001;
  const Device a(Numbers(n, 1)), b(Numbers(n, 2)), c(n * sizeof(float));
  CUdeviceptr pa = a.address, pb = b.address, pc = c.address;
  Launch(Kernel("vector_add"), 20, 1, 128, 1, nullptr, {&pa, &pb, &pc, &n});
  Report("vector_add", c.Read<float>());
}

void Saxpy() {
  uint64_t n = 1 << 16;
  float alpha = 1.1f;
  const Device x(Numbers(n, 3)), y(Numbers(n, 4));
  CUdeviceptr px = x.address, py = y.address;
  Launch(Kernel("saxpy"), 64, 1, 256, 1, nullptr, {&alpha, &px, &py, &n});
  Report("saxpy", y.Read<float>());
}

void Reduce() {
  uint64_t n = 1 << 15;
  const Device in(Numbers(n, 5)), out(std::vector<float>(1, 0));
  CUdeviceptr pin = in.address, pout = out.address;
  Launch(Kernel("reduce_sum"), 8, 1, 256, 1, nullptr, {&pin, &pout, &n});
  Report("reduce_sum", out.Read<float>());
}

void Matmul() {
  uint32_t n = 80;
  const Device a(Numbers(n * n, 6)), b(Numbers(n * n, 7)), c(n * n * sizeof(float));
  CUdeviceptr pa = a.address, pb = b.address, pc = c.address;
  Launch(Kernel("matmul_tiled"), n / 16, n / 16, 16, 16, nullptr, {&pa, &pb, &pc, &n});
  Report("matmul_tiled", c.Read<float>());
}

void Histogram() {
  uint64_t n = 40'000;
  std::vector<uint8_t> bytes(n);
  for (size_t i = 0; i < n; ++i) bytes[i] = static_cast<uint8_t>(i * i / 7);
  const Device in(bytes), bins(std::vector<uint32_t>(256, 0));
  CUdeviceptr pin = in.address, pbins = bins.address;
  Launch(Kernel("histogram256"), 8, 1, 128, 1, nullptr, {&pin, &pbins, &n});
  Report("histogram256", bins.Read<uint32_t>());
}

// Two streams that wait for each other through events.
void Streams() {
  uint64_t n = 4096, step = 1, seed = 9;
  const Device data(n * 8), result(std::vector<uint64_t>(3, 0));
  CUdeviceptr pdata = data.address, presult = result.address;
  CUstream one = nullptr, other = nullptr;
  CUevent done = nullptr, start = nullptr;
  MUST(cuStreamCreate, &one, CU_STREAM_NON_BLOCKING);
  MUST(cuStreamCreate, &other, CU_STREAM_NON_BLOCKING);
  MUST(cuEventCreate, &start, 0);
  MUST(cuEventCreate, &done, CU_EVENT_DISABLE_TIMING);
  MUST(cuEventRecord, start, one);
  Launch(Kernel("fill_pattern"), 4, 1, 64, 1, one, {&pdata, &n, &step, &seed});
  MUST(cuEventRecord, done, one);
  MUST(cuStreamWaitEvent, other, done, 0);
  Launch(Kernel("check_pattern"), 4, 1, 64, 1, other, {&pdata, &n, &step, &seed, &presult});
  MUST(cuStreamSynchronize, other);
  printf("stream query: %u\n", static_cast<unsigned>(CU(cuStreamQuery)(one)));
  Report("streams", result.Read<uint64_t>());
  MUST(cuEventDestroy_v2, done);
  MUST(cuEventDestroy_v2, start);
  MUST(cuStreamDestroy_v2, one);
  MUST(cuStreamDestroy_v2, other);
}

void Copies() {
  CUdeviceptr pitched = 0;
  size_t pitch = 0;
  MUST(cuMemAllocPitch_v2, &pitched, &pitch, 100, 8, 4);
  std::vector<uint8_t> from(100 * 8), to(100 * 8);
  for (size_t i = 0; i < from.size(); ++i) from[i] = static_cast<uint8_t>(i * 3);
  CUDA_MEMCPY2D copy = {};
  copy.srcMemoryType = CU_MEMORYTYPE_HOST;
  copy.srcHost = from.data();
  copy.srcPitch = 100;
  copy.dstMemoryType = CU_MEMORYTYPE_DEVICE;
  copy.dstDevice = pitched;
  copy.dstPitch = pitch;
  copy.WidthInBytes = 100;
  copy.Height = 8;
  MUST(cuMemcpy2D_v2, &copy);
  MUST(cuMemsetD2D8_v2, pitched + 10, pitch, 0xab, 5, 8);
  copy = {};
  copy.srcMemoryType = CU_MEMORYTYPE_DEVICE;
  copy.srcDevice = pitched;
  copy.srcPitch = pitch;
  copy.dstMemoryType = CU_MEMORYTYPE_HOST;
  copy.dstHost = to.data();
  copy.dstPitch = 100;
  copy.WidthInBytes = 100;
  copy.Height = 8;
  MUST(cuMemcpy2D_v2, &copy);
  Report("copies", to);
  MUST(cuMemFree_v2, pitched);
}

void Pool() {
  CUstream stream = nullptr;
  CUdeviceptr memory = 0;
  MUST(cuStreamCreate, &stream, 0);
  MUST(cuMemAllocAsync, &memory, 4096, stream);
  MUST(cuMemsetD32Async, memory, 7, 1024, stream);
  std::vector<uint32_t> words(1024);
  MUST(cuMemcpyDtoHAsync_v2, words.data(), memory, 4096, stream);
  MUST(cuMemFreeAsync, memory, stream);
  MUST(cuStreamSynchronize, stream);
  Report("pool", words);
  MUST(cuStreamDestroy_v2, stream);
}

// What a correct driver refuses, and as what.
void Refusals() {
  auto say = [](const char* what, CUresult result) {
    printf("%s: %u\n", what, static_cast<unsigned>(result));
  };
  CUdeviceptr memory = 0;
  say("allocation of nothing", CU(cuMemAlloc_v2)(&memory, 0));
  say("allocation of too much", CU(cuMemAlloc_v2)(&memory, uint64_t{1} << 50));
  MUST(cuMemAlloc_v2, &memory, 4096);
  say("free inside an allocation", CU(cuMemFree_v2)(memory + 256));
  MUST(cuMemFree_v2, memory);
  say("free of null", CU(cuMemFree_v2)(0));
  CUdevice device = 0;
  say("device 99", CU(cuDeviceGet)(&device, 99));
  CUfunction function = nullptr;
  say("unknown kernel", CU(cuModuleGetFunction)(&function, g_module, "no_such_kernel"));
  CUmodule module = nullptr;
  say("image that is no image", CU(cuModuleLoadData)(&module, "this is no PTX"));
  say("block too large",
      CU(cuLaunchKernel)(Kernel("saxpy"), 1, 1, 1, 2048, 1, 1, 0, nullptr, nullptr, nullptr));
  say("cuInit flags", CU(cuInit)(1));
}

int Results() {
  const CUcontext context = Start();
  (void)context;
  MUST(cuModuleLoadData, &g_module, simgpu::kernels::kDemoKernelsPtx);
  VectorAdd();
  Saxpy();
  Reduce();
  Matmul();
  Histogram();
  Streams();
  Copies();
  Pool();
  Refusals();
  MUST(cuModuleUnload, g_module);
  MUST(cuDevicePrimaryCtxRelease_v2, 0);
  return 0;
}

size_t Free() {
  size_t free = 0, total = 0;
  MUST(cuMemGetInfo_v2, &free, &total);
  return free;
}

int Questions() {
  MUST(cuInit, 0);
  int driver = 0;
  MUST(cuDriverGetVersion, &driver);
  printf("cuDriverGetVersion | %d\n", driver);
  CUcontext first = nullptr, second = nullptr;
  MUST(cuCtxCreate_v2, &first, 0, 0);
  size_t total = 0;
  MUST(cuDeviceTotalMem_v2, &total, 0);
  printf("total memory, MiB | %zu\n", total >> 20);
  printf("taken with one context, MiB | %zu\n", (total - Free()) >> 20);
  const size_t before = Free();
  MUST(cuCtxCreate_v2, &second, 0, 0);
  printf("taken by a second context of the process, MiB | %zu\n", (before - Free()) >> 20);
  MUST(cuCtxDestroy_v2, second);
  MUST(cuCtxSetCurrent, first);
  // How much one allocation takes of what cuMemGetInfo shows.
  for (size_t bytes : {size_t{1}, size_t{1} << 19, (size_t{1} << 20) + 1, size_t{2} << 20,
                       (size_t{2} << 20) + 1, size_t{5} << 20}) {
    const size_t was = Free();
    CUdeviceptr memory = 0;
    MUST(cuMemAlloc_v2, &memory, bytes);
    printf("free memory falls by, for an allocation of %zu bytes | %zu\n", bytes, was - Free());
    MUST(cuMemFree_v2, memory);
  }
  // Pointers the driver does not know.
  int on_host = 0;
  CUmemorytype type = CUmemorytype(0);
  printf("cuPointerGetAttribute(MEMORY_TYPE) of a host pointer | %u\n",
         static_cast<unsigned>(CU(cuPointerGetAttribute)(&type, CU_POINTER_ATTRIBUTE_MEMORY_TYPE,
                                                         reinterpret_cast<CUdeviceptr>(&on_host))));
  CUcontext owner = nullptr;
  unsigned memory_type = 77;
  int ordinal = 77;
  CUpointer_attribute attributes[] = {CU_POINTER_ATTRIBUTE_CONTEXT,
                                      CU_POINTER_ATTRIBUTE_MEMORY_TYPE,
                                      CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL};
  void* data[] = {&owner, &memory_type, &ordinal};
  const CUresult result =
      CU(cuPointerGetAttributes)(3, attributes, data, reinterpret_cast<CUdeviceptr>(&on_host));
  printf(
      "cuPointerGetAttributes of a host pointer: result, context, type, device | %u, %s, %u, %d\n",
      static_cast<unsigned>(result), owner == nullptr ? "null" : "set", memory_type, ordinal);
  // A kernel's fault.
  MUST(cuModuleLoadData, &g_module, simgpu::kernels::kDemoKernelsPtx);
  CUdeviceptr memory = 0, nowhere = 16;
  MUST(cuMemAlloc_v2, &memory, 4096);
  uint64_t n = 16;
  float alpha = 1;
  std::vector<void*> params = {&alpha, &nowhere, &memory, &n};
  const CUresult launched =
      CU(cuLaunchKernel)(Kernel("saxpy"), 1, 1, 1, 32, 1, 1, 0, nullptr, params.data(), nullptr);
  printf("launch of a kernel that reads address 16 | %u\n", static_cast<unsigned>(launched));
  printf("synchronising after it | %u\n", static_cast<unsigned>(CU(cuCtxSynchronize)()));
  printf("synchronising again | %u\n", static_cast<unsigned>(CU(cuCtxSynchronize)()));
  printf("allocating after it | %u\n", static_cast<unsigned>(CU(cuMemAlloc_v2)(&memory, 4096)));
  printf("cuCtxGetDevice after it | %u\n", static_cast<unsigned>(CU(cuCtxGetDevice)(&ordinal)));
  printf("a new context after it | %u\n", static_cast<unsigned>(CU(cuCtxCreate_v2)(&second, 0, 0)));
  printf("destroying the broken one | %u\n", static_cast<unsigned>(CU(cuCtxDestroy_v2)(first)));
  return 0;
}

int Name() {
  MUST(cuInit, 0);
  char name[256] = {};
  MUST(cuDeviceGetName, name, sizeof name - 1, 0);
  printf("%s\n", name);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  const std::string what = argc == 2 ? argv[1] : "";
  if (what != "results" && what != "questions" && what != "name") {
    fprintf(stderr, "usage: gpu-acceptance results|questions|name\n");
    return 2;
  }
  g_library = dlopen("libcuda.so.1", RTLD_NOW);
  if (g_library == nullptr) {
    fprintf(stderr, "gpu-acceptance: %s\n", dlerror());
    return 3;
  }
  return what == "results" ? Results() : what == "questions" ? Questions() : Name();
}
