// tessera-probe: makes one empty primary context on the first visible card, says "ready" on stdout
// and holds it until its stdin ends or kMaxHoldSeconds pass. The node reads from outside what the
// context takes; the program itself judges nothing. Anything that goes wrong is one line on stdout
// beginning with "error: " and exit code 1.
#include <dlfcn.h>
#include <poll.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>

#include "abi/cuda.h"

namespace {

using namespace tessera::abi;

// A probe whose parent died without closing the pipe must not hold a card's memory for ever.
constexpr int kMaxHoldSeconds = 120;

int Fail(const char* what, const char* detail) {
  std::printf("error: %s: %s\n", what, detail);
  std::fflush(stdout);
  return 1;
}

int FailCall(const char* call, CUresult code) {
  char detail[48];
  std::snprintf(detail, sizeof detail, "CUDA error %d", static_cast<int>(code));
  return Fail(call, detail);
}

}  // namespace

int main(int argc, char** argv) {
  const char* const library = argc > 1 ? argv[1] : "libcuda.so.1";
  void* const driver = dlopen(library, RTLD_NOW | RTLD_GLOBAL);
  if (driver == nullptr) return Fail("dlopen", dlerror());
  const auto init = reinterpret_cast<CUresult (*)(unsigned)>(dlsym(driver, "cuInit"));
  const auto get = reinterpret_cast<CUresult (*)(CUdevice*, int)>(dlsym(driver, "cuDeviceGet"));
  const auto retain = reinterpret_cast<CUresult (*)(CUcontext*, CUdevice)>(
      dlsym(driver, "cuDevicePrimaryCtxRetain"));
  const auto set = reinterpret_cast<CUresult (*)(CUcontext)>(dlsym(driver, "cuCtxSetCurrent"));
  const auto release =
      reinterpret_cast<CUresult (*)(CUdevice)>(dlsym(driver, "cuDevicePrimaryCtxRelease_v2"));
  if (!init || !get || !retain || !set || !release) {
    return Fail(library,
                "lacks an entry point (cuInit, cuDeviceGet, cuDevicePrimaryCtxRetain, "
                "cuCtxSetCurrent, cuDevicePrimaryCtxRelease_v2)");
  }
  if (const CUresult code = init(0); code != CUDA_SUCCESS) return FailCall("cuInit", code);
  CUdevice device = 0;
  if (const CUresult code = get(&device, 0); code != CUDA_SUCCESS) {
    return FailCall("cuDeviceGet", code);
  }
  CUcontext context = nullptr;
  if (const CUresult code = retain(&context, device); code != CUDA_SUCCESS) {
    return FailCall("cuDevicePrimaryCtxRetain", code);
  }
  if (const CUresult code = set(context); code != CUDA_SUCCESS) {
    return FailCall("cuCtxSetCurrent", code);
  }
  std::printf("ready\n");
  std::fflush(stdout);
  pollfd wait = {STDIN_FILENO, POLLIN, 0};
  while (poll(&wait, 1, kMaxHoldSeconds * 1000) < 0 && errno == EINTR) {
  }
  release(device);
  return 0;
}
