// What stands before every entry point of libcuda.so.1, in simgpu's and in the one that forwards to
// another driver.
//
// The exported function looks at one word and calls the hidden function of the same name behind a
// prefix (simgpu_cuInit). Only when the word is not zero (it is not in the first calls, and when
// there is a trace or a fault rule) the call goes through a Call, which writes the line of the
// trace and may answer an error instead of calling. All is made once and leaked. Thread-safe.
#pragma once

#include <atomic>
#include <cstdint>
#include <string_view>
#include <type_traits>

#include "abi/cuda.h"

namespace simgpu::front {

// What a parameter's innermost type is; with its stars and const that says how to print it.
enum class Base : uint8_t {
  kSigned,
  kUnsigned,  // enumerations too
  kFloat,
  kAddress,  // CUdeviceptr
  kHandle,
  kFunction,
  kStruct,
  kChar,
  kVoid,
};

struct Parameter {
  const char* type;
  const char* name;
  Base base;
  uint8_t size;  // of the innermost type, 0 when unknown
  uint8_t stars;
  bool is_const;
};

inline constexpr int kParametersMax = 16;

struct Site {
  const char* symbol;
  const char* base;
  const Parameter* parameters;
  int count;
};

extern const Site kSites[];
extern const size_t kSiteCount;

// What cuGetProcAddress hands out: the exported functions.
struct Proc {
  const char* base;
  int version;
  bool per_thread;
  void* function;
  int site;
};
// The entry of `base` with the highest version <= `version`, of the per-thread forms if asked and
// there is one. `known`: whether the base name exists at all.
const Proc* FindProc(const char* base, int version, bool per_thread, bool* known);

// Bits of the word.
inline constexpr uint32_t kHookStart = 1;  // nobody has looked at the environment yet
inline constexpr uint32_t kHookWatch = 2;  // nobody follows the rules' file yet: look at each call
inline constexpr uint32_t kHookTrace = 4;
inline constexpr uint32_t kHookFaults = 8;  // a rule stands that calls must heed

extern std::atomic<uint32_t> g_hooks __attribute__((visibility("hidden")));

inline bool Off() { return __builtin_expect(g_hooks.load(std::memory_order_relaxed) == 0, 1) != 0; }

// One call that is looked at. Made before the hidden function is called; Finish after it.
class Call {
 public:
  Call(const Site& site, const uint64_t* values);
  Call(const Call&) = delete;
  Call& operator=(const Call&) = delete;
  // A fault rule answers instead: the function must not be called.
  bool Refused() const { return refused_; }
  tessera::abi::CUresult Finish(tessera::abi::CUresult result);
  tessera::abi::CUresult Finish() { return Finish(result_); }

 private:
  const Site& site_;
  const uint64_t* values_;
  uint64_t sequence_ = 0;
  bool refused_ = false;
  tessera::abi::CUresult result_ = tessera::abi::CUDA_SUCCESS;
};

// Of the driver behind the front (card_faults.cc; forward.cc has one that does nothing): makes the
// current context stick with what the card's rules say, and answers what this call must answer if
// it must not be made, else 0.
uint32_t CardFault(const Site& site, const uint64_t* values);
// Whether fault rules are looked at at all.
bool HasFaults();

// Follows the rules' file with a thread of its own from now on (watch.cc). Called after cuInit.
void StartWatching();
void SetWatching(bool watching);
// The word, anew from what stands.
void UpdateHooks();

}  // namespace simgpu::front
