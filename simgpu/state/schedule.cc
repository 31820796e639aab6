#include "simgpu/state/schedule.h"

#include <algorithm>
#include <atomic>
#include <bit>

namespace simgpu {
namespace {

// A process is killed between two instructions, so what it wrote before is there and what it would
// have written after is not; only the compiler must keep the order.
void KeepOrder() { std::atomic_signal_fence(std::memory_order_seq_cst); }

uint64_t CutReady(uint64_t now, uint64_t ready_ns) {
  if (ready_ns == 0) return now;
  const uint64_t earliest = now > kLateMaxNs ? now - kLateMaxNs : 0;
  return std::clamp(ready_ns, earliest, now + kLengthMaxNs);
}

// Work takes at least a nanosecond, so that every work has a position of its own.
uint64_t CutLength(uint64_t length_ns) { return std::clamp<uint64_t>(length_ns, 1, kLengthMaxNs); }

// How long it takes at that pace until `length` is served, when `carry` millionths of a nanosecond
// already are. Rounded up, so that at its end it is served.
uint64_t SpanOf(uint64_t length, uint64_t pace, uint64_t carry) {
  if (pace == kFullPace && carry == 0) return length;
  if (length == 0) return 0;
  constexpr uint64_t kLongest = UINT64_MAX / 4;
  const uint64_t whole = length / pace;
  if (whole >= kLongest / kFullPace) return kLongest;
  const uint64_t rest = length % pace * kFullPace;
  if (rest >= carry) return whole * kFullPace + (rest - carry + pace - 1) / pace;
  return whole * kFullPace - (carry - rest) / pace;
}

}  // namespace

Schedule::Schedule(EngineWords* words, const Rules& rules, Alive alive, void* context)
    : words_(words), rules_(rules), alive_(alive), context_(context) {
  // A slice of nothing would turn forever.
  if (rules_.slice_ns == 0) rules_.slice_ns = 1;
}

bool Schedule::Store(uint64_t* word, uint64_t value) {
  if (Stopped()) return false;
  if (!holding_.Still()) {
    lost_ = true;
    return false;
  }
  --stores_left_;
  std::atomic_ref(*word).store(value, std::memory_order_relaxed);
  return true;
}

void Schedule::Set(uint64_t* word, uint64_t value) {
  // The largest change serves all clients at once.
  static_assert(kJournalMax >= 8 + 12 * kMpsClientsMax);
  static_assert(kJournalMax >= 18 + kCopyLanes + 2 * kBuckets);  // Retire
  pending_[pending_count_++] = {static_cast<uint64_t>(word - reinterpret_cast<uint64_t*>(words_)),
                                value};
}

void Schedule::Commit() {
  auto* base = reinterpret_cast<uint64_t*>(words_);
  const uint32_t count = pending_count_;
  pending_count_ = 0;
  if (count == 1) {
    failed_ = !Store(base + pending_[0].word, pending_[0].value);
    return;
  }
  for (uint32_t i = 0; i < count; ++i) {
    Store(&words_->journal[i].word, pending_[i].word);
    Store(&words_->journal[i].value, pending_[i].value);
  }
  KeepOrder();
  // Whoever succeeds us from here on applies it.
  failed_ = !Store(&words_->journal_count, count);
  KeepOrder();
  for (uint32_t i = 0; i < count; ++i) Store(base + pending_[i].word, pending_[i].value);
  KeepOrder();
  Store(&words_->journal_count, 0);
  KeepOrder();
}

void Schedule::Repair() {
  const uint64_t count = words_->journal_count;
  if (count == 0) return;
  constexpr uint64_t kWords = sizeof(EngineWords) / sizeof(uint64_t);
  auto* base = reinterpret_cast<uint64_t*>(words_);
  for (uint64_t i = 0; i < std::min<uint64_t>(count, kJournalMax); ++i) {
    const JournalEntry entry = words_->journal[i];
    if (entry.word < kWords) Store(base + entry.word, entry.value);
  }
  KeepOrder();
  Store(&words_->journal_count, 0);
  KeepOrder();
}

uint32_t Schedule::NextBit(const uint64_t* all, uint32_t slot) {
  constexpr uint32_t kWords = kSlotsMax / 64;
  const uint32_t from = slot == kNobody ? 0 : (slot + 1) % kSlotsMax;
  // The first word is looked at twice: its upper part first, the rest last.
  for (uint32_t i = 0; i <= kWords; ++i) {
    const uint32_t index = (from / 64 + i) % kWords;
    uint64_t bits = all[index];
    if (i == 0) bits &= ~uint64_t{0} << (from % 64);
    if (bits != 0) return index * 64 + static_cast<uint32_t>(std::countr_zero(bits));
  }
  return kNobody;
}

uint64_t Schedule::ReadyAt(uint32_t slot) const {
  const EngineQueue& queue = words_->queues[slot];
  if (queue.open == 0 && queue.submitted <= queue.position) return kNever;
  uint64_t ready = 0;
  for (uint64_t i = queue.gates_first; i < queue.gates_next; ++i) {
    const Gate& gate = queue.gates[i % kGatesMax];
    if (gate.position > queue.position) break;
    ready = gate.ready_ns;  // they rise
  }
  return ready;
}

uint32_t Schedule::PartyOf(uint32_t slot) const {
  if (!IsClient(slot)) return slot;
  for (uint32_t word = 0; word < kSlotsMax / 64; ++word) {
    const uint64_t both = words_->clients[word] & words_->active[word];
    if (both != 0) return word * 64 + static_cast<uint32_t>(std::countr_zero(both));
  }
  return slot;
}

uint64_t Schedule::PartyReadyAt(uint32_t slot) const {
  if (!IsClient(slot)) return ReadyAt(slot);
  uint64_t ready = kNever;
  const uint32_t begin = NextBit(words_->clients, kNobody);
  for (uint32_t client = begin; client != kNobody;) {
    if (Active(client)) ready = std::min(ready, ReadyAt(client));
    client = NextBit(words_->clients, client);
    if (client == begin) break;
  }
  return ready;
}

uint64_t Schedule::PaceOf(uint32_t slot, uint64_t demand) const {
  const uint64_t width = std::max<uint64_t>(words_->queues[slot].width, 1);
  const uint64_t pace = kFullPace * Covered(slot) / width;
  return std::max<uint64_t>(demand > kWholeCard ? pace * kWholeCard / demand : pace, 1);
}

void Schedule::Widen(uint32_t slot, uint32_t width) {
  EngineQueue* queue = &words_->queues[slot];
  const uint64_t cut = std::clamp<uint32_t>(width, 1, kWholeCard);
  const uint64_t wider = Waiting(slot) ? std::max(queue->width, cut) : cut;
  if (wider != queue->width) Set(&queue->width, wider);
}

bool Schedule::SetPercentage(uint32_t slot, uint64_t now, uint32_t permille) {
  Play(now);
  EngineQueue* queue = &words_->queues[slot];
  uint32_t others = 0;
  for (uint32_t client = 0; permille != 0 && client < kSlotsMax; ++client) {
    if (client == slot || !IsClient(client)) continue;
    if (alive_ == nullptr || alive_(context_, client)) {
      ++others;
      continue;
    }
    // Nobody has taken its slot again yet.
    Forget(client);
    Set(&words_->queues[client].open, 0);
    Set(&words_->queues[client].percentage, 0);
    SetActive(client, false);
    SetBit(words_->clients, client, false);
    Commit();
  }
  if (others >= kMpsClientsMax) return false;
  Set(&queue->percentage, std::min(permille, kWholeCard));
  Set(&queue->carry, 0);
  Set(&queue->seen_ns, now);
  SetBit(words_->clients, slot, permille != 0);
  Commit();
  return true;
}

uint64_t Schedule::Runnable(uint32_t slot, uint64_t at, uint64_t pace) const {
  const EngineQueue& queue = words_->queues[slot];
  uint64_t length = queue.open != 0                    ? kNever
                    : queue.submitted > queue.position ? queue.submitted - queue.position
                                                       : 0;
  for (uint64_t i = queue.gates_first; i < queue.gates_next; ++i) {
    const Gate& gate = queue.gates[i % kGatesMax];
    if (gate.position <= queue.position) continue;
    const uint64_t until = gate.position - queue.position;
    if (until >= length) break;
    // Reached before it opens, even if all goes without a break.
    if (gate.ready_ns > at + SpanOf(until, pace, queue.carry)) length = until;
  }
  return length;
}

bool Schedule::Waiting(uint32_t slot) const {
  const EngineQueue& queue = words_->queues[slot];
  return queue.open != 0 || queue.submitted > queue.position;
}

bool Schedule::Lives(uint32_t slot, uint64_t now) {
  EngineQueue& queue = words_->queues[slot];
  if (alive_ == nullptr || now <= queue.seen_ns + kAskAliveNs) return true;
  if (alive_(context_, slot)) {
    Store(&queue.seen_ns, now);
    return true;
  }
  Forget(slot);
  Set(&queue.open, 0);
  SetActive(slot, false);
  Commit();
  return false;
}

void Schedule::SetBit(uint64_t* bits, uint32_t slot, bool value) {
  uint64_t* word = &bits[slot / 64];
  const uint64_t bit = uint64_t{1} << (slot % 64);
  uint64_t old = *word;
  // Another bit of the word may be part of the same change.
  const auto index = static_cast<uint64_t>(word - reinterpret_cast<uint64_t*>(words_));
  for (uint32_t i = 0; i < pending_count_; ++i) {
    if (pending_[i].word == index) old = pending_[i].value;
  }
  Set(word, value ? old | bit : old & ~bit);
}

void Schedule::AddBusy(BusyBucket* buckets, uint64_t from, uint64_t length) {
  const uint64_t epoch = from / kBucketNs;
  BusyBucket* bucket = &buckets[epoch % kBuckets];
  if (bucket->epoch != epoch) {
    Set(&bucket->epoch, epoch);
    Set(&bucket->ns, length);
  } else {
    Set(&bucket->ns, bucket->ns + length);
  }
}

void Schedule::AddGrant(EngineQueue* queue, uint64_t before, uint64_t length, uint64_t span,
                        uint64_t pace, uint64_t carry) {
  const uint64_t start = words_->at_ns;
  if (queue->grants_next != 0) {
    Grant* last = &queue->grants[(queue->grants_next - 1) % kGrantsMax];
    if (span != 0 && last->end_ns == start && last->before + last->length == before &&
        last->pace == pace) {
      Set(&last->length, last->length + length);
      Set(&last->end_ns, start + span);
      return;
    }
  }
  Grant* next = &queue->grants[queue->grants_next % kGrantsMax];
  Set(&next->start_ns, start);
  Set(&next->before, before);
  Set(&next->length, length);
  Set(&next->end_ns, start + span);
  Set(&next->pace, pace);
  Set(&next->carry, carry);
  Set(&queue->grants_next, queue->grants_next + 1);
}

void Schedule::AddGate(EngineQueue* queue, uint64_t now, uint64_t position, uint64_t ready_ns) {
  const uint64_t ready = CutReady(now, ready_ns);
  uint64_t first = queue->gates_first;
  while (first < queue->gates_next) {
    const Gate& gate = queue->gates[first % kGatesMax];
    if (gate.position > queue->position || gate.ready_ns > words_->at_ns) break;
    ++first;
  }
  if (first != queue->gates_first) Set(&queue->gates_first, first);
  if (ready <= words_->at_ns) return;
  if (first < queue->gates_next) {
    Gate* last = &queue->gates[(queue->gates_next - 1) % kGatesMax];
    if (last->ready_ns >= ready) return;
    if (last->position == position || queue->gates_next - first == kGatesMax) {
      Set(&last->ready_ns, ready);
      return;
    }
  }
  Gate* next = &queue->gates[queue->gates_next % kGatesMax];
  Set(&next->position, position);
  Set(&next->ready_ns, ready);
  Set(&queue->gates_next, queue->gates_next + 1);
}

void Schedule::Play(uint64_t now) {
  while (words_->at_ns < now && !Stopped() && Step(now)) {
  }
}

bool Schedule::Play(uint64_t now, uint32_t steps) {
  for (; words_->at_ns < now && steps != 0 && !Stopped(); --steps) {
    if (!Step(now)) return true;
  }
  return words_->at_ns >= now;
}

// Decides a stretch in which nothing changes. False when there is nothing to decide until `to`.
bool Schedule::Step(uint64_t to) {
  const uint64_t at = words_->at_ns;
  if (at < words_->switch_end_ns) {
    const uint64_t end = std::min(to, words_->switch_end_ns);
    Set(&words_->switching_ns, words_->switching_ns + (end - at));
    Set(&words_->at_ns, end);
    Commit();
    return true;
  }
  const uint32_t current = Current();
  bool runs = current != kNobody && PartyReadyAt(current) <= at;
  // Of clients it is asked when they are served.
  if (runs && !IsClient(current) && !Lives(current, to)) return true;
  // The next in turn that could be served now, and when the next comes that cannot yet.
  uint32_t other = kNobody;
  uint64_t wake = current != kNobody && !runs ? PartyReadyAt(current) : kNever;
  const uint32_t begin = NextActive(current);
  for (uint32_t slot = begin; slot != kNobody && slot != current;) {
    if (PartyOf(slot) == slot) {
      const uint64_t ready = PartyReadyAt(slot);
      if (ready <= at) {
        if (!IsClient(slot) && !Lives(slot, to)) return true;
        other = slot;
        break;
      }
      wake = std::min(wake, ready);
    }
    slot = NextActive(slot);
    if (slot == begin) break;
  }
  if (runs && (other == kNobody || at < words_->slice_end_ns)) {
    // Alone it goes on beyond its slice, until somebody else could be served.
    const uint64_t limit = std::min(to, other == kNobody ? wake : words_->slice_end_ns);
    if (IsClient(current)) {
      ServeClients(to, limit);
    } else {
      Serve(current, limit);
    }
    return true;
  }
  if (other != kNobody) {
    // The very first finds the engine empty.
    const uint64_t end = words_->current == 0 ? at : at + rules_.switch_ns;
    Set(&words_->current, other + 1);
    Set(&words_->switch_end_ns, end);
    Set(&words_->slice_end_ns, end + rules_.slice_ns);
    Commit();
    return true;
  }
  if (wake >= to) return false;
  Set(&words_->at_ns, wake);
  Set(&words_->slice_end_ns, wake + rules_.slice_ns);
  Commit();
  return true;
}

void Schedule::Serve(uint32_t slot, uint64_t limit) {
  const uint64_t at = words_->at_ns;
  const uint64_t runnable = Runnable(slot, at);
  // One stretch lies in one bucket.
  const uint64_t end = std::min(limit, (at / kBucketNs + 1) * kBucketNs);
  const uint64_t length = std::min(runnable, end - at);
  Set(&words_->at_ns, at + length);
  Set(&words_->busy_ns, words_->busy_ns + length);
  AddBusy(words_->buckets, at, length);
  Advance(slot, length, length, kFullPace, 0);
  Commit();
}

void Schedule::Advance(uint32_t slot, uint64_t length, uint64_t span, uint64_t pace,
                       uint64_t carry) {
  EngineQueue* queue = &words_->queues[slot];
  const uint64_t position = queue->position + length;
  Set(&queue->position, position);
  AddBusy(queue->buckets, words_->at_ns, length);
  AddGrant(queue, queue->position, length, span, pace, carry);
  if (queue->open == 0 && position >= queue->submitted) SetActive(slot, false);
}

// Serves all clients that have work until something changes for one of them.
void Schedule::ServeClients(uint64_t to, uint64_t limit) {
  const uint64_t at = words_->at_ns;
  uint32_t ready[kMpsClientsMax];
  uint32_t count = 0;
  uint64_t demand = 0;
  uint64_t end = std::min(limit, (at / kBucketNs + 1) * kBucketNs);
  const uint32_t begin = NextBit(words_->clients, kNobody);
  for (uint32_t client = begin; client != kNobody;) {
    const uint64_t from = Active(client) ? ReadyAt(client) : kNever;
    if (from <= at) {
      if (!Lives(client, to)) return;
      if (count < kMpsClientsMax) ready[count++] = client;
      demand += Covered(client);
    } else {
      end = std::min(end, from);
    }
    client = NextBit(words_->clients, client);
    if (client == begin) break;
  }
  for (uint32_t i = 0; i < count; ++i) {
    const uint64_t pace = PaceOf(ready[i], demand);
    const uint64_t runnable = Runnable(ready[i], at, pace);
    // No pace is above the clock's own.
    if (runnable > end - at) continue;
    end = std::min(end, at + SpanOf(runnable, pace, words_->queues[ready[i]].carry));
  }
  const uint64_t span = end - at;
  uint64_t served = 0;
  for (uint32_t i = 0; i < count; ++i) {
    EngineQueue* queue = &words_->queues[ready[i]];
    const uint64_t pace = PaceOf(ready[i], demand);
    const uint64_t millionths = span * pace + queue->carry;
    Advance(ready[i], millionths / kFullPace, span, pace, queue->carry);
    if (millionths % kFullPace != queue->carry) Set(&queue->carry, millionths % kFullPace);
    served += millionths / kFullPace;
  }
  Set(&words_->at_ns, end);
  Set(&words_->busy_ns, words_->busy_ns + span);
  Set(&words_->mps_busy_ns, words_->mps_busy_ns + span);
  Set(&words_->mps_served_ns, words_->mps_served_ns + served);
  AddBusy(words_->buckets, at, span);
  Commit();
}

// Part of a change: all that is queued counts as finished now, unserved.
void Schedule::Forget(uint32_t slot) {
  EngineQueue* queue = &words_->queues[slot];
  if (queue->submitted > queue->position) {
    const uint64_t skipped = queue->submitted - queue->position;
    Set(&queue->position, queue->submitted);
    Set(&queue->forgotten, queue->forgotten + skipped);
    AddGrant(queue, queue->submitted, 0, 0, kFullPace, 0);
  }
  Set(&queue->gates_first, queue->gates_next);
}

uint64_t Schedule::Submit(uint32_t slot, uint64_t now, uint64_t ready_ns, uint64_t duration_ns,
                          uint32_t width) {
  Play(now);
  EngineQueue* queue = &words_->queues[slot];
  const uint64_t begin = std::max(queue->submitted, queue->position);
  const uint64_t end = begin + CutLength(duration_ns);
  AddGate(queue, now, begin, ready_ns);
  Widen(slot, width);
  Set(&queue->submitted, end);
  Set(&queue->seen_ns, now);
  if (!Active(slot)) SetActive(slot, true);
  Commit();
  return end;
}

uint64_t Schedule::Begin(uint32_t slot, uint64_t now, uint64_t ready_ns, uint32_t width) {
  Play(now);
  EngineQueue* queue = &words_->queues[slot];
  const uint64_t begin = std::max(queue->submitted, queue->position);
  AddGate(queue, now, begin, ready_ns);
  Widen(slot, width);
  Set(&queue->open, queue->open + 1);
  Set(&queue->seen_ns, now);
  if (!Active(slot)) SetActive(slot, true);
  Commit();
  return begin;
}

uint64_t Schedule::End(uint32_t slot, uint64_t now, uint64_t begin, uint64_t at_least_ns) {
  Play(now);
  EngineQueue* queue = &words_->queues[slot];
  const uint64_t open = queue->open == 0 ? 0 : queue->open - 1;
  const uint64_t line = std::max(queue->submitted, queue->position);
  const uint64_t from = std::min(begin, line);
  const uint64_t served = queue->position > from ? queue->position - from : 0;
  const uint64_t length = CutLength(at_least_ns);
  // What is missing is served behind all that was submitted meanwhile.
  const uint64_t end = served >= length ? queue->position : line + (length - served);
  Set(&queue->open, open);
  Set(&queue->seen_ns, now);
  if (end > queue->submitted) Set(&queue->submitted, end);
  const bool active = open != 0 || std::max(end, queue->submitted) > queue->position;
  if (active != Active(slot)) SetActive(slot, active);
  Commit();
  return end;
}

void Schedule::Cancel(uint32_t slot, uint64_t now) {
  Play(now);
  EngineQueue* queue = &words_->queues[slot];
  Forget(slot);
  Set(&queue->seen_ns, now);
  if (queue->open == 0) SetActive(slot, false);
  for (uint32_t engine = 0; engine < kCopyLanes; ++engine) {
    if (queue->copy_end_ns[engine] <= now) continue;
    Set(&words_->copy_free_ns[engine], CopyFree(engine, now, slot));
    Set(&queue->copy_end_ns[engine], now);
  }
  Commit();
}

uint64_t Schedule::CopyFree(uint32_t engine, uint64_t now, uint32_t without) {
  uint64_t free = 0;
  const uint32_t begin = NextBit(words_->copiers, kNobody);
  for (uint32_t slot = begin; slot != kNobody;) {
    const EngineQueue& queue = words_->queues[slot];
    if (slot != without && queue.copy_end_ns[engine] > std::max(free, now) &&
        (alive_ == nullptr || now <= queue.seen_ns + kAskAliveNs || alive_(context_, slot))) {
      free = queue.copy_end_ns[engine];
    }
    slot = NextBit(words_->copiers, slot);
    if (slot == begin) break;
  }
  return free;
}

uint64_t Schedule::Copy(uint32_t slot, uint64_t now, CopyLane lane, uint64_t ready_ns,
                        uint64_t duration_ns) {
  // With two engines, copies on the device go with those to it.
  uint32_t index = 0;
  if (lane == CopyLane::kFromDevice && rules_.copy_engines >= 2) index = 1;
  if (lane == CopyLane::kOnDevice && rules_.copy_engines >= 3) index = 2;
  EngineQueue* queue = &words_->queues[slot];
  const uint64_t length = CutLength(duration_ns);
  uint64_t free = words_->copy_free_ns[index];
  // Taken for long: perhaps by somebody who died.
  if (free > now + kAskAliveNs) free = CopyFree(index, now, kNobody);
  const uint64_t start = std::max(CutReady(now, ready_ns), free);
  Set(&words_->copy_free_ns[index], start + length);
  Set(&queue->copy_end_ns[index], start + length);
  if ((words_->copiers[slot / 64] >> (slot % 64) & 1) == 0) SetBit(words_->copiers, slot, true);
  const auto way = static_cast<uint32_t>(lane);
  Set(&words_->lane_copied_ns[way], words_->lane_copied_ns[way] + length);
  Set(&words_->lane_end_ns[way], std::max(words_->lane_end_ns[way], start + length));
  Set(&queue->copied_ns, queue->copied_ns + length);
  Set(&queue->seen_ns, now);
  Commit();
  return start + length;
}

void Schedule::Retire(uint32_t slot) {
  EngineQueue* queue = &words_->queues[slot];
  Set(&words_->gone_served_ns, words_->gone_served_ns + Served(slot));
  Set(&words_->gone_copied_ns, words_->gone_copied_ns + queue->copied_ns);
  if (words_->current == slot + 1) Set(&words_->current, kGone);
  if (Active(slot)) SetActive(slot, false);
  SetBit(words_->copiers, slot, false);
  SetBit(words_->clients, slot, false);
  for (uint64_t& end : queue->copy_end_ns) Set(&end, 0);
  for (uint64_t* word :
       {&queue->submitted, &queue->position, &queue->forgotten, &queue->open, &queue->seen_ns,
        &queue->copied_ns, &queue->gates_first, &queue->gates_next, &queue->grants_next,
        &queue->percentage, &queue->width, &queue->carry}) {
    Set(word, 0);
  }
  for (BusyBucket& bucket : queue->buckets) {
    Set(&bucket.epoch, 0);
    Set(&bucket.ns, 0);
  }
  Commit();
}

// When a position that is not ahead was reached.
uint64_t Schedule::ReachedAt(const EngineQueue& queue, uint64_t position) const {
  const uint64_t next = queue.grants_next;
  uint64_t low = next > kGrantsMax ? next - kGrantsMax : 0;
  uint64_t high = next;
  while (low < high) {
    const uint64_t middle = low + (high - low) / 2;
    const Grant& grant = queue.grants[middle % kGrantsMax];
    if (grant.before + grant.length >= position) {
      high = middle;
    } else {
      low = middle + 1;
    }
  }
  if (low == next) return words_->at_ns;
  const Grant& grant = queue.grants[low % kGrantsMax];
  if (position <= grant.before) return grant.start_ns;
  return grant.start_ns + SpanOf(position - grant.before, grant.pace, grant.carry);
}

Engine::Progress Schedule::Look(uint32_t slot, uint64_t now, uint64_t position) {
  Play(now);
  EngineQueue& queue = words_->queues[slot];
  if (now > queue.seen_ns + kAskAliveNs / 2) Store(&queue.seen_ns, now);
  Engine::Progress progress;
  progress.finished = position <= queue.position;
  if (progress.finished) {
    progress.at_ns = position == 0 ? now : ReachedAt(queue, position);
  } else {
    progress.look_again_ns = Foresee(slot, now, position);
  }
  return progress;
}

// The same for a client, whose pace and turn may both change: a moment to look again, not a
// promise.
uint64_t Schedule::ForeseeClient(uint32_t slot, uint64_t start, uint64_t left) const {
  uint64_t demand = 0;
  const uint32_t begin = NextBit(words_->clients, kNobody);
  for (uint32_t other = begin; other != kNobody;) {
    if (Active(other) && ReadyAt(other) <= start) demand += Covered(other);
    other = NextBit(words_->clients, other);
    if (other == begin) break;
  }
  uint64_t total = SpanOf(left, PaceOf(slot, demand), words_->queues[slot].carry);
  if (words_->switch_end_ns > start) total += words_->switch_end_ns - start;
  if (const uint32_t current = Current(); current != kNobody && !IsClient(current)) {
    if (Active(current)) total += rules_.slice_ns;
    total += rules_.switch_ns;
  }
  return start + total;
}

// When the position will be reached if all go on as they stand.
uint64_t Schedule::Foresee(uint32_t slot, uint64_t now, uint64_t position) const {
  const EngineQueue& queue = words_->queues[slot];
  const uint64_t start = std::max(now, words_->at_ns);
  const uint64_t left = position - queue.position;
  const bool client = IsClient(slot);
  const uint64_t pace = client ? PaceOf(slot, Covered(slot)) : kFullPace;
  uint64_t alone = start + SpanOf(left, pace, client ? queue.carry : 0);
  for (uint64_t i = queue.gates_first; i < queue.gates_next; ++i) {
    const Gate& gate = queue.gates[i % kGatesMax];
    if (gate.position >= position) break;
    const uint64_t behind = position - std::max(gate.position, queue.position);
    alone = std::max(alone, gate.ready_ns + SpanOf(behind, pace, client ? queue.carry : 0));
  }
  // Who is not ready now may be overtaken by others, but not overtake.
  if (ReadyAt(slot) > start) return alone;
  if (client)
    return std::clamp(ForeseeClient(slot, start, left), alone,
                      std::max(alone, start + kLookAgainMaxNs));
  const uint64_t slice = rules_.slice_ns;
  const uint32_t current = Current();
  uint64_t total = left;
  if (words_->switch_end_ns > start) total += words_->switch_end_ns - start;
  // After a pause a slice begins anew.
  const uint64_t served_from = std::max(start, words_->switch_end_ns);
  const uint64_t turn_left = words_->at_ns < now ? slice
                             : words_->slice_end_ns > served_from
                                 ? words_->slice_end_ns - served_from
                                 : 0;
  // Whole turns it needs behind its present or next one.
  const uint64_t first_turn = current == slot ? turn_left : slice;
  const uint64_t rounds = left <= first_turn ? 0 : (left - first_turn + slice - 1) / slice;
  uint64_t shared_rounds = 0;
  uint64_t switches = current == slot ? 0 : 1;
  bool before_us = current != slot;
  const uint32_t begin = current != kNobody && Active(current) ? current : NextActive(current);
  for (uint32_t other = begin; other != kNobody;) {
    if (other == slot) {
      before_us = false;
    } else if (PartyOf(other) == other && ReadyAt(other) <= start) {
      // Of open work it is not known how long it lasts: perhaps as long again as this turn did.
      const EngineQueue& theirs = words_->queues[other];
      uint64_t rest = Runnable(other, start);
      if (theirs.open != 0) {
        rest = theirs.submitted > theirs.position ? theirs.submitted - theirs.position : 0;
        const uint64_t turn = words_->slice_end_ns - slice;
        if (other == current && start > turn) rest = std::max(rest, start - turn);
      }
      uint64_t first = 0;
      if (before_us) {
        first = std::min(rest, other == current ? turn_left : slice);
        if (other != current && first != 0) ++switches;
      }
      const uint64_t later =
          std::min(rounds > kLengthMaxNs / slice ? kNever : rounds * slice, rest - first);
      const uint64_t turns = later / slice + (later % slice != 0);
      total += first + later;
      switches += turns;
      shared_rounds = std::max(shared_rounds, turns);
    }
    other = NextActive(other);
    if (other == begin) break;
  }
  if (words_->current == 0) --switches;  // the very first finds the engine empty
  total += (switches + shared_rounds) * rules_.switch_ns;
  return std::clamp(start + total, alone, std::max(alone, start + kLookAgainMaxNs));
}

uint64_t Schedule::Recent(const BusyBucket* buckets, uint64_t now, uint64_t window_ns) {
  const uint64_t from = now > window_ns ? now - window_ns : 0;
  uint64_t sum = 0;
  for (uint32_t i = 0; i < kBuckets; ++i) {
    const uint64_t begin = buckets[i].epoch * kBucketNs;
    const uint64_t end = begin + kBucketNs;
    if (end <= from || begin >= now) continue;
    // A bucket the window cuts counts by the part inside.
    sum += begin < from ? buckets[i].ns * (end - from) / kBucketNs : buckets[i].ns;
  }
  return std::min(sum, window_ns);
}

}  // namespace simgpu
