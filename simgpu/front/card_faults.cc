// What the fault rules of a card do to calls. Compiled with the driver: the entry points named here
// are the hidden ones.
#include <string.h>

#include <mutex>

#include "simgpu/driver/driver.h"
#include "simgpu/driver/executor.h"
#include "simgpu/front/front.h"
#include "simgpu/state/faults.h"

namespace tessera::abi {
#include "simgpu/cuda_declarations.inc"
}  // namespace tessera::abi

namespace simgpu::front {

bool HasFaults() { return true; }

uint32_t CardFault(const Site& site, const uint64_t* values) {
  Driver* driver = Get();
  if (driver == nullptr) return 0;
  Faults& faults = Faults::Get();
  if (strcmp(site.base, "cuCtxCreate") == 0 || strcmp(site.base, "cuDevicePrimaryCtxRetain") == 0) {
    for (int i = 0; i < site.count; ++i) {
      if (strcmp(site.parameters[i].type, "CUdevice") != 0) continue;
      const auto device = static_cast<CUdevice>(values[i]);
      if (device >= 0 && static_cast<size_t>(device) < driver->devices.size() &&
          faults.Lost(driver->devices[device]->card)) {
        return CUDA_ERROR_DEVICE_UNAVAILABLE;
      }
    }
  }
  CUcontext handle = nullptr;
  if (cuCtxGetCurrent(&handle) != CUDA_SUCCESS || handle == nullptr) return 0;
  Context* context = nullptr;
  {
    std::lock_guard guard(driver->mutex);
    context = Live<Context>(*driver, handle, Kind::kContext);
  }
  if (context == nullptr || context->sticky.load(std::memory_order_acquire) != 0) return 0;
  const uint32_t card = driver->devices[context->device]->card;
  const uint32_t code = faults.Lost(card) ? CUDA_ERROR_UNKNOWN : faults.Sticky(card);
  // As after a kernel's fault: what is queued is dropped, who waits is woken.
  if (code != 0) Executor::Get().Fail(context, code);
  return 0;
}

}  // namespace simgpu::front
