// One slice as the broker keeps it: its pages, its own table of who is attached (never read from
// the page), and the recount that takes back what dead processes held (the protocol is at the top
// of wire/pages.h).
//
// The recount never blocks: Step() freezes, and later calls of Step() look whether the living have
// settled, until kFreezeWaitNanosMax has passed; then nothing is changed and it is tried again with
// growing pauses. Not thread-safe: the broker's lock guards it.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "broker/slice_pages.h"
#include "os/clock.h"
#include "os/fd.h"
#include "os/process.h"
#include "wire/pages.h"

namespace tessera::broker {

// Pause before a recount is tried again after the living did not settle; doubles from first to
// last.
inline constexpr std::int64_t kRecountPauseNanosFirst = 100'000'000;
inline constexpr std::int64_t kRecountPauseNanosMax = 5'000'000'000;

// A process and the program in it: exec keeps pid and start time but gives back all the driver
// held.
struct ProgramId {
  os::ProcessId process;
  std::uint64_t image = 0;  // differs after exec; 0 when the kernel does not tell
  bool operator==(const ProgramId&) const = default;
};
// Identifies the program a live process runs now; its parent comes from the same look.
Result<ProgramId> IdentifyProgram(pid_t pid, pid_t* parent = nullptr);

struct CardAudit {
  std::string uuid;
  std::uint64_t recorded = 0;           // the page's `used`
  std::uint64_t recomputed = 0;         // sum over the processes the broker knows to live
  std::optional<std::uint64_t> driver;  // what the driver says, when asked and known
  bool settled = false;                 // nothing was in flight while both were read
};

// One row of the usage page.
struct CardUsage {
  std::string uuid;  // empty for the host row
  std::uint64_t used = 0;
  std::uint64_t peak = 0;
  std::uint64_t refusals = 0;
  std::uint64_t lease = 0;  // lent above the limit
};

// What the slice as a whole has done since its pages were made or adopted, processes that have
// ended included. By the processes' own word.
struct SliceActivity {
  std::uint64_t submissions = 0;
  std::uint64_t gate_wait_nanos = 0;  // of all threads together
};

struct AttachedProcess {
  std::uint32_t slot = 0;
  os::ProcessId process;
  std::uint64_t launches = 0;
  std::vector<std::uint64_t> used;  // by card
  std::uint64_t host_used = 0;
};

class SliceLedger {
 public:
  SliceLedger(std::string id, std::unique_ptr<SlicePages> pages, const os::Clock& clock);
  ~SliceLedger();  // never leaves a card frozen
  SliceLedger(const SliceLedger&) = delete;
  SliceLedger& operator=(const SliceLedger&) = delete;

  // The slot of a process, the same one when the same program asks again; kResourceExhausted naming
  // kProcessesMax when no slot is free, kFailedPrecondition when the slice is closed. A pidfd that
  // is known to be the process's is taken over with the slot; else one is opened.
  Result<std::uint32_t> Attach(const ProgramId& program, os::Fd* pidfd = nullptr);
  // After a restart: takes over what the page says about processes that `is_member` confirms, and
  // starts a recount for the rest. The page is a hint here; a forged line can only name a member of
  // this very slice.
  template <typename IsMember>
  void Adopt(IsMember is_member) {
    AdoptSlots([](void* context,
                  const os::ProcessId& id) { return (*static_cast<IsMember*>(context))(id); },
               &is_member);
  }
  // Looks which attached processes have ended; true when a recount became necessary.
  bool CheckProcesses();
  // Moves a recount on; returns the monotonic time at which to call again, or nullopt when there is
  // nothing to do.
  std::optional<std::int64_t> Step();

  void SetLimits(const std::vector<CardLimits>& cards, std::uint64_t host_bytes);
  void Close();
  bool closed() const { return closed_; }
  // Closes the slice when a tenant has damaged its usage file; true when it did just now.
  bool CloseIfDamaged();

  // Exactly the processes attached and alive (own table).
  std::vector<AttachedProcess> Processes() const;
  std::uint32_t LiveCount() const;
  bool IsAttached(const os::ProcessId& process) const;
  // Pidfd of a slot that just attached, owned by the ledger; -1 when the kernel gave none.
  int PidfdOf(std::uint32_t slot) const;
  std::vector<CardUsage> Usage() const;  // of the cards
  CardUsage HostUsage() const;           // of page-locked memory of the machine
  SliceActivity Activity() const;
  std::vector<CardAudit> Audit() const;

  const std::string& id() const { return id_; }
  SlicePages& pages() { return *pages_; }
  const std::vector<CardLimits>& limits() const { return limits_; }
  std::uint64_t host_bytes() const { return host_bytes_; }
  std::uint64_t recounts() const { return recounts_; }
  std::uint64_t nonsense() const { return nonsense_; }
  std::uint64_t unsettled() const { return unsettled_; }

 private:
  enum class State { kFree, kLive, kDead };
  struct Entry {
    State state = State::kFree;
    ProgramId program;
    os::Fd pidfd;
  };

  void AdoptSlots(bool (*is_member)(void*, const os::ProcessId&), void* context);
  void Take(std::uint32_t slot, const ProgramId& program, os::Fd* pidfd);
  void Freeze();
  void Thaw();
  bool LivingSettled();
  void Recount();
  // The rows in use: the cards' and the host's, which is the last of them.
  std::uint32_t row_count() const { return pages_->card_count() + 1; }
  std::uint32_t RowAt(std::uint32_t i) const {
    return i < pages_->card_count() ? i : wire::kHostRow;
  }
  std::uint64_t LimitOf(std::uint32_t row) const;
  CardUsage UsageOf(std::uint32_t row) const;
  std::uint64_t SlotUsed(std::uint32_t slot, std::uint32_t row) const;
  std::uint64_t SumOfLive(std::uint32_t row) const;
  bool Alive(const Entry& entry) const;

  std::string id_;
  std::unique_ptr<SlicePages> pages_;
  const os::Clock& clock_;
  std::vector<CardLimits> limits_;
  std::uint64_t host_bytes_ = 0;
  SliceActivity ended_;  // of processes whose slots were cleared
  std::array<Entry, wire::kProcessesMax> entries_;
  bool closed_ = false;
  bool wanted_ = false;  // a recount is due
  bool frozen_ = false;  // a recount is under way
  std::int64_t deadline_ = 0;
  std::int64_t next_try_ = 0;
  std::int64_t pause_ = kRecountPauseNanosFirst;
  std::uint64_t recounts_ = 0;
  std::uint64_t nonsense_ = 0;
  std::uint64_t unsettled_ = 0;
};

}  // namespace tessera::broker
