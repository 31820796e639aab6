// Keeps the node alive when a tenant truncates a page the node has mapped.
//
// A process of a slice holds a writable descriptor of its usage page and could shrink the file; the
// node's next access would then be SIGBUS. The guard replaces the mapping with zeroed private
// memory inside the signal handler, so the access reads zeros, and remembers it: Torn() tells the
// owner to close the slice. SIGBUS anywhere else keeps its previous meaning. Thread-safe; at most
// kGuardedRangesMax ranges in one process.
#pragma once

#include <cstddef>

#include "base/result.h"

namespace tessera::broker {

inline constexpr std::size_t kGuardedRangesMax = 4096;

class PageGuard {
 public:
  // Guards [start, start + bytes); both page-aligned. kResourceExhausted beyond the bound.
  static Result<PageGuard> Watch(void* start, std::size_t bytes);
  PageGuard() = default;
  PageGuard(PageGuard&& other) noexcept;
  PageGuard& operator=(PageGuard&& other) noexcept;
  ~PageGuard();
  // True once the handler had to replace the mapping.
  bool Torn() const;

 private:
  explicit PageGuard(std::size_t index) : index_(index) {}
  static constexpr std::size_t kNone = static_cast<std::size_t>(-1);
  std::size_t index_ = kNone;
};

}  // namespace tessera::broker
