#include "simgpu/state/mig.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>

namespace simgpu {

// Words of instances: 0 none, else the profile's place in the model's list plus one (GPU instances)
// or slices << 8 | start plus one (compute instances).
struct Mig::Book {
  std::atomic<uint64_t> magic;
  std::atomic<uint32_t> current[kCardsMax];
  std::atomic<uint32_t> pending[kCardsMax];
  std::atomic<uint32_t> gpu[kCardsMax][kGpuInstanceIds];
  std::atomic<uint32_t> compute[kCardsMax][kGpuInstanceIds][kComputeInstanceIds];
};

namespace {

constexpr uint64_t kMagic = 0x01676f6d'6d697302;

// Where instances of a size lie and how they are numbered.
uint32_t IdOf(uint32_t size, uint32_t start) {
  return size == 8 ? 0 : size == 4 ? 1 + start / 4 : size == 2 ? 3 + start / 2 : 7 + start;
}
uint32_t StartOf(uint32_t size, uint32_t id) {
  return size == 8 ? 0 : size == 4 ? (id - 1) * 4 : size == 2 ? (id - 3) * 2 : id - 7;
}

uint32_t Bits(uint32_t start, uint32_t size) { return ((1u << size) - 1) << start; }

// How many pieces of `size` fit between those taken, if no more than `limit` may be added; `first`
// is where the first would lie. Pieces of one size that begin where they may and are taken from the
// left are as many as possible.
uint32_t Fitting(uint32_t starts, uint32_t size, uint32_t taken, uint32_t limit, uint32_t* first) {
  uint32_t count = 0;
  for (uint32_t start = 0; start < kMigSlots && count < limit; ++start) {
    if ((starts >> start & 1) == 0 || (taken & Bits(start, size)) != 0) continue;
    if (count++ == 0 && first != nullptr) *first = start;
    taken |= Bits(start, size);
  }
  return count;
}

}  // namespace

// The file opened and locked anew each time: a lock of its own even between threads, and nothing
// that a forked child could inherit held.
class Mig::Turn {
 public:
  explicit Turn(const State& state) {
    const std::string path = state.folder() + "/mig";
    fd_ = open(path.c_str(), O_RDWR | O_CLOEXEC);
    if (fd_ < 0 && errno == ENOENT) {
      fd_ = open(path.c_str(), O_RDWR | O_CLOEXEC | O_CREAT | O_EXCL, 0666);
      if (fd_ >= 0) fchmod(fd_, 0666);
      if (fd_ < 0 && errno == EEXIST) fd_ = open(path.c_str(), O_RDWR | O_CLOEXEC);
    }
    while (fd_ >= 0 && flock(fd_, LOCK_EX) != 0) {
      if (errno == EINTR) continue;
      close(fd_);
      fd_ = -1;
    }
  }
  ~Turn() {
    if (fd_ < 0) return;
    // Said aloud because a child forked meanwhile has the same description open.
    flock(fd_, LOCK_UN);
    close(fd_);
  }
  Turn(const Turn&) = delete;
  Turn& operator=(const Turn&) = delete;
  int fd() const { return fd_; }

