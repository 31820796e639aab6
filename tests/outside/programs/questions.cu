// What programs ask: versions, properties, kernels' attributes, occupancy, the driver's own entry points, libraries,
// errors by name; and what simgpu refuses, by its name.
//! cards: A100-80,T4
//! complains: simgpu: cudaGraphicsMapResources is not simulated; it answers cudaErrorNotSupported
#include <cstring>
#include <thread>

#include "check.h"

__global__ void __launch_bounds__(256) Plain(int* out, int value) { out[threadIdx.x] = value; }
__global__ void Shared(int* out) {
  __shared__ int words[1024];
  for (int i = threadIdx.x; i < 1024; i += blockDim.x) words[i] = i;
  __syncthreads();
  out[threadIdx.x] = words[1023 - threadIdx.x];
}

static const char kText[] =
    ".version 7.0\n.target sm_75\n.address_size 64\n"
    ".visible .global .align 4 .u32 mark = 41;\n"
    ".visible .entry raise(.param .u64 out)\n{\n"
    "  .reg .u64 %a;\n  .reg .u32 %x;\n"
    "  ld.param.u64 %a, [out];\n  ld.global.u32 %x, [mark];\n  add.u32 %x, %x, 1;\n"
    "  st.global.u32 [%a], %x;\n  ret;\n}\n";

