// The gated way of a submission: wait for the turn, keep what is in flight small, and have the card
// itself say what is done. After every kMarkNanos of expected work a stream gets a mark, a command
// that writes a number into the process's slot of the usage page; so the node and this process see
// progress by reading memory, with no event, no helper thread and no call.
//
// A launch like the last one of its thread (same stream, a kind of work the thread has met, within
// what it was allowed) takes the short way: it says "inside", sees that its turn is granted, and
// goes. All else takes the long way, which does the books for the short launches before it too.
//
// No driver function runs under the lock. A capturing stream neither waits nor gets a mark: what is
// captured is no work yet.
#include "guest/cuda/gate.h"

#include "guest/core/sys.h"
#include "guest/cuda/account.h"

// Everything but the short way is built for size.
#define COLD [[gnu::cold, gnu::noinline]]

namespace tessera::guest {
namespace {

// ---- what the manifest says of each call ----

constexpr uint16_t kNoParameter = 15;
enum Shape : uint16_t { kOther, kKernel, kKernelConfig, kGraph, kBytes };

struct Call {
  uint16_t stream : 4;  // position of its parameter
  uint16_t bytes : 4;
  uint16_t shape : 3;
  uint16_t per_thread : 1;
  uint16_t waits : 1;  // returns when its work is done
};
static_assert(sizeof(Call) == 2);

constexpr bool Starts(const char* text, const char* with) {
  while (*with != '\0') {
    if (*text++ != *with++) return false;
  }
  return true;
}

constexpr Call CallOf(const char* symbol, const char* parameters, bool per_thread) {
  Call call = {kNoParameter, kNoParameter, kOther, per_thread, false};
  uint16_t position = 0;
  for (const char* at = parameters; *at != '\0'; ++at) {
    if (*at == ',') ++position;
    if (at != parameters && at[-1] != ' ' && at[-1] != '(') continue;
    if (Starts(at, "CUstream ")) call.stream = position;
    if (Starts(at, "ByteCount") || Starts(at, "N)") || Starts(at, "N,")) call.bytes = position;
  }
  call.waits = call.stream == kNoParameter &&
               (Starts(symbol, "cuMemcpyHtoD") || Starts(symbol, "cuMemcpyDtoH"));
  if (Starts(symbol, "cuLaunchKernelEx")) {
    call.shape = kKernelConfig;
  } else if (Starts(symbol, "cuLaunchKernel") ||
             (Starts(symbol, "cuLaunchCooperativeKernel") && call.stream != kNoParameter)) {
    call.shape = kKernel;
  } else if (Starts(symbol, "cuGraphLaunch")) {
    call.shape = kGraph;
  } else if (call.bytes != kNoParameter) {
    call.shape = kBytes;
  }
  return call;
}

constexpr Call kCalls[kCudaWrappers] = {
#define none false
#define ptds true
#define ptsz true
#define TESSERA_ENTRY(symbol, base, version, flag, treatment, ret, parameters, arguments) \
  CallOf(#symbol, #parameters, flag),
#include "guest/cuda/wrapped.inc"
#undef TESSERA_ENTRY
#undef none
#undef ptds
#undef ptsz
};
static_assert(kCalls[kIndex_cuLaunchKernel].stream == 8 &&
              kCalls[kIndex_cuLaunchKernel].shape == kKernel &&
              kCalls[kIndex_cuGraphLaunch].stream == 1 &&
              kCalls[kIndex_cuMemcpyHtoDAsync_v2].stream == 3 &&
              kCalls[kIndex_cuMemcpyHtoDAsync_v2].bytes == 2 &&
              kCalls[kIndex_cuMemsetD8Async].bytes == 2 &&
              kCalls[kIndex_cuMemcpyHtoD_v2].stream == kNoParameter);

inline uint64_t Word(const GateFrame& frame, uint32_t position) {
  return position < 6 ? frame.words[position] : frame.more[position - 6];
}

// The handles that name the two default streams whatever the form of the call.
constexpr uint64_t kLegacyStream = 1, kPerThreadStream = 2;

[[gnu::always_inline]] inline uint64_t HandleOf(const GateFrame& frame, const Call& call) {
  uint64_t handle = 0;
  if (call.stream != kNoParameter) handle = Word(frame, call.stream);
  if (call.shape == kKernelConfig && frame.words[0] != 0) {
    handle = reinterpret_cast<uint64_t>(
        reinterpret_cast<const abi::CUlaunchConfig*>(frame.words[0])->hStream);
  }
  if (handle == 0) handle = call.per_thread != 0 ? kPerThreadStream : kLegacyStream;
  return handle;
}

// One stream, one key: the default streams are another one in every context or thread.
uint64_t KeyOf(uint64_t handle, uint32_t context) {
  if (handle == kPerThreadStream) handle |= reinterpret_cast<uint64_t>(&depth);
  return handle ^ static_cast<uint64_t>(context) << 52;
}

// ---- what work is expected to take ----

uint64_t Both(uint64_t low, uint64_t high) { return (low & UINT32_MAX) | high << 32; }

inline Kind KindOf(const GateFrame& frame, const Call& call) {
  const uint64_t* const words = frame.words;
  if (__builtin_expect(call.shape == kKernel, 1)) {
    return {words[0],
            {Both(words[1], words[2]), Both(words[3], words[4]), Both(words[5], frame.more[0])}};
  }
  if (call.shape == kKernelConfig && words[0] != 0) {
    const auto* config = reinterpret_cast<const abi::CUlaunchConfig*>(words[0]);
    return {words[1],
            {Both(config->gridDimX, config->gridDimY), Both(config->gridDimZ, config->blockDimX),
             Both(config->blockDimY, config->blockDimZ)}};
  }
  if (call.shape == kGraph) return {words[0], {}};
  if (call.shape == kBytes) return {0, {Word(frame, call.bytes)}};
  return {};
}

bool Same(const Kind& a, const Kind& b) {
  return a.what == b.what && a.size[0] == b.size[0] && a.size[1] == b.size[1] &&
         a.size[2] == b.size[2];
}

// Where the kind stands among a lane's.
uint32_t Home(const Kind& kind) {
  const uint64_t sum = (kind.what >> 4) + kind.size[0] + kind.size[1] + kind.size[2];
  return static_cast<uint32_t>(sum * 0x9e3779b97f4a7c15ull >> 32) % kLaneKinds;
}

uint64_t Mix(uint64_t hash, uint64_t value) {
  hash = (hash ^ value) * 0x9e3779b97f4a7c15ull;
  return hash ^ hash >> 29;
}

uint32_t CostAt(uint32_t tag) { return (tag >> 8) % kCostsMax; }

// The tag of this kind of work, whose entry is made on first sight. Two kinds that meet in one
// place drive each other out, and cost the pessimism of a first sight again. Lock held.
COLD uint32_t CostOf(const GateFrame& frame, const Call& call, const Kind& kind, uint32_t window) {
  uint64_t hash = Mix(Mix(1, frame.index), kind.what);
  for (const uint64_t size : kind.size) hash = Mix(hash, size);
  const uint32_t tag = static_cast<uint32_t>(hash >> 32) | 1;
  Cost* const cost = &process.turns.costs[CostAt(tag)];
  if (cost->tag != tag) {
    uint64_t first = 100'000;
    if (call.shape == kBytes) {
      // 10 GB/s and the start of a copy, until it was seen.
      first = 10'000 + kind.size[0] / 10;
    } else if (call.shape != kOther) {
      first = window;
    }
    cost->tag = tag;
    cost->nanos = static_cast<uint32_t>(first < kCostNanosMax ? first : kCostNanosMax);
  }
  return tag;
}

// What these batches were expected to take, and took at most (or, when `exact`, took). A smaller
// time is believed at once, a larger one only when it is much larger: a look that came late makes
// every time longer. Lock held.
COLD void Learn(const Batch* batches, uint32_t first, uint32_t count, uint64_t expected,
                uint64_t took, bool exact) {
  if (expected == 0 || (took > expected && (!exact || took < 2 * expected))) return;
  // In 1024ths; one surprise does not turn the estimate by more than eight.
  uint64_t ratio = took * 1024 / expected;
  if (ratio > 8 * 1024) ratio = 8 * 1024;
  if (ratio < 128) ratio = 128;
  for (uint32_t i = 0; i < count; ++i) {
    const Batch& batch = batches[(first + i) % kMarksInFlight];
    for (uint32_t c = 0; c < batch.cost_count; ++c) {
      Cost* const cost = &process.turns.costs[batch.costs[c]];
      uint64_t nanos = (cost->nanos + cost->nanos * ratio / 1024) / 2;
      if (nanos < 500) nanos = 500;
      cost->nanos = static_cast<uint32_t>(nanos < kCostNanosMax ? nanos : kCostNanosMax);
    }
  }
}

// ---- marks ----

// A driver function of this file, looked up once; null when the driver lacks it.
template <typename Function>
Function* Known(void** known, const char* name) {
  void* found = __atomic_load_n(known, __ATOMIC_RELAXED);
  if (found == nullptr) {
    found = ResolveReal(kCudaLibrary, name);
    __atomic_store_n(known, found, __ATOMIC_RELAXED);
  }
  return reinterpret_cast<Function*>(found);
}
void* known_capturing;
void* known_write;

wire::StreamMarks* MarksOf(uint32_t stream) { return &process.slot->marks[stream]; }

// Nothing is outstanding any more, whatever the card has written or will write: a mark that is
// carried out after this writes a number from before the leap, which Harvest and the node pass
// over. Without the leap a stream whose place another one took, or whose last mark never reached
// the card, would look busy for good. Lock held.
COLD void DropMarks() {
  static_assert(kMarksInFlight * (kCostNanosMax / 1000) < wire::kMarksBehindMax &&
                2 * wire::kMarksBehindMax < wire::kMarksLeap);
  Turns* const turns = &process.turns;
  for (uint32_t i = 0; i < wire::kMarksMax; ++i) {
    TurnStream* const stream = &turns->streams[i];
    if (stream->count != 0) {
      stream->submitted += wire::kMarksLeap;
      wire::Store(&MarksOf(i)->submitted, stream->submitted);
    }
    stream->harvested = stream->submitted;
    stream->count = 0;
    wire::Store(&MarksOf(i)->completed, stream->submitted);
  }
  for (InFlight& marks : turns->marks) marks = {};
}

// Without a node: so much work of this process has ended. What several streams did at once is paid
// for once. Lock held.
COLD void Pay(uint32_t card, uint64_t nanos, uint64_t now) {
  uint64_t* const before = &process.turns.paid_at[card];
  if (nanos > now - *before) nanos = now - *before;
  *before = now;
  const uint64_t price = nanos * 1000 / (process.control->cards[card].compute_permille | 1u);
  uint64_t* const paid = &process.ledger.pages().usage->cards[card].paid;
  uint64_t old = wire::Load(paid);
  uint64_t next = 0;
  do {
    next = (old > now - wire::kPaidNanosBehind ? old : now - wire::kPaidNanosBehind) + price;
    if (next > now + wire::kPaidNanosAheadMax) next = now + wire::kPaidNanosAheadMax;
  } while (
      !__atomic_compare_exchange_n(paid, &old, next, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE));
}

// Without a node: for how long the share of the card is used up.
COLD uint64_t PaidAhead(uint32_t card, uint64_t now) {
  if (process.standalone == 0) return 0;
  const uint64_t paid = wire::Load(&process.ledger.pages().usage->cards[card].paid);
  return paid > now && paid - now <= wire::kPaidNanosAheadMax ? paid - now : 0;
}

// Takes note of the marks that have completed. Lock held.
COLD void Harvest(uint64_t now) {
  Turns* const turns = &process.turns;
  for (uint32_t i = 0; i < wire::kMarksMax; ++i) {
    TurnStream* const stream = &turns->streams[i];
    if (stream->count == 0) continue;
    const uint32_t done = wire::Load(&MarksOf(i)->completed) - stream->harvested;
    if (done > stream->submitted - stream->harvested) continue;
    const uint32_t first = stream->first;
    uint64_t expected = 0;
    uint32_t count = 0;
    uint32_t end = stream->harvested;
    for (; count < stream->count; ++count) {
      const Batch& batch = stream->marks[(first + count) % kMarksInFlight];
      if (batch.end - stream->harvested > done) break;
      expected += batch.nanos;
      end = batch.end;
    }
    if (count == 0) continue;
    const uint64_t took = now - stream->marks[first].started;
    // It ended between the last look and this one: that is how exact the time is.
    const uint64_t blind = now - turns->looked;
    const bool exact = blind < 200'000 || blind < took / 8;
    if (process.standalone != 0) {
      // Between the first submission and the end a program may have done other things.
      const uint64_t most = exact ? 2 * expected : expected;
      Pay(stream->card, took < most ? took : most, now);
    }
    Learn(stream->marks, first, count, expected, took, exact);
    stream->harvested = end;
    stream->first = (first + count) % kMarksInFlight;
    stream->count -= count;
    InFlight* const marks = &turns->marks[stream->card];
    marks->count -= count;
    marks->nanos -= expected < marks->nanos ? static_cast<uint32_t>(expected) : marks->nanos;
    // What stands behind it cannot have begun before the last look, which did not see this done.
    if (stream->count != 0) {
      Batch* const next = &stream->marks[stream->first];
      if (next->started < turns->looked) next->started = turns->looked;
    }
  }
  turns->looked = now;
}

// Lets the card write this process's marks. Called without the lock.
COLD bool Register() {
  Turns* const turns = &process.turns;
  const uint32_t state = __atomic_load_n(&turns->state, __ATOMIC_ACQUIRE);
  if (state != kMarksUnknown) return state == kMarksPossible;
  auto* const enroll = TESSERA_REAL(cuMemHostRegister_v2);
  auto* const locate = DriverFunction<abi::CUresult(abi::CUdeviceptr*, void*, unsigned)>(
      "cuMemHostGetDevicePointer_v2");
  auto* const exchange =
      DriverFunction<abi::CUresult(uint32_t*)>("cuThreadExchangeStreamCaptureMode");
  constexpr unsigned kPortable = 1, kMapped = 2;
  constexpr uint32_t kRelaxed = 2;
  constexpr uint32_t kAlreadyRegistered = 712;
  const auto begin = reinterpret_cast<uint64_t>(process.slot->marks);
  const uint64_t page = begin / kPageBytes * kPageBytes;
  const uint64_t end =
      (begin + sizeof(process.slot->marks) + kPageBytes - 1) / kPageBytes * kPageBytes;
  abi::CUdeviceptr address = 0;
  bool possible = false;
  if (enroll != nullptr && locate != nullptr) {
    // Somebody else's capture, in whatever mode, must not be disturbed by this.
    uint32_t mode = kRelaxed;
    const bool exchanged = exchange != nullptr && exchange(&mode) == abi::CUDA_SUCCESS;
    const abi::CUresult enrolled =
        enroll(reinterpret_cast<void*>(page), end - page, kPortable | kMapped);
    possible =
        (enrolled == abi::CUDA_SUCCESS || static_cast<uint32_t>(enrolled) == kAlreadyRegistered) &&
        locate(&address, reinterpret_cast<void*>(page), 0) == abi::CUDA_SUCCESS;
    if (exchanged) exchange(&mode);
  }
  LockHolder holder(&turns->lock);
  turns->address = address + (begin - page);
  __atomic_store_n(&turns->state, possible ? kMarksPossible : kMarksImpossible, __ATOMIC_RELEASE);
  return possible;
}

COLD bool Capturing(uint64_t handle) {
  auto* const ask =
      Known<abi::CUresult(abi::CUstream, uint32_t*)>(&known_capturing, "cuStreamIsCapturing");
  if (ask == nullptr) return false;
  uint32_t status = 0;
  // An error says that another stream captures and this one may not be asked.
  return ask(reinterpret_cast<abi::CUstream>(handle), &status) != abi::CUDA_SUCCESS || status != 0;
}

// Lock held.
void SayUnmarked(uint32_t at) {
  wire::Store(&MarksOf(at)->unmarked_nanos, process.turns.streams[at].open.nanos);
}

// Work of these kinds was added to what the stream has unmarked. Lock held.
void Append(uint32_t at, uint32_t nanos, const uint16_t* costs, uint32_t count) {
  Batch* const batch = &process.turns.streams[at].open;
  if (batch->nanos == 0) batch->started = MonotonicNanos();
  for (uint32_t i = 0; i < count; ++i) {
    bool known = false;
    for (uint32_t k = 0; k < batch->cost_count; ++k) known |= batch->costs[k] == costs[i];
    if (!known && batch->cost_count < kBatchCosts) batch->costs[batch->cost_count++] = costs[i];
  }
  const uint64_t all = uint64_t{batch->nanos} + nanos;
  batch->nanos = static_cast<uint32_t>(all < kCostNanosMax ? all : kCostNanosMax);
  SayUnmarked(at);
}

// Marks the end of what the stream has so far. Called without the lock, by a thread that knows the
// stream to exist: it has just submitted to it, or is about to.
COLD void Mark(uint32_t at, uint64_t handle) {
  Turns* const turns = &process.turns;
  TurnStream* const stream = &turns->streams[at];
  const auto forget = [&] {
    LockHolder holder(&turns->lock);
    stream->open = {};
    SayUnmarked(at);
  };
  if (Capturing(handle)) return forget();
  if (!Register()) {
    // No mark can be made here, so the work is waited for: it stays little, and its end is known.
    auto* const wait = DriverFunction<abi::CUresult(abi::CUstream)>("cuStreamSynchronize");
    if (wait != nullptr) wait(reinterpret_cast<abi::CUstream>(handle));
    if (process.standalone != 0) {
      LockHolder holder(&turns->lock);
      Pay(stream->card, stream->open.nanos, MonotonicNanos());
    }
    return forget();
  }
  uint32_t number = 0;
  uint64_t address = 0;
  {
    LockHolder holder(&turns->lock);
    if (stream->marking != 0 || stream->open.nanos == 0 || stream->count >= kMarksInFlight) return;
    // One thread at a time, so that numbers reach the stream in their order.
    stream->marking = 1;
    number = stream->submitted + (stream->open.nanos < 1000 ? 1 : stream->open.nanos / 1000);
    stream->open.end = number;
    stream->marks[(stream->first + stream->count++) % kMarksInFlight] = stream->open;
    turns->marks[stream->card].nanos += stream->open.nanos;
    ++turns->marks[stream->card].count;
    stream->open = {};
    stream->submitted = number;
    address =
        turns->address + at * sizeof(wire::StreamMarks) + offsetof(wire::StreamMarks, completed);
    wire::Store(&MarksOf(at)->submitted, number);
    SayUnmarked(at);
  }
  auto* const write = Known<abi::CUresult(abi::CUstream, abi::CUdeviceptr, uint32_t, unsigned)>(
      &known_write, "cuStreamWriteValue32_v2");
  const bool written = write != nullptr && write(reinterpret_cast<abi::CUstream>(handle), address,
                                                 number, 0) == abi::CUDA_SUCCESS;
  LockHolder holder(&turns->lock);
  stream->marking = 0;
  if (written) {
    turns->failures = 0;
    return;
  }
  // The context the marks were registered in is gone, or has faulted. Once more, then never.
  DropMarks();
  __atomic_store_n(&turns->state, ++turns->failures < 3 ? kMarksUnknown : kMarksImpossible,
                   __ATOMIC_RELEASE);
}

// The stream's place, taken from an idle one when it is new; kMarksMax when all are at work. Lock
// held.
COLD uint32_t PlaceOf(uint64_t key, uint32_t card) {
  Turns* const turns = &process.turns;
  const uint32_t home = static_cast<uint32_t>(Mix(2, key) >> 40) % wire::kMarksMax;
  // At best a place that was never used, then one whose work is all done, then one with a little
  // unmarked work, which is forgotten.
  uint32_t idle = wire::kMarksMax;
  for (uint32_t i = 0; i < wire::kMarksMax; ++i) {
    const uint32_t at = (home + i) % wire::kMarksMax;
    const TurnStream& stream = turns->streams[at];
    if (stream.key == key) return at;
    if (stream.key == 0) {
      idle = at;
      break;
    }
    if (stream.marking != 0 || stream.held != 0 || stream.count != 0) continue;
    if (idle == wire::kMarksMax ||
        (stream.open.nanos == 0 && turns->streams[idle].open.nanos != 0)) {
      idle = at;
    }
  }
  if (idle != wire::kMarksMax) {
    turns->streams[idle].key = key;
    turns->streams[idle].card = card;
    turns->streams[idle].open = {};
    wire::Store(&MarksOf(idle)->card, card);
    SayUnmarked(idle);
  }
  return idle;
}

// The place may be another stream's from now on.
COLD void LetGo(uint32_t at) {
  LockHolder holder(&process.turns.lock);
  --process.turns.streams[at].held;
}

// Time a thread stands before the gate, for the node's metrics. Around what sleeps.
class GateWait {
 public:
  GateWait() = default;
  ~GateWait() {
    __atomic_fetch_add(&process.slot->gate_wait_nanos, MonotonicNanos() - from_, __ATOMIC_RELAXED);
  }
  GateWait(const GateWait&) = delete;
  GateWait& operator=(const GateWait&) = delete;

 private:
  const uint64_t from_ = MonotonicNanos();
};

// ---- lanes ----

constinit thread_local uint32_t lane_number
    __attribute__((tls_model("initial-exec"), visibility("hidden"))) = 0;

Lane* LaneHere() {
  Lane* const lane = &process.turns.lanes[lane_number];
  return __atomic_load_n(&lane->owner, __ATOMIC_RELAXED) == &depth ? lane : nullptr;
}

// This thread's lane, taken for good on first use: nobody tells us when a thread ends, but the next
// one in its place finds it again. Null: all are taken.
COLD Lane* LaneOfThread() {
  if (Lane* const lane = LaneHere()) return lane;
  Turns* const turns = &process.turns;
  LockHolder holder(&turns->lock);
  Lane* found = nullptr;
  for (Lane& lane : turns->lanes) {
    if (lane.owner == &depth) {
      found = &lane;
      break;
    }
    if (lane.owner == nullptr && found == nullptr) found = &lane;
  }
  if (found == nullptr) return nullptr;
  __atomic_store_n(&found->owner, static_cast<const void*>(&depth), __ATOMIC_RELAXED);
  lane_number = static_cast<uint32_t>(found - turns->lanes);
  return found;
}

// What the node sees of this thread's lane.
inline wire::GateLane* Shown() { return &process.slot->lanes[lane_number]; }

// A read-modify-write: the look at the gate that follows comes after it for everybody.
inline void SayInside(const Lane* lane) {
  (void)__atomic_exchange_n(&Shown()->state, lane->spent << 1 | wire::kLaneInside,
                            __ATOMIC_SEQ_CST);
}
inline void SayOutside(const Lane* lane) { wire::Store(&Shown()->state, lane->spent << 1); }

// What the lane added up goes into the books. Lock held.
COLD void Settle(Lane* lane) {
  if (lane->bound != 0) {
    if (lane->spent != 0) Append(lane->stream, lane->spent, lane->costs, lane->cost_count);
    --process.turns.streams[lane->stream].held;
  }
  lane->bound = 0;
  lane->spent = 0;
  lane->cost_count = 0;
  lane->allowance = 0;
}

// ---- the turn ----

enum class Wait { kGo, kOpen, kDead };

// Sleeps until the word changes to a granted turn, or the gate opens.
COLD Wait WaitForTurn(uint32_t card, const uint32_t* gate) {
  const wire::ControlCard& control = process.control->cards[card];
  wire::UsageCard* const usage = &process.ledger.pages().usage->cards[card];
  const uint64_t start = MonotonicNanos();
  uint64_t heard_at = start;
  for (;;) {
    const uint32_t shut = __atomic_load_n(gate, __ATOMIC_SEQ_CST);
    const uint32_t mine = __atomic_add_fetch(&usage->arrivals, 1, __ATOMIC_SEQ_CST);
    FutexWakeShared(&usage->arrivals);
    const uint64_t asked = MonotonicNanos();
    for (;;) {
      const uint32_t word = __atomic_load_n(gate, __ATOMIC_SEQ_CST);
      if (word == 0) return Wait::kOpen;
      if ((word & wire::kGateGranted) != 0) return Wait::kGo;
      const uint64_t now = MonotonicNanos();
      if (static_cast<int32_t>(wire::Load(&control.heard) - mine) >= 0) heard_at = now;
      // A node that died with the gate shut must not stop the program for good; one that lives
      // may let it wait as long as its share demands.
      if (now - heard_at > Ledger::kFrozenTotalNanosMax) {
        __atomic_store_n(&process.turns.passed[card], word, __ATOMIC_RELAXED);
        return Wait::kDead;
      }
      // A turn that came and went while we slept was granted for nothing: ask again.
      if (word != shut || now - asked > wire::kTurnSleepNanosMax) break;
      FutexWait(const_cast<uint32_t*>(gate), word, wire::kTurnSleepNanosMax, true);
    }
  }
}

constexpr uint32_t kWindowTwoNanos = 500'000;
constexpr uint64_t kWindowLookNanos = 100'000;

COLD void GoInside(const Lane* lane, uint32_t card) {
  if (lane == nullptr) {
    __atomic_add_fetch(&process.slot->inside, 1, __ATOMIC_SEQ_CST);
    return;
  }
  wire::Store(&Shown()->card, card);
  SayInside(lane);
}
COLD void GoOutside(const Lane* lane) {
  if (lane == nullptr) {
    __atomic_sub_fetch(&process.slot->inside, 1, __ATOMIC_SEQ_CST);
  } else {
    SayOutside(lane);
  }
}

// Everything before the driver's call, the long way. False: no turn concerns this call.
COLD bool Enter(GateFrame* frame) {
  if (!Attached() || depth > 0) return false;
  const Place place = FindPlace();
  if (place.error != abi::CUDA_SUCCESS || place.card >= process.card_count) return false;
  const wire::ControlCard& control = process.control->cards[place.card];
  const uint32_t* const gate = &control.gate;
  const uint32_t first = __atomic_load_n(gate, __ATOMIC_ACQUIRE);
  if (first == 0 || first == __atomic_load_n(&process.turns.passed[place.card], __ATOMIC_RELAXED)) {
    return false;
  }
  Turns* const turns = &process.turns;
  const Call& call = kCalls[frame->index];
  const uint32_t window = wire::Load(&control.window_nanos);
  frame->handle = HandleOf(*frame, call);
  frame->key = KeyOf(frame->handle, place.context);
  frame->waited = call.waits;
  DepthGuard guard;
  Lane* const lane = LaneOfThread();
  bool asked = false;
  uint64_t stuck = 0;
  for (;;) {
    GoInside(lane, place.card);
    const uint32_t word = __atomic_load_n(gate, __ATOMIC_SEQ_CST);
    bool room = false;
    uint64_t ahead = 0;  // without a node: to be waited for
    if ((word & wire::kGateGranted) != 0) {
      LockHolder holder(&turns->lock);
      if (lane != nullptr) Settle(lane);
      frame->stream = PlaceOf(frame->key, place.card);
      const Kind kind = KindOf(*frame, call);
      const uint32_t tag = CostOf(*frame, call, kind, window);
      frame->cost = CostAt(tag);
      frame->nanos = turns->costs[frame->cost].nanos;
      if (lane != nullptr && !call.waits) lane->kinds[Home(kind)] = {kind, frame->index + 1, tag};
      const InFlight& marks = turns->marks[place.card];
      if (marks.count != 0 && (marks.nanos + frame->nanos > window ||
                               marks.count >= kMarksInFlight || process.standalone != 0)) {
        Harvest(MonotonicNanos());
      }
      // Work longer than the window has one behind it all the same, so that the card need not
      // wait for us in between; not where a higher class wants short hand-overs.
      const uint32_t units = window >= kWindowTwoNanos ? 2 : 1;
      frame->most = kCostNanosMax;
      if (marks.count >= units) frame->most = marks.nanos < window ? window - marks.nanos : 0;
      room = marks.count == 0 || (frame->stream < wire::kMarksMax && frame->nanos <= frame->most &&
                                  turns->streams[frame->stream].count < kMarksInFlight);
      if (room && process.standalone != 0) {
        ahead = PaidAhead(place.card, MonotonicNanos());
        room = ahead == 0;
        // Its end is looked for as below, and then there is nothing to look for.
        if (marks.count != 0 && ahead > kWindowLookNanos) ahead = kWindowLookNanos;
      }
      if (room && frame->stream < wire::kMarksMax) ++turns->streams[frame->stream].held;
    }
    if (room) return true;
    GoOutside(lane);
    if (word == 0) return false;
    if (!asked) {
      if (Capturing(frame->handle)) return false;
      asked = true;
    }
    if ((word & wire::kGateGranted) == 0) {
      // The turn is over: what this stream has in it gets its mark, so that its end is seen.
      uint32_t at = wire::kMarksMax;
      {
        LockHolder holder(&turns->lock);
        if (lane != nullptr) {
          Settle(lane);
          SayOutside(lane);
        }
        at = PlaceOf(frame->key, place.card);
        if (at < wire::kMarksMax) ++turns->streams[at].held;
      }
      if (at < wire::kMarksMax) {
        Mark(at, frame->handle);
        LetGo(at);
      }
      {
        const GateWait wait;
        if (WaitForTurn(place.card, gate) != Wait::kGo) return false;
      }
      stuck = 0;
      continue;
    }
    // The window is full. Nobody wakes us when the card gets on, so look now and then; when the
    // turn ends meanwhile, the wait ends at once.
    const uint64_t now = MonotonicNanos();
    if (stuck == 0 || ahead != 0) stuck = now;
    if (now - stuck > Ledger::kFrozenTotalNanosMax) {
      // A mark that never comes must not stop the program for good.
      LockHolder holder(&turns->lock);
      DropMarks();
      stuck = 0;
      continue;
    }
    const GateWait wait;
    FutexWait(const_cast<uint32_t*>(gate), word, ahead != 0 ? ahead : kWindowLookNanos, true);
  }
}

// The call failed, or succeeded: everything after it, the long way.
COLD void Leave(GateFrame* frame, abi::CUresult result) {
  Turns* const turns = &process.turns;
  Lane* const lane = LaneHere();
  bool mark = false;
  if (frame->stream < wire::kMarksMax && result != abi::CUDA_SUCCESS) {
    LetGo(frame->stream);
  } else if (frame->stream < wire::kMarksMax) {
    LockHolder holder(&turns->lock);
    TurnStream* const stream = &turns->streams[frame->stream];
    Batch* const batch = &stream->open;
    const auto cost = static_cast<uint16_t>(frame->cost);
    Append(frame->stream, frame->nanos, &cost, 1);
    mark = batch->nanos >= kMarkNanos;
    // Copies that wait themselves are over.
    if (frame->waited != 0 && !mark) {
      *batch = {};
      SayUnmarked(frame->stream);
      --stream->held;
    } else if (lane == nullptr && !mark) {
      --stream->held;
    } else if (!mark) {
      lane->bound = 1;
      lane->key = frame->key;
      lane->stream = frame->stream;
      lane->allowance = kMarkNanos - batch->nanos;
      lane->most = frame->most;
    }
  }
  if (mark) {
    Mark(frame->stream, frame->handle);
    LetGo(frame->stream);
  }
  GoOutside(lane);
}

// ---- the short way ----

// True: the thread has said "inside", its turn is granted, and the lane has room for the call.
// Every process of the slice's only card with one context; all others take the long way.
inline bool EnterShort(GateFrame* frame) {
  const uint32_t context = __atomic_load_n(&process.sole_context, __ATOMIC_RELAXED);
  if (depth > 0 || context == 0 || process.card_count != 1) return false;
  Lane* const lane = LaneHere();
  if (lane == nullptr) return false;
  const Call& call = kCalls[frame->index];
  if (KeyOf(HandleOf(*frame, call), context) != lane->key) return false;
  const Kind kind = KindOf(*frame, call);
  const LaneKind& known = lane->kinds[Home(kind)];
  if (known.index != frame->index + 1 || !Same(known.kind, kind)) return false;
  const uint32_t at = CostAt(known.tag);
  const Cost& cost = process.turns.costs[at];
  const uint32_t nanos = __atomic_load_n(&cost.nanos, __ATOMIC_RELAXED);
  if (__atomic_load_n(&cost.tag, __ATOMIC_RELAXED) != known.tag || nanos >= lane->allowance ||
      nanos > lane->most) {
    return false;
  }
  SayInside(lane);
  if ((__atomic_load_n(process.gate, __ATOMIC_SEQ_CST) & wire::kGateGranted) == 0) {
    SayOutside(lane);
    return false;
  }
  lane->allowance -= nanos;
  lane->spent += nanos;
  bool noted = lane->cost_count == kBatchCosts;
  for (uint32_t i = 0; i < lane->cost_count; ++i) noted |= lane->costs[i] == at;
  if (!noted) lane->costs[lane->cost_count++] = static_cast<uint16_t>(at);
  frame->stream = kStreamOfLane;
  frame->nanos = nanos;
  return true;
}

}  // namespace

extern "C" {

void* tessera_gate_enter(GateFrame* frame, uint32_t index) {
  frame->index = index;
  void* real = __atomic_load_n(&tessera_cuda_real[index], __ATOMIC_RELAXED);
  if (__builtin_expect(real != nullptr && EnterShort(frame), 1)) {
    frame->called = 1;
    ++depth;
    return real;
  }
  frame->called = Enter(frame);
  if (real == nullptr) real = ResolveCuda(index);
  if (frame->called != 0) {
    if (real != nullptr) {
      ++depth;
    } else {
      GoOutside(LaneHere());
      if (frame->stream < wire::kMarksMax) LetGo(frame->stream);
    }
  }
  return real;
}

void tessera_gate_leave(GateFrame* frame, abi::CUresult result) {
  if (__builtin_expect(frame->stream == kStreamOfLane, 1)) {
    Lane* const lane = &process.turns.lanes[lane_number];
    // What failed is no work.
    if (__builtin_expect(result != abi::CUDA_SUCCESS, 0)) lane->spent -= frame->nanos;
    SayOutside(lane);
  } else {
    Leave(frame, result);
  }
  --depth;
}

abi::CUresult tessera_gate_missing() { return MissingCuda(); }
}

void ForgetMarks() {
  if (!Attached() || __atomic_load_n(&process.turns.state, __ATOMIC_ACQUIRE) == kMarksUnknown) {
    return;
  }
  LockHolder holder(&process.turns.lock);
  DropMarks();
  for (uint32_t i = 0; i < wire::kMarksMax; ++i) {
    process.turns.streams[i].open = {};
    SayUnmarked(i);
  }
  process.turns.failures = 0;
  __atomic_store_n(&process.turns.state, kMarksUnknown, __ATOMIC_RELEASE);
}

}  // namespace tessera::guest
