// The executor: does the commands of work.h, each in its two halves.
//
// Functions are computed by host threads, made on demand (at most kExecutorThreadsMax) and ended
// when idle for a while; as many as there are processors at once, more when none of the busy ones
// gets on, so that a kernel that spins on a flag of another stream or of the host holds up nobody.
// Time passes without anybody awake: what is queued on the compute engine stands in the engine's
// line, and only what has to wait for a moment first (a copy behind a kernel, a host function, a
// word) is held until then by the keeper: whichever thread waits for work anyway, or else a thread
// of its own that sleeps exactly as long.
//
// One lock guards all commands, and the fields of streams and contexts that driver.h says so of. It
// may be taken while Driver::mutex is held, never the other way round. Made once and leaked.
#pragma once

#include <atomic>
#include <condition_variable>
#include <deque>
#include <map>
#include <mutex>
#include <span>
#include <vector>

#include "simgpu/driver/work.h"
#include "simgpu/state/engine.h"

namespace simgpu {

// When something is finished: not before floor_ns, and when the named positions of compute engines
// were reached. Exact once no position is left: then at floor_ns.
struct Mark {
  struct Position {
    uint32_t card;
    uint64_t position;
  };
  uint64_t floor_ns = 0;
  uint32_t count = 0;
  uint32_t lane = 0;  // not 0: floor_ns is the end of a copy on that lane (LaneKey)
  Position at[kCardsMax];

  void Merge(const Mark& other);
  void Add(uint32_t card, uint64_t position);
};

struct Waiter {
  bool function_only = false;
  std::condition_variable condition;
};

struct Command {
  enum class Way : uint8_t {
    kNothing,   // nothing to compute: events, joints
    kFunction,  // computed as soon as the functions before it are done
    kGated,     // done when everything before it is finished
    kTrailing,  // the same, but functions behind it do not wait for it
  };
  enum class Cost : uint8_t { kNone, kCompute, kCopy };

  Context* context = nullptr;
  uint32_t card = 0;
  int priority = 0;
  Way way = Way::kNothing;
  Action action;
  std::vector<uint8_t> staged;  // the bytes of a copy from pageable memory
  std::atomic<uint8_t>* word = nullptr;

  uint32_t functions_before = 0;  // commands before it whose function is not done
  uint32_t times_before = 0;      // commands before it whose mark is not known
  std::vector<CommandRef> next;
  // When what stands before it is finished; once `timed`, when itself is.
  Mark mark;

  Cost cost = Cost::kNone;
  CopyLane lane = CopyLane::kOnDevice;
  uint32_t other_card = 0;  // a copy between cards takes an engine of this one too
  bool two_cards = false;
  bool placed = false;  // the engine's line has it already: `position`
  uint64_t position = 0;
  uint64_t duration_ns = 0;
  uint32_t width = 1000;  // how much of the card it fills, per mille

  bool event = false;  // its time may be asked for
  bool queued = false;
  bool started = false;
  bool held = false;
  bool function_done = false;
  bool timed = false;
  std::vector<Waiter*> waiters;
};

class Executor {
 public:
  static Executor& Get();

  std::mutex& lock() { return mutex_; }

  // What needs the lock held. `mine`: the caller computes the function itself, when Add says so.
  // It then calls Compute, without the lock.
  struct Extra {
    std::atomic<uint8_t>* word = nullptr;
    std::vector<uint8_t> staged;
    bool event = false;  // an event stands for it
  };
  CommandRef Add(Context* context, int priority, std::span<const CommandRef> before, Action action,
                 Extra extra, bool* mine);
  // Makes a command wait for one more, from the function of one it waits for. Without the lock.
  void Also(const CommandRef& command, const CommandRef& before);
  bool Finished(Command* command);
  // Finished commands at the front go.
  void Trim(std::deque<CommandRef>* queued);
  void Trim(std::vector<CommandRef>* loose);

  // Without the lock.
  void Compute(const CommandRef& command);
  // Until the command is finished (or with `function_only` computed). The context's sticky error.
  CUresult Wait(const CommandRef& command, bool function_only);
  // The context faulted: nothing of it is done any more. Waiters get its error.
  void Fail(Context* context, unsigned int error);
  // Until no function of the context is under way or to come.
  void Drain(Context* context);
  // Computes what is ready on the calling thread when the machine gave us no thread at all.
  void Help();

