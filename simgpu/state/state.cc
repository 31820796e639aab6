#include "simgpu/state/state.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <mutex>
#include <new>
#include <string_view>

#include "simgpu/state/faults.h"
#include "simgpu/state/process.h"
#include "simgpu/state/shared.h"

namespace simgpu {
namespace {

constexpr uint64_t kMagic = 0x31757067'6d697302;
constexpr uint32_t kVersion = 3;

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
  card->pci_slot = 0;
}

bool MakeCards(const char* spec, Card* cards, uint32_t* count, Topology* topology,
               std::string* error) {
  const char* machine = getenv("SIMGPU_MACHINE");
  Plan plan;
  if (!PlanMachine(spec, &plan, error)) {
    *error = "SIMGPU_CARDS: " + *error;
    return false;
  }
  *topology = plan.topology;
  topology->made_ns = MonotonicNs();
  *count = topology->card_count;
  for (uint32_t i = 0; i < *count; ++i) {
    cards[i].profile = plan.profiles[i];
    cards[i].index = i;
    NameCard(machine != nullptr ? machine : "", &cards[i]);
    cards[i].pci_bus = topology->places[i].pci_bus;
  }
  return true;
}

}  // namespace

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

// Maps the file. Null without a word in `error` when there is none or another version made it.
State::Shared* State::Map(const std::string& path, bool* other_version, std::string* error) {
  const int fd = open(path.c_str(), O_RDWR | O_CLOEXEC);
  if (fd < 0) {
    if (errno != ENOENT) *error = path + ": " + strerror(errno);
    return nullptr;
  }
  struct stat info;
  void* mapped = MAP_FAILED;
  *other_version = fstat(fd, &info) != 0 || info.st_size != static_cast<off_t>(sizeof(Shared));
  if (!*other_version) {
    mapped = mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (mapped == MAP_FAILED) *error = path + ": " + strerror(errno);
  }
  close(fd);
  if (mapped == MAP_FAILED) return nullptr;
  auto* shared = static_cast<Shared*>(mapped);
  if (shared->magic == kMagic && shared->version == kVersion && shared->size == sizeof(Shared)) {
    return shared;
  }
  *other_version = true;
  munmap(mapped, sizeof(Shared));
  return nullptr;
}

// Puts a fresh file there, whole or not at all.
bool State::Make(const std::string& path, const char* cards, std::string* error) {
  static_assert(sizeof(Shared) >> 32 == 0);
  const std::string part = path + ".new";
  unlink(part.c_str());
  const int fd = open(part.c_str(), O_RDWR | O_CLOEXEC | O_CREAT | O_EXCL, 0666);
  // What is not written stays a hole: the slots and engines, which begin as zeros.
  void* mapped = MAP_FAILED;
  if (fd >= 0 && fchmod(fd, 0666) == 0 && ftruncate(fd, sizeof(Shared)) == 0) {
    mapped = mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  }
  if (mapped == MAP_FAILED) *error = path + ": " + strerror(errno);
  if (fd >= 0) close(fd);
  if (mapped == MAP_FAILED) return false;
  auto* fresh = static_cast<Shared*>(mapped);
  fresh->magic = kMagic;
  fresh->version = kVersion;
  fresh->size = sizeof(Shared);
  bool made = false;
  if (strlen(cards) >= sizeof fresh->spec) {
    *error = "SIMGPU_CARDS: longer than 255 bytes";
  } else if (memcpy(fresh->spec, cards, strlen(cards));
             MakeCards(cards, fresh->cards, &fresh->card_count, &fresh->topology, error)) {
    made = rename(part.c_str(), path.c_str()) == 0;
    if (!made) *error = path + ": " + strerror(errno);
  }
  munmap(mapped, sizeof(Shared));
  if (!made) unlink(part.c_str());
  return made;
}

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
  // Opened once and never closed: closing a descriptor of `locks` would drop this process's locks.
  auto* process = new Process;
  process->locks_path = folder + "/locks";
  process->fd = OpenShared(process->locks_path);
  struct stat locks;
  if (process->fd < 0 || fstat(process->fd, &locks) != 0) {
    const std::string what = process->locks_path + ": " + strerror(errno);
    delete process;
    return fail(what);
  }
  process->device = locks.st_dev;
  process->inode = locks.st_ino;

  const std::string path = folder + "/state";
  std::string why;
  bool other_version = false;
  Shared* shared = Map(path, &other_version, &why);
  if (shared != nullptr && shared->AheadOf(MonotonicNs()) && !process->AnyLock()) {
    munmap(shared, sizeof(Shared));
    shared = nullptr;
  }
  if (shared == nullptr && why.empty()) {
    // There is none, or one of another version or another boot of the machine. What nobody uses is
    // replaced.
    if (other_version && process->AnyLock()) {
      why = path + ": made by another version of simgpu and in use; end the processes that use it";
    } else if (Make(path, spec != nullptr ? spec : "A100-80", &why)) {
      shared = Map(path, &other_version, &why);
    }
  }
  if (shared == nullptr) {
    delete process;
    return fail(why);
  }
  if (spec != nullptr && strncmp(spec, shared->spec, sizeof shared->spec) != 0 &&
      getenv("SIMGPU_QUIET") == nullptr) {
    fprintf(stderr, "simgpu: SIMGPU_CARDS=%s ignored: %s already has %s\n", spec, folder.c_str(),
            shared->spec);
  }

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
  for (uint32_t card = 0; card < shared->card_count; ++card) {
    state->engines_.emplace_back(state, card);
  }
  static std::atomic<State*> all{nullptr};
  state->next_ = all.load();
  while (!all.compare_exchange_weak(state->next_, state)) {
  }
  return state;
}

