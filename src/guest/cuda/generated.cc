// Wrappers that follow from the manifest's treatment alone, and the tables of all of them. Those of
// treatment "gate" are in gates.S on x86-64. A wrapper written by hand (memory.cc, contexts.cc,
// objects.cc, views.cc) is a strong definition and takes the place of the weak one here.
#include "guest/core/lock.h"
#include "guest/core/names.h"
#include "guest/core/text.h"
#include "guest/cuda/gate.h"

namespace tessera::guest {

extern "C" void* tessera_cuda_real[kCudaWrappers];
void* tessera_cuda_real[kCudaWrappers];

namespace {

constexpr char kNameText[] =
#define TESSERA_ENTRY(symbol, base, version, flag, treatment, ret, parameters, arguments) \
  #symbol "\0"
#include "guest/cuda/wrapped.inc"
#undef TESSERA_ENTRY
    "";
constexpr NameOffsets<kCudaWrappers> kNameOffsets = OffsetsOf<kCudaWrappers>(kNameText);
constexpr const char* Name(uint32_t index) { return &kNameText[kNameOffsets.at[index]]; }

enum class Treatment { account, free, gate, virtualise, lifecycle, deny };

constexpr bool SameText(const char* a, const char* b) {
  while (*a != '\0' && *a == *b) ++a, ++b;
  return *a == *b;
}

// What becomes of a line nobody has written a wrapper for: what may take memory, or begin or end
// something, is denied.
enum class Rule { kGate, kHandOn, kDeny };
constexpr Rule RuleOf(Treatment treatment) {
  switch (treatment) {
    case Treatment::gate:
      return Rule::kGate;
    case Treatment::free:
    case Treatment::virtualise:
      return Rule::kHandOn;
    default:
      return Rule::kDeny;
  }
}

// Names by hash, made by the compiler: open addressing, the index of the manifest + 1. At most half
// full, so a name that is none of ours costs a comparison or two. All begin with "cu", which is
// therefore neither hashed nor compared.
constexpr uint32_t kPrefix = 2;
constexpr uint32_t kNameSlots = 2 * kCudaWrappers + 1;
constexpr uint32_t NameSlot(const char* rest) {
  uint32_t hash = 5381;
  for (; *rest != '\0'; ++rest) hash = hash * 33 + static_cast<unsigned char>(*rest);
  // The top bits of a product with a constant are as good as a remainder, and no division.
  return static_cast<uint32_t>(uint64_t{hash * 0x9e3779b9u} * kNameSlots >> 32);
}
struct NameTable {
  uint16_t at[kNameSlots];
};
constexpr NameTable MakeNameTable() {
  NameTable table = {};
  for (uint32_t i = 0; i < kCudaWrappers; ++i) {
    uint32_t slot = NameSlot(Name(i) + kPrefix);
    while (table.at[slot] != 0) slot = (slot + 1) % kNameSlots;
    table.at[slot] = static_cast<uint16_t>(i + 1);
  }
  return table;
}
constexpr bool AllBegin() {
  for (uint32_t i = 0; i < kCudaWrappers; ++i) {
    if (Name(i)[0] != 'c' || Name(i)[1] != 'u') return false;
  }
  return true;
}
static_assert(AllBegin());
constexpr NameTable kNameTable = MakeNameTable();

uint32_t denied[(kCudaWrappers + 31) / 32];

}  // namespace

const char* CudaName(uint32_t index) { return Name(index); }

void* ResolveCuda(uint32_t index) {
  void* real = ResolveReal(kCudaLibrary, Name(index));
  if (real != nullptr) __atomic_store_n(&tessera_cuda_real[index], real, __ATOMIC_RELAXED);
  return real;
}

abi::CUresult MissingCuda() {
  return RealLoaded(kCudaLibrary) ? abi::CUDA_ERROR_NOT_FOUND : abi::CUDA_ERROR_NO_DEVICE;
}

abi::CUresult DenyCuda(uint32_t index) {
  const uint32_t bit = 1u << (index % 32);
  if ((__atomic_fetch_or(&denied[index / 32], bit, __ATOMIC_RELAXED) & bit) == 0) {
    Line line;
    line << Name(index) << " is refused inside a slice: what it takes cannot be counted";
    line.Say();
  }
  return abi::CUDA_ERROR_NOT_SUPPORTED;
}

#if defined(__x86_64__)
static_assert(offsetof(Process, slot) == 0 && offsetof(Process, gate) == 16 &&
              offsetof(wire::ProcessSlot, launches) == 16 && offsetof(GateFrame, more) == 48 &&
              offsetof(GateFrame, called) == 56 && kIndex_cuInit == 0);
#else
namespace {

// Arguments as the words gates.S would find; none of these calls has a floating-point one.
template <typename Argument>
uint64_t WordOf(Argument argument) {
  static_assert(sizeof(argument) <= sizeof(uint64_t));
  uint64_t word = 0;
  __builtin_memcpy(&word, &argument, sizeof(argument));
  return word;
}

template <typename Function, typename... Arguments>
auto Gated(uint32_t index, Arguments... arguments) {
  wire::ProcessSlot* const slot = __atomic_load_n(&process.slot, __ATOMIC_RELAXED);
  bool shut = false;
  if (slot != nullptr) {
    __atomic_store_n(&slot->launches, __atomic_load_n(&slot->launches, __ATOMIC_RELAXED) + 1,
                     __ATOMIC_RELAXED);
    shut = __atomic_load_n(process.gate, __ATOMIC_RELAXED) != 0;
  }
  if (__builtin_expect(!shut, 1)) {
    auto* const real = RealCuda<Function>(index);
    return real == nullptr ? MissingCuda() : real(arguments...);
  }
  const uint64_t words[12] = {WordOf(arguments)...};
  GateFrame frame = {};
  for (int i = 0; i < 6; ++i) frame.words[i] = words[i];
  frame.more = &words[6];
  auto* const real = reinterpret_cast<Function*>(tessera_gate_enter(&frame, index));
  if (real == nullptr) return MissingCuda();
  const abi::CUresult result = real(arguments...);
  if (frame.called != 0) tessera_gate_leave(&frame, result);
  return result;
}

}  // namespace
#endif

}  // namespace tessera::guest

