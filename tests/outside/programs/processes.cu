// Two processes share device memory and an event; a child of a process that used the card cannot use it itself.
//! cards: T4
#include <cstring>
#include <sys/wait.h>
#include <unistd.h>

#include <vector>

#include "check.h"

__global__ void Bump(int* data, int by, int n) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) data[i] += by;
}

static const int kN = 4000;
struct Offer {
  cudaIpcMemHandle_t memory;
  cudaIpcEventHandle_t event;
};

static void Read(int from, void* data, size_t size) {
  for (size_t done = 0; done < size;) {
    const ssize_t got = read(from, static_cast<char*>(data) + done, size - done);
    EXPECT(got > 0);
    done += static_cast<size_t>(got);
  }
}

// The other process: opens what was offered, changes it, says when through the event.
static int Other(int from, int to) {
  Offer offer;
  Read(from, &offer, sizeof offer);
  int* data = nullptr;
  MUST(cudaIpcOpenMemHandle(reinterpret_cast<void**>(&data), offer.memory, cudaIpcMemLazyEnablePeerAccess));
  cudaEvent_t event;
  MUST(cudaIpcOpenEventHandle(&event, offer.event));
  MUST(cudaStreamWaitEvent(nullptr, event, 0));
  std::vector<int> back(kN);
  MUST(cudaMemcpy(back.data(), data, kN * sizeof(int), cudaMemcpyDeviceToHost));
  for (int i = 0; i < kN; ++i) EXPECT(back[i] == 100);
  Bump<<<(kN + 127) / 128, 128>>>(data, 11, kN);
  MUST(cudaEventRecord(event));
  MUST(cudaEventSynchronize(event));
  MUST(cudaIpcCloseMemHandle(data));
  EXPECT(write(to, "d", 1) == 1);
  return 0;
}

int main(int argc, char** argv) {
  if (argc == 4 && std::strcmp(argv[1], "other") == 0) return Other(std::atoi(argv[2]), std::atoi(argv[3]));
  int there[2], back[2];
  EXPECT(pipe(there) == 0 && pipe(back) == 0);
  const pid_t other = fork();
  if (other == 0) {
    char from[16], to[16];
    std::snprintf(from, sizeof from, "%d", there[0]);
    std::snprintf(to, sizeof to, "%d", back[1]);
    execl("/proc/self/exe", argv[0], "other", from, to, static_cast<char*>(nullptr));
    _exit(127);
  }
  int* data;
  MUST(cudaMalloc(&data, kN * sizeof(int)));
  MUST(cudaMemset(data, 0, kN * sizeof(int)));
  cudaEvent_t event;
  MUST(cudaEventCreateWithFlags(&event, cudaEventDisableTiming | cudaEventInterprocess));
  Bump<<<(kN + 127) / 128, 128>>>(data, 100, kN);
  MUST(cudaEventRecord(event));
  Offer offer;
  MUST(cudaIpcGetMemHandle(&offer.memory, data));
  MUST(cudaIpcGetEventHandle(&offer.event, event));
  EXPECT(write(there[1], &offer, sizeof offer) == sizeof offer);
  char word = 0;
  close(back[1]);
  Read(back[0], &word, 1);
  int status = -1;
  EXPECT(waitpid(other, &status, 0) == other && status == 0);
  std::vector<int> after(kN);
  MUST(cudaMemcpy(after.data(), data, kN * sizeof(int), cudaMemcpyDeviceToHost));
  for (int i = 0; i < kN; ++i) EXPECT(after[i] == 111);

  // A forked child has no driver, and its parent's goes on.
  const pid_t child = fork();
  if (child == 0) {
    int count = 0;
    void* memory = nullptr;
    const bool refused = cudaGetDeviceCount(&count) == cudaErrorInitializationError &&
                         cudaMalloc(&memory, 16) == cudaErrorInitializationError &&
                         cudaGetLastError() == cudaErrorInitializationError;
    _exit(refused ? 0 : 1);
  }
  EXPECT(waitpid(child, &status, 0) == child && status == 0);
  Bump<<<1, 32>>>(data, 1, 32);
  MUST(cudaMemcpy(after.data(), data, 32 * sizeof(int), cudaMemcpyDeviceToHost));
  EXPECT(after[31] == 112);
  std::printf("PASSED processes\n");
  return 0;
}
