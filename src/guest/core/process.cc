#include "guest/core/process.h"

#include <stddef.h>

#include "guest/core/standalone.h"
#include "guest/core/sys.h"
#include "guest/core/text.h"

extern "C" char** environ;

namespace tessera::guest {

Process tessera_process;

namespace {

// The parts of the socket interface we use, as the kernel has them (a 64-bit system).
struct SocketAddress {
  uint16_t family;
  char path[108];
};
struct IoVector {
  void* base;
  size_t length;
};
struct MessageHeader {
  void* name;
  uint32_t name_length;
  IoVector* vectors;
  size_t vector_count;
  void* control;
  size_t control_length;
  uint32_t flags;
};
struct ControlHeader {
  size_t length;
  int level;
  int type;
};
struct TimeValue {
  long seconds, microseconds;
};
constexpr long kUnix = 1, kSeqPacket = 5, kCloexec = 02000000;
constexpr long kSocketLevel = 1, kReceiveTimeout = 20, kSendTimeout = 21;
constexpr int kRights = 1;
constexpr long kNoSignal = 0x4000, kMessageCloexec = 0x40000000;
constexpr long kAgain = -11, kInterrupted = -4;
constexpr size_t kDescriptorsMax = 4;

}  // namespace

const char* Variable(const char* name) {
  char** entry = environ;
  if (entry == nullptr) return nullptr;
  const size_t length = Length(name);
  for (; *entry != nullptr; ++entry) {
    if (StartsWith(*entry, name) && (*entry)[length] == '=') return *entry + length + 1;
  }
  return nullptr;
}

namespace {

void Close(int descriptor) { Syscall(SYS_close, descriptor); }

// One connection a question: there is no descriptor to keep, so none to lose when the program
// closes all of its own, none to leak into a child, and a node that restarts is simply the next one
// to answer.
AttachResult Ask(const wire::Request& request, wire::Reply* reply, int* descriptors,
                 size_t* descriptor_count) {
  SocketAddress address = {};
  address.family = kUnix;
  const char* path = wire::kGuestSocket;
  if (Syscall(SYS_faccessat, -100, Arg(path), 0) != 0) path = Variable(wire::kSocketVariable);
  if (path == nullptr || Length(path) >= sizeof(address.path)) return AttachResult::kNoNode;
  for (size_t i = 0; path[i] != '\0'; ++i) address.path[i] = path[i];

  const long socket = Syscall(SYS_socket, kUnix, kSeqPacket | kCloexec, 0);
  if (socket < 0) return AttachResult::kNoNode;
  TimeValue wait = {wire::kReplyWaitMillis / 1000, wire::kReplyWaitMillis % 1000 * 1000};
  Syscall(SYS_setsockopt, socket, kSocketLevel, kReceiveTimeout, Arg(&wait), sizeof(wait));
  Syscall(SYS_setsockopt, socket, kSocketLevel, kSendTimeout, Arg(&wait), sizeof(wait));

  const auto fail = [&](long error) {
    Close(static_cast<int>(socket));
    return error == kAgain ? AttachResult::kSilent : AttachResult::kNoNode;
  };
  long result;
  do {
    result = Syscall(SYS_connect, socket, Arg(&address), sizeof(address));
  } while (result == kInterrupted);
  if (result < 0) return fail(result);
  do {
    result = Syscall(SYS_sendto, socket, Arg(&request), sizeof(request), kNoSignal, 0, 0);
  } while (result == kInterrupted);
  if (result != static_cast<long>(sizeof(request))) return fail(result);

  alignas(size_t) char control[sizeof(ControlHeader) + kDescriptorsMax * sizeof(int)] = {};
  IoVector vector = {reply, sizeof(*reply)};
  MessageHeader header = {};
  header.vectors = &vector;
  header.vector_count = 1;
  header.control = control;
  const uint64_t deadline = MonotonicNanos() + wire::kReplyWaitMillis * 1'000'000ull;
  do {
    header.control_length = sizeof(control);
    result = Syscall(SYS_recvmsg, socket, Arg(&header), kMessageCloexec);
    if (result == kInterrupted && MonotonicNanos() > deadline) result = kAgain;
  } while (result == kInterrupted);

  size_t received = 0;
  int got[kDescriptorsMax];
  if (result >= 0 && header.control_length >= sizeof(ControlHeader)) {
    const auto* rights = reinterpret_cast<const ControlHeader*>(control);
    if (rights->level == kSocketLevel && rights->type == kRights) {
      received = (rights->length - sizeof(ControlHeader)) / sizeof(int);
      if (received > kDescriptorsMax) received = kDescriptorsMax;
      const auto* numbers = reinterpret_cast<const int*>(control + sizeof(ControlHeader));
      for (size_t i = 0; i < received; ++i) got[i] = numbers[i];
    }
  }
  Close(static_cast<int>(socket));
  const bool good = result == static_cast<long>(sizeof(*reply)) &&
                    reply->magic == wire::kMessageMagic &&
                    reply->version == wire::kMessageVersion && reply->kind == request.kind;
  const size_t wanted = *descriptor_count;
  for (size_t i = 0; i < received; ++i) {
    if (good && i < wanted) {
      descriptors[i] = got[i];
    } else {
      Close(got[i]);
    }
  }
  *descriptor_count = good ? (received < wanted ? received : wanted) : 0;
  if (result == kAgain) return AttachResult::kSilent;
  if (result <= 0) return AttachResult::kNoNode;
  return good ? AttachResult::kAttached : AttachResult::kVersion;
}

wire::Request MakeRequest(wire::MessageKind kind, uint32_t card) {
  wire::Request request = {};
  request.magic = wire::kMessageMagic;
  request.version = wire::kMessageVersion;
  request.kind = kind;
  request.card = card;
  request.guest_version = kGuestVersion;
  return request;
}

// A shorter file would kill us with SIGBUS at the first touch.
bool HasBytes(int descriptor, size_t bytes) {
  constexpr long kEnd = 2;
  return Syscall(SYS_lseek, descriptor, 0, kEnd) >= static_cast<long>(bytes);
}

void* MapPage(int descriptor, size_t bytes, bool writable) {
  constexpr long kRead = 1, kWrite = 2, kShared = 1;
  const long address = Syscall(SYS_mmap, 0, static_cast<long>(bytes),
                               writable ? kRead | kWrite : kRead, kShared, descriptor, 0);
  return address < 0 && address > -4096 ? nullptr : reinterpret_cast<void*>(address);
}

AttachResult MapPages(const wire::Reply& reply, const int* descriptors) {
  // Versions have grown, so a node older than this library has shorter pages.
  if (!HasBytes(descriptors[0], sizeof(wire::ControlPage)) ||
      !HasBytes(descriptors[1], sizeof(wire::UsagePage))) {
    return AttachResult::kVersion;
  }
  auto* control = static_cast<const wire::ControlPage*>(
      MapPage(descriptors[0], sizeof(wire::ControlPage), false));
  auto* usage =
      static_cast<wire::UsagePage*>(MapPage(descriptors[1], sizeof(wire::UsagePage), true));
  const auto undo = [&](AttachResult result) {
    if (control != nullptr) {
      UnmapMemory(const_cast<wire::ControlPage*>(control), sizeof(wire::ControlPage));
    }
    if (usage != nullptr) UnmapMemory(usage, sizeof(wire::UsagePage));
    return result;
  };
  if (control == nullptr || usage == nullptr) return undo(AttachResult::kNoMemory);
  if (control->magic != wire::kControlMagic || control->version != wire::kPageVersion ||
      control->bytes != sizeof(wire::ControlPage) || usage->magic != wire::kUsageMagic ||
      usage->version != wire::kPageVersion || usage->bytes != sizeof(wire::UsagePage) ||
      control->card_count == 0 || control->card_count > wire::kCardsMax ||
      reply.slot >= wire::kProcessesMax) {
    return undo(AttachResult::kVersion);
  }
  // Charges count granules by shifting; all cards of one maker's driver have the same page.
  const uint64_t granule = control->cards[0].granule_bytes;
  if (granule < 4096 || (granule & (granule - 1)) != 0) return undo(AttachResult::kVersion);
  for (uint32_t i = 1; i < control->card_count; ++i) {
    if (control->cards[i].granule_bytes != granule) return undo(AttachResult::kVersion);
  }
  process.control = control;
  process.granule_shift = static_cast<uint32_t>(__builtin_ctzll(granule));
  process.card_count = control->card_count;
  process.gate = control->card_count == 1 ? &control->cards[0].gate : &control->turns;
  process.ledger.Bind({control, usage, &usage->slots[reply.slot]});
  if (process.standalone != 0) process.ledger.OnRefusal(ReclaimStandalone);
  wire::Store(&usage->slots[reply.slot].local_pid, static_cast<uint64_t>(Syscall(SYS_getpid)));
  __atomic_store_n(&process.slot, &usage->slots[reply.slot], __ATOMIC_RELEASE);
  return AttachResult::kAttached;
}

AttachResult Attach() {
  // From here on a forked child starts from zero. Before this line there is nothing to forget.
  constexpr long kWipeOnFork = 18;
  if (Syscall(SYS_madvise, Arg(&process), sizeof(process), kWipeOnFork) != 0) {
    return AttachResult::kNoMemory;
  }
  wire::Reply reply = {};
  int descriptors[2] = {-1, -1};
  size_t count = 2;
  // With limits in the environment and no node, this library is its own node.
  process.standalone = StandaloneAsked() ? 1 : 0;
  const AttachResult asked = process.standalone != 0
                                 ? AttachStandalone(&reply, descriptors, &count)
                                 : Ask(MakeRequest(wire::kAttach, 0), &reply, descriptors, &count);
  if (asked != AttachResult::kAttached) return asked;
  AttachResult result;
  switch (reply.status) {
    case wire::kStatusOk:
      result = count == 2 ? MapPages(reply, descriptors) : AttachResult::kVersion;
      break;
    case wire::kStatusNoSlice:
      result = AttachResult::kNoSlice;
      break;
    case wire::kStatusFull:
      result = AttachResult::kFull;
      break;
    case wire::kStatusClosed:
      result = AttachResult::kClosed;
      break;
    default:
      result = AttachResult::kVersion;
      break;
  }
  for (size_t i = 0; i < count; ++i) Close(descriptors[i]);
  return result;
}

void Explain(AttachResult result) {
  const uint32_t bit = 1u << static_cast<uint32_t>(result);
  if ((__atomic_fetch_or(&process.said, bit, __ATOMIC_RELAXED) & bit) != 0) return;
  Line line;
  switch (result) {
    case AttachResult::kAttached:
    case AttachResult::kOwnLimits:  // said where it was found
      return;
    case AttachResult::kNoNode:
      line << "no node answers for this process, so it may not use the GPU (start it with "
              "\"tessera run\", "
              "or see whether tesserad is up)";
      break;
    case AttachResult::kSilent:
      line << "the node did not answer within kReplyWaitMillis = "
           << static_cast<uint64_t>(wire::kReplyWaitMillis)
           << ", so this process may not use the GPU";
      break;
    case AttachResult::kNoSlice:
      line << "this process belongs to no slice, so it may not use the GPU (start it with "
              "\"tessera run\")";
      break;
    case AttachResult::kFull:
      line << "the slice already has kProcessesMax = " << static_cast<uint64_t>(wire::kProcessesMax)
           << " processes, so this one may not use the GPU";
      break;
    case AttachResult::kVersion:
      line << "the node speaks another version than this library, so this process may not use the "
              "GPU "
              "(install both from one release)";
      break;
    case AttachResult::kClosed:
      line << "the slice of this process was taken back, so it may not use the GPU";
      break;
    case AttachResult::kNoMemory:
      line << "the slice's pages cannot be mapped, so this process may not use the GPU";
      break;
  }
  line.Say();
}

}  // namespace

AttachResult AttachSlow() {
  for (;;) {
    uint32_t word = 0;
    if (__atomic_compare_exchange_n(&process.attach_word, &word, 1u, false, __ATOMIC_ACQ_REL,
                                    __ATOMIC_ACQUIRE)) {
      break;
    }
    if (word == 2) return AttachResult::kAttached;
    // Another thread is at it, and itself bounded by kReplyWaitMillis a step.
    FutexWait(&process.attach_word, 1, wire::kReplyWaitMillis * 1'000'000ull, false);
  }
  const AttachResult result = Attach();
  // A failure is not final: the node may come up, the slice may open. The next use asks again.
  __atomic_store_n(&process.attach_word, result == AttachResult::kAttached ? 2u : 0u,
                   __ATOMIC_RELEASE);
  FutexWake(&process.attach_word, 1 << 30);
  Explain(result);
  return result;
}

bool AskReal(uint32_t card, uint64_t* bytes) {
  if (process.standalone != 0) {
    return FindStandaloneHeld(process.control->cards[card].uuid,
                              wire::Load(&process.slot->local_pid), bytes);
  }
  const uint64_t now = MonotonicNanos();
  if (now < __atomic_load_n(&process.settle_paused, __ATOMIC_RELAXED)) return false;
  wire::Reply reply = {};
  size_t no_descriptors = 0;
  const AttachResult asked =
      Ask(MakeRequest(wire::kSettle, card), &reply, nullptr, &no_descriptors);
  if (asked == AttachResult::kSilent) {
    __atomic_store_n(&process.settle_paused, now + kSettlePauseNanos, __ATOMIC_RELAXED);
  }
  if (asked != AttachResult::kAttached || reply.status != wire::kStatusOk) return false;
  *bytes = reply.bytes;
  return true;
}

bool Settle(uint32_t card, uint64_t* charged, uint64_t slack, uint64_t* surplus) {
  const uint64_t granule = 1ull << process.granule_shift;
  // Held while the node is asked, which is bounded; no driver code runs under it.
  LockHolder holder(&process.settle_lock);
  const uint64_t before = process.ledger.Held(card);
  uint64_t real = 0;
  if (!AskReal(card, &real)) return true;
  const uint64_t after = process.ledger.Held(card);
  real = RoundUp(real, granule) + slack;
  const uint64_t highest = before > after ? before : after;
  if (real > highest) {
    // Every allocation is in the ledger before the driver makes it, so what is missing there is
    // overhead.
    const uint64_t missing = real - highest;
    if (!process.ledger.Reserve(card, missing)) return false;
    *charged += missing;
    return true;
  }
  if (before != after || real == after) return true;
  // What is charged but neither a live allocation nor another object is this object (and nothing in
  // flight).
  const uint64_t others = process.allocations.Granules(card) * granule +
                          process.objects.Charged(card) + process.pools[card].Charged() +
                          wire::Load(&process.riders[card].held);
  if (others + *charged != after || process.ledger.Held(card) != after) return true;
  uint64_t too_much = after - real;
  if (surplus != nullptr) {
    *surplus = too_much;
    return true;
  }
  if (too_much > *charged) too_much = *charged;
  *charged -= too_much;
  process.ledger.Release(card, too_much);
  return true;
}

namespace {
const char* AfterPrefix(const char* uuid) { return StartsWith(uuid, "GPU-") ? uuid + 4 : uuid; }
}  // namespace

bool SameUuid(const char* a, const char* b) {
  return EqualFolded(AfterPrefix(a), AfterPrefix(b), wire::kUuidTextMax);
}

int CardOfUuid(const wire::ControlPage& control, const char* uuid) {
  for (uint32_t i = 0; i < control.card_count && i < wire::kCardsMax; ++i) {
    if (SameUuid(control.cards[i].uuid, uuid)) return static_cast<int>(i);
  }
  return -1;
}

namespace {

// One entry of a list the driver would read: the card it means, or -1.
int CardOfEntry(const wire::ControlPage& control, const char* entry, size_t length) {
  if (length == 0) return -1;
  if (StartsWith(entry, "GPU-")) {
    // The driver takes any unambiguous beginning of a UUID.
    int found = -1;
    for (uint32_t i = 0; i < control.card_count && i < wire::kCardsMax; ++i) {
      if (!EqualFolded(control.cards[i].uuid, entry, length)) continue;
      if (found >= 0) return -1;
      found = static_cast<int>(i);
    }
    return found;
  }
  uint64_t index = 0;
  for (size_t i = 0; i < length; ++i) {
    if (entry[i] < '0' || entry[i] > '9' || index > wire::kCardsMax) return -1;
    index = index * 10 + static_cast<uint64_t>(entry[i] - '0');
  }
  return index < control.card_count ? static_cast<int>(index) : -1;
}

}  // namespace

size_t VisibleDevices(const wire::ControlPage& control, const char* asked, char* text,
                      size_t capacity) {
  size_t size = 0;
  const auto append = [&](int card) {
    const char* uuid = control.cards[card].uuid;
    size_t length = 0;
    while (length < wire::kUuidTextMax && uuid[length] != '\0') ++length;
    if (size + length + 2 > capacity) return false;
    if (size != 0) text[size++] = ',';
    for (size_t i = 0; i < length; ++i) text[size++] = uuid[i];
    return true;
  };
  if (asked == nullptr) {
    for (uint32_t i = 0; i < control.card_count && i < wire::kCardsMax; ++i) {
      if (!append(static_cast<int>(i))) break;
    }
  } else {
    while (*asked != '\0') {
      while (*asked == ' ') ++asked;
      size_t length = 0;
      while (asked[length] != '\0' && asked[length] != ',') ++length;
      size_t trimmed = length;
      while (trimmed > 0 && asked[trimmed - 1] == ' ') --trimmed;
      const int card = CardOfEntry(control, asked, trimmed);
      if (card < 0 || !append(card)) break;
      asked += length;
      if (*asked == ',') ++asked;
    }
  }
  text[size] = '\0';
  return size;
}

namespace {

// The value of "NAME=" in the environment; null when it is not there. `at` is its place.
const char* FindVariable(const char* name, size_t name_length, size_t* count, size_t* at) {
  char** const old = environ;
  *count = 0;
  *at = ~size_t{0};
  for (; old != nullptr && old[*count] != nullptr; ++*count) {
    if (StartsWith(old[*count], name)) *at = *count;
  }
  return *at == ~size_t{0} ? nullptr : old[*at] + name_length;
}

// Makes `text` ("NAME=value") the environment's entry at `at`, or a new last one. `list` is room
// for a list with one entry more.
void PutVariable(char* text, char** list, size_t count, size_t at) {
  char** const old = environ;
  if (at != ~size_t{0}) {
    // One pointer changes hands; a thread reading the environment sees the old text or the new one.
    __atomic_store_n(&old[at], text, __ATOMIC_RELEASE);
    return;
  }
  // A new list, published with one store. The old one stays readable; libc's setenv accepts a list
  // it did not make.
  for (size_t i = 0; i < count; ++i) list[i] = old[i];
  list[count] = text;
  list[count + 1] = nullptr;
  __atomic_store_n(&environ, list, __ATOMIC_RELEASE);
}

}  // namespace

void SetVisibleDevices() {
  constexpr char kName[] = "CUDA_VISIBLE_DEVICES=";
  constexpr size_t kNameLength = sizeof(kName) - 1;
  constexpr size_t kTextMax = kNameLength + wire::kCardsMax * (wire::kUuidTextMax + 1) + 1;
  size_t count = 0, at = 0;
  const char* const asked = FindVariable(kName, kNameLength, &count, &at);
  const size_t list_bytes = (count + 2) * sizeof(char*);
  auto* memory = static_cast<char*>(MapMemory(list_bytes + kTextMax));
  if (memory == nullptr) return;
  char* const text = memory + list_bytes;
  for (size_t i = 0; i < kNameLength; ++i) text[i] = kName[i];
  // Without a node the cards were chosen by this very variable, and its indices mean the machine's
  // cards.
  VisibleDevices(*process.control, process.standalone != 0 ? nullptr : asked, text + kNameLength,
                 kTextMax - kNameLength);
  PutVariable(text, reinterpret_cast<char**>(memory), count, at);
}

void SetMpsPercentage() {
  constexpr char kName[] = "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE=";
  constexpr size_t kNameLength = sizeof(kName) - 1;
  constexpr size_t kTextMax = kNameLength + 4;
  uint32_t percentage =
      __atomic_load_n(&process.control->cards[0].mps_percentage, __ATOMIC_RELAXED);
  if (percentage == 0 || percentage > 100) return;
  size_t count = 0, at = 0;
  FindVariable(kName, kNameLength, &count, &at);
  const size_t list_bytes = (count + 2) * sizeof(char*);
  auto* memory = static_cast<char*>(MapMemory(list_bytes + kTextMax));
  if (memory == nullptr) return;
  char* const text = memory + list_bytes;
  for (size_t i = 0; i < kNameLength; ++i) text[i] = kName[i];
  char* end = text + kNameLength;
  if (percentage == 100) *end++ = '1';
  if (percentage >= 10) *end++ = static_cast<char>('0' + percentage / 10 % 10);
  *end++ = static_cast<char>('0' + percentage % 10);
  *end = '\0';
  PutVariable(text, reinterpret_cast<char**>(memory), count, at);
}

}  // namespace tessera::guest