 private:
  int fd_ = -1;
};

// The mapping is made once for each folder's file and kept; a file that was removed is found anew.
Mig::Book* Mig::Open() {
  struct Mapped {
    ino_t inode;
    dev_t device;
    Book* book;
    Mapped* next;
  };
  static std::atomic<Mapped*> all{nullptr};
  const std::string path = state_->folder() + "/mig";
  struct stat info;
  if (stat(path.c_str(), &info) == 0 && info.st_size == static_cast<off_t>(sizeof(Book))) {
    for (Mapped* one = all.load(); one != nullptr; one = one->next) {
      if (one->inode == info.st_ino && one->device == info.st_dev) return one->book;
    }
  }
  const Turn turn(*state_);
  if (turn.fd() < 0 || fstat(turn.fd(), &info) != 0) return nullptr;
  if (info.st_size == 0) {
    if (ftruncate(turn.fd(), sizeof(Book)) != 0) return nullptr;
  } else if (info.st_size != static_cast<off_t>(sizeof(Book))) {
    return nullptr;
  }
  void* page = mmap(nullptr, sizeof(Book), PROT_READ | PROT_WRITE, MAP_SHARED, turn.fd(), 0);
  if (page == MAP_FAILED) return nullptr;
  auto* const book = static_cast<Book*>(page);
  uint64_t none = 0;
  book->magic.compare_exchange_strong(none, kMagic);
  if (book->magic.load() != kMagic) {
    munmap(page, sizeof(Book));
    return nullptr;
  }
  auto* const mapped = new Mapped{info.st_ino, info.st_dev, book, all.load()};
  while (!all.compare_exchange_weak(mapped->next, mapped)) {
  }
  return book;
}

std::vector<ComputeProfile> ComputeProfiles(const Profile& model, const MigProfile& profile) {
  uint32_t slice_sms = profile.sms / profile.compute_slices;
  for (uint32_t i = 0; i < model.mig_count; ++i) {
    if (model.mig[i].size == 1) slice_sms = std::min(slice_sms, model.mig[i].sms);
  }
  constexpr struct {
    uint32_t id, slices, starts;
  } kKinds[] = {{0, 1, 0x7f}, {1, 2, 0x15}, {2, 3, 0x11}, {3, 4, 0x01}, {4, 7, 0x01}};
  std::vector<ComputeProfile> profiles;
  for (const auto& kind : kKinds) {
    const uint32_t whole = profile.compute_slices;
    const bool part = kind.slices < whole && (kind.slices <= 2 || whole == kComputeSlices);
    if (kind.slices != whole && !part) continue;
    ComputeProfile one{kind.id, kind.slices, 0, 0, 0};
    for (uint32_t start = 0; start + kind.slices <= whole; ++start) {
      one.starts |= kind.starts & 1u << start;
    }
    one.instances = Fitting(one.starts, one.slices, 0, kComputeSlices, nullptr);
    one.sms = kind.slices == whole ? profile.sms : slice_sms * kind.slices;
    profiles.push_back(one);
  }
  return profiles;
}

void Mig::Settle(Book* book, uint32_t card) {
  const uint32_t pending = book->pending[card].load();
  if (book->current[card].load() == pending || state_->UsedBytes(card) != 0) return;
  for (const auto& word : book->gpu[card]) {
    if (word.load() != 0) return;
  }
  book->current[card].store(pending);
}

Mig::Answer Mig::SetMode(uint32_t card, bool on) {
  if (state_->card(card).profile.mig_count == 0) return Answer::kNotSupported;
  Book* const book = Open();
  if (book == nullptr) return Answer::kNoBook;
  const Turn turn(*state_);
  if (turn.fd() < 0) return Answer::kNoBook;
  if (!on) {
    for (const auto& word : book->gpu[card]) {
      if (word.load() != 0) return Answer::kInUse;
    }
  }
  book->pending[card].store(on ? 1 : 0);
  Settle(book, card);
  return book->current[card].load() == (on ? 1u : 0u) ? Answer::kOk : Answer::kInUse;
}

Mig::Mode Mig::GetMode(uint32_t card) {
  if (state_->card(card).profile.mig_count == 0) return {};
  Book* const book = Open();
  if (book == nullptr) return {};
  if (book->current[card].load() != book->pending[card].load()) {
    const Turn turn(*state_);
    if (turn.fd() >= 0) Settle(book, card);
  }
  return {book->current[card].load() != 0, book->pending[card].load() != 0};
}

const MigProfile* Mig::FindProfile(uint32_t card, uint32_t profile_id) const {
  const Profile& model = state_->card(card).profile;
  for (uint32_t i = 0; i < model.mig_count; ++i) {
    if (model.mig[i].id == profile_id) return &model.mig[i];
  }
  return nullptr;
}

std::vector<GpuInstance> Mig::GpuInstances(uint32_t card) {
  std::vector<GpuInstance> instances;
  GpuInstance one;
  for (uint32_t id = 0; id < kGpuInstanceIds; ++id) {
    if (FindGpuInstance(card, id, &one)) instances.push_back(one);
  }
  return instances;
}

bool Mig::FindGpuInstance(uint32_t card, uint32_t id, GpuInstance* instance) {
  const Profile& model = state_->card(card).profile;
  Book* const book = id < kGpuInstanceIds && model.mig_count != 0 ? Open() : nullptr;
  const uint32_t word = book != nullptr ? book->gpu[card][id].load() : 0;
  if (word == 0 || word > model.mig_count) return false;
  const MigProfile& profile = model.mig[word - 1];
  *instance = {id, &profile, StartOf(profile.size, id)};
  return true;
}

uint32_t Mig::Remaining(uint32_t card, const MigProfile& profile) {
  uint32_t taken = 0;
  uint32_t slices = 0;
  uint32_t same = 0;
  for (const GpuInstance& one : GpuInstances(card)) {
    taken |= Bits(one.start, one.profile->size);
    slices += one.profile->compute_slices;
    if (one.profile->id == profile.id) ++same;
  }
  const uint32_t left = slices < kComputeSlices ? kComputeSlices - slices : 0;
  const uint32_t limit = profile.instances > same ? profile.instances - same : 0;
  return Fitting(profile.starts, profile.size, taken,
                 std::min(limit, left / profile.compute_slices), nullptr);
}

Mig::Answer Mig::CreateGpuInstance(uint32_t card, uint32_t profile_id, uint32_t start,
                                   uint32_t* id) {
  const Profile& model = state_->card(card).profile;
  if (model.mig_count == 0) return Answer::kNotSupported;
  const MigProfile* const profile = FindProfile(card, profile_id);
  if (profile == nullptr) return Answer::kNotFound;
  if (start != kAnywhere && (start >= kMigSlots || (profile->starts >> start & 1) == 0)) {
    return Answer::kBadPlace;
  }
  Book* const book = Open();
  if (book == nullptr) return Answer::kNoBook;
  const Turn turn(*state_);
  if (turn.fd() < 0) return Answer::kNoBook;
  Settle(book, card);
  if (book->current[card].load() == 0) return Answer::kOff;
  if (Remaining(card, *profile) == 0) return Answer::kNoRoom;
  uint32_t taken = 0;
  for (const GpuInstance& one : GpuInstances(card)) taken |= Bits(one.start, one.profile->size);
  const uint32_t starts = start == kAnywhere ? profile->starts : 1u << start;
  uint32_t where = 0;
  if (Fitting(starts, profile->size, taken, 1, &where) == 0) return Answer::kNoRoom;
  *id = IdOf(profile->size, where);
  book->gpu[card][*id].store(static_cast<uint32_t>(profile - model.mig) + 1);
  return Answer::kOk;
}

Mig::Answer Mig::DestroyGpuInstance(uint32_t card, uint32_t id) {
  Book* const book = Open();
  if (book == nullptr) return Answer::kNoBook;
  const Turn turn(*state_);
  if (turn.fd() < 0) return Answer::kNoBook;
  GpuInstance instance;
  if (!FindGpuInstance(card, id, &instance)) return Answer::kNotFound;
  if (!ComputeInstances(card, id).empty()) return Answer::kInUse;
  book->gpu[card][id].store(0);
  Settle(book, card);
  return Answer::kOk;
}

std::vector<ComputeInstance> Mig::ComputeInstances(uint32_t card, uint32_t gpu_instance) {
  std::vector<ComputeInstance> instances;
  ComputeInstance one;
  for (uint32_t id = 0; id < kComputeInstanceIds; ++id) {
    if (FindComputeInstance(card, gpu_instance, id, &one)) instances.push_back(one);
  }
  return instances;
}

bool Mig::FindComputeInstance(uint32_t card, uint32_t gpu_instance, uint32_t id,
                              ComputeInstance* instance) {
  GpuInstance parent;
  if (id >= kComputeInstanceIds || !FindGpuInstance(card, gpu_instance, &parent)) return false;
  Book* const book = Open();
  const uint32_t word = book != nullptr ? book->compute[card][gpu_instance][id].load() : 0;
  if (word == 0) return false;
  for (const ComputeProfile& profile :
       ComputeProfiles(state_->card(card).profile, *parent.profile)) {
    if (profile.slices != (word - 1) >> 8) continue;
    *instance = {id, profile, (word - 1) & 0xff};
    return true;
  }
  return false;
}

uint32_t Mig::Remaining(uint32_t card, uint32_t gpu_instance, const ComputeProfile& profile) {
  uint32_t taken = 0;
  for (const ComputeInstance& one : ComputeInstances(card, gpu_instance)) {
    taken |= Bits(one.start, one.profile.slices);
  }
  return Fitting(profile.starts, profile.slices, taken, profile.instances, nullptr);
}

Mig::Answer Mig::CreateComputeInstance(uint32_t card, uint32_t gpu_instance, uint32_t profile_id,
                                       uint32_t start, uint32_t* id) {
  Book* const book = Open();
  if (book == nullptr) return Answer::kNoBook;
  const Turn turn(*state_);
  if (turn.fd() < 0) return Answer::kNoBook;
  GpuInstance parent;
  if (!FindGpuInstance(card, gpu_instance, &parent)) return Answer::kNotFound;
  uint32_t taken = 0;
  for (const ComputeInstance& one : ComputeInstances(card, gpu_instance)) {
    taken |= Bits(one.start, one.profile.slices);
  }
  for (const ComputeProfile& profile :
       ComputeProfiles(state_->card(card).profile, *parent.profile)) {
    if (profile.id != profile_id) continue;
    if (start != kAnywhere && (start >= kMigSlots || (profile.starts >> start & 1) == 0)) {
      return Answer::kBadPlace;
    }
    const uint32_t starts = start == kAnywhere ? profile.starts : 1u << start;
    uint32_t where = 0;
    if (Fitting(starts, profile.slices, taken, 1, &where) == 0) return Answer::kNoRoom;
    uint32_t free = 0;
    while (free < kComputeInstanceIds && book->compute[card][gpu_instance][free].load() != 0) {
      ++free;
    }
    if (free == kComputeInstanceIds) return Answer::kNoRoom;
    *id = free;
    book->compute[card][gpu_instance][free].store((profile.slices << 8 | where) + 1);
    return Answer::kOk;
  }
  return Answer::kNotFound;
}

Mig::Answer Mig::DestroyComputeInstance(uint32_t card, uint32_t gpu_instance, uint32_t id) {
  Book* const book = Open();
  if (book == nullptr) return Answer::kNoBook;
  const Turn turn(*state_);
  if (turn.fd() < 0) return Answer::kNoBook;
  ComputeInstance instance;
  if (!FindComputeInstance(card, gpu_instance, id, &instance)) return Answer::kNotFound;
  book->compute[card][gpu_instance][id].store(0);
  return Answer::kOk;
}

std::string Mig::Uuid(uint32_t card, uint32_t gpu_instance, uint32_t compute_instance) const {
  unsigned char bytes[16];
  for (int half = 0; half < 2; ++half) {
    // The card's own bytes mixed with where the instance lies, the same every time.
    uint64_t word = 0;
    memcpy(&word, state_->card(card).uuid_bytes + 8 * half, sizeof word);
    word ^= uint64_t{gpu_instance + 1} << 8 | (compute_instance + 1);
    word ^= word >> 31;
    word *= 0x9e3779b97f4a7c15;
    word ^= word >> 29;
    memcpy(bytes + 8 * half, &word, sizeof word);
  }
  char text[48];
  snprintf(text, sizeof text,
           "MIG-%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x", bytes[0],
           bytes[1], bytes[2], bytes[3], bytes[4], bytes[5], bytes[6], bytes[7], bytes[8], bytes[9],
           bytes[10], bytes[11], bytes[12], bytes[13], bytes[14], bytes[15]);
  return text;
}

std::string Mig::Name(const GpuInstance& gpu_instance, const ComputeInstance& instance) {
  const bool whole = instance.profile.slices == gpu_instance.profile->compute_slices;
  return "MIG " + (whole ? "" : std::to_string(instance.profile.slices) + "c.") +
         gpu_instance.profile->name;
}

}  // namespace simgpu
