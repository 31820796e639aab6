#include "simgpu/state/state.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <memory>
#include <mutex>
#include <new>

namespace simgpu {
namespace {

constexpr uint64_t kMagic = 0x31757067'6d697302;
constexpr uint32_t kVersion = 1;
constexpr uint32_t kBuckets = 16;
constexpr uint64_t kBucketNs = 125'000'000;
constexpr off_t kAccountByte = kSlotsMax;  // the byte of `locks` that guards Take

uint64_t NowNs() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1'000'000'000 + now.tv_nsec;
}

// Busy time of one span of 125 ms of the machine's clock.
struct Bucket {
  std::atomic<uint64_t> epoch;
  std::atomic<uint64_t> ns;
};

struct CardUse {
  std::atomic<uint64_t> changes;  // rises with every publication of the words below
  std::atomic<uint64_t> allocation_bytes;
  std::atomic<uint64_t> context_bytes;
  std::atomic<uint64_t> module_bytes;
  std::atomic<uint32_t> contexts;
  std::atomic<uint64_t> busy_ns;
  std::atomic<uint64_t> work_since_ns;  // 0 when nothing runs
  Bucket buckets[kBuckets];
};

struct Slot {
  std::atomic<uint64_t> token;  // 0: never used or being taken; else names one claim of the slot
  char command[kCommandBytesMax];
  CardUse cards[kCardsMax];
};

uint64_t Fnv(uint64_t hash, const void* data, size_t size) {
  const auto* bytes = static_cast<const unsigned char*>(data);
  for (size_t i = 0; i < size; ++i) hash = (hash ^ bytes[i]) * 0x100000001b3;
  return hash;
}

// The same machine name, model and position give the same card everywhere.
void NameCard(const char* machine, Card* card) {
  for (int half = 0; half < 2; ++half) {
    uint64_t hash = Fnv(0xcbf29ce484222325 + half, machine, strlen(machine));
    hash = Fnv(hash, card->profile.key, strlen(card->profile.key));
    hash = Fnv(hash, &card->index, sizeof card->index);
    // FNV leaves the upper bytes of short inputs alike; one round of mixing spreads them.
    hash ^= hash >> 31;
    hash *= 0x9e3779b97f4a7c15;
    hash ^= hash >> 29;
    memcpy(card->uuid_bytes + 8 * half, &hash, 8);
  }
  const unsigned char* b = card->uuid_bytes;
  snprintf(card->uuid, sizeof card->uuid,
           "GPU-%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x", b[0], b[1],
           b[2], b[3], b[4], b[5], b[6], b[7], b[8], b[9], b[10], b[11], b[12], b[13], b[14],
           b[15]);
  card->pci_domain = 0;
  card->pci_bus = 0x17 + 0x10 * card->index;
  card->pci_slot = 0;
}

bool MakeCards(const char* spec, Card* cards, uint32_t* count, std::string* error) {
  const char* machine = getenv("SIMGPU_MACHINE");
  std::string_view rest = spec;
  *count = 0;
  while (true) {
    size_t comma = rest.find(',');
    std::string_view key = rest.substr(0, comma);
    while (!key.empty() && key.front() == ' ') key.remove_prefix(1);
    while (!key.empty() && key.back() == ' ') key.remove_suffix(1);
    if (*count == kCardsMax) {
      *error = "SIMGPU_CARDS: more than kCardsMax = " + std::to_string(kCardsMax) + " cards";
      return false;
    }
    Card* card = &cards[*count];
    if (!FindProfile(key, &card->profile, error)) {
      *error = "SIMGPU_CARDS: " + *error;
      return false;
    }
    card->index = (*count)++;
    NameCard(machine != nullptr ? machine : "", card);
    if (comma == std::string_view::npos) return true;
    rest.remove_prefix(comma + 1);
  }
}

void ReadCommand(char* command) {
  memset(command, 0, kCommandBytesMax);
  snprintf(command, kCommandBytesMax, "%s", program_invocation_name);
}

struct flock Byte(short type, off_t byte) {
  struct flock lock = {};
  lock.l_type = type;
  lock.l_whence = SEEK_SET;
  lock.l_start = byte;
  lock.l_len = 1;
  return lock;
}

}  // namespace

