#include "simgpu/state/engine.h"

#include "simgpu/state/engine_lock.h"
#include "simgpu/state/process.h"
#include "simgpu/state/schedule.h"
#include "simgpu/state/shared.h"

namespace simgpu {
namespace {

// Steps of the schedule after which those who wait for the lock are let in between.
constexpr uint32_t kStepsAtOnce = 4096;

// Whether a slot's owner lives. One that cannot be asked about counts as living.
bool SlotLives(void* context, uint32_t slot) {
  auto* process = static_cast<State::Process*>(context);
  int pid = 0;
  return !process->Open() || process->Held(slot, &pid);
}

Schedule::Rules RulesOf(const Profile& profile) {
  return {uint64_t{profile.time_slice_us} * 1000, uint64_t{profile.switch_us} * 1000,
          profile.copy_engines};
}

}  // namespace

// A card's schedule, locked, whole and played to now.
class Engine::Session {
 public:
  explicit Session(const Engine* engine)
      : lock_(engine->state_->shared_, engine->state_->process_, engine->card_),
        schedule_(&engine->state_->shared_->engines[engine->card_].words,
                  RulesOf(engine->state_->shared_->cards[engine->card_].profile), SlotLives,
                  engine->state_->process_) {
    if (!lock_.held()) return;
    schedule_.Guard(lock_.holding());
    schedule_.Repair();
    now_ = NowNs();
    while (!schedule_.Play(now_, kStepsAtOnce)) {
      lock_.Yield();
      schedule_.Guard(lock_.holding());
      schedule_.Repair();
      now_ = NowNs();
    }
  }
  bool held() const { return lock_.held(); }
  // So that what was read was true.
  bool still_held() const { return lock_.holding().Still(); }
  uint64_t now() const { return now_; }
  Schedule* operator->() { return &schedule_; }

 private:
  EngineLock lock_;
  Schedule schedule_;
  uint64_t now_ = 0;
};

uint64_t Engine::NowNs() { return MonotonicNs(); }

// The slot whose queue this process uses, or -1.
int Engine::Slot() const {
  state_->process_->KeepLocks(state_->shared_, NowNs());
  return state_->process_->OwnSlot(*state_->shared_);
}

// A change that was cut off because the lock was taken from us did not take place: once more.
template <typename Operation>
uint64_t Engine::Change(Operation operation) const {
  const int slot = Slot();
  if (slot < 0) return 0;
  while (true) {
    Session session(this);
    if (!session.held()) return 0;
    const uint64_t answer = operation(&session, static_cast<uint32_t>(slot));
    if (!session->failed()) return answer;
  }
}

uint64_t Engine::Submit(uint64_t ready_ns, uint64_t duration_ns, uint32_t width) {
  return Change([=](Session* session, uint32_t slot) {
    return (*session)->Submit(slot, session->now(), ready_ns, duration_ns, width);
  });
}

// One more than the position, so that it is never 0.
uint64_t Engine::Begin(uint64_t ready_ns, uint32_t width) {
  return Change([=](Session* session, uint32_t slot) {
    return (*session)->Begin(slot, session->now(), ready_ns, width) + 1;
  });
}

bool Engine::SetPercentage(uint32_t permille) {
  return Change([=](Session* session, uint32_t slot) {
           return uint64_t{(*session)->SetPercentage(slot, session->now(), permille)};
         }) != 0;
}

uint64_t Engine::End(uint64_t begin, uint64_t at_least_ns) {
  if (begin == 0) return 0;
  return Change([=](Session* session, uint32_t slot) {
    return (*session)->End(slot, session->now(), begin - 1, at_least_ns);
  });
}

Engine::Progress Engine::Look(uint64_t position) {
  const int slot = position == 0 ? -1 : Slot();
  while (slot >= 0) {
    Session session(this);
    if (!session.held()) break;
    const Progress progress = session->Look(slot, session.now(), position);
    if (session.still_held()) return progress;
  }
  // Nothing is queued that one could wait for.
  return {.finished = true, .at_ns = NowNs()};
}

void Engine::Cancel() {
  Change([](Session* session, uint32_t slot) {
    (*session)->Cancel(slot, session->now());
    return uint64_t{0};
  });
}

uint64_t Engine::Copy(CopyLane lane, uint64_t ready_ns, uint64_t duration_ns) {
  const uint64_t end = Change([=](Session* session, uint32_t slot) {
    return (*session)->Copy(slot, session->now(), lane, ready_ns, duration_ns);
  });
  const uint64_t now = NowNs();
  return end != 0 ? end : (ready_ns > now ? ready_ns : now) + duration_ns;
}

Engine::Account Engine::Read(uint64_t window_ns) const {
  struct Touched {
    uint64_t token;
    EngineUse use;
  };
  Account account;
  std::vector<Touched> touched;
  State::Shared& shared = *state_->shared_;
  for (bool read = false; !read;) {
    Session session(this);
    if (!session.held()) return account;
    touched.clear();
    const EngineWords& words = shared.engines[card_].words;
    account.at_ns = session.now();
    account.busy_ns = words.busy_ns;
    account.switching_ns = words.switching_ns;
    account.mps_busy_ns = words.mps_busy_ns;
    account.mps_served_ns = words.mps_served_ns;
    account.gone_ns = words.gone_served_ns;
    account.recent_ns = Schedule::Recent(words.buckets, session.now(), window_ns);
    for (uint32_t lane = 0; lane < kCopyLanes; ++lane) {
      // What is booked and not done yet lies before the end of the lane's last copy.
      const uint64_t end = words.lane_end_ns[lane];
      const uint64_t ahead = end > session.now() ? end - session.now() : 0;
      const uint64_t booked = words.lane_copied_ns[lane];
      account.lane_copied_ns[lane] = booked > ahead ? booked - ahead : 0;
    }
    const uint32_t high = shared.slots_high.load(std::memory_order_acquire);
    for (uint32_t slot = 0; slot < high; ++slot) {
      const EngineQueue& queue = words.queues[slot];
      if (queue.seen_ns == 0) continue;
      EngineUse use;
      use.slot = slot;
      use.served_ns = session->Served(slot);
      use.copied_ns = queue.copied_ns;
      use.recent_ns = Schedule::Recent(queue.buckets, session.now(), window_ns);
      use.waiting = session->Waiting(slot);
      use.percentage = session->IsClient(slot) ? static_cast<uint32_t>(queue.percentage) : 0;
      touched.push_back({shared.slots[slot].token.load(std::memory_order_acquire), use});
    }
    read = session.still_held();
  }
  // Asked without the lock. Whoever died by now is gone.
  State::Process* process = state_->process_;
  const bool asks = process->Open();
  for (Touched& one : touched) {
    if (one.token != 0 && asks && process->Held(one.use.slot, &one.use.pid) &&
        shared.slots[one.use.slot].token.load(std::memory_order_acquire) == one.token) {
      account.uses.push_back(one.use);
    } else {
      account.gone_ns += one.use.served_ns;
    }
  }
  return account;
}

}  // namespace simgpu
