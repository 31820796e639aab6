#include "broker/turn_queue.h"

#include <algorithm>

namespace tessera::broker {

namespace {
constexpr std::int64_t kPermille = 1000;
}

void TurnQueue::Set(const std::string& id, const TurnTerms& terms, std::int64_t now) {
  const auto [at, added] = tenants_.try_emplace(id);
  Tenant& tenant = at->second;
  if (!added && tenant.terms == terms) return;
  if (added) {
    tenant.virtual_time = virtual_now_;
    tenant.filled_at = now;
  } else {
    Fill(&tenant, now);
  }
  tenant.terms = terms;
  tenant.terms.weight = std::max<std::uint32_t>(1, terms.weight);
  // A new cap begins with a full account, unless there is debt; without a cap there is none.
  if (!tenant.terms.Capped()) tenant.account = 0;
  if (added && tenant.terms.Capped()) {
    tenant.account = static_cast<std::int64_t>(tenant.terms.cap_permille) * kCapPeriodNanos;
  }
}

void TurnQueue::Remove(const std::string& id) { tenants_.erase(id); }

void TurnQueue::Arrive(const std::string& id, std::int64_t now) {
  const auto at = tenants_.find(id);
  if (at == tenants_.end() || at->second.backlogged) return;
  Tenant& tenant = at->second;
  tenant.backlogged = true;
  tenant.held = false;
  Fill(&tenant, now);
  if (now - tenant.left_at > kAbsenceNanos) {
    tenant.virtual_time = std::max(tenant.virtual_time, virtual_now_);
  }
}

void TurnQueue::Leave(const std::string& id, std::int64_t now) {
  const auto at = tenants_.find(id);
  if (at == tenants_.end() || !at->second.backlogged) return;
  Fill(&at->second, now);
  at->second.backlogged = false;
  at->second.left_at = now;
}

void TurnQueue::Charge(const std::string& id, std::int64_t served, std::int64_t now) {
  const auto at = tenants_.find(id);
  if (at == tenants_.end() || served <= 0) return;
  Tenant& tenant = at->second;
  served = std::min(served, kChargeNanosMax);
  Fill(&tenant, now);
  if (tenant.terms.Capped()) tenant.account -= served * kPermille;
  // The card's virtual time is the start of what was served last: who arrives during a long turn
  // is not put behind it.
  virtual_now_ = std::max(virtual_now_, tenant.virtual_time);
  tenant.virtual_time += served * kWeightScale / tenant.terms.weight;
}

void TurnQueue::ServeAlone(const std::string& id, std::int64_t passed, std::int64_t now) {
  Charge(id, passed, now);
  if (const auto at = tenants_.find(id); at != tenants_.end()) {
    virtual_now_ = std::max(virtual_now_, at->second.virtual_time);
  }
}

void TurnQueue::Fill(Tenant* tenant, std::int64_t now) {
  const std::int64_t passed = std::max<std::int64_t>(0, now - tenant->filled_at);
  tenant->filled_at = std::max(tenant->filled_at, now);
  if (!tenant->terms.Capped()) return;
  const auto cap = static_cast<std::int64_t>(tenant->terms.cap_permille);
  const std::int64_t full = cap * kCapPeriodNanos;
  // Beyond what would pay the deepest debt there is nothing to add, so this cannot overflow.
  const std::int64_t useful = (full - std::min(tenant->account, full)) / cap + 1;
  tenant->account = std::min(full, tenant->account + cap * std::min(passed, useful));
}

bool TurnQueue::MayGo(Tenant* tenant, std::int64_t now) {
  if (!tenant->backlogged) return false;
  if (!tenant->terms.Capped()) return true;
  Fill(tenant, now);
  const std::int64_t least =
      std::min(kCapTurnNanosMin * kPermille,
               static_cast<std::int64_t>(tenant->terms.cap_permille) * kCapPeriodNanos / 2);
  if (tenant->account < least) {
    tenant->held = true;
    return false;
  }
  if (tenant->held) {
    tenant->held = false;
    tenant->virtual_time = std::max(tenant->virtual_time, virtual_now_);
  }
  return true;
}

std::int64_t TurnQueue::TurnNanos(const Tenant& tenant, std::int64_t now) {
  std::int64_t contenders = 0;
  for (auto& [id, other] : tenants_) contenders += MayGo(&other, now);
  std::int64_t nanos =
      std::clamp(kRoundNanos / std::max<std::int64_t>(1, contenders), kTurnNanosMin, kTurnNanosMax);
  if (HasClasses()) nanos = kTurnNanosMin;
  if (tenant.terms.Capped()) nanos = std::min(nanos, tenant.account / kPermille);
  return nanos;
}

void TurnQueue::SetLed(const std::string& id, bool led) {
  if (const auto at = tenants_.find(id); at != tenants_.end()) at->second.led = led;
}

bool TurnQueue::MayBeCalled(const std::string& id, std::int64_t now) {
  const auto at = tenants_.find(id);
  if (at == tenants_.end() || !MayGo(&at->second, now)) return false;
  const Tenant& mine = at->second;
  return std::none_of(tenants_.begin(), tenants_.end(), [&](auto& entry) {
    Tenant& other = entry.second;
    if (&other == &mine || other.led || !MayGo(&other, now)) return false;
    if (other.terms.priority_class != mine.terms.priority_class) {
      return other.terms.priority_class > mine.terms.priority_class;
    }
    return other.virtual_time + OneTurn(mine) < mine.virtual_time;
  });
}

void TurnQueue::CatchUp(const std::string& id) {
  if (const auto at = tenants_.find(id); at != tenants_.end()) {
    Tenant& tenant = at->second;
    tenant.virtual_time = std::max(tenant.virtual_time, virtual_now_ - OneTurn(tenant));
  }
}

std::optional<TurnQueue::Pick> TurnQueue::Next(std::int64_t now, std::int64_t* look_again,
                                               const std::string& without) {
  *look_again = kNever;
  const std::string* best_id = nullptr;
  Tenant* best = nullptr;
  for (auto& [id, tenant] : tenants_) {
    if (tenant.led || id == without) continue;
    if (!MayGo(&tenant, now)) {
      if (!tenant.backlogged) continue;
      const auto cap = static_cast<std::int64_t>(tenant.terms.cap_permille);
      const std::int64_t least = std::min(kCapTurnNanosMin * kPermille, cap * kCapPeriodNanos / 2);
      *look_again = std::min(*look_again, now + (least - tenant.account + cap - 1) / cap);
      continue;
    }
    if (best == nullptr || tenant.terms.priority_class > best->terms.priority_class ||
        (tenant.terms.priority_class == best->terms.priority_class &&
         tenant.virtual_time < best->virtual_time)) {
      best_id = &id;
      best = &tenant;
    }
  }
  if (best == nullptr) return std::nullopt;
  return Pick{*best_id, TurnNanos(*best, now)};
}

bool TurnQueue::Contended(const std::string& id, std::int64_t now) {
  return std::any_of(tenants_.begin(), tenants_.end(), [&](auto& entry) {
    return entry.first != id && !entry.second.led && MayGo(&entry.second, now);
  });
}

bool TurnQueue::Outranked(const std::string& id, std::int64_t now) {
  const auto at = tenants_.find(id);
  if (at == tenants_.end()) return true;
  const std::uint32_t mine = at->second.terms.priority_class;
  return std::any_of(tenants_.begin(), tenants_.end(), [&](auto& entry) {
    return entry.second.terms.priority_class > mine && !entry.second.led &&
           MayGo(&entry.second, now);
  });
}

bool TurnQueue::Backlogged(const std::string& id) const {
  const auto at = tenants_.find(id);
  return at != tenants_.end() && at->second.backlogged;
}

bool TurnQueue::HasClasses() const {
  return std::any_of(tenants_.begin(), tenants_.end(), [&](const auto& entry) {
    return entry.second.terms.priority_class != tenants_.begin()->second.terms.priority_class;
  });
}

}  // namespace tessera::broker
