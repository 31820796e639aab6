// The gated way of a submission: wait for the turn, keep what is in flight small, and have the card
// itself say what is done. After every kMarkNanos of expected work a stream gets a mark, a command
// that writes a number into the process's slot of the usage page; so the node and this process see
// progress by reading memory, with no event, no helper thread and no call.
//
// No driver function runs under the lock. A capturing stream neither waits nor gets a mark: what is
// captured is no work yet.
#include "guest/cuda/gate.h"

#include "guest/core/sys.h"
#include "guest/cuda/account.h"

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

uint64_t Word(const GateFrame& frame, uint32_t position) {
  return position < 6 ? frame.words[position] : frame.more[position - 6];
}

// The handles that name the two default streams whatever the form of the call.
constexpr uint64_t kLegacyStream = 1, kPerThreadStream = 2;

uint64_t HandleOf(const GateFrame& frame, const Call& call) {
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

uint64_t Mix(uint64_t hash, uint64_t value) {
  hash = (hash ^ value) * 0x9e3779b97f4a7c15ull;
  return hash ^ hash >> 29;
}

// The entry of this kind of work, made on first sight. Two kinds that meet in one place drive each
// other out, and cost the pessimism of a first sight again. Lock held.
uint32_t CostOf(const GateFrame& frame, const Call& call, uint32_t window) {
  uint64_t hash = Mix(1, frame.index);
  uint64_t first = 100'000;
  switch (call.shape) {
    case kKernel:
      for (uint32_t i = 0; i < 7; ++i) hash = Mix(hash, Word(frame, i));
      first = window;
      break;
    case kKernelConfig: {
      const auto* config = reinterpret_cast<const abi::CUlaunchConfig*>(frame.words[0]);
      hash = Mix(hash, frame.words[1]);
      if (config != nullptr) {
        hash = Mix(hash, static_cast<uint64_t>(config->gridDimX) << 32 | config->gridDimY);
        hash = Mix(hash, static_cast<uint64_t>(config->gridDimZ) << 32 | config->blockDimX);
        hash = Mix(hash, static_cast<uint64_t>(config->blockDimY) << 32 | config->blockDimZ);
      }
      first = window;
      break;
    }
    case kGraph:
      hash = Mix(hash, frame.words[0]);
      first = window;
      break;
    case kBytes:
      hash = Mix(hash, Word(frame, call.bytes));
      // 10 GB/s and the start of a copy, until it was seen.
      first = 10'000 + Word(frame, call.bytes) / 10;
      break;
    default:
      break;
  }
  const auto at = static_cast<uint32_t>(hash >> 32) % kCostsMax;
  const uint32_t tag = static_cast<uint32_t>(hash) | 1;
  Cost* const cost = &process.turns.costs[at];
  if (cost->tag != tag) {
    cost->tag = tag;
    cost->nanos = static_cast<uint32_t>(first < kCostNanosMax ? first : kCostNanosMax);
  }
  return at;
}

// What these batches were expected to take, and took at most (or, when `exact`, took). A smaller
// time is believed at once, a larger one only when it is much larger: a look that came late makes
// every time longer. Lock held.
void Learn(const Batch* batches, uint32_t first, uint32_t count, uint64_t expected, uint64_t took,
           bool exact) {
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

// Nothing is outstanding any more, whatever the card has or will write. Lock held.
void DropMarks() {
  Turns* const turns = &process.turns;
  for (uint32_t i = 0; i < wire::kMarksMax; ++i) {
    TurnStream* const stream = &turns->streams[i];
    stream->harvested = stream->submitted;
    wire::Store(&MarksOf(i)->completed, stream->submitted);
  }
  turns->outstanding = 0;
  turns->count = 0;
}

// Takes note of the marks that have completed. Lock held.
void Harvest(uint64_t now) {
  Turns* const turns = &process.turns;
  if (turns->count == 0) {
    turns->looked = now;
    return;
  }
  for (uint32_t i = 0; i < wire::kMarksMax; ++i) {
    TurnStream* const stream = &turns->streams[i];
    if (stream->submitted == stream->harvested) continue;
    const uint32_t done = wire::Load(&MarksOf(i)->completed) - stream->harvested;
    if (done == 0 || done > stream->submitted - stream->harvested) continue;
    const uint32_t first = stream->harvested % kMarksInFlight;
    uint64_t expected = 0;
    for (uint32_t d = 0; d < done; ++d) {
      expected += stream->marks[(first + d) % kMarksInFlight].nanos;
    }
    const uint64_t took = now - stream->marks[first].started;
    // It ended between the last look and this one: that is how exact the time is.
    const uint64_t blind = now - turns->looked;
    Learn(stream->marks, first, done, expected, took, blind < 200'000 || blind < took / 8);
    stream->harvested += done;
    turns->count -= done;
    turns->outstanding -=
        expected < turns->outstanding ? static_cast<uint32_t>(expected) : turns->outstanding;
    // What stands behind it cannot have begun before the last look, which did not see this done.
    if (stream->submitted != stream->harvested) {
      Batch* const next = &stream->marks[stream->harvested % kMarksInFlight];
      if (next->started < turns->looked) next->started = turns->looked;
    }
  }
  turns->looked = now;
}

// Lets the card write this process's marks. Called without the lock.
bool Register() {
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

bool Capturing(uint64_t handle) {
  auto* const ask =
      Known<abi::CUresult(abi::CUstream, uint32_t*)>(&known_capturing, "cuStreamIsCapturing");
  if (ask == nullptr) return false;
  uint32_t status = 0;
  // An error says that another stream captures and this one may not be asked.
  return ask(reinterpret_cast<abi::CUstream>(handle), &status) != abi::CUDA_SUCCESS || status != 0;
}

void SayUnmarked() {
  uint64_t all = 0;
  for (const TurnStream& stream : process.turns.streams) all += stream.open.nanos;
  if (all > 2'000'000) all = 2'000'000;
  wire::Store(&process.slot->unmarked_nanos, static_cast<uint32_t>(all));
}

// Marks the end of what the stream has so far. Called without the lock, by a thread that knows the
// stream to exist: it has just submitted to it, or is about to.
void Mark(uint32_t at, uint64_t handle) {
  Turns* const turns = &process.turns;
  TurnStream* const stream = &turns->streams[at];
  if (Capturing(handle)) {
    LockHolder holder(&turns->lock);
    stream->open = {};
    SayUnmarked();
    return;
  }
  if (!Register()) {
    // No mark can be made here, so the work is waited for: it stays little, and its end is known.
    auto* const wait = DriverFunction<abi::CUresult(abi::CUstream)>("cuStreamSynchronize");
    if (wait != nullptr) wait(reinterpret_cast<abi::CUstream>(handle));
    LockHolder holder(&turns->lock);
    stream->open = {};
    SayUnmarked();
    return;
  }
  uint32_t number = 0;
  uint64_t address = 0;
  {
    LockHolder holder(&turns->lock);
    if (stream->marking != 0 || stream->open.nanos == 0 ||
        stream->submitted - stream->harvested >= kMarksInFlight) {
      return;
    }
    // One thread at a time, so that numbers reach the stream in their order.
    stream->marking = 1;
    stream->marks[stream->submitted % kMarksInFlight] = stream->open;
    turns->outstanding += stream->open.nanos;
    ++turns->count;
    stream->open = {};
    number = ++stream->submitted;
    address =
        turns->address + at * sizeof(wire::StreamMarks) + offsetof(wire::StreamMarks, completed);
    wire::Store(&MarksOf(at)->submitted, number);
    SayUnmarked();
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
uint32_t PlaceOf(uint64_t key) {
  Turns* const turns = &process.turns;
  const uint32_t home = static_cast<uint32_t>(Mix(2, key) >> 40) % wire::kMarksMax;
  uint32_t idle = wire::kMarksMax;
  for (uint32_t i = 0; i < wire::kMarksMax; ++i) {
    const uint32_t at = (home + i) % wire::kMarksMax;
    TurnStream* const stream = &turns->streams[at];
    if (stream->key == key) return at;
    if (idle == wire::kMarksMax && stream->marking == 0 && stream->held == 0 &&
        stream->submitted == stream->harvested) {
      idle = at;
      if (stream->key == 0) break;
    }
  }
  if (idle != wire::kMarksMax) {
    turns->streams[idle].key = key;
    turns->streams[idle].open = {};
  }
  return idle;
}

void LetGo(uint32_t at) {
  LockHolder holder(&process.turns.lock);
  --process.turns.streams[at].held;
}

// ---- the turn ----

enum class Wait { kGo, kOpen, kDead };

// Sleeps until the word changes to a granted turn, or the gate opens.
Wait WaitForTurn(uint32_t card, const uint32_t* gate) {
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

// Everything before the driver's call. False: no turn concerns this call.
bool Enter(GateFrame* frame) {
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
  wire::ProcessSlot* const slot = process.slot;
  const Call& call = kCalls[frame->index];
  const uint32_t window = wire::Load(&control.window_nanos);
  frame->handle = HandleOf(*frame, call);
  frame->waited = call.waits;
  DepthGuard guard;
  bool asked = false;
  uint64_t stuck = 0;
  for (;;) {
    __atomic_add_fetch(&slot->inside, 1, __ATOMIC_SEQ_CST);
    const uint32_t word = __atomic_load_n(gate, __ATOMIC_SEQ_CST);
    bool room = false;
    if ((word & wire::kGateGranted) != 0) {
      LockHolder holder(&turns->lock);
      frame->stream = PlaceOf(KeyOf(frame->handle, place.context));
      frame->cost = CostOf(*frame, call, window);
      frame->nanos = turns->costs[frame->cost].nanos;
      if (turns->count != 0 &&
          (turns->outstanding + frame->nanos > window || turns->count >= kMarksInFlight)) {
        Harvest(MonotonicNanos());
      }
      // Work longer than the window has one behind it all the same, so that the card need not
      // wait for us in between; not where a higher class wants short hand-overs.
      const uint32_t units = window >= kWindowTwoNanos ? 2 : 1;
      const bool marks =
          frame->stream < wire::kMarksMax &&
          turns->streams[frame->stream].submitted - turns->streams[frame->stream].harvested <
              kMarksInFlight;
      room = turns->count == 0 ||
             (marks && (turns->count < units || turns->outstanding + frame->nanos <= window));
      if (room && frame->stream < wire::kMarksMax) ++turns->streams[frame->stream].held;
    }
    if (room) return true;
    __atomic_sub_fetch(&slot->inside, 1, __ATOMIC_SEQ_CST);
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
        at = PlaceOf(KeyOf(frame->handle, place.context));
        if (at < wire::kMarksMax) ++turns->streams[at].held;
      }
      if (at < wire::kMarksMax) {
        Mark(at, frame->handle);
        LetGo(at);
      }
      if (WaitForTurn(place.card, gate) != Wait::kGo) return false;
      stuck = 0;
      continue;
    }
    // The window is full. Nobody wakes us when the card gets on, so look now and then; when the
    // turn ends meanwhile, the wait ends at once.
    const uint64_t now = MonotonicNanos();
    if (stuck == 0) stuck = now;
    if (now - stuck > Ledger::kFrozenTotalNanosMax) {
      // A mark that never comes must not stop the program for good.
      LockHolder holder(&turns->lock);
      DropMarks();
      stuck = 0;
      continue;
    }
    FutexWait(const_cast<uint32_t*>(gate), word, kWindowLookNanos, true);
  }
}

}  // namespace

extern "C" {

void* tessera_gate_enter(GateFrame* frame, uint32_t index) {
  frame->index = index;
  frame->called = Enter(frame);
  void* real = __atomic_load_n(&tessera_cuda_real[index], __ATOMIC_RELAXED);
  if (real == nullptr) real = ResolveCuda(index);
  if (frame->called != 0) {
    if (real != nullptr) {
      ++depth;
    } else {
      __atomic_sub_fetch(&process.slot->inside, 1, __ATOMIC_SEQ_CST);
      if (frame->stream < wire::kMarksMax) LetGo(frame->stream);
    }
  }
  return real;
}

void tessera_gate_leave(GateFrame* frame, abi::CUresult result) {
  Turns* const turns = &process.turns;
  bool mark = false;
  if (frame->stream < wire::kMarksMax && result != abi::CUDA_SUCCESS) {
    LetGo(frame->stream);
  } else if (frame->stream < wire::kMarksMax) {
    LockHolder holder(&turns->lock);
    TurnStream* const stream = &turns->streams[frame->stream];
    Batch* const batch = &stream->open;
    if (batch->nanos == 0) batch->started = MonotonicNanos();
    bool known = false;
    for (uint32_t i = 0; i < batch->cost_count; ++i) known |= batch->costs[i] == frame->cost;
    if (!known && batch->cost_count < kBatchCosts) {
      batch->costs[batch->cost_count++] = static_cast<uint16_t>(frame->cost);
    }
    const uint64_t nanos = uint64_t{batch->nanos} + frame->nanos;
    batch->nanos = static_cast<uint32_t>(nanos < kCostNanosMax ? nanos : kCostNanosMax);
    mark = batch->nanos >= kMarkNanos;
    // Copies that wait themselves are over.
    if (frame->waited != 0 && !mark) *batch = {};
    if (!mark) --stream->held;
    SayUnmarked();
  }
  if (mark) {
    Mark(frame->stream, frame->handle);
    LetGo(frame->stream);
  }
  __atomic_sub_fetch(&process.slot->inside, 1, __ATOMIC_SEQ_CST);
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
  for (TurnStream& stream : process.turns.streams) stream.open = {};
  SayUnmarked();
  process.turns.failures = 0;
  __atomic_store_n(&process.turns.state, kMarksUnknown, __ATOMIC_RELEASE);
}

}  // namespace tessera::guest
