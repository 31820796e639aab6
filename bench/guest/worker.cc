#include "bench/guest/worker.h"

#include <dlfcn.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <iterator>
#include <string>
#include <thread>
#include <vector>

#include "abi/cuda.h"

namespace tessera::bench {
namespace {

using namespace tessera::abi;

// The driver's functions, obtained as the CUDA runtime does.
struct Driver {
  void* library;
  CUresult (*get_proc_address)(const char*, void**, int, cuuint64_t,
                               CUdriverProcAddressQueryResult*);
  CUresult (*get_current)(CUcontext*);
  CUresult (*init)(unsigned int);
  CUresult (*retain)(CUcontext*, CUdevice);
  CUresult (*set_current)(CUcontext);
  CUresult (*alloc)(CUdeviceptr*, size_t);
  CUresult (*free)(CUdeviceptr);
  CUresult (*get_info)(size_t*, size_t*);
  CUresult (*launch)(CUfunction, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned,
                     unsigned, CUstream, void**, void**);
};

Driver Load() {
  void* library = dlopen("libcuda.so.1", RTLD_NOW);
  if (library == nullptr) {
    std::fprintf(stderr, "bench-guest: %s\n", dlerror());
    std::exit(1);
  }
  Driver driver = {};
  driver.library = library;
  *reinterpret_cast<void**>(&driver.get_proc_address) = dlsym(library, "cuGetProcAddress_v2");
  auto* const get = driver.get_proc_address;
  const auto find = [&](const char* name, auto** function) {
    void* address = nullptr;
    CUdriverProcAddressQueryResult found;
    if (get == nullptr || get(name, &address, kCudaVersion, 0, &found) != CUDA_SUCCESS ||
        address == nullptr) {
      std::fprintf(stderr, "bench-guest: the driver has no %s\n", name);
      std::exit(1);
    }
    *reinterpret_cast<void**>(function) = address;
  };
  find("cuInit", &driver.init);
  find("cuDevicePrimaryCtxRetain", &driver.retain);
  find("cuCtxSetCurrent", &driver.set_current);
  find("cuCtxGetCurrent", &driver.get_current);
  find("cuMemAlloc", &driver.alloc);
  find("cuMemFree", &driver.free);
  find("cuMemGetInfo", &driver.get_info);
  find("cuLaunchKernel", &driver.launch);
  return driver;
}

void Must(CUresult result, const char* what) {
  if (result == CUDA_SUCCESS) return;
  std::fprintf(stderr, "bench-guest: %s answered %u\n", what, static_cast<unsigned>(result));
  std::exit(1);
}

void Start(const Driver& driver) {
  CUcontext context = nullptr;
  Must(driver.init(0), "cuInit");
  Must(driver.retain(&context, 0), "cuDevicePrimaryCtxRetain");
  Must(driver.set_current(context), "cuCtxSetCurrent");
}

uint64_t Now() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(now.tv_nsec);
}

constexpr size_t kSmall = 4096;

// Keeps exactly `count` small allocations live.
void KeepLive(const Driver& driver, std::vector<CUdeviceptr>* live, size_t count) {
  while (live->size() > count) {
    Must(driver.free(live->back()), "cuMemFree");
    live->pop_back();
  }
  while (live->size() < count) {
    CUdeviceptr pointer = 0;
    Must(driver.alloc(&pointer, kSmall), "cuMemAlloc");
    live->push_back(pointer);
  }
}

void AllocateAndFree(const Driver& driver, long calls) {
  CUdeviceptr pointer = 0;
  for (long i = 0; i < calls; ++i) {
    Must(driver.alloc(&pointer, kSmall), "cuMemAlloc");
    Must(driver.free(pointer), "cuMemFree");
  }
}

// From `count` threads that start together. The time from the start of the first to the end of the
// last.
uint64_t AllocateAndFreeTogether(const Driver& driver, size_t count, long calls) {
  CUcontext context = nullptr;
  Must(driver.get_current(&context), "cuCtxGetCurrent");
  std::atomic<size_t> ready{0};
  std::atomic<bool> go{false};
  std::vector<std::thread> threads;
  for (size_t i = 0; i < count; ++i) {
    threads.emplace_back([&] {
      Must(driver.set_current(context), "cuCtxSetCurrent");
      ++ready;
      while (!go) std::this_thread::yield();
      AllocateAndFree(driver, calls);
    });
  }
  while (ready != count) std::this_thread::yield();
  const uint64_t start = Now();
  go = true;
  for (std::thread& thread : threads) thread.join();
  return Now() - start;
}

// What the CUDA runtime and PyTorch look up: some of it the guest stands in front of, some not.
constexpr const char* kAskedNames[] = {
    "cuMemAlloc",           "cuLaunchKernel", "cuStreamSynchronize", "cuMemcpyHtoDAsync",
    "cuDeviceGetAttribute", "cuEventRecord",  "cuMemGetInfo",        "cuCtxGetCurrent"};
constexpr const char* kExportedNames[] = {
    "cuMemAlloc_v2",        "cuLaunchKernel", "cuStreamSynchronize", "cuMemcpyHtoDAsync_v2",
    "cuDeviceGetAttribute", "cuEventRecord",  "cuMemGetInfo_v2",     "cuCtxGetCurrent"};

uint64_t Batch(const Driver& driver, const std::string& kind, long calls,
               std::vector<CUdeviceptr>* live) {
  if (kind == "launch") {
    const uint64_t start = Now();
    for (long i = 0; i < calls; ++i) {
      driver.launch(nullptr, 1, 1, 1, 1, 1, 1, 0, nullptr, nullptr, nullptr);
    }
    return Now() - start;
  }
  if (kind == "meminfo") {
    size_t free = 0, total = 0;
    const uint64_t start = Now();
    for (long i = 0; i < calls; ++i) driver.get_info(&free, &total);
    return Now() - start;
  }
  if (kind == "getprocaddress") {
    void* function = nullptr;
    CUdriverProcAddressQueryResult found;
    const uint64_t start = Now();
    for (long i = 0; i < calls; ++i) {
      Must(driver.get_proc_address(kAskedNames[i % std::size(kAskedNames)], &function, kCudaVersion,
                                   0, &found),
           "cuGetProcAddress");
    }
    return Now() - start;
  }
  if (kind == "dlsym") {
    bool all = true;
    const uint64_t start = Now();
    for (long i = 0; i < calls; ++i) {
      all &= dlsym(driver.library, kExportedNames[i % std::size(kExportedNames)]) != nullptr;
    }
    const uint64_t nanos = Now() - start;
    Must(all ? CUDA_SUCCESS : CUDA_ERROR_NOT_FOUND, "dlsym");
    return nanos;
  }
  constexpr char kThreads[] = "threads.";
  if (kind.rfind(kThreads, 0) == 0) {
    KeepLive(driver, live, 0);
    const size_t count = std::strtoul(kind.c_str() + sizeof(kThreads) - 1, nullptr, 10);
    return AllocateAndFreeTogether(driver, count, calls);
  }
  constexpr char kAllocFree[] = "alloc_free.";
  if (kind.rfind(kAllocFree, 0) != 0) {
    std::fprintf(stderr, "bench-guest: unknown kind %s\n", kind.c_str());
    std::exit(1);
  }
  // "N live" includes the one that comes and goes.
  KeepLive(driver, live, std::strtoul(kind.c_str() + sizeof(kAllocFree) - 1, nullptr, 10) - 1);
  const uint64_t start = Now();
  AllocateAndFree(driver, calls);
  return Now() - start;
}

}  // namespace

int ServeBatches(int in, int out) {
  const Driver driver = Load();
  Start(driver);
  std::vector<CUdeviceptr> live;
  std::FILE* commands = fdopen(in, "r");
  char kind[64];
  long calls = 0;
  while (std::fscanf(commands, "%63s %ld", kind, &calls) == 2) {
    char answer[32];
    const int length =
        std::snprintf(answer, sizeof(answer), "%llu\n",
                      static_cast<unsigned long long>(Batch(driver, kind, calls, &live)));
    if (write(out, answer, static_cast<size_t>(length)) != length) return 1;
  }
  return 0;
}

int MakeCalls(const std::string& kind, long calls) {
  const Driver driver = Load();
  Start(driver);
  std::vector<CUdeviceptr> live;
  Batch(driver, kind, calls, &live);
  return 0;
}

int StartOnly() {
  const Driver driver = Load();
  const uint64_t start = Now();
  Start(driver);
  std::printf("%.3f\n", static_cast<double>(Now() - start) / 1e3);
  return 0;
}

}  // namespace tessera::bench
