// Node: slices in spatial isolation, and in which isolations cards are. A card is either in turns
// or spatial, never both: turns would be granted to work that runs at the same time as somebody
// else's. A whole one holds one slice, by the guest library as any other.
#include <algorithm>

#include "base/log.h"
#include "node/node.h"

namespace tessera::node {
namespace {

bool IsSpatial(const device::Share& share) {
  return share.isolation == device::Isolation::kSpatial;
}

MpsPart PartOf(const device::Share& share) {
  return {share.compute.value, share.compute_capped, share.memory_bytes};
}

}  // namespace

std::optional<device::Isolation> Node::IsolationOf(const std::string& uuid,
                                                   const std::string& except,
                                                   std::string* holder) const {
  for (const auto& [id, entry] : entries_) {
    if (entry.released || id == except) continue;
    for (const device::Share& share : entry.held) {
      if (share.card_uuid != uuid) continue;
      *holder = id;
      return share.isolation;
    }
  }
  return std::nullopt;
}

Status Node::CheckIsolation(const std::string& id, const std::vector<device::Share>& shares) const {
  for (std::size_t i = 0; i < shares.size(); ++i) {
    const std::string field = "shares[" + std::to_string(i) + "].isolation";
    const device::Share& share = shares[i];
    // A process names one pipe folder, and every card has a daemon of its own.
    if (IsSpatial(share) && shares.size() != 1) {
      return Error::Field(field,
                          "expected shim: a slice in spatial isolation has one card, because a "
                          "process is a client of one MPS daemon");
    }
    std::string holder;
    const auto there = IsolationOf(share.card_uuid, id, &holder);
    const bool whole = share.isolation == device::Isolation::kWhole;
    if (!there || (*there == share.isolation && !whole)) continue;
    // Another card may do, or this one later: the scheduler asks elsewhere.
    if (whole || *there == device::Isolation::kWhole) {
      return Error(Code::kResourceExhausted,
                   field + ": expected a card that holds nothing beside a whole slice, card " +
                       share.card_uuid + " holds " + (whole ? "slice " : "the whole slice ") +
                       holder);
    }
    return Error(Code::kResourceExhausted,
                 field + ": expected " + std::string(device::IsolationName(*there)) +
                     ", as slice " + holder + " on card " + share.card_uuid +
                     " has it: a card is shared in turns or spatially, never both");
  }
  return {};
}

Status Node::JoinMps(const std::string& id, const std::vector<device::Share>& shares) {
  for (const device::Share& share : shares) {
    if (IsSpatial(share)) TRY_STATUS(mps_.Put(share.card_uuid, id, PartOf(share)));
  }
  return {};
}

void Node::AdoptMps(const std::string& id, const std::vector<device::Share>& shares) {
  for (const device::Share& share : shares) {
    if (IsSpatial(share)) mps_.Adopt(share.card_uuid, id, PartOf(share));
  }
}

Status Node::LeaveMps(const std::string& id, const std::vector<device::Share>& shares) {
  for (const device::Share& share : shares) {
    if (IsSpatial(share)) TRY_STATUS(mps_.Remove(share.card_uuid, id));
  }
  RefreshMps(id, shares);
  return {};
}

void Node::RefreshMps(const std::string& except, const std::vector<device::Share>& shares) {
  std::map<std::string, Record> others;
  {
    const std::lock_guard lock(mutex_);
    for (const auto& [id, entry] : entries_) {
      if (id == except || entry.released || entry.releasing) continue;
      for (const device::Share& share : entry.record.shares) {
        const bool shared = std::any_of(shares.begin(), shares.end(), [&](const auto& changed) {
          return IsSpatial(changed) && changed.card_uuid == share.card_uuid;
        });
        if (shared) others[id] = entry.record;
      }
    }
  }
  for (const auto& [id, record] : others) {
    // One that is only just being made has no pages yet and will read the new figure itself.
    (void)broker_->SetLimits(id, LimitsOf(id, record.shares), record.terms.pinned_bytes);
  }
}

bool Node::OutsideMps(const std::string& card, pid_t pid) const {
  std::string holder;
  if (IsolationOf(card, "", &holder) != device::Isolation::kSpatial) return false;
  const auto clients = mps_clients_.find(card);
  return clients == mps_clients_.end() || !clients->second.contains(pid);
}

void Node::AddMpsAccess(const std::string& id, const std::vector<device::Share>& shares,
                        runtime::Spec* spec) const {
  for (const device::Share& share : shares) {
    if (!IsSpatial(share)) continue;
    for (std::string& variable : mps_.Variables(share.card_uuid, id)) {
      spec->environment.push_back(std::move(variable));
    }
    bool simulated = false;
    {
      const std::lock_guard lock(mutex_);
      simulated = FindCard(share.card_uuid)->simulated;
    }
    for (runtime::Bind& bind : MpsBinds(mps_.PipeFolder(share.card_uuid), simulated)) {
      spec->binds.push_back(std::move(bind));
    }
  }
}

}  // namespace tessera::node