int main() {
  int runtime = 0, driver = 0;
  MUST(cudaRuntimeGetVersion(&runtime));
  MUST(cudaDriverGetVersion(&driver));
  EXPECT(runtime == 13000 && driver >= runtime);
  int count = 0;
  MUST(cudaGetDeviceCount(&count));
  EXPECT(count == 2);
  for (int device = 0; device < count; ++device) {
    cudaDeviceProp prop;
    MUST(cudaGetDeviceProperties(&prop, device));
    EXPECT(prop.major * 10 + prop.minor == (device == 0 ? 80 : 75));
    EXPECT(prop.maxThreadsPerMultiProcessor == (device == 0 ? 2048 : 1024));
    EXPECT(prop.sharedMemPerBlock == 48 * 1024 && prop.totalConstMem == 64 * 1024 && prop.regsPerBlock == 65536);
    EXPECT(prop.sharedMemPerBlockOptin > prop.sharedMemPerBlock);
    EXPECT(prop.maxGridSize[1] == 65535 && prop.maxThreadsDim[2] == 64 && prop.unifiedAddressing == 1);
    EXPECT(prop.memoryBusWidth > 0 && prop.l2CacheSize > 0 && prop.asyncEngineCount > 0);
    int value = 0;
    MUST(cudaDeviceGetAttribute(&value, cudaDevAttrMultiProcessorCount, device));
    EXPECT(value == prop.multiProcessorCount);
    char bus[32];
    MUST(cudaDeviceGetPCIBusId(bus, sizeof bus, device));
    int found = -1;
    MUST(cudaDeviceGetByPCIBusId(&found, bus));
    EXPECT(found == device);
  }
  cudaDeviceProp wanted = {};
  wanted.major = 8;
  int chosen = -1;
  MUST(cudaChooseDevice(&chosen, &wanted));
  EXPECT(chosen == 0);

  cudaFuncAttributes attributes;
  MUST(cudaFuncGetAttributes(&attributes, Plain));
  EXPECT(attributes.maxThreadsPerBlock == 256 && attributes.sharedSizeBytes == 0 && attributes.numRegs > 0);
  MUST(cudaFuncGetAttributes(&attributes, Shared));
  EXPECT(attributes.sharedSizeBytes == 4096);
  const char* name = nullptr;
  MUST(cudaFuncGetName(&name, reinterpret_cast<const void*>(Plain)));
  EXPECT(std::strcmp(name, "_Z5PlainPii") == 0);
  size_t offset = 0, size = 0;
  MUST(cudaFuncGetParamInfo(reinterpret_cast<const void*>(Plain), 1, &offset, &size));
  EXPECT(offset == 8 && size == 4);
  MUST(cudaFuncSetCacheConfig(Shared, cudaFuncCachePreferShared));
  MUST(cudaFuncSetAttribute(Shared, cudaFuncAttributePreferredSharedMemoryCarveout, 50));
  int blocks = 0;
  MUST(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, Shared, 256, 0));
  EXPECT(blocks >= 1 && blocks <= 8);
  EXPECT(cudaFuncGetAttributes(&attributes, reinterpret_cast<const void*>(main)) == cudaErrorInvalidDeviceFunction);
  EXPECT(cudaGetLastError() == cudaErrorInvalidDeviceFunction);

  // The driver's own entry points, of a version.
  typedef int (*DriverGetVersion)(int*);
  DriverGetVersion entry = nullptr;
  cudaDriverEntryPointQueryResult status;
  MUST(cudaGetDriverEntryPointByVersion("cuDriverGetVersion", reinterpret_cast<void**>(&entry), 12000,
                                        cudaEnableDefault, &status));
  EXPECT(status == cudaDriverEntryPointSuccess && entry != nullptr && entry(&count) == 0 && count == driver);
  MUST(cudaGetDriverEntryPointByVersion("cuNoSuchThing", reinterpret_cast<void**>(&entry), 12000, cudaEnableDefault,
                                        &status));
  EXPECT(status == cudaDriverEntryPointSymbolNotFound && entry == nullptr);

  // A library from text, its kernel launched like any other, its variable seen.
  cudaLibrary_t library;
  MUST(cudaLibraryLoadData(&library, kText, nullptr, nullptr, 0, nullptr, nullptr, 0));
  unsigned int kernels = 0;
  MUST(cudaLibraryGetKernelCount(&kernels, library));
  EXPECT(kernels == 1);
  cudaKernel_t raise;
  MUST(cudaLibraryGetKernel(&raise, library, "raise"));
  EXPECT(cudaLibraryGetKernel(&raise, library, "lower") == cudaErrorSymbolNotFound);
  EXPECT(cudaGetLastError() == cudaErrorSymbolNotFound);
  int* out;
  MUST(cudaMalloc(&out, 256 * sizeof(int)));
  void* arguments[] = {&out};
  MUST(cudaLaunchKernel(reinterpret_cast<void*>(raise), dim3(1), dim3(1), arguments, 0, nullptr));
  int back = 0;
  MUST(cudaMemcpy(&back, out, sizeof back, cudaMemcpyDeviceToHost));
  EXPECT(back == 42);
  void* mark = nullptr;
  MUST(cudaLibraryGetGlobal(&mark, &size, library, "mark"));
  EXPECT(size == 4);
  MUST(cudaMemcpy(&back, mark, sizeof back, cudaMemcpyDeviceToHost));
  EXPECT(back == 41);
  MUST(cudaLibraryUnload(library));
  EXPECT(cudaLaunchKernel(reinterpret_cast<void*>(raise), dim3(1), dim3(1), arguments, 0, nullptr) ==
         cudaErrorInvalidDeviceFunction);
  EXPECT(cudaGetLastError() == cudaErrorInvalidDeviceFunction);

  // Handles of the program's own kernels.
  cudaKernel_t plain;
  MUST(cudaGetKernel(&plain, Plain));
  int value = 9;
  void* plain_arguments[] = {&out, &value};
  MUST(cudaLaunchKernel(reinterpret_cast<void*>(plain), dim3(1), dim3(32), plain_arguments, 0, nullptr));
  MUST(cudaMemcpy(&back, out + 31, sizeof back, cudaMemcpyDeviceToHost));
  EXPECT(back == 9);

  // Page-locked memory of every kind.
  int* host;
  MUST(cudaHostAlloc(&host, 4096, cudaHostAllocMapped | cudaHostAllocPortable));
  unsigned int flags = 0;
  MUST(cudaHostGetFlags(&flags, host));
  EXPECT((flags & cudaHostAllocMapped) != 0);
  int* mapped = nullptr;
  MUST(cudaHostGetDevicePointer(&mapped, host, 0));
  Plain<<<1, 256>>>(mapped, 5);
  MUST(cudaDeviceSynchronize());
  EXPECT(host[255] == 5);
  MUST(cudaFreeHost(host));
  static int registered[4096];
  MUST(cudaHostRegister(registered, sizeof registered, cudaHostRegisterMapped));
  EXPECT(cudaHostRegister(registered, sizeof registered, cudaHostRegisterMapped) ==
         cudaErrorHostMemoryAlreadyRegistered);
  MUST(cudaHostGetDevicePointer(&mapped, registered, 0));
  Plain<<<1, 256>>>(mapped, 6);
  MUST(cudaDeviceSynchronize());
  EXPECT(registered[255] == 6);
  MUST(cudaHostUnregister(registered));
  EXPECT(cudaHostUnregister(registered) == cudaErrorHostMemoryNotRegistered);

  // Errors are each thread's own.
  EXPECT(cudaPeekAtLastError() == cudaErrorHostMemoryNotRegistered);
  std::thread([] { EXPECT(cudaPeekAtLastError() == cudaSuccess); }).join();
  EXPECT(cudaGetLastError() == cudaErrorHostMemoryNotRegistered && cudaGetLastError() == cudaSuccess);
  EXPECT(std::strcmp(cudaGetErrorName(cudaErrorStreamCaptureUnjoined), "cudaErrorStreamCaptureUnjoined") == 0);
  EXPECT(std::strlen(cudaGetErrorString(cudaErrorTooManyPeers)) > 0);
  EXPECT(std::strcmp(cudaGetErrorName(static_cast<cudaError_t>(12345)), "unrecognized error code") == 0);
  for (int time = 0; time < 2; ++time) EXPECT(cudaGraphicsMapResources(0, nullptr) == cudaErrorNotSupported);
  std::printf("PASSED questions\n");
  return 0;
}