struct State::Shared {
  uint64_t magic;
  uint32_t version;
  uint32_t size;
  uint32_t card_count;
  std::atomic<uint32_t> slots_high;  // slots from here on were never used
  char spec[256];
  Card cards[kCardsMax];
  Slot slots[kSlotsMax];
};

// This process's side: its descriptor of `locks`, its slot and its own book, which is the truth the
// slot is a copy of.
struct State::Process {
  // 0 in a process that has not looked yet, also in a fresh child: the page is wiped by fork.
  std::atomic<uint32_t>* born = nullptr;
  std::mutex mutex;
  std::string locks_path;
  dev_t device = 0;  // which file `locks` is
  ino_t inode = 0;
  int fd = -1;
  int slot = -1;
  uint64_t token = 0;
  Usage usage[kCardsMax];
  uint32_t work_depth[kCardsMax] = {};

  // The mutex of this process, made anew after a fork (another thread of the parent may have held
  // it).
  std::mutex& Mutex() {
    uint32_t seen = born->load(std::memory_order_acquire);
    while (seen != 2) {
      if (seen == 0 && born->compare_exchange_strong(seen, 1)) {
        new (&mutex) std::mutex;
        slot = -1;
        token = 0;
        for (Usage& one : usage) one = Usage();
        for (uint32_t& depth : work_depth) depth = 0;
        born->store(2, std::memory_order_release);
      }
      seen = born->load(std::memory_order_acquire);
    }
    return mutex;
  }

  // A descriptor of `locks`; the program may have closed ours or put another file in its place, so
  // it is only trusted after a look at what it is. Never closed: see the class comment.
  bool Open() {
    if (IsLocks(fd)) return true;
    fd = open(locks_path.c_str(), O_RDWR | O_CLOEXEC);
    return IsLocks(fd);
  }

  bool IsLocks(int candidate) const {
    struct stat info;
    return candidate >= 0 && fstat(candidate, &info) == 0 && info.st_ino == inode &&
           info.st_dev == device;
  }

  // Whether a process holds the byte, and its pid as we see it. An open-file-description query,
  // because only such a one reports the locks of the asking process too.
  bool Held(uint32_t byte, int* pid) const {
    struct flock lock = Byte(F_WRLCK, byte);
    if (fcntl(fd, F_OFD_GETLK, &lock) != 0 || lock.l_type == F_UNLCK) return false;
    *pid = lock.l_pid;
    return true;
  }

  bool LockAccount() {
    while (true) {
      struct flock lock = Byte(F_WRLCK, kAccountByte);
      if (fcntl(fd, F_SETLKW, &lock) == 0) return true;
      if (errno != EINTR) return false;
    }
  }

  void UnlockAccount() {
    struct flock lock = Byte(F_UNLCK, kAccountByte);
    fcntl(fd, F_SETLK, &lock);
  }

  bool Ours(const Shared& shared) const {
    return slot >= 0 && shared.slots[slot].token.load(std::memory_order_acquire) == token;
  }

  void Publish(Shared* shared, uint32_t card) const {
    if (!Ours(*shared)) return;
    CardUse& use = shared->slots[slot].cards[card];
    use.allocation_bytes.store(usage[card].allocation_bytes);
    use.context_bytes.store(usage[card].context_bytes);
    use.module_bytes.store(usage[card].module_bytes);
    use.contexts.store(usage[card].contexts);
    use.changes.fetch_add(1);
  }

