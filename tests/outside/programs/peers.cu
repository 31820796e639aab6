// Two cards that reach each other's memory: copies between them, and kernels of one on memory of the other.
//! cards: A100-80,A100-80
//! complains-about: simgpu: illegal .*
#include <vector>

#include "check.h"

__global__ void Add(int* to, const int* from, int n) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) to[i] += from[i];
}

int main() {
  const int n = 10'000;
  const size_t bytes = n * sizeof(int);
  int can = 0;
  MUST(cudaDeviceCanAccessPeer(&can, 0, 1));
  EXPECT(can == 1);
  int supported = 0;
  MUST(cudaDeviceGetP2PAttribute(&supported, cudaDevP2PAttrAccessSupported, 0, 1));
  EXPECT(supported == 1);
  std::vector<int> in(n), out(n);
  for (int i = 0; i < n; ++i) in[i] = 3 * i;
  int *first, *second;
  MUST(cudaSetDevice(0));
  MUST(cudaMalloc(&first, bytes));
  MUST(cudaMemcpy(first, in.data(), bytes, cudaMemcpyHostToDevice));
  MUST(cudaSetDevice(1));
  MUST(cudaMalloc(&second, bytes));
  MUST(cudaMemset(second, 0, bytes));

  // Copies need no permission.
  MUST(cudaMemcpyPeer(second, 1, first, 0, bytes));
  MUST(cudaMemcpy(out.data(), second, bytes, cudaMemcpyDeviceToHost));
  EXPECT(out == in);
  MUST(cudaMemset(second, 0, bytes));
  MUST(cudaMemcpy(second, first, bytes, cudaMemcpyDefault));
  cudaStream_t stream;
  MUST(cudaStreamCreate(&stream));
  MUST(cudaMemcpyPeerAsync(first, 0, second, 1, bytes, stream));
  MUST(cudaStreamSynchronize(stream));
  MUST(cudaMemcpy(out.data(), first, bytes, cudaMemcpyDefault));
  EXPECT(out == in);
  cudaPointerAttributes attributes;
  MUST(cudaPointerGetAttributes(&attributes, first));
  EXPECT(attributes.device == 0);

  // Kernels do.
  EXPECT(cudaDeviceDisablePeerAccess(0) == cudaErrorPeerAccessNotEnabled);
  MUST(cudaDeviceEnablePeerAccess(0, 0));
  EXPECT(cudaDeviceEnablePeerAccess(0, 0) == cudaErrorPeerAccessAlreadyEnabled);
  EXPECT(cudaDeviceEnablePeerAccess(1, 0) == cudaErrorInvalidDevice);
  EXPECT(cudaGetLastError() == cudaErrorInvalidDevice);
  Add<<<(n + 127) / 128, 128>>>(second, first, n);
  MUST(cudaDeviceSynchronize());
  MUST(cudaMemcpy(out.data(), second, bytes, cudaMemcpyDeviceToHost));
  for (int i = 0; i < n; ++i) EXPECT(out[i] == 6 * i);

  // A box of pitched memory across.
  const cudaExtent extent = make_cudaExtent(40, 5, 3);
  cudaPitchedPtr here, there;
  MUST(cudaMalloc3D(&here, extent));
  MUST(cudaSetDevice(0));
  MUST(cudaMalloc3D(&there, extent));
  MUST(cudaMemset3D(there, 0x21, extent));
  MUST(cudaDeviceSynchronize());
  cudaMemcpy3DPeerParms box = {};
  box.srcPtr = there;
  box.srcDevice = 0;
  box.dstPtr = here;
  box.dstDevice = 1;
  box.extent = extent;
  MUST(cudaMemcpy3DPeer(&box));
  std::vector<unsigned char> rows(40 * 5 * 3);
  MUST(cudaSetDevice(1));
  MUST(cudaMemcpy2D(rows.data(), 40, here.ptr, here.pitch, 40, 15, cudaMemcpyDeviceToHost));
  for (const unsigned char byte : rows) EXPECT(byte == 0x21);
  MUST(cudaDeviceDisablePeerAccess(0));

  // Without permission the memory of the other card is out of reach.
  Add<<<1, 32>>>(second, first, 32);
  EXPECT(cudaDeviceSynchronize() == cudaErrorIllegalAddress);
  std::printf("PASSED peers\n");
  return 0;
}
