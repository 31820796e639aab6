// Faults a person asks for: what shall go wrong on which card, or with which call.
//
// Rules come from $SIMGPU_FAULTS ("rule;rule", fixed for a process's life) and from the file
// `faults` in the state folder ($SIMGPU_STATE, default /dev/shm/simgpu), one a line, "#" begins a
// comment. The file is looked at again when it may have changed, at most every kFaultsCheckMs, so
// that rules come and go under running programs:
//
//   call NAME N RESULT          the N-th call of NAME by a process answers RESULT, does nothing
//   call NAME N+ RESULT         that one and all after it
//   call NAME pP RESULT seed S  each call with probability P (0..1), drawn from seed S
//   sticky card C RESULT        a context on the card answers RESULT until destroyed
//   slow-copy card C FACTOR     copies take FACTOR (1 to 1000000, may be a fraction) times as long
//   card C lost                 NVML says GPU_IS_LOST; contexts stick, new ones are not made
//   hang card C                 kernels on the card do not finish until the rule is gone
//   xid card C NUMBER           NVML reports this critical error once
//   ecc card C sbe|dbe COUNT    NVML reports COUNT corrected or uncorrected errors
//   memory card C SIZE          no more than SIZE (bytes; KiB, MiB, GiB) can be taken of the card
//
// NAME is an entry point ("cuMemAlloc_v2") or a base name, which means all its forms
// ("cuMemAlloc"). C is the card's index in the state, whatever CUDA_VISIBLE_DEVICES says. RESULT is
// a code's name or number. A file or variable with a bad rule is refused whole: the rules that held
// before stay, and each error is said once, naming line and field.
//
// Faults::Get() is the process's one (every library that links this has its own) and never dies.
// Thread-safe. Asking costs a coarse clock reading as long as there is no rule and it is not time
// to look.
#pragma once

#include <atomic>
#include <cstdint>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

namespace simgpu {

inline constexpr uint32_t kFaultsCheckMs = 5;
inline constexpr size_t kFaultRulesMax = 256;
inline constexpr size_t kFaultFileBytesMax = 64 << 10;
inline constexpr size_t kXidEventsMax = 1024;  // a process remembers this many, the oldest go

struct FaultRule {
  enum class Kind { kCall, kSticky, kSlowCopy, kLost, kHang, kXid, kEcc, kMemory };
  Kind kind = Kind::kCall;
  std::string text;  // the rule with single spaces: its identity
  uint32_t card = 0;
  std::string name;          // call
  uint64_t nth = 0;          // call: 0 when by probability
  bool onwards = false;      // call: N+
  double probability = 0;    // call
  uint64_t seed = 0;         // call
  uint32_t result = 0;       // call, sticky
  double factor = 1;         // slow-copy
  uint32_t number = 0;       // xid
  bool uncorrected = false;  // ecc
  uint64_t amount = 0;       // ecc: count, memory: bytes
};

// Reads rules; `separator` is ';' or '\n'. False with all errors, one a line, each "SOURCE:LINE:
// FIELD: what was expected", in `errors`; `rules` is then empty.
bool ParseFaults(std::string_view source, std::string_view text, char separator,
                 std::vector<FaultRule>* rules, std::string* errors);

struct XidEvent {
  uint64_t sequence = 0;  // rises by one with every event a process learns of
  uint32_t card = 0;
  uint32_t number = 0;
};

struct EccCounts {
  uint64_t corrected = 0;
  uint64_t uncorrected = 0;
};

class Faults {
 public:
  static Faults& Get();

  // For tests and programs that look at another folder. `variable` is the text of SIMGPU_FAULTS.
  Faults(std::string folder, const std::string& variable);
  Faults(const Faults&) = delete;
  Faults& operator=(const Faults&) = delete;

  // For the driver.
  double CopyFactor(uint32_t card);     // 1 when there is no rule
  bool Hung(uint32_t card);             // kernels of this card must not finish now
  uint32_t Sticky(uint32_t card);       // a CUresult contexts must stick with, or 0
  uint64_t MemoryLimit(uint32_t card);  // UINT64_MAX when there is no rule
  // For both.
  bool Lost(uint32_t card);
  // For NVML. Events with a sequence above `after`, oldest first; those of rules that stood there
  // when the process first looked count from 1.
  std::vector<XidEvent> Xids(uint64_t after);
  EccCounts Ecc(uint32_t card);

  // For the front of libcuda. A call of this entry point is about to be made: the result to answer
  // instead, or 0.
  uint32_t Call(std::string_view symbol, std::string_view base);
  // Whether any rule stands now, as of the last look.
  bool Any() const { return any_.load(std::memory_order_relaxed); }
  // Whether rules that the front must act on stand (call, sticky, lost).
  bool AnyForCalls() const { return any_for_calls_.load(std::memory_order_relaxed); }
  // Looks at the file now if it is time to; `at_once` does not wait for the time.
  void Look(bool at_once = false);
  const std::string& folder() const { return folder_; }
  std::vector<FaultRule> Rules();
  // Around fork: nobody may hold the mutex then.
  void LockForFork() { mutex_.lock(); }
  void UnlockAfterFork() { mutex_.unlock(); }

 private:
  struct Counted {
    FaultRule rule;
    bool from_file = false;
    uint64_t calls = 0;
    uint64_t random = 0;
  };
  struct Stamp {
    bool there = false;
    int64_t seconds = 0;
    int64_t nanos = 0;
    uint64_t size = 0;
    uint64_t inode = 0;
    bool operator==(const Stamp&) const = default;
  };

  // True when there may be rules: looks at the file if it is time.
  bool Ready();
  bool Has(FaultRule::Kind kind, uint32_t card);
  // With the mutex held.
  void Learn(const FaultRule& rule);
  void Refuse(const std::string& errors);
  void Replace(std::vector<FaultRule> fresh);
  void Publish();

  const std::string folder_;
  const std::string path_;
  std::atomic<bool> any_{false};
  std::atomic<bool> any_for_calls_{false};
  std::atomic<uint64_t> look_again_ms_{0};
  std::mutex mutex_;
  std::vector<Counted> rules_;
  Stamp stamp_;
  std::string said_;  // the errors of the file said last
  std::vector<XidEvent> xids_;
  uint64_t xid_sequence_ = 0;
};

}  // namespace simgpu
