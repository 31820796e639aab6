#include "placement/quota.h"

#include <algorithm>
#include <set>

#include "base/check.h"

namespace tessera::placement {
namespace {

constexpr std::uint64_t kMillion = 1'000'000;
constexpr const char* kResourceName[] = {"compute", "memory"};

std::string Format(int resource, std::uint64_t amount) {
  if (resource == 1) return FormatBytes(amount);
  std::string text = std::to_string(amount / 1000);
  if (const std::uint64_t rest = amount % 1000; rest != 0) {
    std::string digits = std::to_string(1000 + rest).substr(1);
    while (digits.back() == '0') digits.pop_back();
    text += "." + digits;
  }
  return text + (amount == 1000 ? " card" : " cards");
}

}  // namespace

SliceAmount AmountOf(const Request& request) {
  return {std::uint64_t{request.slices} * request.compute.value,
          std::uint64_t{request.slices} * request.memory_bytes};
}

Result<QuotaTree> QuotaTree::Make(const std::vector<Quota>& quotas) {
  if (quotas.size() > kQuotasMax) {
    return Error::Field("quotas", "expected at most quotas_max (" + std::to_string(kQuotasMax) +
                                      "), got " + std::to_string(quotas.size()));
  }
  QuotaTree tree;
  const auto field = [](std::size_t i, const char* name) {
    return "quotas[" + std::to_string(i) + "]." + name;
  };
  for (std::size_t i = 0; i < quotas.size(); ++i) {
    const Quota& quota = quotas[i];
    if (quota.name.empty() || quota.name.size() > kQuotaNameBytesMax) {
      return Error::Field(field(i, "name"),
                          "expected 1 to " + std::to_string(kQuotaNameBytesMax) + " bytes");
    }
    if (quota.weight < 1 || quota.weight > kQuotaWeightMax) {
      return Error::Field(field(i, "weight"), "expected 1 to " + std::to_string(kQuotaWeightMax) +
                                                  ", got " + std::to_string(quota.weight));
    }
    const SliceAmount unlimited{kUnlimited, kUnlimited};
    if (quota.parent.empty() &&
        (quota.borrowing_limit != unlimited || quota.lending_limit != unlimited)) {
      return Error::Field(field(i, "parent"),
                          "expected a parent beside a borrowing_limit or lending_limit; without "
                          "one there is nobody to borrow from or lend to");
    }
    Node node;
    node.quota = quota;
    node.listed = true;
    if (!tree.nodes_.emplace(quota.name, std::move(node)).second) {
      return Error::Field(field(i, "name"),
                          "expected each name once, " + quota.name + " is given twice");
    }
  }
  // Children before parents: by depth, deepest first.
  std::vector<std::pair<std::size_t, std::string>> by_depth;
  for (std::size_t i = 0; i < quotas.size(); ++i) {
    std::size_t depth = 1;
    for (const Quota* at = &quotas[i]; !at->parent.empty(); ++depth) {
      const auto parent = tree.nodes_.find(at->parent);
      if (parent == tree.nodes_.end()) {
        return Error::Field(field(i, "parent"),
                            "expected the name of another quota, got " + at->parent);
      }
      if (depth >= kQuotaDepthMax) {
        return Error::Field(field(i, "parent"), "expected at most quota_depth_max (" +
                                                    std::to_string(kQuotaDepthMax) +
                                                    ") levels and no circle");
      }
      at = &parent->second.quota;
    }
    by_depth.emplace_back(depth, quotas[i].name);
  }
  std::sort(by_depth.rbegin(), by_depth.rend());
  for (const auto& [depth, name] : by_depth) {
    Node& node = tree.nodes_.at(name);
    for (int r = 0; r < kResources; ++r) {
      node.subtree[r] += Get(node.quota.nominal, r);
      if (node.quota.parent.empty()) continue;
      tree.nodes_.at(node.quota.parent).subtree[r] += node.subtree[r] - tree.Kept(node, r);
    }
  }
  return tree;
}

QuotaTree::Wide QuotaTree::Kept(const Node& node, int resource) const {
  const std::uint64_t limit = Get(node.quota.lending_limit, resource);
  if (limit == kUnlimited) return 0;
  return std::max<Wide>(0, node.subtree[resource] - limit);
}

QuotaTree::Room QuotaTree::Available(const Node& node, int resource, bool empty) const {
  const Wide used = empty ? 0 : node.used[resource];
  if (node.quota.parent.empty()) {
    return {node.subtree[resource] - used, "nominal", node.quota.name};
  }
  const Wide kept = Kept(node, resource);
  Room room = Available(nodes_.at(node.quota.parent), resource, empty);
  if (const std::uint64_t limit = Get(node.quota.borrowing_limit, resource); limit != kUnlimited) {
    const Wide most = node.subtree[resource] - kept - std::max<Wide>(0, used - kept) + limit;
    if (most < room.amount) room = {most, "borrowing_limit", node.quota.name};
  }
  room.amount += std::max<Wide>(0, kept - used);
  return room;
}

QuotaTree::Wide QuotaTree::Withheld(const std::string& tenant, int resource, bool empty) const {
  const std::vector<std::string> path = Path(tenant);
  const std::set<std::string> on_path(path.begin(), path.end());
  Wide sum = 0;
  for (const auto& [name, node] : nodes_) {
    if (!node.listed || on_path.count(name) != 0 || !SameTree(tenant, name)) continue;
    sum += std::max<Wide>(0, Kept(node, resource) - (empty ? 0 : node.used[resource]));
  }
  return sum;
}

std::optional<QuotaTree::Denial> QuotaTree::Check(const std::string& tenant,
                                                  const SliceAmount& ask) const {
  const auto found = nodes_.find(tenant);
  if (found == nodes_.end() || !found->second.listed) return std::nullopt;
  for (const bool empty : {true, false}) {  // what can never be is told first
    for (int r = 0; r < kResources; ++r) {
      const std::uint64_t asked = Get(ask, r);
      Room room = Available(found->second, r, empty);
      if (Wide{asked} <= room.amount) continue;
      if (room.limit == "nominal" && !found->second.quota.parent.empty() &&
          room.amount + Withheld(tenant, r, empty) >= asked) {
        room.limit = "lending_limit";
      }
      const auto available = static_cast<std::uint64_t>(std::max<Wide>(0, room.amount));
      Denial denial{room.limit, room.quota, kResourceName[r], asked, available, empty, ""};
      const std::string whose = room.quota == tenant ? "" : " of its group";
      std::string why;
      if (room.limit == "borrowing_limit") {
        why = "the borrowing_limit" + whose;
      } else if (room.limit == "lending_limit") {
        why = "the lending_limit of others in its group";
      } else {
        why = "the nominal quota" + whose;
      }
      denial.message = "quota: " + std::string(kResourceName[r]) + ": asked " + Format(r, asked) +
                       ", " + Format(r, available) + " left under " + why + " (nominal " +
                       Format(r, Get(found->second.quota.nominal, r)) + ", held " +
                       Format(r, static_cast<std::uint64_t>(found->second.held[r])) + ")";
      if (empty) denial.message += "; it can never be admitted";
      return denial;
    }
  }
  return std::nullopt;
}

void QuotaTree::AddOne(const std::string& name, int resource, Wide amount) {
  Node& node = nodes_.at(name);
  const Wide inside = std::max<Wide>(0, Kept(node, resource) - node.used[resource]);
  node.used[resource] += amount;
  if (!node.quota.parent.empty() && amount > inside)
    AddOne(node.quota.parent, resource, amount - inside);
}

void QuotaTree::RemoveOne(const std::string& name, int resource, Wide amount) {
  Node& node = nodes_.at(name);
  const Wide outside = std::max<Wide>(0, node.used[resource] - Kept(node, resource));
  CHECK(node.used[resource] >= amount);
  node.used[resource] -= amount;
  if (!node.quota.parent.empty() && outside > 0)
    RemoveOne(node.quota.parent, resource, std::min(amount, outside));
}

void QuotaTree::Add(const std::string& tenant, const SliceAmount& amount) {
  if (amount == SliceAmount()) return;
  const auto [found, added] = nodes_.try_emplace(tenant);
  if (added) found->second.quota.name = tenant;
  for (int r = 0; r < kResources; ++r) {
    AddOne(tenant, r, Get(amount, r));
    for (const std::string& name : Path(tenant)) nodes_.at(name).held[r] += Get(amount, r);
  }
}

void QuotaTree::Remove(const std::string& tenant, const SliceAmount& amount) {
  if (amount == SliceAmount()) return;
  const auto found = nodes_.find(tenant);
  CHECK(found != nodes_.end());
  for (int r = 0; r < kResources; ++r) {
    RemoveOne(tenant, r, Get(amount, r));
    for (const std::string& name : Path(tenant)) nodes_.at(name).held[r] -= Get(amount, r);
  }
  if (!found->second.listed && found->second.held[0] == 0 && found->second.held[1] == 0) {
    nodes_.erase(found);
  }
}

bool QuotaTree::Limits(const std::string& tenant) const {
  const auto found = nodes_.find(tenant);
  return found != nodes_.end() && found->second.listed;
}

SliceAmount QuotaTree::Held(const std::string& tenant) const {
  const auto found = nodes_.find(tenant);
  if (found == nodes_.end()) return {};
  return {static_cast<std::uint64_t>(found->second.held[0]),
          static_cast<std::uint64_t>(found->second.held[1])};
}

bool QuotaTree::Borrows(const std::string& tenant, const SliceAmount& ask) const {
  const auto found = nodes_.find(tenant);
  if (found == nodes_.end() || !found->second.listed) return false;
  const Node& node = found->second;
  for (int r = 0; r < kResources; ++r) {
    if (node.used[r] + Get(ask, r) > node.subtree[r]) return true;
  }
  return false;
}

bool QuotaTree::SameTree(const std::string& a, const std::string& b) const {
  return Limits(a) && Limits(b) && Path(a).front() == Path(b).front();
}

std::vector<std::string> QuotaTree::Path(const std::string& tenant) const {
  std::vector<std::string> path{tenant};
  for (auto at = nodes_.find(tenant); at != nodes_.end() && !at->second.quota.parent.empty();) {
    path.push_back(at->second.quota.parent);
    at = nodes_.find(at->second.quota.parent);
  }
  std::reverse(path.begin(), path.end());
  return path;
}

std::uint64_t QuotaTree::Share(const std::string& name, const SliceAmount& fleet) const {
  const auto found = nodes_.find(name);
  if (found == nodes_.end()) return 0;
  Wide share = 0;
  for (int r = 0; r < kResources; ++r) {
    const std::uint64_t whole = std::max<std::uint64_t>(1, Get(fleet, r));
    share = std::max(share, found->second.held[r] * kMillion / whole);
  }
  return static_cast<std::uint64_t>(share / found->second.quota.weight);
}

std::optional<Quota> QuotaTree::Find(const std::string& name) const {
  const auto found = nodes_.find(name);
  if (found == nodes_.end() || !found->second.listed) return std::nullopt;
  return found->second.quota;
}

std::optional<QuotaUse> QuotaTree::Use(const std::string& name) const {
  const auto quota = Find(name);
  if (!quota) return std::nullopt;
  const Node& node = nodes_.at(name);
  const auto borrowed = [&](int r) {
    return static_cast<std::uint64_t>(std::max<Wide>(0, node.used[r] - node.subtree[r]));
  };
  return QuotaUse{*quota, Held(name), {borrowed(0), borrowed(1)}};
}

}  // namespace tessera::placement