  // Bytes of the card in the other slots; of dead processes too unless `living_only`.
  uint64_t OthersBytes(const Shared& shared, uint32_t card, bool living_only) const {
    uint64_t sum = 0;
    const uint32_t high = shared.slots_high.load(std::memory_order_acquire);
    for (uint32_t i = 0; i < high; ++i) {
      const Slot& other = shared.slots[i];
      if (static_cast<int>(i) == slot || other.token.load(std::memory_order_acquire) == 0) continue;
      const CardUse& use = other.cards[card];
      const uint64_t there = use.allocation_bytes.load(std::memory_order_relaxed) +
                             use.context_bytes.load(std::memory_order_relaxed) +
                             use.module_bytes.load(std::memory_order_relaxed);
      int pid = 0;
      if (there != 0 && (!living_only || Held(i, &pid))) sum += there;
    }
    return sum;
  }

  // Holds a slot whose byte we have locked, under the account lock. A slot of ours whose lock a
  // program closed away is taken again if nobody else has it by now.
  bool HoldSlot(Shared* shared) {
    int pid = 0;
    if (Ours(*shared) && Held(slot, &pid) && pid == getpid()) return true;
    if (Ours(*shared) && !Held(slot, &pid)) {
      struct flock lock = Byte(F_WRLCK, slot);
      if (fcntl(fd, F_SETLK, &lock) == 0) return true;
    }
    for (uint32_t i = 0; i < kSlotsMax; ++i) {
      Slot& one = shared->slots[i];
      if (one.token.load(std::memory_order_acquire) != 0 && Held(i, &pid)) continue;
      // Empty it before the lock makes it count, so that a dead owner's numbers are never ours.
      one.token.store(0, std::memory_order_release);
      for (CardUse& use : one.cards) memset(static_cast<void*>(&use), 0, sizeof use);
      struct flock lock = Byte(F_WRLCK, i);
      if (fcntl(fd, F_SETLK, &lock) != 0) continue;
      ReadCommand(one.command);
      uint64_t fresh = 0;
      if (getrandom(&fresh, sizeof fresh, 0) != sizeof fresh || fresh == 0) fresh = NowNs() | 1;
      slot = static_cast<int>(i);
      token = fresh;
      one.token.store(fresh, std::memory_order_release);
      uint32_t high = shared->slots_high.load();
      while (high < i + 1 && !shared->slots_high.compare_exchange_weak(high, i + 1)) {
      }
      for (uint32_t card = 0; card < kCardsMax; ++card) Publish(shared, card);
      return true;
    }
    return false;
  }
};

namespace {

bool EnsureFolder(const std::string& folder, std::string* error) {
  if (mkdir(folder.c_str(), 0777) == 0) {
    // Programs of any user share the cards, as with /dev/nvidia0; the umask must not narrow that.
    if (chmod(folder.c_str(), 0777) != 0) {
      *error = folder + ": " + strerror(errno);
      return false;
    }
  } else if (errno != EEXIST) {
    *error = folder + ": " + strerror(errno);
    return false;
  }
  return true;
}

// Opens a shared file, making it if it is not there. O_CREAT stands alone because the kernel may
// refuse it on an existing file of another user.
int OpenShared(const std::string& path) {
  int fd = open(path.c_str(), O_RDWR | O_CLOEXEC);
  if (fd >= 0 || errno != ENOENT) return fd;
  fd = open(path.c_str(), O_RDWR | O_CLOEXEC | O_CREAT | O_EXCL, 0666);
  if (fd >= 0) {
    fchmod(fd, 0666);
    return fd;
  }
  return errno == EEXIST ? open(path.c_str(), O_RDWR | O_CLOEXEC) : -1;
}

}  // namespace

