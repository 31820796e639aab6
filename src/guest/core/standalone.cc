#include "guest/core/standalone.h"

#include <sys/stat.h>

#include "guest/core/sys.h"
#include "guest/core/text.h"

extern "C" char** environ;

namespace tessera::guest {

// Without the driver's half (the core's own tests) there are no cards.
__attribute__((weak)) int FindStandaloneCards(StandaloneCard*, uint32_t) { return -1; }
__attribute__((weak)) bool FindStandaloneHeld(const char*, uint64_t, uint64_t*) { return false; }

namespace {

constexpr char kMemoryLimit[] = "CUDA_DEVICE_MEMORY_LIMIT";
constexpr char kComputeLimit[] = "CUDA_DEVICE_SM_LIMIT";
constexpr char kPolicy[] = "GPU_CORE_UTILIZATION_POLICY";
constexpr char kPriority[] = "CUDA_TASK_PRIORITY";
constexpr char kSharedCache[] = "CUDA_DEVICE_MEMORY_SHARED_CACHE";
constexpr char kMemoryForm[] =
    "bytes, or a number with k, m, g or t (also Ki, Mi, Gi, Ti; powers of 1024) that makes whole "
    "bytes, as 10g, 512Mi or "
    "1.5g; 0 is no limit";
constexpr char kComputeForm[] = "a whole percentage from 0 to 100, where 0 and 100 are no limit";
constexpr uint32_t kIndexMax = kDevicesMax;

bool IsDigit(char c) { return c >= '0' && c <= '9'; }

// A number the way people write it, exactly or not at all.
bool ParseBytes(const char* text, uint64_t* bytes) {
  constexpr uint64_t kWholeMax = 1ull << 62;
  constexpr int kFractionDigitsMax = 6;  // 10^6 times the largest unit stays within 64 bits
  if (!IsDigit(*text)) return false;
  uint64_t whole = 0, fraction = 0, scale = 1;
  for (; IsDigit(*text); ++text) {
    if (whole > kWholeMax / 10) return false;
    whole = whole * 10 + static_cast<uint64_t>(*text - '0');
  }
  if (*text == '.') {
    ++text;
    if (!IsDigit(*text)) return false;
    for (int digits = 0; IsDigit(*text); ++text, ++digits) {
      if (digits == kFractionDigitsMax) return false;
      fraction = fraction * 10 + static_cast<uint64_t>(*text - '0');
      scale *= 10;
    }
  }
  uint32_t shift = 0;
  switch (*text) {
    case '\0':
      break;
    case 'k':
    case 'K':
      shift = 10;
      break;
    case 'm':
    case 'M':
      shift = 20;
      break;
    case 'g':
    case 'G':
      shift = 30;
      break;
    case 't':
    case 'T':
      shift = 40;
      break;
    default:
      return false;
  }
  if (shift != 0) {
    ++text;
    if (*text == 'i') ++text;
  }
  if (*text != '\0' || whole > kWholeMax >> shift) return false;
  const uint64_t part = fraction << shift;
  if (part % scale != 0) return false;
  *bytes = (whole << shift) + part / scale;
  return *bytes <= kWholeMax;
}

bool ParseSmall(const char* text, size_t length, uint64_t most, uint64_t* value) {
  if (length == 0) return false;
  *value = 0;
  for (size_t i = 0; i < length; ++i) {
    if (!IsDigit(text[i])) return false;
    *value = *value * 10 + static_cast<uint64_t>(text[i] - '0');
    if (*value > most) return false;
  }
  return true;
}

void Complain(Line* why, const char* name, size_t name_length, const char* value,
              const char* expected) {
  // Names come out of the environment with their value behind them.
  char cut[64] = {};
  for (size_t i = 0; i < name_length && i + 1 < sizeof(cut); ++i) cut[i] = name[i];
  char shown[48] = {};
  for (size_t i = 0; value[i] != '\0' && i + 1 < sizeof(shown); ++i)
    shown[i] = value[i] >= ' ' ? value[i] : '?';
  *why << cut << "=\"" << shown << "\": expected " << expected
       << "; this process may not use the GPU";
}

// One variable with and without an index: a value for all cards, and those that differ.
struct Setting {
  bool all_set;
  uint64_t all;
  uint64_t set;  // bit per index
  uint64_t at[kIndexMax];
  uint64_t Of(uint32_t index) const {
    if (index < kIndexMax && (set >> index & 1) != 0) return at[index];
    return all_set ? all : 0;
  }
};

template <typename Parse>
bool ReadSetting(const char* name, const char* form, const Parse& parse, Setting* setting,
                 Line* why) {
  const size_t length = Length(name);
  for (char** entry = environ; entry != nullptr && *entry != nullptr; ++entry) {
    const char* text = *entry;
    if (!StartsWith(text, name) || (text[length] != '=' && text[length] != '_')) continue;
    size_t end = length;
    while (text[end] != '=' && text[end] != '\0') ++end;
    if (text[end] == '\0') continue;
    uint64_t index = 0;
    if (end > length && !ParseSmall(text + length + 1, end - length - 1, kIndexMax - 1, &index)) {
      Complain(why, text, end, text + end + 1, "the index of a card, from 0 to 63, in its name");
      return false;
    }
    uint64_t value = 0;
    if (!parse(text + end + 1, &value)) {
      Complain(why, text, end, text + end + 1, form);
      return false;
    }
    if (end == length) {
      setting->all_set = true;
      setting->all = value;
    } else {
      setting->set |= 1ull << index;
      setting->at[index] = value;
    }
  }
  return true;
}

bool IsSet(const char* name) {
  const size_t length = Length(name);
  for (char** entry = environ; entry != nullptr && *entry != nullptr; ++entry) {
    if (StartsWith(*entry, name) && ((*entry)[length] == '=' || (*entry)[length] == '_'))
      return true;
  }
  return false;
}

// ---- the files ----

constexpr long kAtCwd = -100;
constexpr long kReadOnly = 0, kReadWrite = 2, kCreate = 0100, kCloexec = 02000000;
#if defined(__aarch64__)
constexpr long kDirectory = 040000, kNoFollow = 0100000;
#else
constexpr long kDirectory = 0200000, kNoFollow = 0400000;
#endif

class Descriptor {
 public:
  explicit Descriptor(long number) : number_(static_cast<int>(number)) {}
  ~Descriptor() {
    if (number_ >= 0) Syscall(SYS_close, number_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return number_; }
  bool ok() const { return number_ >= 0; }
  int Release() {
    const int number = number_;
    number_ = -1;
    return number;
  }

 private:
  int number_;
};

long Open(long folder, const char* path, long flags) {
  long result;
  do {
    result = Syscall(SYS_openat, folder, Arg(path), flags | kCloexec, 0600);
  } while (result == -4);
  return result;
}

// All processes of one setting stand behind one file lock, which the kernel drops with its holder.
bool LockFile(int descriptor) {
  constexpr long kExclusive = 2, kNonBlocking = 4;
  const uint64_t deadline = MonotonicNanos() + kStandaloneLockNanosMax;
  if (descriptor < 0) return false;
  while (Syscall(SYS_flock, descriptor, kExclusive | kNonBlocking) != 0) {
    if (MonotonicNanos() > deadline) return false;
    const struct {
      long seconds, nanos;
    } pause = {0, 1'000'000};
    Syscall(SYS_nanosleep, Arg(&pause), 0);
  }
  return true;
}
void UnlockFile(int descriptor) {
  constexpr long kUnlock = 8;
  Syscall(SYS_flock, descriptor, kUnlock);
}

struct LockedFile {
  explicit LockedFile(int descriptor) : descriptor(descriptor), held(LockFile(descriptor)) {}
  ~LockedFile() {
    // Said aloud, because a child forked meanwhile shares the lock and would keep it.
    if (held) UnlockFile(descriptor);
  }
  LockedFile(const LockedFile&) = delete;
  LockedFile& operator=(const LockedFile&) = delete;
  int descriptor;
  bool held;
};

// Where the usage page of this process lies; written while attaching, which one thread does.
char usage_path[128];

struct Stat {
  char state;
  uint64_t threads;
  uint64_t start_time;
};
enum class Found { kNo, kYes, kUnknown };

Found ReadStat(uint32_t pid, Stat* stat) {
  Line path;
  path << "/proc/" << uint64_t{pid} << "/stat";
  const Descriptor file(Open(kAtCwd, path.Text(), kReadOnly));
  constexpr int kNoEntry = -2, kNoProcess = -3;
  if (!file.ok()) return file.get() == kNoEntry ? Found::kNo : Found::kUnknown;
  char text[512];
  const long got = Syscall(SYS_read, file.get(), Arg(text), sizeof(text) - 1);
  if (got <= 0) return got == kNoProcess ? Found::kNo : Found::kUnknown;
  text[got] = '\0';
  // The name in field 2 may hold anything, so the count starts behind its last parenthesis.
  const char* at = nullptr;
  for (const char* c = text; *c != '\0'; ++c) {
    if (*c == ')') at = c;
  }
  if (at == nullptr || at[1] == '\0') return Found::kUnknown;
  at += 2;
  stat->state = *at;
  for (int field = 3; field < 22; ++field) {
    if (field == 20) stat->threads = 0;
    while (*at != ' ' && *at != '\0') {
      if (field == 20) stat->threads = stat->threads * 10 + static_cast<uint64_t>(*at - '0');
      ++at;
    }
    if (*at == '\0') return Found::kUnknown;
    ++at;
  }
  stat->start_time = 0;
  for (; IsDigit(*at); ++at)
    stat->start_time = stat->start_time * 10 + static_cast<uint64_t>(*at - '0');
  return Found::kYes;
}

// Whoever cannot be looked at counts as alive: giving away what he holds would break the cap.
bool IsDead(const wire::ProcessSlot& slot) {
  const uint32_t pid = wire::Load(&slot.pid);
  if (pid == 0) return false;
  Stat stat = {};
  switch (ReadStat(pid, &stat)) {
    case Found::kNo:
      return true;
    case Found::kUnknown:
      return false;
    case Found::kYes:
      break;
  }
  if (stat.start_time != slot.start_time) return true;
  // The first thread of a program may end before the others.
  return (stat.state == 'Z' || stat.state == 'X') && stat.threads <= 1;
}

void WakeShared(uint32_t* word) {
  constexpr long kWake = 1;
  Syscall(SYS_futex, Arg(word), kWake, 1 << 30);
}

// The reaper of wire/pages.h, with the file lock held. Slots of the dead, and of `earlier` (the
// program this process ran before an exec; 0: none), are cleared. False: a living process did not
// settle and nothing was changed.
bool Recount(wire::UsagePage* usage, uint32_t card_count, uint32_t earlier, bool* cleared) {
  bool dead[wire::kProcessesMax];
  for (uint32_t i = 0; i < wire::kProcessesMax; ++i) {
    const wire::ProcessSlot& slot = usage->slots[i];
    dead[i] = IsDead(slot) || (earlier != 0 && wire::Load(&slot.pid) == earlier);
  }
  const auto row_at = [card_count](uint32_t i) { return i < card_count ? i : wire::kHostRow; };
  for (uint32_t i = 0; i <= card_count; ++i) {
    __atomic_fetch_or(&usage->cards[row_at(i)].used, wire::kFrozenBit, __ATOMIC_SEQ_CST);
  }
  const uint64_t deadline = MonotonicNanos() + wire::kFreezeWaitNanosMax;
  bool settled = false;
  while (!settled) {
    settled = true;
    for (uint32_t i = 0; i < wire::kProcessesMax; ++i) {
      const wire::ProcessSlot& slot = usage->slots[i];
      if (wire::Load(&slot.pid) != 0 && !dead[i] &&
          __atomic_load_n(&slot.intent, __ATOMIC_SEQ_CST) != 0) {
        settled = false;
      }
    }
    if (settled || MonotonicNanos() > deadline) break;
    Syscall(SYS_sched_yield);
  }
  for (uint32_t i = 0; settled && i < wire::kProcessesMax; ++i) {
    if (!dead[i]) continue;
    wire::ProcessSlot* const slot = &usage->slots[i];
    // The pid goes last: from then on the slot may be somebody else's.
    wire::ProcessSlot empty = {};
    empty.pid = slot->pid;
    *slot = empty;
    wire::Store(&slot->pid, 0u);
    *cleared = true;
  }
  for (uint32_t i = 0; i <= card_count; ++i) {
    wire::UsageCard* const row = &usage->cards[row_at(i)];
    if (settled) {
      uint64_t sum = 0;
      for (const wire::ProcessSlot& slot : usage->slots) sum += wire::Load(&slot.used[row_at(i)]);
      __atomic_store_n(&row->used, sum, __ATOMIC_SEQ_CST);
    } else {
      __atomic_fetch_and(&row->used, ~wire::kFrozenBit, __ATOMIC_SEQ_CST);
    }
    WakeShared(wire::FrozenFutex(row));
  }
  return settled;
}

uint64_t Hash(uint64_t hash, const void* data, size_t bytes) {
  for (size_t i = 0; i < bytes; ++i) {
    hash = (hash ^ static_cast<const unsigned char*>(data)[i]) * 0x100000001b3ull;
  }
  return hash;
}

// The name all processes of one setting agree on. Pids mean something in one pid namespace only, so
// another namespace is another slice.
void KeyOf(const wire::ControlPage& control, char* key) {
  uint64_t hash = Hash(0xcbf29ce484222325ull, &control, sizeof(control));
  const char* cache = Variable(kSharedCache);
  if (cache != nullptr) hash = Hash(hash, cache, Length(cache));
  char space[64];
  const long length =
      Syscall(SYS_readlinkat, kAtCwd, Arg("/proc/self/ns/pid"), Arg(space), sizeof(space));
  if (length > 0) hash = Hash(hash, space, static_cast<size_t>(length));
  for (int i = 15; i >= 0; --i, hash >>= 4) key[i] = "0123456789abcdef"[hash & 15];
  key[16] = '\0';
}

// The user's own folder. Anybody may write where it stands, so one that is another's is not taken.
long OpenFolder(const char* path, uint64_t uid) {
  Syscall(SYS_mkdirat, kAtCwd, Arg(path), 0700);
  const long folder = Open(kAtCwd, path, kReadOnly | kDirectory | kNoFollow);
  if (folder < 0) return folder;
  struct stat info = {};
  if (Syscall(SYS_fstat, folder, Arg(&info)) == 0 && info.st_uid == uid &&
      (info.st_mode & 077) == 0) {
    return folder;
  }
  Syscall(SYS_close, folder);
  return -1;
}

wire::UsagePage* MapUsage(int descriptor) {
  constexpr long kReadAndWrite = 3, kShared = 1;
  const long at =
      Syscall(SYS_mmap, 0, sizeof(wire::UsagePage), kReadAndWrite, kShared, descriptor, 0);
  return at < 0 && at > -4096 ? nullptr : reinterpret_cast<wire::UsagePage*>(at);
}

// Grows a new file to its page. The bytes are taken from the file system now: a full one must not
// kill us at a touch.
bool HasBytes(int descriptor, size_t bytes) {
  struct stat info = {};
  if (Syscall(SYS_fstat, descriptor, Arg(&info)) != 0) return false;
  if (info.st_size >= static_cast<long>(bytes)) return true;
  return Syscall(SYS_fallocate, descriptor, 0, 0, static_cast<long>(bytes)) == 0;
}

// The control page, made by whoever comes first; opened for reading alone. Negative: it cannot be
// made, or somebody has changed it.
long PrepareControl(long folder, const char* name, const wire::ControlPage& wanted) {
  const Descriptor file(Open(folder, name, kReadWrite | kCreate | kNoFollow));
  wire::ControlPage found;
  if (!file.ok() || !HasBytes(file.get(), sizeof(wanted)) ||
      Syscall(SYS_pread64, file.get(), Arg(&found), sizeof(found), 0) != sizeof(found)) {
    return -1;
  }
  if (found.magic == 0) {
    if (Syscall(SYS_pwrite64, file.get(), Arg(&wanted), sizeof(wanted), 0) != sizeof(wanted)) {
      return -1;
    }
  } else if (__builtin_memcmp(&found, &wanted, sizeof(found)) != 0) {
    return -1;
  }
  return Open(folder, name, kReadOnly | kNoFollow);
}

// Takes a slot with the lock held: kAttached, kFull, or kNoMemory when the others do not settle.
AttachResult TakeSlot(wire::UsagePage* usage, uint32_t card_count, uint32_t* taken) {
  const auto pid = static_cast<uint32_t>(Syscall(SYS_getpid));
  Stat self = {};
  if (ReadStat(pid, &self) != Found::kYes) return AttachResult::kNoMemory;
  bool cleared = false;
  if (!Recount(usage, card_count, pid, &cleared)) return AttachResult::kNoMemory;
  for (uint32_t i = 0; i < wire::kProcessesMax; ++i) {
    wire::ProcessSlot* const slot = &usage->slots[i];
    if (wire::Load(&slot->pid) != 0) continue;
    slot->start_time = self.start_time;
    wire::Store(&slot->pid, pid);
    *taken = i;
    return AttachResult::kAttached;
  }
  return AttachResult::kFull;
}

AttachResult Refuse(Line& why) {
  constexpr uint32_t kSaid = 1u << 31;
  if ((__atomic_fetch_or(&process.said, kSaid, __ATOMIC_RELAXED) & kSaid) == 0) {
    why.Say();
  }
  return AttachResult::kOwnLimits;
}

AttachResult Refuse(const char* what) {
  Line why;
  why << "the limits of the environment (" << kMemoryLimit << ", " << kComputeLimit
      << ") cannot be held: " << what << "; this process may not use the GPU";
  return Refuse(why);
}

// The cards this process would see without us, in the order of the machine.
const char* FindVisible(StandaloneCard* visible, uint32_t* count) {
  StandaloneCard cards[wire::kCardsMax];
  const int found = FindStandaloneCards(cards, wire::kCardsMax);
  if (found < 0) return "the driver's libnvidia-ml.so.1 is needed and does not answer";
  if (found > static_cast<int>(wire::kCardsMax))
    return "the machine has more than kCardsMax = 16 cards";
  wire::ControlPage all = {};
  all.card_count = static_cast<uint32_t>(found);
  for (int i = 0; i < found; ++i)
    __builtin_memcpy(all.cards[i].uuid, cards[i].uuid, wire::kUuidTextMax);
  char text[wire::kCardsMax * (wire::kUuidTextMax + 1)];
  VisibleDevices(all, Variable("CUDA_VISIBLE_DEVICES"), text, sizeof(text));
  *count = 0;
  for (char* at = text; *at != '\0' && *count < wire::kCardsMax;) {
    char* end = at;
    while (*end != ',' && *end != '\0') ++end;
    const bool last = *end == '\0';
    *end = '\0';
    const int card = CardOfUuid(all, at);
    if (card >= 0) visible[(*count)++] = cards[card];
    if (last) break;
    at = end + 1;
  }
  return *count == 0 ? "no card is left to this process (see CUDA_VISIBLE_DEVICES)" : nullptr;
}

}  // namespace

bool StandaloneAsked() {
  if (!IsSet(kMemoryLimit) && !IsSet(kComputeLimit)) return false;
  return Variable(wire::kSocketVariable) == nullptr &&
         Syscall(SYS_faccessat, kAtCwd, Arg(wire::kGuestSocket), 0) != 0;
}

bool FillStandalone(const StandaloneCard* cards, uint32_t count, wire::ControlPage* control,
                    Line* why) {
  Setting memory = {}, compute = {};
  if (!ReadSetting(kMemoryLimit, kMemoryForm, ParseBytes, &memory, why)) return false;
  const auto percent = [](const char* text, uint64_t* value) {
    return ParseSmall(text, Length(text), 100, value);
  };
  if (!ReadSetting(kComputeLimit, kComputeForm, percent, &compute, why)) return false;
  const char* const policy = Variable(kPolicy);
  const bool force = policy != nullptr && Equal(policy, "force");
  const bool disabled = policy != nullptr && Equal(policy, "disable");
  if (policy != nullptr && !force && !disabled && !Equal(policy, "default")) {
    Complain(why, kPolicy, Length(kPolicy), policy, "default, force or disable");
    return false;
  }
  uint64_t priority = 1;
  const char* const asked = Variable(kPriority);
  if (asked != nullptr && !ParseSmall(asked, Length(asked), 1, &priority)) {
    Complain(why, kPriority, Length(kPriority), asked, "0 (high) or 1 (low)");
    return false;
  }
  *control = {};
  control->magic = wire::kControlMagic;
  control->version = wire::kPageVersion;
  control->bytes = sizeof(*control);
  control->state = wire::kStateOpen;
  control->card_count = count;
  constexpr char kId[] = "standalone";
  __builtin_memcpy(control->slice_id, kId, sizeof(kId));
  for (uint32_t i = 0; i < count; ++i) {
    wire::ControlCard* const card = &control->cards[i];
    __builtin_memcpy(card->uuid, cards[i].uuid, wire::kUuidTextMax);
    const uint64_t limit = memory.Of(i);
    card->limit_bytes = limit == 0 || limit > cards[i].total_bytes ? cards[i].total_bytes : limit;
    card->ceiling_bytes = card->limit_bytes;
    card->granule_bytes = kStandaloneGranule;
    const uint64_t share = compute.Of(i);
    card->compute_permille = share == 0 || disabled ? 1000 : static_cast<uint32_t>(share) * 10;
    if (card->compute_permille < 1000) {
      card->window_nanos = kStandaloneWindowNanos;
      card->gate = wire::kGateStep | wire::kGateShut | wire::kGateGranted;
      ++control->turns;
    }
    // "force" is a hard cap; otherwise idle compute may be used, ten times as much of it by the one
    // of high priority.
    card->weight = force ? 0 : card->compute_permille * (priority == 0 ? 10 : 1);
  }
  wire::ControlCard* const host = &control->cards[wire::kHostRow];
  host->limit_bytes = host->ceiling_bytes = wire::kUnlimitedBytes;
  return true;
}

AttachResult AttachStandalone(wire::Reply* reply, int* descriptors, size_t* count) {
  *count = 0;
  StandaloneCard cards[wire::kCardsMax] = {};
  uint32_t card_count = 0;
  wire::ControlPage control;
  // The settings are read before the driver is asked: a mistake in them is named on any machine.
  Line why;
  if (!FillStandalone(cards, 0, &control, &why)) return Refuse(why);
  if (const char* failure = FindVisible(cards, &card_count)) return Refuse(failure);
  if (!FillStandalone(cards, card_count, &control, &why)) return Refuse(why);
  const auto uid = static_cast<uint64_t>(Syscall(SYS_geteuid));
  Line path;
  path << "/dev/shm/tessera-" << uid;
  const Descriptor folder(OpenFolder(path.Text(), uid));
  if (!folder.ok()) return Refuse("/dev/shm/tessera-UID is not a folder of this user alone");
  char key[17];
  KeyOf(control, key);
  Line usage_name, control_name;
  usage_name << key << ".usage";
  control_name << key << ".control";
  path << "/" << usage_name.Text();
  for (size_t i = 0; i <= path.size() && i < sizeof(usage_path); ++i)
    usage_path[i] = path.Text()[i];

  const Descriptor usage_file(
      Open(folder.get(), usage_name.Text(), kReadWrite | kCreate | kNoFollow));
  const LockedFile lock(usage_file.get());
  if (!lock.held) return Refuse("their lock is held for kStandaloneLockNanosMax");
  Descriptor control_file(PrepareControl(folder.get(), control_name.Text(), control));
  wire::UsagePage* const usage =
      HasBytes(usage_file.get(), sizeof(wire::UsagePage)) ? MapUsage(usage_file.get()) : nullptr;
  if (!control_file.ok() || usage == nullptr) return Refuse("their pages cannot be made");
  if (usage->magic == 0) {
    usage->version = wire::kPageVersion;
    usage->bytes = sizeof(*usage);
    usage->card_count = card_count;
    usage->magic = wire::kUsageMagic;
  }
  const AttachResult result = TakeSlot(usage, card_count, &reply->slot);
  UnmapMemory(usage, sizeof(*usage));
  if (result == AttachResult::kNoMemory)
    return Refuse("/proc is missing, or a process stands still");
  if (result != AttachResult::kAttached) return result;
  // A descriptor of its own, so that closing it says nothing about the lock.
  const long second = Open(folder.get(), usage_name.Text(), kReadWrite | kNoFollow);
  if (second < 0) return AttachResult::kNoMemory;
  descriptors[0] = control_file.Release();
  descriptors[1] = static_cast<int>(second);
  reply->status = wire::kStatusOk;
  *count = 2;
  return AttachResult::kAttached;
}

bool ReclaimStandalone() {
  wire::UsagePage* const usage = process.ledger.pages().usage;
  bool any = false;
  for (uint32_t i = 0; i < wire::kProcessesMax && !any; ++i) any = IsDead(usage->slots[i]);
  if (!any) return false;
  const Descriptor file(Open(kAtCwd, usage_path, kReadWrite | kNoFollow));
  if (!file.ok()) return false;
  const LockedFile lock(file.get());
  bool cleared = false;
  return lock.held && Recount(usage, process.card_count, 0, &cleared) && cleared;
}

}  // namespace tessera::guest
