#include "placement/engine.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "base/check.h"

namespace tessera::placement {
namespace {

__extension__ typedef unsigned __int128 Wide;

constexpr std::uint64_t kMillion = 1'000'000;
constexpr std::uint32_t kWholeCard = 1000;  // per mille
// A shortage of kind (no such card) is worse than any shortage of amount.
constexpr std::uint64_t kWrongKind = 2 * kMillion;

std::uint64_t Left(std::uint64_t capacity, std::uint64_t reserved, std::uint64_t foreign) {
  // Foreign use may overlap a card that shrank: what is left is never negative.
  if (reserved >= capacity) return 0;
  return capacity - reserved > foreign ? capacity - reserved - foreign : 0;
}

std::uint64_t Millionths(std::uint64_t part, std::uint64_t whole) {
  if (whole == 0) return 0;
  return static_cast<std::uint64_t>(Wide{part} * kMillion / whole);
}

std::string Lower(std::string_view text) {
  std::string lower(text);
  for (char& c : lower) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  return lower;
}

std::string Ordinal(std::uint32_t n) {
  if (n == 1) return "best card";
  return "best node's " + std::to_string(n) + " freest cards";
}

std::string EachCard(const Request& request) {
  return request.slices == 1 ? " a card"
                             : " on each of " + std::to_string(request.slices) + " cards";
}

}  // namespace

Status Validate(const Request& request) {
  if (request.id.empty() || request.id.size() > kRequestIdBytesMax) {
    return Error::Field("id", "expected 1 to " + std::to_string(kRequestIdBytesMax) + " bytes");
  }
  if (request.slices < 1 || request.slices > kSlicesMax) {
    return Error::Field("slices", "expected 1 to " + std::to_string(kSlicesMax) + ", got " +
                                      std::to_string(request.slices));
  }
  if (request.memory_bytes == 0) return Error::Field("memory", "expected more than 0 bytes");
  if (request.compute.value < 1 || request.compute.value > kWholeCard) {
    return Error::Field(
        "compute", "expected 1 to 1000 per mille, got " + std::to_string(request.compute.value));
  }
  if (!request.card_uuid.empty() && request.slices != 1) {
    return Error::Field("slices", "expected 1 when card_uuid names one card, got " +
                                      std::to_string(request.slices));
  }
  return {};
}

Status Engine::UpdateNode(const NodeInventory& inventory, const ForeignUse& foreign) {
  if (inventory.name.empty()) return Error::Field("name", "expected a node name");
  if (inventory.cards.size() > kCardsPerNodeMax) {
    return Error::Field("cards", "expected at most cards_per_node_max (" +
                                     std::to_string(kCardsPerNodeMax) + "), got " +
                                     std::to_string(inventory.cards.size()));
  }
  if (nodes_.count(inventory.name) == 0 && nodes_.size() >= kNodesMax) {
    return Error(Code::kResourceExhausted,
                 "nodes_max (" + std::to_string(kNodesMax) + ") is reached");
  }
  KnownNode node;
  node.cpu_millis = inventory.cpu_millis;
  node.ram_bytes = inventory.ram_bytes;
  node.foreign_cpu_millis = foreign.cpu_millis;
  node.foreign_ram_bytes = foreign.ram_bytes;
  for (const device::Card& card : inventory.cards) {
    node.cards.push_back({card, Lower(card.model), {}});
  }
  const auto by_uuid = [](const KnownCard& a, const KnownCard& b) {
    return a.card.uuid < b.card.uuid;
  };
  std::sort(node.cards.begin(), node.cards.end(), by_uuid);
  for (std::size_t i = 0; i < node.cards.size(); ++i) {
    const std::string& uuid = node.cards[i].card.uuid;
    if (uuid.empty()) return Error::Field("cards", "expected a uuid on every card");
    if (node.cards[i].card.memory_bytes > kCardBytesMax) {
      return Error::Field("cards", "expected at most card_bytes_max (" +
                                       FormatBytes(kCardBytesMax) + ") of memory on " + uuid);
    }
    if (i > 0 && uuid == node.cards[i - 1].card.uuid) {
      return Error::Field("cards", "expected each uuid once, " + uuid + " is given twice");
    }
  }
  for (const device::Share& share : foreign.cards) {
    for (KnownCard& card : node.cards) {
      if (card.card.uuid != share.card_uuid) continue;
      card.foreign.memory_bytes += share.memory_bytes;
      card.foreign.permille += share.compute.value;
    }
  }
  nodes_[inventory.name] = std::move(node);
  return {};
}

void Engine::RemoveNode(const std::string& name) { nodes_.erase(name); }

Engine::NodeView Engine::View(const std::string& name, const KnownNode& node, bool empty) const {
  NodeView view;
  view.name = &name;
  const auto found = held_.find(name);
  const Held* held = empty || found == held_.end() ? nullptr : &found->second;
  view.cpu_left = Left(node.cpu_millis, held != nullptr ? held->cpu_millis : 0,
                       empty ? 0 : node.foreign_cpu_millis);
  view.ram_left = Left(node.ram_bytes, held != nullptr ? held->ram_bytes : 0,
                       empty ? 0 : node.foreign_ram_bytes);
  view.cards.reserve(node.cards.size());
  for (const KnownCard& known : node.cards) {
    Amount ours;
    if (held != nullptr) {
      const auto amount = held->cards.find(known.card.uuid);
      if (amount != held->cards.end()) ours = amount->second;
    }
    const Amount foreign = empty ? Amount() : known.foreign;
    view.cards.push_back({&known,
                          Left(known.card.memory_bytes, ours.memory_bytes, foreign.memory_bytes),
                          Left(kWholeCard, ours.permille, foreign.permille)});
  }
  return view;
}

namespace {

template <typename KnownCard>
bool IsKind(const KnownCard& known, const Request& request, const std::string& model_lower) {
  return (model_lower.empty() || known.model_lower.find(model_lower) != std::string::npos) &&
         (request.card_uuid.empty() || known.card.uuid == request.card_uuid);
}

}  // namespace

std::vector<const Engine::CardView*> Engine::Choose(const NodeView& node, const Request& request,
                                                    const std::string& model_lower,
                                                    bool ignore_health) {
  if (node.cpu_left < request.cpu_millis || node.ram_left < request.ram_bytes) return {};
  std::vector<std::pair<std::uint64_t, const CardView*>> fitting;
  for (const CardView& card : node.cards) {
    if (!IsKind(*card.known, request, model_lower)) continue;
    if (!card.known->card.healthy && !ignore_health) continue;
    if (card.memory_left < request.memory_bytes) continue;
    if (card.permille_left < request.compute.value) continue;
    fitting.emplace_back(
        Millionths(card.memory_left - request.memory_bytes, card.known->card.memory_bytes) +
            Millionths(card.permille_left - request.compute.value, kWholeCard),
        &card);
  }
  if (fitting.size() < request.slices) return {};
  // The cards stand in uuid order in one vector, so their addresses break ties to the smaller uuid.
  std::sort(fitting.begin(), fitting.end(), [&](const auto& a, const auto& b) {
    if (a.first == b.first) return a.second < b.second;
    return request.card_policy == Policy::kBinpack ? a.first < b.first : a.first > b.first;
  });
  std::vector<const CardView*> chosen;
  for (std::uint32_t i = 0; i < request.slices; ++i) chosen.push_back(fitting[i].second);
  return chosen;
}

std::uint64_t Engine::LeftAfter(const NodeView& node, const std::vector<const CardView*>& chosen,
                                const Request& request) {
  std::uint64_t memory = 0;
  std::uint64_t memory_left = 0;
  std::uint64_t permille = 0;
  std::uint64_t permille_left = 0;
  for (const CardView& card : node.cards) {
    if (!card.known->card.healthy) continue;
    memory += card.known->card.memory_bytes;
    memory_left += card.memory_left;
    permille += kWholeCard;
    permille_left += card.permille_left;
  }
  memory_left -= request.memory_bytes * chosen.size();
  permille_left -= request.compute.value * chosen.size();
  return Millionths(memory_left, memory) + Millionths(permille_left, permille);
}

Engine::Shortage Engine::Lacking(const NodeView& node, const Request& request,
                                 const std::string& model_lower, bool empty) {
  Shortage worst;
  const auto consider = [&](std::string resource, std::uint64_t asked, std::uint64_t available,
                            std::uint64_t severity, std::string message) {
    if (available >= asked || severity <= worst.severity) return;
    worst.severity = severity;
    worst.scarcity = {std::move(resource), asked, available, false, std::move(message)};
  };
  const auto amount = [&](const char* resource, std::uint64_t asked, std::uint64_t available,
                          const std::string& message) {
    if (available < asked) {
      consider(resource, asked, available,
               std::max<std::uint64_t>(1, Millionths(asked - available, asked)), message);
    }
  };
  const char* const have = empty ? " in all)" : " free)";

  std::vector<const CardView*> kind;
  for (const CardView& card : node.cards) {
    if (IsKind(*card.known, request, model_lower)) kind.push_back(&card);
  }
  if (kind.empty() && !request.card_uuid.empty()) {
    consider("cards", 1, 0, kWrongKind + kMillion,
             "cards: asked the card " + request.card_uuid +
                 (model_lower.empty() ? "" : " of model " + request.model) + ", no node has it");
    return worst;
  }
  if (kind.size() < request.slices && !model_lower.empty()) {
    consider("model", request.slices, kind.size(),
             kWrongKind + Millionths(request.slices - kind.size(), request.slices),
             "model: asked " + std::to_string(request.slices) + " card(s) of model " +
                 request.model + " on one node, the best node has " + std::to_string(kind.size()));
    return worst;
  }
  std::vector<std::uint64_t> memory;
  std::vector<std::uint64_t> permille;
  std::uint64_t healthy = 0;
  std::uint64_t both = 0;
  for (const CardView* card : kind) {
    if (!card->known->card.healthy && !empty) continue;
    ++healthy;
    memory.push_back(card->memory_left);
    permille.push_back(card->permille_left);
    if (card->memory_left >= request.memory_bytes && card->permille_left >= request.compute.value)
      ++both;
  }
  if (healthy < request.slices) {
    consider("cards", request.slices, healthy,
             kMillion + Millionths(request.slices - healthy, request.slices) / 2,
             "cards: asked " + std::to_string(request.slices) +
                 " card(s) on one node, the best node has " + std::to_string(healthy) +
                 (empty ? "" : " healthy"));
  } else {
    std::sort(memory.begin(), memory.end(), std::greater<>());
    std::sort(permille.begin(), permille.end(), std::greater<>());
    const std::uint64_t memory_left = memory[request.slices - 1];
    const std::uint64_t permille_left = permille[request.slices - 1];
    amount("memory", request.memory_bytes, memory_left,
           "memory: asked " + FormatBytes(request.memory_bytes) + EachCard(request) + ", " +
               FormatBytes(request.memory_bytes - std::min(request.memory_bytes, memory_left)) +
               " short on the " + Ordinal(request.slices) + " (" + FormatBytes(memory_left) + have);
    amount("compute", request.compute.value, permille_left,
           "compute: asked " + FormatPermille(request.compute) + EachCard(request) + ", " +
               FormatPermille(
                   {request.compute.value - static_cast<std::uint32_t>(std::min<std::uint64_t>(
                                                request.compute.value, permille_left))}) +
               " short on the " + Ordinal(request.slices) + " (" +
               FormatPermille({static_cast<std::uint32_t>(permille_left)}) + have);
    if (memory_left >= request.memory_bytes && permille_left >= request.compute.value) {
      amount("cards", request.slices, both,
             "cards: asked " + std::to_string(request.slices) + " card(s) with " +
                 FormatBytes(request.memory_bytes) + " and " + FormatPermille(request.compute) +
                 " both free, the best node has " + std::to_string(both));
    }
  }
  amount("cpu", request.cpu_millis, node.cpu_left,
         "cpu: asked " + std::to_string(request.cpu_millis) + " CPU millis, " +
             std::to_string(request.cpu_millis -
                            std::min<std::uint64_t>(request.cpu_millis, node.cpu_left)) +
             " short on the best node (" + std::to_string(node.cpu_left) + have);
  amount("ram", request.ram_bytes, node.ram_left,
         "ram: asked " + FormatBytes(request.ram_bytes) + ", " +
             FormatBytes(request.ram_bytes - std::min(request.ram_bytes, node.ram_left)) +
             " short on the best node (" + FormatBytes(node.ram_left) + have);
  return worst;
}

std::variant<Placement, Scarcity> Engine::Consider(const Request& request,
                                                   const std::set<std::string>& avoid) const {
  CHECK(Validate(request).has_value());
  if (const Reservation* held = Find(request.id)) return held->placement;
  const std::string model_lower = Lower(request.model);
  const std::string* best_node = nullptr;
  std::uint64_t best_left = 0;
  std::vector<device::Share> best_shares;
  for (const auto& [name, node] : nodes_) {
    if (avoid.count(name) != 0) continue;
    const NodeView view = View(name, node, false);
    const std::vector<const CardView*> chosen = Choose(view, request, model_lower, false);
    if (chosen.empty()) continue;
    const std::uint64_t left = LeftAfter(view, chosen, request);
    const bool better =
        best_node == nullptr ||
        (request.node_policy == Policy::kBinpack ? left < best_left : left > best_left);
    if (!better) continue;  // the map is in name order: ties stay with the smaller name
    best_node = &name;
    best_left = left;
    best_shares.clear();
    for (const CardView* card : chosen) {
      best_shares.push_back({card->known->card.uuid, request.memory_bytes, request.compute});
    }
  }
  if (best_node != nullptr) return Placement{request.id, *best_node, std::move(best_shares)};

  if (nodes_.empty()) {
    return Scarcity{
        "cards", request.slices, 0, false,
        "cards: asked " + std::to_string(request.slices) + " card(s), no node is known"};
  }
  // Nothing fits now. If it would not fit an empty fleet either, the shortage is told against that.
  bool never = true;
  for (const auto& [name, node] : nodes_) {
    if (!Choose(View(name, node, true), request, model_lower, true).empty()) {
      never = false;
      break;
    }
  }
  std::optional<Shortage> closest;
  Scarcity avoided{"cards", request.slices, 0, false,
                   "cards: asked " + std::to_string(request.slices) +
                       " card(s), the nodes that have them are kept for others"};
  for (const auto& [name, node] : nodes_) {
    if (!never && avoid.count(name) != 0) continue;
    // A node that could not hold it when empty is not the one to wait for.
    if (!never && Choose(View(name, node, true), request, model_lower, true).empty()) continue;
    Shortage shortage = Lacking(View(name, node, never), request, model_lower, never);
    if (!closest || shortage.severity < closest->severity) closest = std::move(shortage);
  }
  if (!closest) return avoided;
  closest->scarcity.never = never;
  return closest->scarcity;
}

Explanation Engine::Explain(const Request& request, const std::set<std::string>& avoid) const {
  CHECK(Validate(request).has_value());
  const std::string model_lower = Lower(request.model);
  Explanation explanation;
  const auto filter = [&](const std::string& rule, const std::string& node, std::string message) {
    for (Explanation::Filtered& known : explanation.filtered) {
      if (known.rule != rule) continue;
      ++known.nodes;
      return;
    }
    explanation.filtered.push_back({rule, 1, node, std::move(message)});
  };
  std::vector<Explanation::Candidate>& best = explanation.best;
  for (const auto& [name, node] : nodes_) {
    if (avoid.count(name) != 0) {
      filter("avoid", name, "avoid: the node is unavailable or kept for others");
      continue;
    }
    const NodeView view = View(name, node, false);
    const std::vector<const CardView*> chosen = Choose(view, request, model_lower, false);
    if (chosen.empty()) {
      const Shortage shortage = Lacking(view, request, model_lower, false);
      filter(shortage.scarcity.resource, name, shortage.scarcity.message);
      continue;
    }
    Explanation::Candidate candidate;
    candidate.node = name;
    for (const CardView* card : chosen) candidate.cards.push_back(card->known->card.uuid);
    const auto left = static_cast<double>(LeftAfter(view, chosen, request)) / kMillion;
    candidate.score = request.node_policy == Policy::kBinpack ? -left : left;
    candidate.parts = {{"left", candidate.score}};
    const auto at = std::find_if(best.begin(), best.end(),
                                 [&](const auto& known) { return candidate.score > known.score; });
    best.insert(at, std::move(candidate));
    if (best.size() > kExplainedCandidatesMax) best.pop_back();
  }
  return explanation;
}

std::vector<std::string> Engine::CouldHold(const Request& request) const {
  const std::string model_lower = Lower(request.model);
  std::vector<std::string> names;
  for (const auto& [name, node] : nodes_) {
    if (!Choose(View(name, node, true), request, model_lower, true).empty()) names.push_back(name);
  }
  return names;
}

std::variant<Placement, Scarcity> Engine::Place(const Request& request,
                                                const std::set<std::string>& avoid) {
  auto answer = Consider(request, avoid);
  if (const auto* placement = std::get_if<Placement>(&answer); placement && !Find(request.id)) {
    if (reservations_.size() >= kReservationsMax) {
      return Scarcity{"cards", request.slices, 0, false,
                      "reservations_max (" + std::to_string(kReservationsMax) + ") is reached"};
    }
    Hold({*placement, request.cpu_millis, request.ram_bytes});
  }
  return answer;
}

void Engine::Hold(const Reservation& reservation) {
  Held& held = held_[reservation.placement.node];
  for (const device::Share& share : reservation.placement.shares) {
    Amount& amount = held.cards[share.card_uuid];
    amount.memory_bytes += share.memory_bytes;
    amount.permille += share.compute.value;
  }
  held.cpu_millis += reservation.cpu_millis;
  held.ram_bytes += reservation.ram_bytes;
  ++held.reservations;
  reservations_.emplace(reservation.placement.request_id, reservation);
}

bool Engine::Release(const std::string& request_id) {
  const auto found = reservations_.find(request_id);
  if (found == reservations_.end()) return false;
  const Reservation& reservation = found->second;
  const auto where = held_.find(reservation.placement.node);
  CHECK(where != held_.end());
  Held& held = where->second;
  for (const device::Share& share : reservation.placement.shares) {
    const auto card = held.cards.find(share.card_uuid);
    CHECK(card != held.cards.end() && card->second.memory_bytes >= share.memory_bytes &&
          card->second.permille >= share.compute.value);
    card->second.memory_bytes -= share.memory_bytes;
    card->second.permille -= share.compute.value;
    if (card->second.memory_bytes == 0 && card->second.permille == 0) held.cards.erase(card);
  }
  CHECK(held.cpu_millis >= reservation.cpu_millis && held.ram_bytes >= reservation.ram_bytes);
  held.cpu_millis -= reservation.cpu_millis;
  held.ram_bytes -= reservation.ram_bytes;
  if (--held.reservations == 0) held_.erase(where);
  reservations_.erase(found);
  return true;
}

Status Engine::Restore(const Reservation& reservation) {
  const Placement& placement = reservation.placement;
  if (placement.request_id.empty() || placement.request_id.size() > kRequestIdBytesMax) {
    return Error::Field("request_id",
                        "expected 1 to " + std::to_string(kRequestIdBytesMax) + " bytes");
  }
  if (placement.node.empty()) return Error::Field("node", "expected a node name");
  if (placement.shares.size() > kSlicesMax) {
    return Error::Field("shares",
                        "expected at most slices_max (" + std::to_string(kSlicesMax) + ")");
  }
  if (const Reservation* held = Find(placement.request_id)) {
    if (held->placement.node == placement.node && held->placement.shares == placement.shares &&
        held->cpu_millis == reservation.cpu_millis && held->ram_bytes == reservation.ram_bytes) {
      return {};
    }
    return Error(Code::kAlreadyExists,
                 "request " + placement.request_id + " already holds something else");
  }
  if (reservations_.size() >= kReservationsMax) {
    return Error(Code::kResourceExhausted,
                 "reservations_max (" + std::to_string(kReservationsMax) + ") is reached");
  }
  Hold(reservation);
  return {};
}

const Reservation* Engine::Find(const std::string& request_id) const {
  const auto found = reservations_.find(request_id);
  return found == reservations_.end() ? nullptr : &found->second;
}

device::Share Engine::ReservedOn(const std::string& node, const std::string& card_uuid) const {
  device::Share share{card_uuid, 0, {0}};
  const auto held = held_.find(node);
  if (held == held_.end()) return share;
  const auto card = held->second.cards.find(card_uuid);
  if (card == held->second.cards.end()) return share;
  share.memory_bytes = card->second.memory_bytes;
  share.compute.value = static_cast<std::uint32_t>(card->second.permille);
  return share;
}

std::vector<NodeUse> Engine::Nodes() const {
  std::vector<NodeUse> nodes;
  for (const auto& [name, node] : nodes_) {
    NodeUse use;
    use.name = name;
    use.cpu_millis = static_cast<std::uint32_t>(node.cpu_millis);
    use.cpu_foreign_millis = static_cast<std::uint32_t>(node.foreign_cpu_millis);
    use.ram_bytes = node.ram_bytes;
    use.ram_foreign_bytes = node.foreign_ram_bytes;
    const auto held = held_.find(name);
    if (held != held_.end()) {
      use.cpu_reserved_millis = static_cast<std::uint32_t>(held->second.cpu_millis);
      use.ram_reserved_bytes = held->second.ram_bytes;
    }
    for (const KnownCard& known : node.cards) {
      const device::Share ours = ReservedOn(name, known.card.uuid);
      use.cards.push_back({known.card, ours.memory_bytes, ours.compute.value,
                           known.foreign.memory_bytes,
                           static_cast<std::uint32_t>(known.foreign.permille)});
    }
    nodes.push_back(std::move(use));
  }
  return nodes;
}

}  // namespace tessera::placement