State* State::Open(std::string* error) {
  const char* chosen = getenv("SIMGPU_STATE");
  const std::string folder = chosen != nullptr && *chosen != 0 ? chosen : "/dev/shm/simgpu";
  const char* spec = getenv("SIMGPU_CARDS");
  if (spec != nullptr && *spec == 0) spec = nullptr;
  if (!EnsureFolder(folder, error)) return nullptr;

  // One process at a time makes the files; the lock dies with its holder.
  int making = OpenShared(folder + "/making");
  if (making < 0 || flock(making, LOCK_EX) != 0) {
    *error = folder + "/making: " + strerror(errno);
    if (making >= 0) close(making);
    return nullptr;
  }
  auto fail = [&](const std::string& what) {
    *error = what;
    close(making);
    return nullptr;
  };
  const std::string path = folder + "/state";
  int fd = open(path.c_str(), O_RDWR | O_CLOEXEC);
  if (fd < 0 && errno != ENOENT) return fail(path + ": " + strerror(errno));
  if (fd < 0) {
    auto fresh = std::make_unique<Shared>();
    memset(static_cast<void*>(fresh.get()), 0, sizeof *fresh);
    fresh->magic = kMagic;
    fresh->version = kVersion;
    fresh->size = sizeof *fresh;
    const char* cards = spec != nullptr ? spec : "A100-80";
    if (strlen(cards) >= sizeof fresh->spec) return fail("SIMGPU_CARDS: longer than 255 bytes");
    memcpy(fresh->spec, cards, strlen(cards));
    std::string why;
    if (!MakeCards(cards, fresh->cards, &fresh->card_count, &why)) return fail(why);
    // The slots stay a hole of the file; only the head is written.
    const std::string part = path + ".new";
    unlink(part.c_str());
    int made = open(part.c_str(), O_RDWR | O_CLOEXEC | O_CREAT | O_EXCL, 0666);
    const size_t head = offsetof(Shared, slots);
    bool ok = made >= 0 && fchmod(made, 0666) == 0 && ftruncate(made, sizeof *fresh) == 0 &&
              write(made, fresh.get(), head) == static_cast<ssize_t>(head) &&
              rename(part.c_str(), path.c_str()) == 0;
    if (!ok) {
      std::string what = path + ": " + strerror(errno);
      if (made >= 0) close(made);
      return fail(what);
    }
    fd = made;
  }
  struct stat info;
  if (fstat(fd, &info) != 0 || info.st_size != static_cast<off_t>(sizeof(Shared))) {
    close(fd);
    return fail(path + ": made by another version of simgpu; remove " + folder +
                " when no process uses it");
  }
  void* mapped = mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  close(fd);
  if (mapped == MAP_FAILED) return fail(path + ": " + strerror(errno));
  auto* shared = static_cast<Shared*>(mapped);
  if (shared->magic != kMagic || shared->version != kVersion || shared->size != sizeof(Shared)) {
    munmap(mapped, sizeof(Shared));
    return fail(path + ": made by another version of simgpu; remove " + folder +
                " when no process uses it");
  }
  if (spec != nullptr && strncmp(spec, shared->spec, sizeof shared->spec) != 0 &&
      getenv("SIMGPU_QUIET") == nullptr) {
    fprintf(stderr, "simgpu: SIMGPU_CARDS=%s ignored: %s already has %s\n", spec, folder.c_str(),
            shared->spec);
  }

  auto* process = new Process;
  process->locks_path = folder + "/locks";
  process->fd = OpenShared(process->locks_path);
  struct stat locks;
  if (process->fd < 0 || fstat(process->fd, &locks) != 0) {
    std::string what = process->locks_path + ": " + strerror(errno);
    delete process;
    munmap(mapped, sizeof(Shared));
    return fail(what);
  }
  process->device = locks.st_dev;
  process->inode = locks.st_ino;
  void* page = mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (page == MAP_FAILED || madvise(page, 4096, MADV_WIPEONFORK) != 0) {
    return fail("no page that fork wipes: " + std::string(strerror(errno)));
  }
  process->born = new (page) std::atomic<uint32_t>(0);
  close(making);

  auto* state = new State;
  state->folder_ = folder;
  state->shared_ = shared;
  state->process_ = process;
  static std::atomic<State*> all{nullptr};
  state->next_ = all.load();
  while (!all.compare_exchange_weak(state->next_, state)) {
  }
  return state;
}

uint32_t State::card_count() const { return shared_->card_count; }

const Card& State::card(uint32_t index) const { return shared_->cards[index]; }

