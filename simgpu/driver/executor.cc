#include "simgpu/driver/executor.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>

#include <algorithm>
#include <chrono>
#include <optional>

#include "simgpu/driver/mps.h"
#include "simgpu/driver/pool.h"
#include "simgpu/state/faults.h"

namespace simgpu {
namespace {

constexpr uint64_t kNever = UINT64_MAX;
constexpr uint64_t kIdleNs = 2'000'000'000;  // an idle thread ends after that
constexpr uint64_t kGrowNs = 2'000'000;      // ready work nobody takes so long gets one more thread
// A waiter sleeps until so long before its moment, and spins then: waking up takes some time.
constexpr uint64_t kSpinNs = 25'000;
constexpr uint64_t kPollFirstNs = 20'000;    // how often a word is looked at: at first,
constexpr uint64_t kPollLastNs = 1'000'000;  // and when nothing has happened for long
// An engine remembers the last kGrantsMax stretches in which it served a process: events are looked
// after often enough that none of them falls out of that.
constexpr uint64_t kSweepNs = 20'000'000;
constexpr uint32_t kSweepEntered = 32;
constexpr uint64_t kHungNs = 5'000'000;         // how often a card that hangs is looked at
constexpr uint64_t kSeededQuietNs = 2'000'000;  // seeded: the program adds nothing for so long
constexpr uint64_t kSeededPatienceNs = 1'000'000'000;  // seeded: what runs longer may need others

thread_local bool t_in_host_function = false;

// pthread_cond_clockwait, by way of the clock that is CLOCK_MONOTONIC.
void SleepUntil(std::condition_variable* condition, std::unique_lock<std::mutex>* lock,
                uint64_t wake_ns) {
  if (wake_ns == kNever) {
    condition->wait(*lock);
    return;
  }
  const std::chrono::steady_clock::time_point wake{std::chrono::nanoseconds(wake_ns)};
  condition->wait_until(*lock, wake);
}

// Timers of this thread are exact while one of these lives; a thread's usual slack is 50 us.
class Exact {
 public:
  Exact() : before_(prctl(PR_GET_TIMERSLACK)) { prctl(PR_SET_TIMERSLACK, 1); }
  ~Exact() { prctl(PR_SET_TIMERSLACK, before_ > 0 ? before_ : 0); }
  Exact(const Exact&) = delete;
  Exact& operator=(const Exact&) = delete;

