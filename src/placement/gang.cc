#include "placement/gang.h"

#include <algorithm>
#include <numeric>
#include <optional>

#include "base/check.h"

namespace tessera::placement {
namespace {

// Reservations made on the way to a decision; what is not kept is given back.
class Attempt {
 public:
  explicit Attempt(Engine& engine) : engine_(engine) {}
  Attempt(const Attempt&) = delete;
  Attempt& operator=(const Attempt&) = delete;
  ~Attempt() { GiveBack(); }

  std::optional<Scarcity> Place(const Request& request, const std::set<std::string>& avoid) {
    const Placement* const placed = engine_.Place(request, avoid, false);
    if (placed == nullptr) return engine_.WhyNot(request, avoid);
    placed_.push_back(*placed);
    return std::nullopt;
  }
  const std::vector<Placement>& placed() const { return placed_; }
  void GiveBack() {
    for (const Placement& placement : placed_) engine_.Release(placement.request_id);
    placed_.clear();
  }
  std::vector<Placement> Keep() { return std::exchange(placed_, {}); }

 private:
  Engine& engine_;
  std::vector<Placement> placed_;
};

struct Site {
  std::string node;
  std::uint32_t takes = 0;
};

// How many members each of the fewest nodes gets; empty when these nodes cannot take `size`.
std::vector<Site> Divide(std::vector<Site> sites, std::uint32_t size, std::uint32_t node_min) {
  std::sort(sites.begin(), sites.end(), [](const Site& a, const Site& b) {
    return a.takes != b.takes ? a.takes > b.takes : a.node < b.node;
  });
  std::uint64_t room = 0;
  for (std::size_t count = 1; count <= sites.size(); ++count) {
    room += sites[count - 1].takes;
    if (std::uint64_t{node_min} * count > size) return {};
    if (room < size) continue;
    sites.resize(count);
    std::uint32_t left = size - node_min * static_cast<std::uint32_t>(count);
    for (Site& site : sites) {
      const std::uint32_t more = std::min(left, site.takes - node_min);
      site.takes = node_min + more;
      left -= more;
    }
    return sites;
  }
  return {};
}

// One node is as near as it gets; on several, without racks, only the minimum matters.
bool GoodEnough(const std::vector<Placement>& placed, std::uint32_t node_min, bool racks) {
  std::map<std::string, std::uint32_t> count;
  for (const Placement& placement : placed) ++count[placement.node];
  if (count.size() > 1 && racks) return false;
  return std::all_of(count.begin(), count.end(),
                     [&](const auto& node) { return node.second >= node_min; });
}

Scarcity Short(Scarcity scarcity, std::size_t fit, std::size_t size) {
  scarcity.message = "gang: " + std::to_string(fit) + " of " + std::to_string(size) +
                     " members fit; " + scarcity.message;
  return scarcity;
}

}  // namespace

std::variant<std::vector<Placement>, Scarcity> PlaceGang(
    Engine& engine, const std::vector<Request>& members, std::uint32_t node_min,
    const std::map<std::string, std::string>& racks, const std::set<std::string>& avoid,
    bool one_rack) {
  CHECK(!members.empty() && members.size() <= kGangSizeMax);
  const auto size = static_cast<std::uint32_t>(members.size());
  node_min = std::clamp<std::uint32_t>(node_min, 1, size);
  Attempt attempt(engine);
  // As the engine would place them one after another.
  for (const Request& member : members) {
    if (auto scarcity = attempt.Place(member, avoid)) {
      return Short(std::move(*scarcity), attempt.placed().size(), size);
    }
  }
  if (GoodEnough(attempt.placed(), node_min, one_rack || !racks.empty())) return attempt.Keep();
  // That leaves a node with too few, or spreads over racks: learn what every node could take.
  std::map<std::string, std::uint32_t> takes;
  std::set<std::string> full = avoid;
  const auto count = [&](const std::string& node) {
    if (++takes[node] == size) full.insert(node);
  };
  for (const Placement& placement : attempt.placed()) count(placement.node);
  {
    Attempt probes(engine);
    Request probe = members.front();
    for (std::size_t i = 0; i < kGangProbesMax; ++i) {
      probe.id = "\x01gang probe " + std::to_string(i);
      if (probes.Place(probe, full)) break;
      count(probes.placed().back().node);
    }
  }
  attempt.GiveBack();

  std::map<std::string, std::vector<Site>> by_rack;
  std::vector<Site> all;
  for (const auto& [node, number] : takes) {
    if (number < node_min) continue;
    all.push_back({node, number});
    const auto rack = racks.find(node);
    by_rack[rack == racks.end() ? "\x01node " + node : rack->second].push_back({node, number});
  }
  std::vector<Site> best;
  for (auto& [rack, sites] : by_rack) {
    std::vector<Site> here = Divide(std::move(sites), size, node_min);
    if (!here.empty() && (best.empty() || here.size() < best.size())) best = std::move(here);
  }
  if (best.empty() && one_rack) {
    return Scarcity{"cards", size, 0, false,
                    "gang: no rack takes " + std::to_string(size) + " members with at least " +
                        std::to_string(node_min) + " on each node"};
  }
  if (best.empty()) best = Divide(std::move(all), size, node_min);
  if (best.empty()) {
    return Scarcity{"cards", size, 0, false,
                    "gang: no set of nodes takes " + std::to_string(size) +
                        " members with at least " + std::to_string(node_min) + " on each"};
  }
  std::set<std::string> others = avoid;
  for (const auto& [node, number] : takes) others.insert(node);
  std::size_t next = 0;
  for (const Site& site : best) {
    others.erase(site.node);
    for (std::uint32_t i = 0; i < site.takes; ++i) {
      if (auto scarcity = attempt.Place(members[next++], others)) {
        return Short(std::move(*scarcity), attempt.placed().size(), size);
      }
    }
    others.insert(site.node);
  }
  return attempt.Keep();
}

}  // namespace tessera::placement
