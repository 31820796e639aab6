#include "simgpu/driver/driver.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include <new>

#include "simgpu/cudart/detect_static.h"
#include "simgpu/driver/pool.h"
#include "simgpu/driver/visible.h"

namespace simgpu {
namespace {

// One page that fork wipes: zero again in a child, which must not use what it inherited.
struct Birth {
  std::atomic<uint32_t> initialised;
};
std::atomic<Birth*> g_birth{nullptr};
std::atomic<Driver*> g_driver{nullptr};
std::mutex& InitialiseMutex() {
  static auto* mutex = new std::mutex;
  return *mutex;
}

}  // namespace

void Say(const std::string& line) {
  if (getenv("SIMGPU_QUIET") == nullptr) fprintf(stderr, "simgpu: %s\n", line.c_str());
}

uint64_t NowNs() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1'000'000'000 + now.tv_nsec;
}

Driver* Get() {
  const Birth* birth = g_birth.load(std::memory_order_acquire);
  if (birth == nullptr || birth->initialised.load(std::memory_order_acquire) == 0) return nullptr;
  return g_driver.load(std::memory_order_acquire);
}

CUresult Initialise() {
  std::lock_guard guard(InitialiseMutex());
  if (Get() != nullptr) return CUDA_SUCCESS;
  // A parent's driver is of no use to a child: its memory would be the parent's.
  if (g_driver.load() != nullptr) return CUDA_ERROR_NOT_INITIALIZED;
  StopUnsupportedRuntime();
  std::string error;
  State* state = State::Open(&error);
  if (state == nullptr) {
    Say(error);
    return CUDA_ERROR_NO_DEVICE;
  }
  std::vector<std::string> uuids;
  for (uint32_t i = 0; i < state->card_count(); ++i) uuids.push_back(state->card(i).uuid);
  const std::vector<uint32_t> visible = VisibleCards(getenv("CUDA_VISIBLE_DEVICES"), uuids);
  if (visible.empty()) return CUDA_ERROR_NO_DEVICE;
  void* page = mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (page == MAP_FAILED || madvise(page, 4096, MADV_WIPEONFORK) != 0) {
    return CUDA_ERROR_OPERATING_SYSTEM;
  }
  auto* driver = new Driver;
  driver->state = state;
  for (uint32_t card : visible) {
    auto* device = new Device;
    device->card = card;
    device->primary.device = static_cast<int>(driver->devices.size());
    device->primary.primary = true;
    driver->devices.push_back(device);
    NewDefaultPool(driver, device->primary.device);
  }
  auto* birth = new (page) Birth;
  birth->initialised.store(1, std::memory_order_release);
  g_driver.store(driver, std::memory_order_release);
  g_birth.store(birth, std::memory_order_release);
  return CUDA_SUCCESS;
}

CUresult CheckDevice(CUdevice device, Driver** driver) {
  *driver = Get();
  if (*driver == nullptr) return CUDA_ERROR_NOT_INITIALIZED;
  if (device < 0 || static_cast<size_t>(device) >= (*driver)->devices.size()) {
    return CUDA_ERROR_INVALID_DEVICE;
  }
  return CUDA_SUCCESS;
}

}  // namespace simgpu

namespace tessera::abi {
using namespace simgpu;  // NOLINT

extern "C" {

CUresult cuInit(unsigned int flags) {
  if (flags != 0) return CUDA_ERROR_INVALID_VALUE;
  return Initialise();
}

CUresult cuDriverGetVersion(int* version) {
  if (version == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *version = kCudaVersion;
  return CUDA_SUCCESS;
}

}  // extern "C"
}  // namespace tessera::abi