 private:
  const int before_;
};

uint32_t LaneKey(uint32_t card, CopyLane lane) {
  return 1 + card * 3 + static_cast<uint32_t>(lane);
}

Command::Way WayOf(const Action& action) {
  struct Visitor {
    Command::Way operator()(const KernelAction&) { return Command::Way::kFunction; }
    Command::Way operator()(const CopyAction&) { return Command::Way::kFunction; }
    Command::Way operator()(const FillAction&) { return Command::Way::kFunction; }
    Command::Way operator()(const AllocAction&) { return Command::Way::kFunction; }
    Command::Way operator()(const HostAction&) { return Command::Way::kGated; }
    Command::Way operator()(const WordAction&) { return Command::Way::kGated; }
    Command::Way operator()(const FreeAction&) { return Command::Way::kTrailing; }
    Command::Way operator()(const EmptyAction&) { return Command::Way::kNothing; }
    Command::Way operator()(const EventRecordAction&) { return Command::Way::kNothing; }
    Command::Way operator()(const EventWaitAction&) { return Command::Way::kNothing; }
    Command::Way operator()(const ChildAction&) { return Command::Way::kNothing; }
  };
  return std::visit(Visitor{}, action);
}

// Whether the wait of a word is over. The word is written by kernels and by the host at any time.
bool WordReady(const std::atomic<uint8_t>* word, const WordAction& action) {
  uint64_t now = 0;
  if (action.bytes == 4) {
    now = reinterpret_cast<const std::atomic<uint32_t>*>(word)->load(std::memory_order_acquire);
  } else {
    now = reinterpret_cast<const std::atomic<uint64_t>*>(word)->load(std::memory_order_acquire);
  }
  const uint64_t mask = action.bytes == 4 ? UINT32_MAX : UINT64_MAX;
  const uint64_t value = action.value & mask;
  switch (action.flags & 3) {
    case 0:  // at least, in the cyclic order
      return action.bytes == 4 ? static_cast<int32_t>(now - value) >= 0
                               : static_cast<int64_t>(now - value) >= 0;
    case 1:
      return now == value;
    case 2:
      return (now & value) != 0;
    default:
      return (~(now | value) & mask) != 0;
  }
}

void WriteWord(std::atomic<uint8_t>* word, const WordAction& action) {
  if (action.bytes == 4) {
    reinterpret_cast<std::atomic<uint32_t>*>(word)->store(static_cast<uint32_t>(action.value),
                                                          std::memory_order_release);
  } else {
    reinterpret_cast<std::atomic<uint64_t>*>(word)->store(action.value, std::memory_order_release);
  }
}

bool Faulted(const Context* context) {
  return context->sticky.load(std::memory_order_acquire) != 0;
}

Engine EngineOf(uint32_t card) { return Engine(Get()->state, card); }

}  // namespace

bool InHostFunction() { return t_in_host_function; }

void Mark::Add(uint32_t card, uint64_t position) {
  for (uint32_t i = 0; i < count; ++i) {
    if (at[i].card != card) continue;
    at[i].position = std::max(at[i].position, position);
    return;
  }
  at[count++] = {card, position};
}

void Mark::Merge(const Mark& other) {
  if (other.floor_ns > floor_ns) {
    floor_ns = other.floor_ns;
    lane = other.lane;
  }
  for (uint32_t i = 0; i < other.count; ++i) Add(other.at[i].card, other.at[i].position);
}

Executor::Executor() {
  cpu_set_t set;
  const int processors = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 2;
  threads_at_once_ = std::clamp<size_t>(static_cast<size_t>(processors), 2, kExecutorThreadsMax);
  if (const char* seed = getenv("SIMGPU_SEED"); seed != nullptr && *seed != 0) {
    seeded_ = true;
    threads_at_once_ = 1;
    random_ = strtoull(seed, nullptr, 0);
  }
}

Executor& Executor::Get() {
  static auto* executor = new Executor;
  return *executor;
}

// ---- Making commands -------------------------------------------------------------------------

CommandRef Executor::Add(Context* context, int priority, std::span<const CommandRef> before,
                         Action action, Extra extra, bool* mine) {
  auto command = std::make_shared<Command>();
  command->context = context;
  command->card = simgpu::Get()->devices[context->device]->card;
  command->priority = priority;
  command->way = WayOf(action);
  command->action = std::move(action);
  command->word = extra.word;
  command->event = extra.event || std::holds_alternative<EventRecordAction>(command->action);
  command->staged = std::move(extra.staged);
  put_ns_ = Engine::NowNs();
  command->mark.floor_ns = put_ns_;
  ++context->unfinished;
  for (const CommandRef& one : before) {
    if (one != nullptr) Link(command, one);
  }
  if (mine != nullptr) {
    *mine = !seeded_ && command->way == Command::Way::kFunction && command->functions_before == 0;
    if (*mine) {
      command->queued = command->started = true;
      ++running_;
      return command;
    }
  }
  changed_.push_back(command);
  Settle();
  return command;
}

void Executor::Link(const CommandRef& command, const CommandRef& before) {
  if (before->timed) {
    command->mark.Merge(before->mark);
    return;
  }
  if (!before->function_done) ++command->functions_before;
  ++command->times_before;
  before->next.push_back(command);
}

void Executor::Also(const CommandRef& command, const CommandRef& before) {
  std::lock_guard guard(mutex_);
  Link(command, before);
}

// Follows what changed, however long the chain is.
void Executor::Settle() {
  if (settling_) return;
  settling_ = true;
  while (!changed_.empty()) {
    const CommandRef command = std::move(changed_.back());
    changed_.pop_back();
    Look(command);
  }
  settling_ = false;
}

void Executor::Look(const CommandRef& command) {
  if (!command->function_done && !command->queued && command->functions_before == 0) {
    switch (command->way) {
      case Command::Way::kNothing:
      case Command::Way::kTrailing:
        FunctionDone(command);
        break;
      case Command::Way::kFunction:
        Ready(command);
        break;
      case Command::Way::kGated:
        if (command->times_before == 0 && !command->held) Retry(command);
        break;
    }
  }
  if (command->function_done && !command->timed && !command->held && !command->queued &&
      command->times_before == 0) {
    Time(command);
  }
}

void Executor::FunctionDone(const CommandRef& command) {
  command->function_done = true;
  if (command->way == Command::Way::kFunction) command->queued = false;
  for (const CommandRef& one : command->next) {
    if (one->functions_before > 0) --one->functions_before;
    changed_.push_back(one);
  }
  for (Waiter* waiter : command->waiters) {
    if (waiter->function_only) waiter->condition.notify_one();
  }
}

void Executor::Timed(const CommandRef& command) {
  command->timed = true;
  command->action = EmptyAction{};
  command->staged = {};
  --command->context->unfinished;
  for (const CommandRef& one : command->next) {
    one->mark.Merge(command->mark);
    --one->times_before;
    changed_.push_back(one);
  }
  command->next = {};
  if (command->event && command->mark.count > 0) {
    events_[command->mark.at[0].card].push_back(command);
    if (event_count_++ == 0) {
      sweep_at_ns_ = Engine::NowNs() + kSweepNs;
      CallKeeper(sweep_at_ns_);
    }
  }
  for (Waiter* waiter : command->waiters) waiter->condition.notify_one();
}

// ---- Time ------------------------------------------------------------------------------------

bool Executor::Reached(Mark* mark, uint64_t now, uint64_t* wake_ns) {
  uint64_t wake = 0;
  uint32_t kept = 0;
  for (uint32_t i = 0; i < mark->count; ++i) {
    const Engine::Progress progress = EngineOf(mark->at[i].card).Look(mark->at[i].position);
    if (!progress.finished) {
      wake = std::max({wake, progress.look_again_ns, now + 1});
      mark->at[kept++] = mark->at[i];
    } else if (progress.at_ns > mark->floor_ns) {
      mark->floor_ns = progress.at_ns;
      mark->lane = 0;
    }
  }
  mark->count = kept;
  if (mark->floor_ns > now) wake = std::max(wake, mark->floor_ns);
  *wake_ns = wake;
  return wake == 0;
}

bool Executor::CanEnter(Mark* mark, uint32_t card, uint64_t now, uint64_t* wake_ns) {
  if (mark->floor_ns <= now && mark->count == 0) return true;
  if (mark->floor_ns <= now && mark->count == 1 && mark->at[0].card == card) return true;
  // Something on another card or a copy: is that past? What is in this card's own line does not
  // matter, because the line keeps the order.
  Mark others;
  others.floor_ns = mark->floor_ns;
  uint64_t own = 0;
  for (uint32_t i = 0; i < mark->count; ++i) {
    if (mark->at[i].card == card) {
      own = mark->at[i].position;
    } else {
      others.Add(mark->at[i].card, mark->at[i].position);
    }
  }
  const bool reached = Reached(&others, now, wake_ns);
  if (own != 0) others.Add(card, own);
  *mark = others;
  return reached;
}

void Executor::Time(const CommandRef& command) {
  const uint64_t now = Engine::NowNs();
  if (Faulted(command->context)) {
    Cancelled(command);
    return;
  }
  uint64_t wake = 0;
  Mark& mark = command->mark;
  if (command->way == Command::Way::kTrailing) {
    if (!Reached(&mark, now, &wake)) {
      Hold(command, wake);
    } else {
      command->cost = Command::Cost::kNone;
      Ready(command);
    }
    return;
  }
  switch (command->cost) {
    case Command::Cost::kNone:
      break;
    case Command::Cost::kCompute: {
      if (Faults::Get().Hung(command->card)) {
        Hold(command, now + kHungNs);
        return;
      }
      Engine engine = EngineOf(command->card);
      if (!command->placed) {
        if (!CanEnter(&mark, command->card, now, &wake)) {
          Hold(command, wake);
          return;
        }
        command->position = engine.Submit(mark.floor_ns, command->duration_ns, command->width);
      }
      if (++entered_ >= kSweepEntered && event_count_ > 0) SweepEvents();
      const uint64_t ready = mark.floor_ns;
      mark = Mark{};
      mark.floor_ns = ready;
      if (command->position == 0) {
        mark.floor_ns += command->duration_ns;
      } else {
        mark.Add(command->card, command->position);
      }
      break;
    }
    case Command::Cost::kCopy: {
      const uint32_t key = LaneKey(command->card, command->lane);
      if (!(mark.count == 0 && mark.lane == key) && !Reached(&mark, now, &wake)) {
        Hold(command, wake);
        return;
      }
      uint64_t end =
          EngineOf(command->card).Copy(command->lane, mark.floor_ns, command->duration_ns);
      if (command->two_cards) {
        end = std::max(end, EngineOf(command->other_card)
                                .Copy(CopyLane::kToDevice, mark.floor_ns, command->duration_ns));
      }
      mark.floor_ns = end;
      mark.lane = command->two_cards ? 0 : key;
      break;
    }
  }
  Timed(command);
}

void Executor::Hold(const CommandRef& command, uint64_t wake_ns) {
  command->held = true;
  held_.emplace(wake_ns, command);
  CallKeeper(wake_ns);
}

// Asks the engines when events were reached while they still know it. A card's events are reached
// in their order, but for those of several cards.
void Executor::SweepEvents() {
  const uint64_t now = Engine::NowNs();
  uint64_t wake = now;
  for (auto& events : events_) {
    uint64_t again = 0;
    while (!events.empty() && Reached(&events.front()->mark, now, &again)) {
      events.pop_front();
      --event_count_;
    }
    if (!events.empty()) wake = wake == now ? again : std::min(wake, again);
  }
  entered_ = 0;
  sweep_at_ns_ = wake + kSweepNs;
}

// What a held or gated command waited for may be there.
void Executor::Retry(const CommandRef& command) {
  if (command->way != Command::Way::kGated) {
    Time(command);
    return;
  }
  if (Faulted(command->context)) {
    Cancelled(command);
    return;
  }
  uint64_t wake = 0;
  if (!Reached(&command->mark, Engine::NowNs(), &wake)) {
    Hold(command, wake);
  } else if (std::holds_alternative<WordAction>(command->action)) {
    TryWord(command);
  } else {
    Ready(command);
  }
}

void Executor::TryWord(const CommandRef& command) {
  const auto& action = std::get<WordAction>(command->action);
  const uint64_t now = Engine::NowNs();
  if (action.write) {
    WriteWord(command->word, action);
  } else if (!WordReady(command->word, action)) {
    command->held = true;
    words_.push_back(command);
    poll_ns_ = kPollFirstNs;
    poll_at_ns_ = now + poll_ns_;
    CallKeeper(poll_at_ns_);
    return;
  }
  // A wait ended when somebody saw it; a write is done when what stands before it is.
  if (!action.write) command->mark.floor_ns = std::max(command->mark.floor_ns, now);
  command->mark.lane = 0;
  FunctionDone(command);
  Timed(command);
}

// Looks at every word that is waited for.
void Executor::PollWords() {
  std::vector<CommandRef> words = std::move(words_);
  words_.clear();
  const uint64_t poll_ns = poll_ns_;
  for (const CommandRef& command : words) {
    command->held = false;
    Retry(command);
  }
  // Those that still wait are looked at ever more rarely, until something happens.
  poll_ns_ = words_.size() == words.size() ? std::min(poll_ns * 2, kPollLastNs) : kPollFirstNs;
  poll_at_ns_ = Engine::NowNs() + poll_ns_;
}

// The context faulted: the command is finished without having been done. Only callbacks are still
// called, with the error, and memory is still given back.
void Executor::Cancelled(const CommandRef& command) {
  const auto* host = std::get_if<HostAction>(&command->action);
  const bool trailing = command->way == Command::Way::kTrailing;
  if (!command->started && (trailing || (host != nullptr && host->callback != nullptr))) {
    Ready(command);
    return;
  }
  const uint64_t floor = std::max(command->mark.floor_ns, uint64_t{1});
  command->mark = Mark{};
  command->mark.floor_ns = std::min(floor, Engine::NowNs());
  if (!command->function_done) FunctionDone(command);
  if (!command->timed && command->times_before == 0) Timed(command);
}

uint64_t Executor::NextWake() const {
  uint64_t wake = held_.empty() ? kNever : held_.begin()->first;
  if (!words_.empty()) wake = std::min(wake, poll_at_ns_);
  if (event_count_ > 0) wake = std::min(wake, sweep_at_ns_);
  if (MayGrow()) wake = std::min(wake, PickAgainNs());
  return wake;
}

// Whether ready work that lies there is reason for one more thread.
bool Executor::MayGrow() const {
  return ready_count_ > 0 && idle_ == 0 && threads_ < kExecutorThreadsMax &&
         (!seeded_ || running_ > 0);
}

// Whoever sleeps for time has to wake no later than that.
void Executor::CallKeeper(uint64_t wake_ns) {
  if (keeper_ != nullptr) {
    if (wake_ns < keeper_wake_ns_) {
      keeper_wake_ns_ = wake_ns;
      keeper_->notify_one();
    }
    return;
  }
  if (keeper_thread_) {
    keeper_called_.notify_one();
    return;
  }
  keeper_thread_ = Start([](void*) -> void* {
    prctl(PR_SET_NAME, "simgpu-time");
    prctl(PR_SET_TIMERSLACK, 1);
    Get().KeepTime();
    return nullptr;
  });
}

void Executor::Drive() {
  const uint64_t now = Engine::NowNs();
  while (!held_.empty() && held_.begin()->first <= now) {
    const CommandRef command = std::move(held_.begin()->second);
    held_.erase(held_.begin());
    command->held = false;
    Retry(command);
    Settle();
  }
  if (!words_.empty() && poll_at_ns_ <= now) {
    PollWords();
    Settle();
  }
  if (event_count_ > 0 && sweep_at_ns_ <= now) SweepEvents();
  if (MayGrow() && now >= PickAgainNs()) CallWorker();
}

void Executor::KeepTime() {
  std::unique_lock lock(mutex_);
  for (;;) {
    if (keeper_ != nullptr || NextWake() == kNever) {
      keeper_called_.wait(lock);
      continue;
    }
    keeper_ = &keeper_called_;
    keeper_wake_ns_ = NextWake();
    if (keeper_wake_ns_ > Engine::NowNs()) SleepUntil(&keeper_called_, &lock, keeper_wake_ns_);
    keeper_ = nullptr;
    Drive();
  }
}

// ---- Functions -------------------------------------------------------------------------------

bool Executor::Start(void* (*body)(void*)) {
  // The program's signals are for its own threads.
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
  pthread_t thread;
  const bool made = pthread_create(&thread, &attributes, body, nullptr) == 0;
  pthread_attr_destroy(&attributes);
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  return made;
}

void Executor::Ready(const CommandRef& command) {
  command->queued = true;
  ready_[std::clamp(-command->priority, 0, kPriorities - 1)].push_back(command);
  ++ready_count_;
  CallWorker();
}

// Somebody should look at what is ready.
void Executor::CallWorker() {
  if (called_ < idle_) {
    ++called_;
    work_.notify_one();
    return;
  }
  if (idle_ > 0) return;  // as many as are idle are on their way
  const uint64_t now = Engine::NowNs();
  // Seeded, one function at a time: a thread that runs none looks for the next.
  if (seeded_ && threads_ > 0 && running_ == 0) return;
  if (threads_ >= threads_at_once_ && now < PickAgainNs()) {
    if (MayGrow()) CallKeeper(PickAgainNs());
    return;
  }
  if (threads_ == kExecutorThreadsMax) {
    if (!said_full_ && now >= PickAgainNs()) {
      said_full_ = true;
      Say("kExecutorThreadsMax = " + std::to_string(kExecutorThreadsMax) +
          " functions are under way and none of them gets on; others wait for one to end");
    }
    return;
  }
  if (Start([](void*) -> void* {
        Get().Work();
        return nullptr;
      })) {
    ++threads_;
  }
  no_threads_ = threads_ == 0;
  picked_ns_ = now;
}

// Until when ready work may lie there before it gets one more thread (seeded: before it is chosen
// from).
uint64_t Executor::PickAgainNs() const {
  if (!seeded_) return picked_ns_ + kGrowNs;
  if (running_ > 0) return picked_ns_ + kSeededPatienceNs;
  return waiting_.empty() ? put_ns_ + kSeededQuietNs : 0;
}

CommandRef Executor::Pick() {
  if (ready_count_ == 0) return nullptr;
  const uint64_t now = Engine::NowNs();
  CommandRef command;
  if (seeded_) {
    if (now < PickAgainNs()) return nullptr;
    // splitmix64
    uint64_t draw = random_ += 0x9e3779b97f4a7c15;
    draw = (draw ^ (draw >> 30)) * 0xbf58476d1ce4e5b9;
    draw = (draw ^ (draw >> 27)) * 0x94d049bb133111eb;
    size_t index = (draw ^ (draw >> 31)) % ready_count_;
    for (auto& line : ready_) {
      if (index >= line.size()) {
        index -= line.size();
        continue;
      }
      command = line[index];
      line.erase(line.begin() + static_cast<ptrdiff_t>(index));
      --ready_count_;
      break;
    }
  } else {
    for (int i = kPriorities - 1; i >= 0 && command == nullptr; --i) {
      while (!ready_[i].empty() && command == nullptr) {
        command = std::move(ready_[i].front());
        ready_[i].pop_front();
        --ready_count_;
        if (command->started) command = nullptr;  // its waiter took it
      }
    }
  }
  if (command == nullptr) return nullptr;
  command->started = true;
  ++running_;
  picked_ns_ = now;
  return command;
}

void Executor::Work() {
  prctl(PR_SET_NAME, "simgpu-work");
  std::unique_lock lock(mutex_);
  for (;;) {
    const CommandRef command = Pick();
    if (command != nullptr) {
      if (ready_count_ > 0) CallWorker();
      lock.unlock();
      Compute(command);
      lock.lock();
      continue;
    }
    const uint64_t end = Engine::NowNs() + kIdleNs;
    const uint64_t wake = ready_count_ > 0 ? std::min(end, PickAgainNs()) : end;
    ++idle_;
    SleepUntil(&work_, &lock, wake);
    --idle_;
    if (called_ > 0) --called_;
    if (ready_count_ == 0 && Engine::NowNs() >= end) {
      --threads_;
      return;
    }
  }
}

void Executor::Help() {
  std::unique_lock lock(mutex_);
  while (no_threads_) {
    const CommandRef command = Pick();
    if (command == nullptr) return;
    lock.unlock();
    Compute(command);
    lock.lock();
  }
}

void Executor::Compute(const CommandRef& command) {
  // Whether its place in the compute line is already clear decides how a kernel's time is taken.
  bool begin = false, skip = false;
  uint64_t ready_ns = 0;
  {
    std::lock_guard guard(mutex_);
    skip = Faulted(command->context);
    if (command->times_before == 0) {
      uint64_t wake = 0;
      begin = CanEnter(&command->mark, command->card, Engine::NowNs(), &wake);
      ready_ns = command->mark.floor_ns;
    }
  }
  const bool trailing = command->way == Command::Way::kTrailing;
  if (std::holds_alternative<HostAction>(command->action)) {
    DoHost(command.get());
  } else if (const auto* release = std::get_if<FreeAction>(&command->action)) {
    EndLife(simgpu::Get(), *release);
  } else if (skip) {
  } else if (std::holds_alternative<KernelAction>(command->action)) {
    DoKernel(command.get(), begin, ready_ns);
  } else if (std::holds_alternative<CopyAction>(command->action)) {
    DoCopy(command.get());
  } else if (std::holds_alternative<FillAction>(command->action)) {
    DoFill(command.get());
  } else if (const auto* allocate = std::get_if<AllocAction>(&command->action)) {
    BeginLife(simgpu::Get(), *allocate);
  }
  std::lock_guard guard(mutex_);
  --running_;
  command->queued = false;
  if (trailing && command->mark.count > 0) {  // given back because the context faulted
    command->mark = Mark{};
    command->mark.floor_ns = Engine::NowNs();
  }
  if (command->way == Command::Way::kGated) {
    command->mark.floor_ns = std::max(command->mark.floor_ns, Engine::NowNs());
    command->mark.lane = 0;
  }
  if (!command->function_done) FunctionDone(command);
  if (trailing || command->way == Command::Way::kGated) {
    if (!command->timed && command->times_before == 0) Timed(command);
  }
  changed_.push_back(command);
  if (!words_.empty()) PollWords();  // it may have written what one waits for
  Settle();
  if (seeded_ && ready_count_ > 0) work_.notify_one();
}

void Executor::DoKernel(Command* command, bool begin, uint64_t ready_ns) {
  const auto& action = std::get<KernelAction>(command->action);
  Engine engine = EngineOf(command->card);
  uint64_t begun = 0;
  // A block runs on one multiprocessor, and the grid fills no more of them than it has blocks.
  const uint64_t blocks = uint64_t{action.grid[0]} * action.grid[1] * action.grid[2];
  const uint64_t units = std::max(simgpu::Get()->state->card(command->card).profile.sm_count, 1u);
  command->width = static_cast<uint32_t>((std::min(blocks, units) * 1000 + units - 1) / units);
  if (begin && !action.info->states_time) begun = engine.Begin(ready_ns, command->width);
  const KernelOutcome outcome = RunKernel(command);
  command->cost = Command::Cost::kCompute;
  command->duration_ns = outcome.duration_ns;
  if (begun != 0) {
    command->position = engine.End(begun, outcome.duration_ns);
    command->placed = true;
  }
  if (outcome.result != CUDA_SUCCESS) {
    Fail(command->context, outcome.result);
    TellMpsFault(outcome.result);
  }
}

void Executor::DoCopy(Command* command) {
  if (!RunCopy(command)) Fail(command->context, CUDA_ERROR_ILLEGAL_ADDRESS);
}

void Executor::DoFill(Command* command) {
  if (!RunFill(command)) Fail(command->context, CUDA_ERROR_ILLEGAL_ADDRESS);
}

void Executor::DoHost(Command* command) {
  const auto action = std::get<HostAction>(command->action);
  const auto error = static_cast<CUresult>(command->context->sticky.load());
  t_in_host_function = true;
  if (action.callback != nullptr) {
    action.callback(action.stream, error, action.data);
  } else if (error == CUDA_SUCCESS) {
    action.function(action.data);
  }
  t_in_host_function = false;
}

// ---- Waiting ---------------------------------------------------------------------------------

bool Executor::Finished(Command* command) {
  if (!command->timed) return false;
  uint64_t wake = 0;
  return Reached(&command->mark, Engine::NowNs(), &wake);
}

void Executor::Trim(std::deque<CommandRef>* queued) {
  while (!queued->empty() && Finished(queued->front().get())) queued->pop_front();
}

void Executor::Trim(std::vector<CommandRef>* loose) {
  std::erase_if(*loose, [this](const CommandRef& one) { return Finished(one.get()); });
}

CUresult Executor::Wait(const CommandRef& command, bool function_only) {
  Context* context = command->context;
  std::unique_lock lock(mutex_);
  Waiter self;
  self.function_only = function_only;
  bool listed = false;
  std::optional<Exact> exact;
  auto leave = [&] {
    if (!listed) return;
    std::erase(waiting_, &self);
    std::erase(command->waiters, &self);
  };
  for (;;) {
    if (Faulted(context)) {
      leave();
      return static_cast<CUresult>(context->sticky.load());
    }
    uint64_t wake = kNever;
    if (function_only) {
      if (command->function_done) break;
    } else if (command->timed) {
      if (Reached(&command->mark, Engine::NowNs(), &wake)) break;
    }
    if (no_threads_ && ready_count_ > 0) {
      lock.unlock();
      Help();
      lock.lock();
      if (ready_count_ == 0) continue;
    }
    // What is ready and has nobody yet is computed here: that saves a wake-up.
    if (command->queued && !command->started && !seeded_ &&
        command->way == Command::Way::kFunction) {
      command->started = true;
      ++running_;
      picked_ns_ = Engine::NowNs();
      if (keeper_ == nullptr && NextWake() != kNever) CallKeeper(NextWake());
      lock.unlock();
      Compute(command);
      lock.lock();
      continue;
    }
    if (!listed) {
      listed = true;
      waiting_.push_back(&self);
      command->waiters.push_back(&self);
      if (seeded_) work_.notify_one();
    }
    const uint64_t now = Engine::NowNs();
    if (wake != kNever && wake < now + kSpinNs) {
      lock.unlock();
      while (Engine::NowNs() < wake) {
      }
      lock.lock();
      continue;
    }
    if (!exact.has_value()) exact.emplace();
    if (wake != kNever) wake -= kSpinNs;
    const bool keeper = keeper_ == nullptr;
    if (keeper) {
      wake = std::min(wake, NextWake());
      keeper_ = &self.condition;
      keeper_wake_ns_ = wake;
    }
    if (wake > now) SleepUntil(&self.condition, &lock, wake);
    if (keeper) {
      keeper_ = nullptr;
      Drive();
    }
  }
  leave();
  // Somebody else has to watch what is still held.
  if (keeper_ == nullptr && NextWake() != kNever) CallKeeper(NextWake());
  return static_cast<CUresult>(context->sticky.load(std::memory_order_acquire));
}

void Executor::Fail(Context* context, unsigned int error) {
  std::lock_guard guard(mutex_);
  unsigned int none = 0;
  if (!context->sticky.compare_exchange_strong(none, error)) return;
  context->cancel.store(true);
  EngineOf(simgpu::Get()->devices[context->device]->card).Cancel();
  std::vector<CommandRef> mine;
  for (auto at = held_.begin(); at != held_.end();) {
    if (at->second->context != context) {
      ++at;
      continue;
    }
    mine.push_back(std::move(at->second));
    at = held_.erase(at);
  }
  for (const CommandRef& command : mine) {
    command->held = false;
    Retry(command);
  }
  PollWords();
  Settle();
  for (Waiter* waiter : waiting_) waiter->condition.notify_one();
}

void Executor::Drain(Context* context) {
  std::unique_lock lock(mutex_);
  Waiter self;
  waiting_.push_back(&self);
  while (context->unfinished > 0) {
    // Nobody tells of every command, so this looks again and again; it happens once per context.
    SleepUntil(&self.condition, &lock, Engine::NowNs() + kPollLastNs);
    if (no_threads_) {
      lock.unlock();
      Help();
      lock.lock();
    }
  }
  std::erase(waiting_, &self);
}

}  // namespace simgpu
