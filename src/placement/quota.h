// Quota in slice units: who may hold how much, and who lends to whom.
//
// Quotas form trees. What a quota does not use, its siblings may borrow through their parent (the
// cohort), within limits on both sides; a quota without a parent borrows from nobody. The words and
// the arithmetic are those of Kueue's cohorts, per resource:
//   subtree(v)   = nominal(v) + sum over children c of min(subtree(c), lending_limit(c))
//   kept(v)      = max(0, subtree(v) - lending_limit(v)), which only v itself can use
//   available(v) = max(0, kept(v) - used(v)) + min(parent's available,
//                  subtree(v) - kept(v) - what v uses in its parent + borrowing_limit(v))
// and at a root available = subtree - used. A tenant that no quota names is not limited.
//
// Pure values; not thread-safe.
#pragma once

#include <cstdint>
#include <limits>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "placement/request.h"

namespace tessera::placement {

inline constexpr std::size_t kQuotasMax = 16'384;
inline constexpr std::size_t kQuotaDepthMax = 16;  // from a root to a leaf
inline constexpr std::size_t kQuotaNameBytesMax = 128;
inline constexpr std::uint32_t kQuotaWeightMax = 1000;
// Of an amount that is a limit: a million cards of a TiB each.
inline constexpr std::int64_t kQuotaCardMillisMax = 1'000'000'000;
inline constexpr std::uint64_t kQuotaMemoryBytesMax = 1024ULL * 1024 * 1024 * kGiB;
inline constexpr std::uint64_t kUnlimited = std::numeric_limits<std::uint64_t>::max();

struct SliceAmount {
  std::uint64_t card_millis = 0;  // thousandths of a card's compute
  std::uint64_t memory_bytes = 0;
  friend bool operator==(const SliceAmount&, const SliceAmount&) = default;
};

// What all slices of the request take together.
SliceAmount AmountOf(const Request& request);

struct Quota {
  std::string name;     // of the tenant, or of a group that others name as their parent
  std::string parent;   // empty: a root
  SliceAmount nominal;  // its own
  SliceAmount borrowing_limit{kUnlimited, kUnlimited};  // at most so much of what others leave
  SliceAmount lending_limit{kUnlimited, kUnlimited};    // at most so much of its own to others
  std::uint32_t weight = 1;  // a fair share is what is held divided by this
};

// What is held under a quota, by its tenant or by all below a group, and how much of that others
// lend.
struct QuotaUse {
  Quota quota;
  SliceAmount held;
  SliceAmount borrowed;
};

class QuotaTree {
 public:
  // Refuses the whole set with the wrong quota and field named ("quotas[2].parent").
  static Result<QuotaTree> Make(const std::vector<Quota>& quotas);

  struct Denial {
    std::string limit;     // "nominal", "borrowing_limit" or "lending_limit"
    std::string quota;     // whose limit it is; may be another tenant's group
    std::string resource;  // "compute" or "memory"
    std::uint64_t asked = 0;
    std::uint64_t available = 0;
    bool never = false;  // also if nobody held anything
    // Names no quota but the asking tenant's own.
    std::string message;
  };
  // Why the tenant may not hold `ask` more just now.
  std::optional<Denial> Check(const std::string& tenant, const SliceAmount& ask) const;

  // Books what is held, also beyond a limit: it is a fact. Remove what was added, no more.
  void Add(const std::string& tenant, const SliceAmount& amount);
  void Remove(const std::string& tenant, const SliceAmount& amount);

  bool Limits(const std::string& tenant) const;  // a quota of this name exists
  SliceAmount Held(const std::string& tenant) const;
  // Holds, or with `ask` more would hold, more than is its own.
  bool Borrows(const std::string& tenant, const SliceAmount& ask = {}) const;
  // Whether one may borrow what the other does not use.
  bool SameTree(const std::string& a, const std::string& b) const;
  // Root first, the tenant last.
  std::vector<std::string> Path(const std::string& tenant) const;
  // What the quota and those below it hold of `fleet`, of the resource they hold most of, divided
  // by its weight; in millionths.
  std::uint64_t Share(const std::string& name, const SliceAmount& fleet) const;
  std::optional<Quota> Find(const std::string& name) const;
  std::optional<QuotaUse> Use(const std::string& name) const;

 private:
  __extension__ typedef __int128 Wide;
  static constexpr int kResources = 2;
  struct Node {
    Quota quota;
    bool listed = false;  // false: a tenant without a quota, here while it holds something
    Wide subtree[kResources] = {0, 0};
    Wide used[kResources] = {0, 0};  // own, and what the children use of their parents' part
    Wide held[kResources] = {0, 0};  // own and all of the children's
  };
  struct Room {
    Wide amount = 0;
    std::string limit;
    std::string quota;
  };

  static std::uint64_t Get(const SliceAmount& amount, int resource) {
    return resource == 0 ? amount.card_millis : amount.memory_bytes;
  }
  Wide Kept(const Node& node, int resource) const;
  Room Available(const Node& node, int resource, bool empty) const;
  // What those off the tenant's path keep for themselves and do not use.
  Wide Withheld(const std::string& tenant, int resource, bool empty) const;
  void AddOne(const std::string& name, int resource, Wide amount);
  void RemoveOne(const std::string& name, int resource, Wide amount);

  std::map<std::string, Node> nodes_;
};

}  // namespace tessera::placement
