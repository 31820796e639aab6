// What happens to a call that is looked at.
#include <stdlib.h>
#include <string.h>

#include <mutex>

#include "simgpu/front/front.h"
#include "simgpu/front/trace.h"
#include "simgpu/state/faults.h"

namespace simgpu::front {

using namespace tessera::abi;  // NOLINT

std::atomic<uint32_t> g_hooks{kHookStart | kHookWatch};

namespace {

std::atomic<bool> g_watching{false};

std::mutex& HooksMutex() {
  static auto* mutex = new std::mutex;
  return *mutex;
}

void Start() {
  static const bool started = [] {
    // Where the forwarding library traces to us, one trace is enough: its own.
    if (!HasFaults() || getenv("SIMGPU_TRACE_DRIVER") == nullptr) {
      Trace::Open(getenv("SIMGPU_TRACE"));
    }
    if (HasFaults()) Faults::Get().Look(true);
    return true;
  }();
  (void)started;
  UpdateHooks();
}

}  // namespace

void UpdateHooks() {
  std::lock_guard guard(HooksMutex());
  uint32_t hooks = 0;
  if (Trace::Get() != nullptr) hooks |= kHookTrace;
  if (HasFaults()) {
    if (!g_watching.load()) hooks |= kHookWatch;
    if (Faults::Get().AnyForCalls()) hooks |= kHookFaults;
  }
  g_hooks.store(hooks, std::memory_order_relaxed);
}

void SetWatching(bool watching) {
  g_watching.store(watching);
  UpdateHooks();
}

Call::Call(const Site& site, const uint64_t* values) : site_(site), values_(values) {
  uint32_t hooks = g_hooks.load(std::memory_order_relaxed);
  if ((hooks & kHookStart) != 0) {
    Start();
    hooks = g_hooks.load(std::memory_order_relaxed);
  }
  if ((hooks & kHookTrace) != 0) sequence_ = Trace::Get()->Begin();
  if ((hooks & (kHookWatch | kHookFaults)) == 0) return;
  Faults& faults = Faults::Get();
  uint32_t answer = faults.Call(site.symbol, site.base);
  // What a card's rules do to a context is done also when the call itself is made to fail.
  if (faults.AnyForCalls()) {
    const uint32_t of_card = CardFault(site, values);
    if (answer == 0) answer = of_card;
  }
  refused_ = answer != 0;
  result_ = static_cast<CUresult>(answer);
}

CUresult Call::Finish(CUresult result) {
  if (sequence_ != 0) Trace::Get()->Write(sequence_, site_, values_, result, refused_);
  if (result == CUDA_SUCCESS && HasFaults() && !g_watching.load(std::memory_order_relaxed) &&
      strcmp(site_.symbol, "cuInit") == 0) {
    StartWatching();
  }
  return result;
}

}  // namespace simgpu::front
