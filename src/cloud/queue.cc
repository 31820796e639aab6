// The operator's rules of the queue: kept in the store or given by a file, told to the scheduling
// plane.
#include <set>

#include "cloud/queue_policy.h"
#include "cloud/rows.h"
#include "cloud/service.h"
#include "cloud/views.h"

namespace tessera::cloud {
namespace {

constexpr std::string_view kLastRules =
    "SELECT version, policy FROM queue_policies ORDER BY version DESC LIMIT 1";

}  // namespace

Status Service::CheckQueue(const placement::QueuePolicy& policy) {
  TRY(const auto rows, database_.Query("SELECT id FROM tenants", {}));
  std::set<std::string> tenants;
  for (const auto& row : rows) tenants.insert(row.Text(0));
  return CheckQueuePolicy(policy, tenants);
}

// What holds; queue_mutex_ is held.
Result<QueueRules> Service::ReadQueue() {
  QueueRules rules;
  TRY(const auto rows, database_.Query(kLastRules, {}));
  if (!rows.empty()) rules.version = rows[0].Int(0);
  if (file_policy_) {
    rules.policy = *file_policy_;
    rules.file = file_;
  } else if (!rows.empty()) {
    TRY(auto object, http::JsonObject::Parse(rows[0].Text(1)));
    TRY(rules.policy, ReadQueuePolicy(std::move(object)));
  }
  return rules;
}

Status Service::ApplyQueue() {
  if (queue_applied_) return {};
  TRY(const QueueRules rules, ReadQueue());
  TRY_STATUS(execution_.SetQueuePolicy(rules.policy));
  queue_applied_ = true;
  return {};
}

Result<QueueRules> Service::GetQueue() {
  const std::lock_guard lock(queue_mutex_);
  TRY_STATUS(ApplyQueue());
  TRY(QueueRules rules, ReadQueue());
  TRY(rules.use, execution_.Quotas());
  return rules;
}

Status Service::SetQueue(const placement::QueuePolicy& policy,
                         std::optional<std::int64_t> version) {
  const std::lock_guard lock(queue_mutex_);
  if (file_policy_) {
    return Error(Code::kFailedPrecondition,
                 "the rules are those of " + file_ + ": change them there and send SIGHUP");
  }
  TRY_STATUS(CheckQueue(policy));
  const std::int64_t now = clock_.WallMicros();
  const std::string text = ToJson(policy);
  TRY(auto transaction, database_.Begin());
  TRY(const auto rows, transaction->Query(kLastRules, {}));
  const std::int64_t last = rows.empty() ? 0 : rows[0].Int(0);
  // The very same again, perhaps because its answer was lost.
  if (!rows.empty() && rows[0].Text(1) == text) return {};
  if (version && *version != last) {
    return Error(Code::kAborted, "expected version " + std::to_string(last) + ", got " +
                                     std::to_string(*version) +
                                     ": the rules were changed meanwhile; read them again")
        .Under("version");
  }
  TRY(const auto added, transaction->Execute("INSERT INTO queue_policies (version, policy, "
                                             "wall_micros) VALUES ($1, $2, $3)",
                                             {last + 1, text, now}));
  (void)added;
  TRY_STATUS(Audit(*transaction, now, "admin", "queue.set", "", "queue",
                   "version " + std::to_string(last + 1)));
  TRY_STATUS(transaction->Commit());
  queue_applied_ = false;
  // Once it is kept, a plane that cannot be reached only means that the reconciler does it later.
  (void)ApplyQueue().has_value();
  return {};
}

Status Service::UseQueueFile(const std::optional<placement::QueuePolicy>& policy,
                             const std::string& file) {
  const std::lock_guard lock(queue_mutex_);
  if (policy) TRY_STATUS(CheckQueue(*policy));
  file_policy_ = policy;
  file_ = policy ? file : "";
  queue_applied_ = false;
  return ApplyQueue();
}

Result<Tenant> Service::SetPriorityMax(const std::string& tenant_id, std::int32_t priority_max) {
  if (priority_max < kPriorityMin || priority_max > kPriorityMax) {
    return Error::Field("priority_max", "expected " + std::to_string(kPriorityMin) + " to " +
                                            std::to_string(kPriorityMax));
  }
  TRY(auto transaction, database_.Begin());
  TRY(const auto changed, transaction->Execute("UPDATE tenants SET priority_max = $2 WHERE id = $1",
                                               {tenant_id, std::int64_t{priority_max}}));
  if (changed != 1) return Error(Code::kNotFound, "no such tenant");
  TRY_STATUS(Audit(*transaction, clock_.WallMicros(), "admin", "tenant.priority_max", tenant_id,
                   tenant_id, std::to_string(priority_max)));
  TRY(const Tenant tenant, SelectTenant(*transaction, tenant_id));
  TRY_STATUS(transaction->Commit());
  return tenant;
}

Result<OwnQuota> Service::QuotaOf(const std::string& tenant_id) {
  TRY(const Tenant tenant, GetTenant(tenant_id));
  OwnQuota own;
  own.priority_max = tenant.priority_max;
  TRY(const auto uses, execution_.Quotas());
  for (const auto& use : uses) {
    if (use.quota.name == tenant_id) own.use = use;
  }
  return own;
}

}  // namespace tessera::cloud