namespace {

// The usage words of one slot as read at one go, and how often they had changed.
struct Words {
  uint64_t changes;
  Usage usage;
  bool operator==(const Words& other) const {
    return changes == other.changes && usage.allocation_bytes == other.usage.allocation_bytes &&
           usage.context_bytes == other.usage.context_bytes &&
           usage.module_bytes == other.usage.module_bytes && usage.contexts == other.usage.contexts;
  }
};

Usage ReadUsage(const CardUse& use) {
  return {use.allocation_bytes.load(), use.context_bytes.load(), use.module_bytes.load(),
          use.contexts.load()};
}

}  // namespace

// What several processes hold is only worth adding up when all of it was held at one moment: a
// reader that meets one process before its free and another after its allocation would see more
// than there ever was. So all words are read twice; when nothing changed in between, they all held
// at once.
std::vector<ProcessUse> State::Processes(uint32_t card, uint64_t window_ns) const {
  constexpr int kSnapshotTriesMax = 2000;
  std::vector<ProcessUse> result;
  std::lock_guard guard(process_->Mutex());
  if (!process_->Open()) return result;
  if (window_ns > kWindowMaxNs) window_ns = kWindowMaxNs;
  struct Live {
    uint32_t slot;
    int pid;
    Words words;
  };
  std::vector<Live> live;
  for (int attempt = 0; attempt < kSnapshotTriesMax; ++attempt) {
    live.clear();
    const uint32_t high = shared_->slots_high.load(std::memory_order_acquire);
    for (uint32_t i = 0; i < high; ++i) {
      int pid = 0;
      if (shared_->slots[i].token.load(std::memory_order_acquire) != 0 && process_->Held(i, &pid)) {
        live.push_back({i, pid, {}});
      }
    }
    for (Live& one : live) {
      const CardUse& use = shared_->slots[one.slot].cards[card];
      one.words.changes = use.changes.load();
      one.words.usage = ReadUsage(use);
    }
    bool same = true;
    for (const Live& one : live) {
      const CardUse& use = shared_->slots[one.slot].cards[card];
      Words again;
      again.usage = ReadUsage(use);
      again.changes = use.changes.load();
      if (!(again == one.words)) same = false;
    }
    // Whoever died meanwhile may already have been replaced by somebody who took its memory.
    for (const Live& one : live) {
      int pid = 0;
      if (same && one.words.usage.Total() != 0 && !process_->Held(one.slot, &pid)) same = false;
    }
    if (same) break;
  }
  const uint64_t now = NowNs();
  const uint64_t from = now > window_ns ? now - window_ns : 0;
  for (const Live& found : live) {
    const uint32_t i = found.slot;
    const Slot& slot = shared_->slots[i];
    const CardUse& use = slot.cards[card];
    ProcessUse one;
    one.usage = found.words.usage;
    one.pid = found.pid;
    if (one.usage.Total() == 0 && one.usage.contexts == 0) continue;
    one.slot = i;
    memcpy(one.command, slot.command, kCommandBytesMax);
    one.command[kCommandBytesMax - 1] = 0;
    one.busy_ns = use.busy_ns.load(std::memory_order_relaxed);
    for (const Bucket& bucket : use.buckets) {
      const uint64_t begin = bucket.epoch.load(std::memory_order_relaxed) * kBucketNs;
      const uint64_t end = begin + kBucketNs;
      if (end <= from || begin >= now) continue;
      uint64_t ns = bucket.ns.load(std::memory_order_relaxed);
      // A bucket the window cuts counts by the part inside.
      if (begin < from) ns = ns * (end - from) / kBucketNs;
      one.busy_recent_ns += ns;
    }
    const uint64_t since = use.work_since_ns.load(std::memory_order_relaxed);
    if (since != 0 && since < now) {
      one.busy_ns += now - since;
      one.busy_recent_ns += now - (since > from ? since : from);
    }
    if (one.busy_recent_ns > window_ns) one.busy_recent_ns = window_ns;
    result.push_back(one);
  }
  return result;
}

uint64_t State::UsedBytes(uint32_t card) const {
  uint64_t sum = 0;
  for (const ProcessUse& one : Processes(card, 0)) sum += one.usage.Total();
  return sum;
}

