// Puts actions into streams: the order that streams, events and the legacy default stream give.
#include "simgpu/driver/work.h"

#include <algorithm>

#include "simgpu/driver/capture.h"
#include "simgpu/driver/executor.h"
#include "simgpu/driver/pool.h"

namespace simgpu {
namespace {

constexpr size_t kTrimLoose = 256;  // so many loose commands are looked through for finished ones

// What a command of this stream stands behind. The executor's lock and Driver::mutex held.
void Before(Context* context, Stream* stream, std::vector<CommandRef>* before) {
  if (stream->last != nullptr) before->push_back(stream->last);
  if (stream == context->legacy) {
    for (Stream* other : context->streams) {
      if (other == stream || !other->blocking || other->legacy_joined == other->count) continue;
      other->legacy_joined = other->count;
      if (other->last != nullptr) before->push_back(other->last);
    }
    // Streams that were destroyed with work left.
    Executor::Get().Trim(&context->orphans);
    for (const CommandRef& one : context->orphans) before->push_back(one);
  } else if (stream->blocking && context->legacy->last != nullptr &&
             stream->legacy_seen != context->legacy_count) {
    stream->legacy_seen = context->legacy_count;
    before->push_back(context->legacy->last);
  }
}

// Adds a command at the end of the stream.
CommandRef Append(Context* context, Stream* stream, const std::vector<CommandRef>& before,
                  Action action, Executor::Extra extra, bool* mine) {
  CommandRef command = Executor::Get().Add(context, stream->priority, before, std::move(action),
                                           std::move(extra), mine);
  stream->last = command;
  ++stream->count;
  if (stream == context->legacy) ++context->legacy_count;
  stream->queued.push_back(command);
  return command;
}

// Where the word of a stream memory operation lies. Mutex held.
CUresult FindWord(Driver* driver, Context* context, const WordAction& action,
                  std::atomic<uint8_t>** word) {
  if (action.address % action.bytes != 0) return CUDA_ERROR_INVALID_VALUE;
  uint8_t* found = ReachFor(*driver, context->device, action.address, action.bytes, action.write);
  int device = 0;
  if (found == nullptr) found = ReachInGraph(*driver, action.address, action.bytes, &device);
  if (found == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *word = reinterpret_cast<std::atomic<uint8_t>*>(found);
  return CUDA_SUCCESS;
}

struct PutOptions {
  bool wait = false;  // the caller will wait, so that it may as well compute
  std::span<const CommandRef> also;
  bool fork = false;  // a capture has no place for it
};

// One attempt: when the stream is full, `full` is what to wait for first. `command` stays null when
// a capture took the action. `mine`: the caller computes it.
CUresult TryPut(Driver* driver, Context* context, CUstream handle, StreamForm form, Action* action,
                const PutOptions& options, CommandRef* command, CommandRef* full, bool* mine) {
  Executor& executor = Executor::Get();
  std::lock_guard guard(driver->mutex);
  Stream* stream = nullptr;
  if (CUresult bad = FindStream(driver, context, handle, form, &stream)) return bad;
  // The stream may be another context's; its work is then that one's.
  Context* owner = stream->context;
  if (std::holds_alternative<KernelAction>(*action) && owner != context) {
    return CUDA_ERROR_INVALID_HANDLE;
  }
  Event* event = nullptr;
  if (const auto* record = std::get_if<EventRecordAction>(action)) event = record->event;
  if (event != nullptr && (!driver->live.contains(event) || event->context != owner)) {
    return CUDA_ERROR_INVALID_HANDLE;
  }
  const bool legacy = stream == owner->legacy;
  if (options.fork) {
    if (CUresult bad = CheckNotCaptured(driver, owner, stream, legacy)) return bad;
  } else if (std::optional<CUresult> answer = Captured(driver, owner, stream, legacy, action)) {
    return *answer;
  }
  Executor::Extra extra;
  if (const auto* operation = std::get_if<WordAction>(action)) {
    if (CUresult bad = FindWord(driver, owner, *operation, &extra.word)) return bad;
  }
  std::lock_guard lock(executor.lock());
  if (stream->queued.size() >= kStreamDepthMax) executor.Trim(&stream->queued);
  if (stream->queued.size() >= kStreamDepthMax) {
    *full = stream->queued[kStreamDepthMax / 8];
    return CUDA_SUCCESS;
  }
  std::vector<CommandRef> before(options.also.begin(), options.also.end());
  if (const auto* wait = std::get_if<EventWaitAction>(action)) {
    if (!driver->live.contains(wait->event)) return CUDA_ERROR_INVALID_HANDLE;
    if (wait->event->command != nullptr) before.push_back(wait->event->command);
  }
  Before(owner, stream, &before);
  if (auto* copy = std::get_if<CopyAction>(action)) StageCopy(driver, copy, &extra.staged);
  *command = Append(owner, stream, before, std::move(*action), std::move(extra),
                    options.wait ? mine : nullptr);
  if (event != nullptr) event->command = *command;
  return CUDA_SUCCESS;
}

CUresult PutCommand(CUstream handle, StreamForm form, Action action, const PutOptions& options,
                    CommandRef* command) {
  SIMGPU_CURRENT(driver, context);
  Executor& executor = Executor::Get();
  bool mine = false;
  for (;;) {
    CommandRef full;
    if (CUresult bad =
            TryPut(driver, context, handle, form, &action, options, command, &full, &mine)) {
      return bad;
    }
    if (full == nullptr) break;
    if (CUresult bad = executor.Wait(full, false)) return bad;
  }
  if (mine) executor.Compute(*command);
  executor.Help();
  return CUDA_SUCCESS;
}

}  // namespace

CUresult Put(CUstream stream, StreamForm form, Action action) {
  CommandRef command;
  return PutCommand(stream, form, std::move(action), {}, &command);
}

CUresult Put(CUstream stream, StreamForm form, Action action, CommandRef* command) {
  command->reset();
  return PutCommand(stream, form, std::move(action), {}, command);
}

CUresult PutAndWait(CUstream stream, StreamForm form, Action action) {
  CommandRef command;
  if (CUresult bad = PutCommand(stream, form, std::move(action),
                                {.wait = true, .also = {}, .fork = false}, &command)) {
    return bad;
  }
  return command != nullptr ? WaitFor(command) : CUDA_SUCCESS;
}

CUresult PutAndCompute(CUstream stream, StreamForm form, Action action) {
  CommandRef command;
  if (CUresult bad = PutCommand(stream, form, std::move(action),
                                {.wait = true, .also = {}, .fork = false}, &command)) {
    return bad;
  }
  return command != nullptr ? Executor::Get().Wait(command, true) : CUDA_SUCCESS;
}

CommandRef PutAfter(Context* context, std::span<const CommandRef> after, Action action) {
  Driver* driver = Get();
  Executor& executor = Executor::Get();
  std::lock_guard guard(driver->mutex);
  Executor::Extra extra;
  if (const auto* operation = std::get_if<WordAction>(&action)) {
    if (FindWord(driver, context, *operation, &extra.word) != CUDA_SUCCESS) action = EmptyAction{};
  }
  Event* event = nullptr;
  if (const auto* record = std::get_if<EventRecordAction>(&action)) event = record->event;
  if (event != nullptr && !driver->live.contains(event)) event = nullptr;  // gone a moment ago
  std::vector<CommandRef> before(after.begin(), after.end());
  std::lock_guard lock(executor.lock());
  if (const auto* wait = std::get_if<EventWaitAction>(&action);
      wait != nullptr && driver->live.contains(wait->event)) {
    if (wait->event->command != nullptr) before.push_back(wait->event->command);
  }
  CommandRef command =
      executor.Add(context, 0, before, std::move(action), std::move(extra), nullptr);
  if (event != nullptr) event->command = command;
  context->loose.push_back(command);
  if (context->loose.size() >= kTrimLoose && context->loose.size() % kTrimLoose == 0) {
    executor.Trim(&context->loose);
  }
  return command;
}

CUresult Fork(CUstream stream, StreamForm form, CommandRef* at) {
  return PutCommand(stream, form, EmptyAction{}, {.wait = false, .also = {}, .fork = true}, at);
}

CUresult Join(CUstream stream, StreamForm form, std::span<const CommandRef> last) {
  CommandRef command;
  return PutCommand(stream, form, EmptyAction{}, {.wait = false, .also = last, .fork = true},
                    &command);
}

CUresult WaitFor(const CommandRef& command) { return Executor::Get().Wait(command, false); }

bool Done(const CommandRef& command) {
  Executor& executor = Executor::Get();
  std::lock_guard lock(executor.lock());
  return executor.Finished(command.get());
}

uint64_t DoneAtNs(const CommandRef& command) {
  Executor& executor = Executor::Get();
  std::lock_guard lock(executor.lock());
  executor.Finished(command.get());
  return command->mark.floor_ns;
}

CommandRef StreamEnd(Context* context, Stream* stream) {
  Executor& executor = Executor::Get();
  std::lock_guard lock(executor.lock());
  if (stream != context->legacy) return stream->last;
  std::vector<CommandRef> before(context->orphans);
  for (Stream* one : context->streams) {
    if (one->blocking && one->last != nullptr) before.push_back(one->last);
  }
  return before.empty() ? nullptr : executor.Add(context, 0, before, EmptyAction{}, {}, nullptr);
}

bool StreamDone(Context* context, Stream* stream) {
  Executor& executor = Executor::Get();
  std::lock_guard lock(executor.lock());
  const auto done = [&](const CommandRef& one) {
    return one == nullptr || executor.Finished(one.get());
  };
  if (stream != context->legacy) return done(stream->last);
  return std::ranges::all_of(context->orphans, done) &&
         std::ranges::all_of(context->streams,
                             [&](const Stream* one) { return !one->blocking || done(one->last); });
}

CUresult WaitStream(CUstream handle, StreamForm form) {
  SIMGPU_CURRENT(driver, context);
  CommandRef end;
  {
    std::lock_guard guard(driver->mutex);
    Stream* stream = nullptr;
    if (CUresult bad = FindStream(driver, context, handle, form, &stream)) return bad;
    Context* owner = stream->context;
    if (CUresult bad = CheckNotCaptured(driver, owner, stream, stream == owner->legacy)) return bad;
    end = StreamEnd(owner, stream);
  }
  if (end != nullptr) {
    if (CUresult bad = WaitFor(end)) return bad;
  }
  PoolsAtSync(driver);
  return CUDA_SUCCESS;
}

CUresult WaitContext(Context* context) {
  Driver* driver = Get();
  Executor& executor = Executor::Get();
  CommandRef end;
  {
    std::lock_guard guard(driver->mutex);
    std::lock_guard lock(executor.lock());
    std::vector<CommandRef> before(context->loose);
    before.insert(before.end(), context->orphans.begin(), context->orphans.end());
    for (Stream* one : context->streams) {
      if (one->last != nullptr) before.push_back(one->last);
    }
    if (!before.empty()) end = executor.Add(context, 0, before, EmptyAction{}, {}, nullptr);
  }
  return end != nullptr ? executor.Wait(end, false)
                        : static_cast<CUresult>(context->sticky.load(std::memory_order_acquire));
}

}  // namespace simgpu
