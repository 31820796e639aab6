// What makes our library the driver: the real one lies elsewhere and is opened by its full path,
// and every entry point that is not wrapped jumps to it (pass.S).
#include "guest/core/doors.h"
#include "guest/core/names.h"
#include "guest/core/text.h"

namespace tessera::guest {

// Where the layout of a slice puts the maker's own libraries. Fixed, because a variable would be
// the tenant's.
const char* RealPath(LibraryId id) {
  return id == kCudaLibrary ? "/run/tessera-real/libcuda.so.1"
                            : "/run/tessera-real/libnvidia-ml.so.1";
}

namespace {

constexpr char kCudaText[] =
#define TESSERA_ENTRY(symbol, base, version, flag, treatment, ret, parameters, arguments) \
  #symbol "\0"
#include "guest/cuda/passed.inc"
    "";
constexpr char kNvmlText[] =
#include "guest/nvml/passed.inc"
    "";
#undef TESSERA_ENTRY

enum Index : uint32_t {
#define TESSERA_ENTRY(symbol, base, version, flag, treatment, ret, parameters, arguments) \
  kPass_##symbol,
#include "guest/cuda/passed.inc"
  kCudaPassed,
  kBeforeNvml = kCudaPassed - 1,
#include "guest/nvml/passed.inc"
#undef TESSERA_ENTRY
  kPassed
};

constexpr NameOffsets<kCudaPassed> kCudaNames = OffsetsOf<kCudaPassed>(kCudaText);
constexpr NameOffsets<kPassed - kCudaPassed> kNvmlNames =
    OffsetsOf<kPassed - kCudaPassed>(kNvmlText);

// What is called when the real driver lacks the function or cannot be opened.
int MissingCudaFunction() { return RealLoaded(kCudaLibrary) ? 500 : 100; }  // NOT_FOUND, NO_DEVICE
int MissingNvmlFunction() {
  return RealLoaded(kNvmlLibrary) ? 13 : 12;
}  // FUNCTION_NOT_FOUND, LIBRARY_NOT_FOUND

}  // namespace

extern "C" {
[[gnu::visibility("hidden")]] void* tessera_pass_real[kPassed] = {};

// Where pass.S goes the first time: the function to jump to.
[[gnu::visibility("hidden")]] void* tessera_pass_open(uint32_t index) {
  const bool cuda = index < kCudaPassed;
  const char* const name =
      cuda ? &kCudaText[kCudaNames.at[index]] : &kNvmlText[kNvmlNames.at[index - kCudaPassed]];
  void* const real = ResolveReal(cuda ? kCudaLibrary : kNvmlLibrary, name);
  if (real == nullptr) {
    return cuda ? reinterpret_cast<void*>(&MissingCudaFunction)
                : reinterpret_cast<void*>(&MissingNvmlFunction);
  }
  __atomic_store_n(&tessera_pass_real[index], real, __ATOMIC_RELAXED);
  return real;
}
}

}  // namespace tessera::guest