uint32_t State::UtilisationPermille(uint32_t card, uint64_t window_ns) const {
  if (window_ns > kWindowMaxNs) window_ns = kWindowMaxNs;
  if (window_ns == 0) return 0;
  uint64_t sum = 0;
  for (const ProcessUse& one : Processes(card, window_ns)) sum += one.busy_recent_ns;
  const uint64_t permille = sum * 1000 / window_ns;
  return permille > 1000 ? 1000 : static_cast<uint32_t>(permille);
}

State::Answer State::Take(uint32_t card, Kind kind, uint64_t bytes) {
  std::lock_guard guard(process_->Mutex());
  if (!process_->Open() || !process_->LockAccount()) return Answer::kNoSlot;
  if (!process_->HoldSlot(shared_)) {
    process_->UnlockAccount();
    return Answer::kNoSlot;
  }
  const uint64_t memory = shared_->cards[card].profile.memory_bytes;
  // With the dead counted too it often fits already; only else is asked who is alive.
  bool fits = false;
  for (const bool ask : {false, true}) {
    const uint64_t used =
        process_->usage[card].Total() + process_->OthersBytes(*shared_, card, ask);
    fits = used <= memory && bytes <= memory - used;
    if (fits) break;
  }
  if (fits) {
    Usage& own = process_->usage[card];
    switch (kind) {
      case Kind::kAllocation:
        own.allocation_bytes += bytes;
        break;
      case Kind::kContext:
        own.context_bytes += bytes;
        ++own.contexts;
        break;
      case Kind::kModule:
        own.module_bytes += bytes;
        break;
    }
    process_->Publish(shared_, card);
  }
  process_->UnlockAccount();
  return fits ? Answer::kOk : Answer::kOutOfMemory;
}

void State::Give(uint32_t card, Kind kind, uint64_t bytes) {
  std::lock_guard guard(process_->Mutex());
  Usage& own = process_->usage[card];
  switch (kind) {
    case Kind::kAllocation:
      own.allocation_bytes -= bytes;
      break;
    case Kind::kContext:
      own.context_bytes -= bytes;
      --own.contexts;
      break;
    case Kind::kModule:
      own.module_bytes -= bytes;
      break;
  }
  process_->Publish(shared_, card);
}

void State::BeginWork(uint32_t card) {
  std::lock_guard guard(process_->Mutex());
  if (process_->work_depth[card]++ != 0 || !process_->Ours(*shared_)) return;
  shared_->slots[process_->slot].cards[card].work_since_ns.store(NowNs(),
                                                                 std::memory_order_relaxed);
}

void State::EndWork(uint32_t card) {
  std::lock_guard guard(process_->Mutex());
  if (--process_->work_depth[card] != 0 || !process_->Ours(*shared_)) return;
  CardUse& use = shared_->slots[process_->slot].cards[card];
  const uint64_t since = use.work_since_ns.exchange(0, std::memory_order_relaxed);
  const uint64_t now = NowNs();
  if (since == 0 || now <= since) return;
  use.busy_ns.fetch_add(now - since, std::memory_order_relaxed);
  // Older than the ring holds nobody asks for.
  uint64_t at = now - since > kBuckets * kBucketNs ? now - kBuckets * kBucketNs : since;
  while (at < now) {
    const uint64_t epoch = at / kBucketNs;
    const uint64_t end = (epoch + 1) * kBucketNs < now ? (epoch + 1) * kBucketNs : now;
    Bucket& bucket = use.buckets[epoch % kBuckets];
    if (bucket.epoch.load(std::memory_order_relaxed) != epoch) {
      bucket.ns.store(0, std::memory_order_relaxed);
      bucket.epoch.store(epoch, std::memory_order_relaxed);
    }
    bucket.ns.fetch_add(end - at, std::memory_order_relaxed);
    at = end;
  }
}

Usage State::Own(uint32_t card) const {
  std::lock_guard guard(process_->Mutex());
  return process_->usage[card];
}

}  // namespace simgpu