uint32_t State::card_count() const { return shared_->card_count; }

const Card& State::card(uint32_t index) const { return shared_->cards[index]; }

const Topology& State::topology() const { return shared_->topology; }

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
  const Engine::Account account = engine(card).Read(window_ns);
  for (const Live& found : live) {
    const uint32_t i = found.slot;
    ProcessUse one;
    one.usage = found.words.usage;
    one.pid = found.pid;
    if (one.usage.Total() == 0 && one.usage.contexts == 0) continue;
    one.slot = i;
    memcpy(one.command, shared_->slots[i].command, kCommandBytesMax);
    one.command[kCommandBytesMax - 1] = 0;
    for (const EngineUse& use : account.uses) {
      if (use.slot != i) continue;
      one.busy_ns = use.served_ns;
      one.busy_recent_ns = use.recent_ns;
      one.mps = use.percentage != 0;
    }
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
  const uint64_t permille = engine(card).Read(window_ns).recent_ns * 1000 / window_ns;
  return permille > 1000 ? 1000 : static_cast<uint32_t>(permille);
}

State::Answer State::Take(uint32_t card, Kind kind, uint64_t bytes) {
  std::lock_guard guard(process_->Mutex());
  if (!process_->Open() || !process_->LockAccount()) return Answer::kNoSlot;
  if (!process_->HoldSlot(shared_)) {
    process_->UnlockAccount();
    return Answer::kNoSlot;
  }
  const uint64_t memory =
      std::min(shared_->cards[card].profile.memory_bytes, Faults::Get().MemoryLimit(card));
  // With the dead counted too it often fits already; only else is asked who is alive.
  bool fits = false;
  const uint64_t own_limit = process_->limit[card];
  const bool allowed =
      own_limit == 0 || (bytes <= own_limit && process_->usage[card].Total() <= own_limit - bytes);
  for (const bool ask : {false, true}) {
    const uint64_t used =
        process_->usage[card].Total() + process_->OthersBytes(*shared_, card, ask);
    fits = allowed && used <= memory && bytes <= memory - used;
    if (fits || !allowed) break;
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

bool State::LimitOwn(uint32_t card, uint64_t bytes) {
  std::lock_guard guard(process_->Mutex());
  if (bytes != 0 && process_->usage[card].Total() > bytes) return false;
  process_->limit[card] = bytes;
  return true;
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

Usage State::Own(uint32_t card) const {
  std::lock_guard guard(process_->Mutex());
  return process_->usage[card];
}

}  // namespace simgpu