namespace tessera::abi {

#define TESSERA_WEAK(symbol, treatment, ret, parameters, arguments)               \
  extern "C" __attribute__((visibility("default"), weak)) ret symbol parameters { \
    using namespace ::tessera::guest;                                             \
    constexpr Rule kRule = RuleOf(Treatment::treatment);                          \
    if constexpr (kRule == Rule::kDeny) {                                         \
      if (depth > 0) {                                                            \
        auto* const real = TESSERA_REAL(symbol);                                  \
        if (real != nullptr) return real arguments;                               \
      }                                                                           \
      return DenyCuda(kIndex_##symbol);                                           \
    } else {                                                                      \
      static_assert(kRule != Rule::kGate);                                        \
      auto* const real = TESSERA_REAL(symbol);                                    \
      if (__builtin_expect(real == nullptr, 0)) return MissingCuda();             \
      return real arguments;                                                      \
    }                                                                             \
  }
#if defined(__x86_64__)
#define TESSERA_DO_gate(symbol, ret, parameters, arguments)
#else
#define TESSERA_GATED(...) Gated<Function>(kIndex, ##__VA_ARGS__)
#define TESSERA_DO_gate(symbol, ret, parameters, arguments)                       \
  extern "C" __attribute__((visibility("default"), weak)) ret symbol parameters { \
    using namespace ::tessera::guest;                                             \
    using Function = decltype(::tessera::abi::symbol);                            \
    constexpr uint32_t kIndex = kIndex_##symbol;                                  \
    return TESSERA_GATED arguments;                                               \
  }
#endif
#define TESSERA_DO_account(symbol, ret, parameters, arguments) \
  TESSERA_WEAK(symbol, account, ret, parameters, arguments)
#define TESSERA_DO_free(symbol, ret, parameters, arguments) \
  TESSERA_WEAK(symbol, free, ret, parameters, arguments)
#define TESSERA_DO_virtualise(symbol, ret, parameters, arguments) \
  TESSERA_WEAK(symbol, virtualise, ret, parameters, arguments)
#define TESSERA_DO_lifecycle(symbol, ret, parameters, arguments) \
  TESSERA_WEAK(symbol, lifecycle, ret, parameters, arguments)
#define TESSERA_DO_deny(symbol, ret, parameters, arguments) \
  TESSERA_WEAK(symbol, deny, ret, parameters, arguments)
#define TESSERA_ENTRY(symbol, base, version, flag, treatment, ret, parameters, arguments) \
  TESSERA_DO_##treatment(symbol, ret, parameters, arguments)
#include "guest/cuda/wrapped.inc"
#undef TESSERA_ENTRY

}  // namespace tessera::abi

namespace tessera::guest {

#if defined(__x86_64__)
extern "C" const int32_t tessera_cuda_wrappers[kCudaWrappers] __attribute__((visibility("hidden")));
void* CudaWrapper(uint32_t index) {
  const char* const here = reinterpret_cast<const char*>(tessera_cuda_wrappers);
  return const_cast<char*>(here + tessera_cuda_wrappers[index]);
}
#else
void* CudaWrapper(uint32_t index) {
  static void* const kWrappers[kCudaWrappers] = {
#define TESSERA_ENTRY(symbol, base, version, flag, treatment, ret, parameters, arguments) \
  reinterpret_cast<void*>(&abi::symbol),
#include "guest/cuda/wrapped.inc"
#undef TESSERA_ENTRY
  };
  return kWrappers[index];
}
#endif

bool FindCudaWrapper(const char* name, Wrapper* found) {
  if (name[0] != 'c' || name[1] != 'u') return false;
  const char* const rest = name + kPrefix;
  for (uint32_t slot = NameSlot(rest); kNameTable.at[slot] != 0; slot = (slot + 1) % kNameSlots) {
    const uint32_t index = kNameTable.at[slot] - 1u;
    if (!SameText(Name(index) + kPrefix, rest)) continue;
    *found = {CudaWrapper(index), index, kCudaLibrary};
    return true;
  }
  return false;
}

namespace {

// The lines of the manifest, two bytes each. All forms of one base stand together, and one of them
// carries the base's own name.
constexpr uint16_t kVersionMask = 0x7ff;  // in tens
constexpr uint16_t kPerThread = 0x800;
constexpr uint16_t kBegins = 0x1000;  // the first form of its base
constexpr uint16_t kNamed = 0x2000;   // the one with the base's own name
struct LineTable {
  uint16_t at[kCudaWrappers];
};
constexpr LineTable MakeLines() {
  struct {
    uint32_t base;
    int version;
    bool per_thread;
  } const lines[] = {
#define none false
#define ptds true
#define ptsz true
#define TESSERA_ENTRY(symbol, base, version, flag, treatment, ret, parameters, arguments) \
  {kIndex_##base, version, flag},
#include "guest/cuda/wrapped.inc"
#undef TESSERA_ENTRY
#undef none
#undef ptds
#undef ptsz
  };
  LineTable table = {};
  for (uint32_t i = 0; i < kCudaWrappers; ++i) {
    uint32_t word = static_cast<uint32_t>(lines[i].version / 10) & kVersionMask;
    if (lines[i].per_thread) word |= kPerThread;
    if (i == 0 || lines[i - 1].base != lines[i].base) word |= kBegins;
    if (lines[i].base == i) word |= kNamed;
    table.at[i] = static_cast<uint16_t>(word);
  }
  return table;
}
constexpr LineTable kLines = MakeLines();

#define TESSERA_ENTRY(symbol, base, version, flag, treatment, ret, parameters, arguments) \
  static_assert(version / 10 <= kVersionMask && version % 10 == 0);
#include "guest/cuda/wrapped.inc"
#undef TESSERA_ENTRY

}  // namespace

// Which line of the manifest the driver answers cuGetProcAddress with: the highest version not
// above the asked one, in the form of the asked stream; a base without that form has one form for
// both. Only lines the loaded driver has.
int ChooseCuda(const char* name, int version, bool per_thread) {
  Wrapper first = {};
  if (!FindCudaWrapper(name, &first) || (kLines.at[first.index] & kNamed) == 0) return -1;
  uint32_t begin = first.index;
  while ((kLines.at[begin] & kBegins) == 0) --begin;
  int best = -1;
  for (uint32_t i = begin; i < kCudaWrappers && (i == begin || (kLines.at[i] & kBegins) == 0);
       ++i) {
    const uint16_t line = kLines.at[i];
    if ((line & kVersionMask) * 10 > version) continue;
    if ((line & kPerThread) != 0 && !per_thread) continue;
    // The per-thread form goes before the version.
    constexpr uint16_t kRank = kPerThread | kVersionMask;
    if (best >= 0 && (kLines.at[best] & kRank) > (line & kRank)) continue;
    void* real = __atomic_load_n(&tessera_cuda_real[i], __ATOMIC_RELAXED);
    if (real == nullptr && ResolveCuda(i) == nullptr) continue;
    best = static_cast<int>(i);
  }
  return best;
}

}  // namespace tessera::guest
