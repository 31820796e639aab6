// A program as most are: every call checked, the first error printed by name, exit code 1. The first argument says
// what goes wrong.
//! cards: T4
//! fails: illegal cudaErrorIllegalAddress
//! fails: freed cudaErrorIllegalAddress
//! fails: misaligned cudaErrorMisalignedAddress
//! fails: assertion cudaErrorAssert simgpu: .*failures\.cu:\d+: .*Assertion `data\[threadIdx\.x\] != 3` failed: .*thread \(3,0,0\)
//! fails: trap cudaErrorLaunchFailure
//! fails: threads cudaErrorInvalidConfiguration
//! fails: shared cudaErrorInvalidValue
//! fails: memory cudaErrorMemoryAllocation
//! fails: symbol cudaErrorInvalidSymbol
//! fails: device cudaErrorInvalidDevice
//! fails: stream cudaErrorInvalidResourceHandle
//! fails: pointer cudaErrorInvalidValue
//! fails: direction cudaErrorInvalidMemcpyDirection
#include <cassert>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#define CHECK(call)                                     \
  do {                                                  \
    const cudaError_t error = (call);                   \
    if (error != cudaSuccess) {                         \
      std::printf("%s\n", cudaGetErrorName(error));     \
      std::exit(1);                                     \
    }                                                   \
  } while (false)

__global__ void Store(int* out, int value) { out[threadIdx.x] = value; }
__global__ void Assert(const int* data) { assert(data[threadIdx.x] != 3); }
__global__ void Trap() { __trap(); }
__global__ void Shared(int* out) {
  extern __shared__ int words[];
  words[threadIdx.x] = 1;
  out[threadIdx.x] = words[threadIdx.x];
}

int main(int argc, char** argv) {
  const char* what = argc > 1 ? argv[1] : "";
  const auto is = [&](const char* name) { return std::strcmp(what, name) == 0; };
  int* data = nullptr;
  CHECK(cudaMalloc(&data, 1 << 22));
  const int numbers[4] = {0, 1, 2, 3};
  CHECK(cudaMemcpy(data, numbers, sizeof numbers, cudaMemcpyHostToDevice));
  if (is("illegal")) Store<<<1, 1>>>(nullptr, 1);
  if (is("freed")) {
    // The code is loaded first, or it might come to lie where the memory was.
    Store<<<1, 1>>>(data, 1);
    CHECK(cudaDeviceSynchronize());
    CHECK(cudaFree(data));
    Store<<<1, 1>>>(data, 1);
  }
  if (is("misaligned")) Store<<<1, 1>>>(reinterpret_cast<int*>(reinterpret_cast<char*>(data) + 2), 1);
  if (is("assertion")) Assert<<<1, 4>>>(data);
  if (is("trap")) Trap<<<1, 1>>>();
  if (is("threads")) Store<<<1, 1025>>>(data, 1);
  if (is("shared")) Shared<<<1, 32, 1 << 20>>>(data);
  if (is("memory")) CHECK(cudaMalloc(&data, static_cast<size_t>(1) << 40));
  if (is("symbol")) CHECK(cudaMemcpyToSymbol(argc, &argc, sizeof argc));
  if (is("device")) CHECK(cudaSetDevice(1));
  if (is("stream")) CHECK(cudaStreamSynchronize(reinterpret_cast<cudaStream_t>(&argc)));
  if (is("pointer")) CHECK(cudaFree(&argc));
  if (is("direction")) CHECK(cudaMemcpy(data, numbers, 4, static_cast<cudaMemcpyKind>(7)));
  CHECK(cudaGetLastError());
  CHECK(cudaDeviceSynchronize());
  std::printf("nothing went wrong\n");
  return 0;
}