 private:
  Executor();

  void Link(const CommandRef& command, const CommandRef& before);
  void Look(const CommandRef& command);
  void Settle();
  void Ready(const CommandRef& command);
  void FunctionDone(const CommandRef& command);
  void Time(const CommandRef& command);
  void Timed(const CommandRef& command);
  void Hold(const CommandRef& command, uint64_t wake_ns);
  void Retry(const CommandRef& command);
  void TryWord(const CommandRef& command);
  void PollWords();
  void SweepEvents();
  void Cancelled(const CommandRef& command);
  // Whether the mark is reached; else when to look again.
  bool Reached(Mark* mark, uint64_t now, uint64_t* wake_ns);
  // Whether work can enter that card's compute line now: all before it is in that line or past.
  bool CanEnter(Mark* mark, uint32_t card, uint64_t now, uint64_t* wake_ns);

  void Drive();
  uint64_t NextWake() const;
  bool MayGrow() const;
  void CallKeeper(uint64_t wake_ns);
  void KeepTime();
  void Work();
  CommandRef Pick();
  uint64_t PickAgainNs() const;
  void CallWorker();
  bool Start(void* (*body)(void*));

  // The functions. Without the lock.
  void DoKernel(Command* command, bool begin, uint64_t ready_ns);
  void DoCopy(Command* command);
  void DoFill(Command* command);
  void DoHost(Command* command);

  static constexpr int kPriorities = 6;  // 0 (least) to -5

  std::mutex mutex_;
  std::vector<CommandRef> changed_;
  bool settling_ = false;
  std::deque<CommandRef> ready_[kPriorities];
  size_t ready_count_ = 0;
  std::multimap<uint64_t, CommandRef> held_;
  std::vector<CommandRef> words_;  // those that wait for a word
  uint64_t poll_ns_ = 0;
  uint64_t poll_at_ns_ = 0;
  std::deque<CommandRef> events_[kCardsMax];  // timed, but not known to be reached
  size_t event_count_ = 0;
  uint64_t sweep_at_ns_ = 0;
  uint32_t entered_ = 0;  // work put into compute lines since the last sweep
  std::vector<Waiter*> waiting_;

  std::condition_variable work_;
  size_t threads_ = 0;
  size_t idle_ = 0;
  size_t called_ = 0;  // idle ones that were woken and have not looked yet
  size_t running_ = 0;
  size_t threads_at_once_ = 2;
  bool no_threads_ = false;
  bool said_full_ = false;
  uint64_t picked_ns_ = 0;

  // The keeper sleeps on *keeper_ until keeper_wake_ns_; null: nobody keeps time.
  std::condition_variable* keeper_ = nullptr;
  uint64_t keeper_wake_ns_ = 0;
  bool keeper_thread_ = false;
  std::condition_variable keeper_called_;

  bool seeded_ = false;
  uint64_t random_ = 0;
  uint64_t put_ns_ = 0;
};

// How long things take (timing.cc). Pure.
uint64_t KernelNs(const Profile& profile, uint64_t instructions);
uint64_t HostCopyNs(const Profile& profile, uint64_t bytes);
uint64_t DeviceCopyNs(const Profile& profile, uint64_t bytes);
uint64_t PeerCopyNs(const Profile& from, const Profile& to, uint64_t bytes);

// The functions' insides. Mutex free; false: the memory is not (or no more) there.
struct KernelOutcome {
  CUresult result = CUDA_SUCCESS;  // a fault, which sticks
  uint64_t duration_ns = 0;
};
KernelOutcome RunKernel(Command* command);
// Where a copy goes: sets the command's cost, lane and duration.
bool RunCopy(Command* command);
bool RunFill(Command* command);
// The bytes of a small copy from pageable memory are taken at once. Driver::mutex held.
void StageCopy(Driver* driver, CopyAction* copy, std::vector<uint8_t>* staged);

}  // namespace simgpu
