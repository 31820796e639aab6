// The two pages of a slice as files in the node's run folder (a tmpfs), so that they outlive
// tesserad:
//   <run>/slices/<id>/control   the node writes; handed out opened read-only
//   <run>/slices/<id>/usage     handed out opened for reading and writing
// The folder `slices` is mode 0700 and the files 0600: a process of another uid reaches them only
// through the descriptors the broker passes. Without root the tenant has the node's own uid and
// could open them; that mode is called "not contained" everywhere.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "broker/page_guard.h"
#include "os/fd.h"
#include "os/files.h"
#include "wire/pages.h"

namespace tessera::broker {

// What one slice may have on one card, as written into its control page.
struct CardLimits {
  std::string uuid;
  std::uint64_t limit_bytes = 0;    // reserved + promised
  std::uint64_t lease_bytes = 0;    // lent above the limit
  std::uint64_t ceiling_bytes = 0;  // at least the limit
  std::uint64_t context_bytes = 0;
  std::uint64_t granule_bytes = 0;
  std::uint32_t compute_permille = 0;
  std::uint32_t weight = 0;          // 0: compute_permille is a hard cap
  std::uint32_t priority = 0;        // a higher class goes first
  std::uint32_t mps_percentage = 0;  // not 0: the card's slices run as MPS clients, without turns
  bool operator==(const CardLimits&) const = default;
};

// Beside the cards a slice may have a limit for page-locked memory of the machine; every
// `host_bytes` below is that, and 0 means that there is none.

// Slice ids name folders and travel in a fixed field: 1 to 63 of [a-z0-9._-], the first a letter or
// digit.
Status CheckSliceId(std::string_view id);
Status CheckLimits(const std::vector<CardLimits>& cards);

// Both pages mapped into this process. Not thread-safe; unmapped on destruction, the files stay.
class SlicePages {
 public:
  ~SlicePages();
  SlicePages(const SlicePages&) = delete;
  SlicePages& operator=(const SlicePages&) = delete;

  wire::ControlPage& control() { return *control_; }
  const wire::ControlPage& control() const { return *control_; }
  wire::UsagePage& usage() { return *usage_; }
  const wire::UsagePage& usage() const { return *usage_; }
  // What a guest is given.
  int control_fd() const { return control_fd_.get(); }
  int usage_fd() const { return usage_fd_.get(); }
  // Number of cards as the node made it; the page's own word is not believed.
  std::uint32_t card_count() const { return card_count_; }
  // False once a tenant has changed the size of the usage file.
  bool UsageIntact() const;

  // Writes new limits: the generation is odd while fields change and even when they are whole.
  void SetLimits(const std::vector<CardLimits>& cards, std::uint64_t host_bytes);
  void SetState(std::uint32_t state);

 private:
  friend class SliceStore;
  SlicePages() = default;

  wire::ControlPage* control_ = nullptr;
  wire::UsagePage* usage_ = nullptr;
  os::Fd control_fd_;
  os::Fd usage_fd_;
  std::uint32_t card_count_ = 0;
  PageGuard guard_;
};

// Makes, opens and removes pages below one folder. Thread-safe as far as calls name different
// slices.
class SliceStore {
 public:
  SliceStore(os::Files& files, std::string run_folder);
  // Makes the folder; call once before the others.
  Status Prepare();
  // New pages; a half-made leftover of an earlier crash is replaced, whole pages are
  // kAlreadyExists.
  Result<std::unique_ptr<SlicePages>> Create(const std::string& id,
                                             const std::vector<CardLimits>& cards,
                                             std::uint64_t host_bytes = 0);
  // Existing pages after a restart; kNotFound when there are none, kDataLoss when they are another
  // version's or damaged. The limits are written afresh from `cards`.
  Result<std::unique_ptr<SlicePages>> Open(const std::string& id,
                                           const std::vector<CardLimits>& cards,
                                           std::uint64_t host_bytes = 0);
  Status Remove(const std::string& id);
  Result<std::vector<std::string>> List();
  std::string FolderOf(const std::string& id) const { return folder_ + "/" + id; }

 private:
  Result<std::unique_ptr<SlicePages>> Map(const std::string& id, std::uint32_t card_count);
  os::Files& files_;
  std::string folder_;
};

}  // namespace tessera::broker
