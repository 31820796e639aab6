// The exported entry points, one for each line of the manifest, and the tables about them. The only
// file of libcuda in which the entry points have their own names.
#include "simgpu/front/front.h"

#include <string.h>

#include <algorithm>
#include <iterator>

#include "simgpu/front/describe.h"

namespace tessera::abi {
// The hidden ones.
#define TESSERA_FRONT(index, symbol, base, result, parameters, arguments, descriptions, values) \
  extern "C" __attribute__((visibility("hidden"))) result simgpu_##symbol parameters;
#include "simgpu/cuda_front.inc"
#undef TESSERA_FRONT
}  // namespace tessera::abi

namespace simgpu::front {
namespace {

template <typename T>
uint64_t ValueOf(const T& value) {
  uint64_t bits = 0;
  // NOLINTNEXTLINE(bugprone-sizeof-expression): a pointer's own bits are meant.
  if constexpr (sizeof(T) <= sizeof bits) memcpy(&bits, &value, sizeof value);
  return bits;
}

using namespace tessera::abi;  // NOLINT

#define TESSERA_UNPACK(...) __VA_ARGS__
#define TESSERA_PARAMETER(type, name) Describe<type>(#type, #name),
// The one more at the end is for entry points without parameters.
#define TESSERA_FRONT(index, symbol, base, result, parameters, arguments, descriptions, values) \
  constexpr Parameter kParameters_##symbol[] = {TESSERA_UNPACK descriptions Parameter{}};       \
  static_assert(std::size(kParameters_##symbol) - 1 <= kParametersMax);                         \
  static_assert(std::is_same_v<result, CUresult>);
#include "simgpu/cuda_front.inc"
#undef TESSERA_FRONT

}  // namespace

const Site kSites[] = {
#define TESSERA_FRONT(index, symbol, base, result, parameters, arguments, descriptions, values) \
  {#symbol, #base, kParameters_##symbol, static_cast<int>(std::size(kParameters_##symbol)) - 1},
#include "simgpu/cuda_front.inc"
#undef TESSERA_FRONT
};
const size_t kSiteCount = std::size(kSites);

}  // namespace simgpu::front

namespace tessera::abi {

// Two tail calls, so that a call that nobody looks at costs a load and a jump.
#define TESSERA_VALUE(name) simgpu::front::ValueOf(name),
#define TESSERA_FRONT(index, symbol, base, result, parameters, arguments, descriptions, values) \
  __attribute__((noinline, cold)) static result Looked_##symbol parameters {                    \
    const uint64_t bits[] = {TESSERA_UNPACK values 0};                                          \
    simgpu::front::Call call(simgpu::front::kSites[index], bits);                               \
    return call.Refused() ? call.Finish() : call.Finish(simgpu_##symbol arguments);             \
  }                                                                                             \
  extern "C" __attribute__((visibility("default"))) result symbol parameters {                  \
    return simgpu::front::Off() ? simgpu_##symbol arguments : Looked_##symbol arguments;        \
  }
#include "simgpu/cuda_front.inc"
#undef TESSERA_FRONT

}  // namespace tessera::abi

namespace simgpu::front {
namespace {

// Where each symbol stands among the sites.
enum SiteIndex : int {
#define TESSERA_FRONT(index, symbol, base, result, parameters, arguments, descriptions, values) \
  kSite_##symbol = index,
#include "simgpu/cuda_front.inc"
#undef TESSERA_FRONT
};

const Proc kProcs[] = {
#define TESSERA_PROC(base, version, per_thread, symbol) \
  {#base, version, per_thread, reinterpret_cast<void*>(&tessera::abi::symbol), kSite_##symbol},
#include "simgpu/cuda_table.inc"
#undef TESSERA_PROC
};

}  // namespace

const Proc* FindProc(const char* base, int version, bool per_thread, bool* known) {
  const Proc* at = std::lower_bound(
      std::begin(kProcs), std::end(kProcs), base,
      [](const Proc& proc, const char* key) { return strcmp(proc.base, key) < 0; });
  const Proc* legacy = nullptr;
  const Proc* flagged = nullptr;
  *known = false;
  for (; at != std::end(kProcs) && strcmp(at->base, base) == 0; ++at) {
    *known = true;
    if (at->version <= version) (at->per_thread ? flagged : legacy) = at;
  }
  return per_thread && flagged != nullptr ? flagged : legacy;
}

}  // namespace simgpu::front
