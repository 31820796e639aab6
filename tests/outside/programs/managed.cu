// Managed memory: one address for host and device; managed variables; advice and prefetching.
//! cards: T4
#include <cstring>

#include "check.h"

__managed__ int counter = 5;
__managed__ float weights[3] = {1.5f, 2.5f, 3.5f};

struct Link {
  int value;
  Link* next;
};

__global__ void Walk(Link* first, int* sum) {
  for (Link* at = first; at != nullptr; at = at->next) {
    *sum += at->value;
    at->value = -at->value;
  }
  counter += 1;
  weights[threadIdx.x] *= 2;
}

int main() {
  // Host code may be the first to touch a managed variable.
  EXPECT(counter == 5);
  counter = 41;
  Link* first = nullptr;
  for (int i = 1; i <= 100; ++i) {
    Link* link;
    MUST(cudaMallocManaged(&link, sizeof *link));
    *link = {i, first};
    first = link;
  }
  int* sum;
  MUST(cudaMallocManaged(&sum, sizeof *sum));
  *sum = 0;
  Walk<<<1, 1>>>(first, sum);
  MUST(cudaDeviceSynchronize());
  EXPECT(*sum == 5050);
  EXPECT(counter == 42 && weights[0] == 3.0f && weights[1] == 2.5f);
  for (Link* at = first; at != nullptr; at = at->next) EXPECT(at->value < 0);
  cudaPointerAttributes attributes;
  MUST(cudaPointerGetAttributes(&attributes, sum));
  EXPECT(attributes.type == cudaMemoryTypeManaged);
  EXPECT(attributes.hostPointer == sum && attributes.devicePointer == sum);

  const size_t bytes = 8 << 20;
  unsigned char* block;
  MUST(cudaMallocManaged(&block, bytes));
  const cudaMemLocation card = {cudaMemLocationTypeDevice, 0}, host = {cudaMemLocationTypeHost, 0};
  MUST(cudaMemAdvise(block, bytes, cudaMemAdviseSetReadMostly, card));
  MUST(cudaMemAdvise(block, bytes, cudaMemAdviseSetPreferredLocation, card));
  int read_mostly = 0;
  MUST(cudaMemRangeGetAttribute(&read_mostly, sizeof read_mostly, cudaMemRangeAttributeReadMostly, block, bytes));
  EXPECT(read_mostly == 1);
  MUST(cudaMemPrefetchAsync(block, bytes, card, 0));
  MUST(cudaMemset(block, 0x5a, bytes));
  MUST(cudaMemPrefetchAsync(block, bytes, host, 0));
  MUST(cudaDeviceSynchronize());
  EXPECT(block[0] == 0x5a && block[bytes - 1] == 0x5a);
  std::memset(block, 1, bytes);
  unsigned char back = 0;
  MUST(cudaMemcpy(&back, block + 12345, 1, cudaMemcpyDefault));
  EXPECT(back == 1);
  MUST(cudaFree(block));
  int* address = nullptr;
  MUST(cudaGetSymbolAddress(reinterpret_cast<void**>(&address), counter));
  EXPECT(address == &counter);
  std::printf("PASSED managed\n");
  return 0;
}
