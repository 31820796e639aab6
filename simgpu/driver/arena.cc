#include "simgpu/driver/arena.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "simgpu/state/profile.h"

namespace simgpu {

std::unique_ptr<Arena> Arena::Make(uint64_t granules, std::string* error, std::string_view tag) {
  std::unique_ptr<Arena> arena(new Arena);
  arena->bytes_ = granules * kGranule;
  auto fail = [&](const char* what) {
    *error = std::string(what) + " of " + std::to_string(arena->bytes_ >> 30) +
             " GiB of addresses: " + strerror(errno);
    return nullptr;
  };
  // One granule more, to align the base.
  void* reserved = mmap(nullptr, arena->bytes_ + kGranule, PROT_NONE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (reserved == MAP_FAILED) return fail("reservation");
  arena->reserved_ = reserved;
  arena->base_ = (reinterpret_cast<uint64_t>(reserved) + kGranule - 1) / kGranule * kGranule;
  arena->fd_ = memfd_create("simgpu-memory", MFD_CLOEXEC);
  const auto end = static_cast<off_t>(arena->bytes_);
  struct stat made{};
  if (arena->fd_ < 0 || ftruncate(arena->fd_, end + (tag.empty() ? 0 : 4096)) != 0 ||
      pwrite(arena->fd_, tag.data(), tag.size(), end) != static_cast<ssize_t>(tag.size()) ||
      fstat(arena->fd_, &made) != 0) {
    return fail("memory file");
  }
  arena->file_ = made.st_ino;
  void* host = mmap(nullptr, arena->bytes_, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE,
                    arena->fd_, 0);
  if (host == MAP_FAILED) return fail("mapping");
  madvise(reserved, arena->bytes_ + kGranule, MADV_DONTDUMP);
  madvise(host, arena->bytes_, MADV_DONTDUMP);
  arena->host_ = static_cast<uint8_t*>(host);
  arena->free_.Add(0, granules);
  return arena;
}

uint64_t Arena::Take(uint64_t granules) {
  uint64_t first = 0;
  return free_.Take(granules, &first) ? base_ + first * kGranule : 0;
}

Arena::~Arena() {
  if (reserved_ != nullptr) munmap(reserved_, bytes_ + kGranule);
  if (host_ != nullptr) munmap(host_, bytes_);
  const int own = fd_;
  struct stat now{};
  if (own >= 0 && fstat(own, &now) == 0 && now.st_ino == file_) close(own);
}

int Arena::Duplicate() const {
  struct stat now{};
  if (fstat(fd_, &now) != 0 || now.st_ino != file_) return -1;
  return fcntl(fd_, F_DUPFD_CLOEXEC, 0);
}

void Arena::Punch(uint64_t address, uint64_t granules) {
  // Through the mapping, because a program may have closed our descriptor.
  madvise(Host(address), granules * kGranule, MADV_REMOVE);
}

void Arena::Give(uint64_t address, uint64_t granules) {
  Punch(address, granules);
  free_.Add((address - base_) / kGranule, granules);
}

bool Arena::Expose(uint64_t address, uint64_t granules) {
  // A mapping made from the mapping: works without our descriptor too.
  void* made = mremap(Host(address), 0, granules * kGranule, MREMAP_MAYMOVE | MREMAP_FIXED,
                      reinterpret_cast<void*>(address));
  return made != MAP_FAILED;
}

bool Arena::Hide(uint64_t address, uint64_t granules) {
  void* made = mmap(reinterpret_cast<void*>(address), granules * kGranule, PROT_NONE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
  return made != MAP_FAILED;
}

}  // namespace simgpu
