#include "broker/slice_pages.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "os/error.h"

namespace tessera::broker {
namespace {

constexpr std::size_t kMachinePage = 4096;

constexpr std::size_t Mapped(std::size_t bytes) {
  return (bytes + kMachinePage - 1) / kMachinePage * kMachinePage;
}

void Copy(char* to, std::size_t size, const std::string& from) {
  std::memset(to, 0, size);
  from.copy(to, size - 1);
}

// Writes a whole new file; O_EXCL, so that nobody's open descriptor of an older file shares it.
Status WriteNew(const std::string& path, const void* bytes, std::size_t size) {
  const os::Fd fd(open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
  if (!fd) return os::ErrnoError("create", path, errno);
  if (fchmod(fd.get(), 0600) != 0) return os::ErrnoError("chmod", path, errno);
  const char* at = static_cast<const char*>(bytes);
  while (size > 0) {
    const ssize_t n = write(fd.get(), at, size);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return os::ErrnoError("write", path, errno);
    at += n;
    size -= static_cast<std::size_t>(n);
  }
  return {};
}

Result<os::Fd> OpenSized(const std::string& path, int flags, std::size_t size) {
  os::Fd fd(open(path.c_str(), flags | O_CLOEXEC | O_NOFOLLOW));
  if (!fd) return os::ErrnoError("open", path, errno);
  struct stat info{};
  if (fstat(fd.get(), &info) != 0) return os::ErrnoError("stat", path, errno);
  if (static_cast<std::size_t>(info.st_size) != size) {
    return Error(Code::kDataLoss, path + ": has " + std::to_string(info.st_size) +
                                      " bytes, expected " + std::to_string(size));
  }
  return fd;
}

}  // namespace

Status CheckSliceId(std::string_view id) {
  const Error bad = Error::Field("id",
                                 "expected 1 to 63 characters of a-z, A-Z, 0-9, '.', '_' and '-', "
                                 "the first a letter or digit");
  if (id.empty() || id.size() >= wire::kSliceIdMax) return bad;
  const auto plain = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
  };
  if (!plain(id[0])) return bad;
  for (const char c : id) {
    if (!plain(c) && c != '.' && c != '_' && c != '-') return bad;
  }
  return {};
}

Status CheckLimits(const std::vector<CardLimits>& cards) {
  if (cards.empty() || cards.size() > wire::kCardsMax) {
    return Error::Field("cards", "expected 1 to kCardsMax (16) cards");
  }
  for (std::size_t i = 0; i < cards.size(); ++i) {
    const CardLimits& card = cards[i];
    const std::string field = "cards[" + std::to_string(i) + "]";
    if (card.uuid.empty() || card.uuid.size() >= wire::kUuidTextMax) {
      return Error::Field(field + ".uuid", "expected 1 to 47 characters");
    }
    for (std::size_t j = 0; j < i; ++j) {
      if (cards[j].uuid == card.uuid)
        return Error::Field(field + ".uuid", "expected different cards");
    }
    if (card.granule_bytes == 0)
      return Error::Field(field + ".granule_bytes", "expected at least 1");
    // The top bit of a count is the frozen bit, and sums of a slice's processes must stay below it.
    if (card.ceiling_bytes > (wire::kFrozenBit >> 1)) {
      return Error::Field(field + ".ceiling_bytes", "expected at most 2^62");
    }
    if (card.limit_bytes > card.ceiling_bytes ||
        card.lease_bytes > card.ceiling_bytes - card.limit_bytes) {
      return Error::Field(field + ".ceiling_bytes", "expected at least limit_bytes + lease_bytes");
    }
    if (card.compute_permille < 1 || card.compute_permille > 1000) {
      return Error::Field(field + ".compute_permille", "expected 1 to 1000");
    }
  }
  return {};
}

SlicePages::~SlicePages() {
  guard_ = PageGuard();
  if (control_ != nullptr) munmap(control_, Mapped(sizeof(wire::ControlPage)));
  if (usage_ != nullptr) munmap(usage_, Mapped(sizeof(wire::UsagePage)));
}

bool SlicePages::UsageIntact() const {
  if (guard_.Torn()) return false;
  struct stat info{};
  return fstat(usage_fd_.get(), &info) == 0 &&
         info.st_size == static_cast<off_t>(sizeof(wire::UsagePage));
}

void SlicePages::SetLimits(const std::vector<CardLimits>& cards, std::uint64_t host_bytes) {
  const std::uint64_t before = wire::Load(&control_->generation) & ~1ull;
  __atomic_store_n(&control_->generation, before + 1, __ATOMIC_SEQ_CST);
  for (std::size_t i = 0; i < cards.size() && i < card_count_; ++i) {
    wire::ControlCard& card = control_->cards[i];
    Copy(card.uuid, sizeof(card.uuid), cards[i].uuid);
    wire::Store(&card.limit_bytes, cards[i].limit_bytes);
    wire::Store(&card.lease_bytes, cards[i].lease_bytes);
    wire::Store(&card.ceiling_bytes, cards[i].ceiling_bytes);
    wire::Store(&card.context_bytes, cards[i].context_bytes);
    wire::Store(&card.granule_bytes, cards[i].granule_bytes);
    wire::Store(&card.compute_permille, cards[i].compute_permille);
    wire::Store(&card.weight, cards[i].weight);
    wire::Store(&card.priority, cards[i].priority);
    wire::Store(&card.mps_percentage, cards[i].mps_percentage);
  }
  const std::uint64_t host =
      host_bytes == 0 ? wire::kUnlimitedBytes : std::min(host_bytes, wire::kUnlimitedBytes);
  wire::Store(&control_->cards[wire::kHostRow].limit_bytes, host);
  wire::Store(&control_->cards[wire::kHostRow].ceiling_bytes, host);
  __atomic_store_n(&control_->generation, before + 2, __ATOMIC_SEQ_CST);
}

void SlicePages::SetState(std::uint32_t state) {
  wire::Store(&control_->state, state);
  __atomic_add_fetch(&control_->generation, 2, __ATOMIC_SEQ_CST);
}

SliceStore::SliceStore(os::Files& files, std::string run_folder)
    : files_(files), folder_(std::move(run_folder) + "/slices") {}

Status SliceStore::Prepare() { return files_.MakeDirs(folder_, 0700); }

Result<std::unique_ptr<SlicePages>> SliceStore::Create(const std::string& id,
                                                       const std::vector<CardLimits>& cards,
                                                       std::uint64_t host_bytes) {
  TRY_STATUS(CheckSliceId(id));
  TRY_STATUS(CheckLimits(cards));
  const std::string folder = FolderOf(id);
  // The control page is made last and renamed into place: its name means that both pages are whole.
  if (files_.Exists(folder + "/control")) {
    return Error(Code::kAlreadyExists, "slice " + id + " has pages already");
  }
  TRY_STATUS(Remove(id));
  TRY_STATUS(files_.MakeDirs(folder, 0700));

  const auto count = static_cast<std::uint32_t>(cards.size());
  const auto usage = std::make_unique<wire::UsagePage>();
  std::memset(usage.get(), 0, sizeof(*usage));
  usage->magic = wire::kUsageMagic;
  usage->version = wire::kPageVersion;
  usage->bytes = sizeof(wire::UsagePage);
  usage->card_count = count;
  TRY_STATUS(WriteNew(folder + "/usage", usage.get(), sizeof(*usage)));

  wire::ControlPage control{};
  control.magic = wire::kControlMagic;
  control.version = wire::kPageVersion;
  control.bytes = sizeof(wire::ControlPage);
  control.state = wire::kStateOpen;
  control.card_count = count;
  Copy(control.slice_id, sizeof(control.slice_id), id);
  TRY_STATUS(WriteNew(folder + "/control.new", &control, sizeof(control)));
  if (rename((folder + "/control.new").c_str(), (folder + "/control").c_str()) != 0) {
    return os::ErrnoError("rename", folder + "/control", errno);
  }
  TRY(auto pages, Map(id, count));
  pages->SetLimits(cards, host_bytes);
  return pages;
}

Result<std::unique_ptr<SlicePages>> SliceStore::Open(const std::string& id,
                                                     const std::vector<CardLimits>& cards,
                                                     std::uint64_t host_bytes) {
  TRY_STATUS(CheckSliceId(id));
  TRY_STATUS(CheckLimits(cards));
  TRY(auto pages, Map(id, static_cast<std::uint32_t>(cards.size())));
  const wire::ControlPage& control = pages->control();
  const bool ours = control.magic == wire::kControlMagic && control.version == wire::kPageVersion &&
                    control.bytes == sizeof(wire::ControlPage) &&
                    control.card_count == cards.size() &&
                    std::strncmp(control.slice_id, id.c_str(), sizeof(control.slice_id)) == 0;
  const wire::UsagePage& usage = pages->usage();
  // The tenant may have scribbled here, but a wrong magic or size is no page a guest would have
  // accepted either.
  if (!ours || usage.magic != wire::kUsageMagic || usage.version != wire::kPageVersion) {
    return Error(Code::kDataLoss, "slice " + id + ": its pages are damaged or of another version");
  }
  pages->SetLimits(cards, host_bytes);
  return pages;
}

Status SliceStore::Remove(const std::string& id) {
  TRY_STATUS(CheckSliceId(id));
  const std::string folder = FolderOf(id);
  // Control first: without it the folder is a leftover that Create replaces.
  for (const char* name : {"/control", "/control.new", "/usage", ""}) {
    TRY_STATUS(files_.Remove(folder + name));
  }
  return {};
}

Result<std::vector<std::string>> SliceStore::List() { return files_.List(folder_); }

Result<std::unique_ptr<SlicePages>> SliceStore::Map(const std::string& id,
                                                    std::uint32_t card_count) {
  const std::string folder = FolderOf(id);
  std::unique_ptr<SlicePages> pages(new SlicePages);
  pages->card_count_ = card_count;
  TRY(const os::Fd control_rw, OpenSized(folder + "/control", O_RDWR, sizeof(wire::ControlPage)));
  TRY(pages->control_fd_, OpenSized(folder + "/control", O_RDONLY, sizeof(wire::ControlPage)));
  TRY(pages->usage_fd_, OpenSized(folder + "/usage", O_RDWR, sizeof(wire::UsagePage)));
  void* const control = mmap(nullptr, Mapped(sizeof(wire::ControlPage)), PROT_READ | PROT_WRITE,
                             MAP_SHARED, control_rw.get(), 0);
  if (control == MAP_FAILED) return os::ErrnoError("mmap", folder + "/control", errno);
  pages->control_ = static_cast<wire::ControlPage*>(control);
  void* const usage = mmap(nullptr, Mapped(sizeof(wire::UsagePage)), PROT_READ | PROT_WRITE,
                           MAP_SHARED, pages->usage_fd_.get(), 0);
  if (usage == MAP_FAILED) return os::ErrnoError("mmap", folder + "/usage", errno);
  pages->usage_ = static_cast<wire::UsagePage*>(usage);
  TRY(pages->guard_, PageGuard::Watch(usage, Mapped(sizeof(wire::UsagePage))));
  return pages;
}

}  // namespace tessera::broker
