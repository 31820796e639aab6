// What a node tells Prometheus. The names are a contract; a golden test holds them.
#include <map>
#include <memory>

#include "node/api.h"

namespace tessera::node {

namespace {

// A count that lives elsewhere, per label values, shown as a Prometheus counter: followed by its
// differences. Most are in a page that belongs to a tenant: a count that went back starts anew, one
// that jumped is his own figure.
class Followed {
 public:
  explicit Followed(metrics::Counters& counters) : counters_(counters) {}
  void Follow(const metrics::LabelValues& labels, std::uint64_t count, double unit = 1) {
    const auto at = seen_.find(labels);
    const std::uint64_t before = at == seen_.end() ? 0 : at->second;
    counters_.Add(labels, count > before ? static_cast<double>(count - before) * unit : 0);
    fresh_[labels] = count;
  }
  // Who was not followed since the last call is gone.
  void Settle() {
    for (const auto& [labels, count] : seen_) {
      if (!fresh_.contains(labels)) counters_.Remove(labels);
    }
    seen_ = std::move(fresh_);
    fresh_.clear();
  }

 private:
  metrics::Counters& counters_;
  std::map<metrics::LabelValues, std::uint64_t> seen_, fresh_;
};

constexpr double kNano = 1e-9;

}  // namespace

void ExportMetrics(Node& node, metrics::Registry& registry) {
  struct Families {
    metrics::Gauges& card_memory;
    metrics::Gauges& card_reserved;
    metrics::Gauges& card_reserved_compute;
    metrics::Gauges& card_used;
    metrics::Gauges& card_busy;
    metrics::Gauges& card_healthy;
    metrics::Gauges& slice_limit;
    metrics::Gauges& slice_used;
    metrics::Gauges& slice_peak;
    metrics::Gauges& slice_processes;
    metrics::Gauges& slice_driver;
    metrics::Gauges& slice_lease;
    metrics::Gauges& slice_utilisation;
    metrics::Gauges& slice_pinned;
    metrics::Gauges& slice_pinned_limit;
    Followed slice_refusals;
    Followed slice_pinned_refusals;
    Followed slice_served;
    Followed slice_gate_wait;
    Followed slice_submissions;
    Followed slice_overruns;
    metrics::Gauges& slice_last_kernel;
    metrics::Gauges& strangers_on_card;
    metrics::Counters& audit_findings;
    metrics::Counters& audit_frozen;
    metrics::Counters& audit_evicted;
    metrics::Counters& audit_cleared;
    metrics::Gauges& instances;
    metrics::Counters& attaches;
    metrics::Counters& strangers;
    metrics::Counters& malformed;
    metrics::Counters& refused_connections;
    metrics::Counters& damaged;
    AuditCounts audit_seen;
    broker::BrokerCounters seen;
  };
  const metrics::LabelValues card_labels = {"card", "model"};
  // `instance` is the slice's id again where an instance has it, `pod` "namespace/name" where a pod
  // has; both are empty otherwise.
  const metrics::LabelValues slice_labels = {"slice", "instance", "pod"};
  const metrics::LabelValues share_labels = {"slice", "card", "instance", "pod"};
  auto families = std::make_shared<Families>(Families{
      registry.AddGauges("tessera_node_card_memory_bytes",
                         "Memory of the card as the driver reports it.", card_labels),
      registry.AddGauges("tessera_node_card_reserved_bytes",
                         "Memory of the card reserved by slices.", card_labels),
      registry.AddGauges("tessera_node_card_reserved_compute_ratio",
                         "Compute of the card reserved by slices.", card_labels),
      registry.AddGauges("tessera_node_card_used_bytes",
                         "Memory of the card in use as the driver reports it.", card_labels),
      registry.AddGauges("tessera_node_card_busy_ratio",
                         "Share of the driver's last window in which a kernel ran.", card_labels),
      registry.AddGauges("tessera_node_card_healthy", "1 when the card is in service, 0 when not.",
                         card_labels),
      registry.AddGauges("tessera_slice_limit_bytes", "Memory the slice may reach on the card.",
                         share_labels),
      registry.AddGauges("tessera_slice_used_bytes",
                         "Memory the slice holds on the card by its ledger page.", share_labels),
      registry.AddGauges("tessera_slice_peak_bytes",
                         "Highest memory the slice has held on the card.", share_labels),
      registry.AddGauges("tessera_slice_processes", "Live processes attached to the slice.",
                         slice_labels),
      registry.AddGauges("tessera_slice_driver_bytes",
                         "Memory the slice's processes hold by the driver's word.", share_labels),
      registry.AddGauges("tessera_slice_lease_bytes",
                         "Memory lent to the slice above its limit on the card.", share_labels),
      registry.AddGauges("tessera_slice_utilisation_ratio",
                         "Time of the card the slice used in the driver's last window, relative to "
                         "its share; above 1 it used what others left idle.",
                         share_labels),
      registry.AddGauges("tessera_slice_pinned_bytes",
                         "Page-locked memory of the machine the slice holds by its ledger page.",
                         slice_labels),
      registry.AddGauges("tessera_slice_pinned_limit_bytes",
                         "Page-locked memory of the machine the slice may hold; absent without a "
                         "limit.",
                         slice_labels),
      Followed(registry.AddCounters("tessera_slice_refusals_total",
                                    "Asks for memory that did not fit the slice.", share_labels)),
      Followed(registry.AddCounters("tessera_slice_pinned_refusals_total",
                                    "Asks for page-locked memory that did not fit the slice.",
                                    slice_labels)),
      Followed(registry.AddCounters(
          "tessera_slice_served_seconds_total",
          "Time of the card the turns have counted as the slice's; none while its gate is open.",
          share_labels)),
      Followed(registry.AddCounters("tessera_slice_gate_wait_seconds_total",
                                    "Time threads of the slice have waited for turns, added up.",
                                    slice_labels)),
      Followed(registry.AddCounters("tessera_slice_submissions_total",
                                    "Work handed to the driver by processes of the slice.",
                                    slice_labels)),
      Followed(registry.AddCounters(
          "tessera_slice_overruns_total",
          "Samples in which the driver's word was well above the slice's ledger.", slice_labels)),
      registry.AddGauges(
          "tessera_slice_last_kernel_age_seconds",
          "Since a process of the slice last submitted work, to the second; absent before.",
          slice_labels),
      registry.AddGauges("tessera_node_card_strangers",
                         "Processes on the card that belong to no slice.", {"card"}),
      registry.AddCounters("tessera_node_audit_findings_total",
                           "Processes found on a card without a session, past their ledger or "
                           "turns, or of no slice.",
                           {"finding"}),
      registry.AddCounters("tessera_node_audit_frozen_total", "Processes the audit has stopped."),
      registry.AddCounters("tessera_node_audit_evicted_total", "Processes the audit has killed."),
      registry.AddCounters("tessera_node_audit_cleared_total",
                           "Processes stopped for a closer look and found in order."),
      registry.AddGauges("tessera_node_instances", "Instances by state.", {"state"}),
      registry.AddCounters("tessera_node_attaches_total", "Processes that were told their slice."),
      registry.AddCounters("tessera_node_strangers_total",
                           "Processes that asked and belong to no slice."),
      registry.AddCounters("tessera_node_malformed_datagrams_total",
                           "Datagrams of another version or size."),
      registry.AddCounters("tessera_node_refused_connections_total",
                           "Guest connections refused by a bound."),
      registry.AddCounters("tessera_node_damaged_slices_total",
                           "Slices closed because their usage page was resized."),
      {},
      {}});
  registry.AddCollector([&node, families] {
    Families& f = *families;
    for (metrics::Gauges* const gauges :
         {&f.card_memory, &f.card_reserved, &f.card_reserved_compute, &f.card_used, &f.card_busy,
          &f.card_healthy, &f.slice_limit, &f.slice_used, &f.slice_peak, &f.slice_processes,
          &f.slice_driver, &f.slice_lease, &f.slice_utilisation, &f.slice_pinned,
          &f.slice_pinned_limit, &f.slice_last_kernel, &f.strangers_on_card, &f.instances}) {
      gauges->Clear();
    }
    const auto number = [](std::uint64_t value) { return static_cast<double>(value); };
    for (const CardView& view : node.Cards()) {
      const metrics::LabelValues labels = {view.card.uuid, view.card.model};
      f.card_memory.Set(labels, number(view.card.memory_bytes));
      f.card_reserved.Set(labels, number(view.reserved_bytes));
      f.card_reserved_compute.Set(labels, number(view.reserved_permille) / 1000);
      f.card_used.Set(labels, number(view.used_bytes));
      f.card_busy.Set(labels, number(view.busy_permille) / 1000);
      f.card_healthy.Set(labels, view.card.healthy ? 1 : 0);
    }
    for (const SliceView& view : node.Slices()) {
      const std::string instance = view.owner == Owner::kInstance ? view.id : "";
      const metrics::LabelValues slice = {view.id, instance, view.terms.pod};
      const auto on = [&](const std::string& card) -> metrics::LabelValues {
        return {view.id, card, instance, view.terms.pod};
      };
      f.slice_processes.Set(slice, number(view.processes.size()));
      for (const device::Share& share : view.shares) {
        f.slice_limit.Set(on(share.card_uuid), number(share.memory_bytes));
        if (const auto busy = node.BusyOf(view.id, share.card_uuid)) {
          f.slice_utilisation.Set(on(share.card_uuid), number(busy->value) / share.compute.value);
        }
      }
      for (const broker::CardAudit& audit : view.audit) {
        if (audit.driver) f.slice_driver.Set(on(audit.uuid), number(*audit.driver));
      }
      if (const auto age = node.LastKernelNanos(view.id)) {
        f.slice_last_kernel.Set(slice, static_cast<double>(*age) * kNano);
      }
      for (const broker::CardUsage& usage : view.usage) {
        f.slice_used.Set(on(usage.uuid), number(usage.used));
        f.slice_peak.Set(on(usage.uuid), number(usage.peak));
        f.slice_lease.Set(on(usage.uuid), number(usage.lease));
        f.slice_refusals.Follow(on(usage.uuid), usage.refusals);
      }
      for (const broker::TurnService& turns : view.turns) {
        f.slice_served.Follow(on(turns.card), turns.served_nanos, kNano);
      }
      f.slice_pinned.Set(slice, number(view.pinned.used));
      if (view.terms.pinned_bytes != 0) {
        f.slice_pinned_limit.Set(slice, number(view.terms.pinned_bytes));
      }
      f.slice_pinned_refusals.Follow(slice, view.pinned.refusals);
      f.slice_gate_wait.Follow(slice, view.activity.gate_wait_nanos, kNano);
      f.slice_submissions.Follow(slice, view.activity.submissions);
      f.slice_overruns.Follow(slice, view.overruns);
    }
    for (Followed* const followed : {&f.slice_refusals, &f.slice_pinned_refusals, &f.slice_served,
                                     &f.slice_gate_wait, &f.slice_submissions, &f.slice_overruns}) {
      followed->Settle();
    }
    const AuditCounts audit = node.audit();
    for (const auto& [card, count] : audit.strangers)
      f.strangers_on_card.Set({card}, number(count));
    for (const auto& [finding, count] : audit.findings) {
      f.audit_findings.Add({finding}, number(count - f.audit_seen.findings[finding]));
    }
    f.audit_frozen.Add({}, number(audit.frozen - f.audit_seen.frozen));
    f.audit_evicted.Add({}, number(audit.evicted - f.audit_seen.evicted));
    f.audit_cleared.Add({}, number(audit.cleared - f.audit_seen.cleared));
    f.audit_seen = audit;
    std::uint64_t running = 0;
    std::uint64_t exited = 0;
    for (const InstanceView& view : node.Instances())
      ++(view.phase == Phase::kExited ? exited : running);
    f.instances.Set({"running"}, number(running));
    f.instances.Set({"exited"}, number(exited));
    const broker::BrokerCounters now = node.broker_counters();
    f.attaches.Add({}, number(now.attached - f.seen.attached));
    f.strangers.Add({}, number(now.strangers - f.seen.strangers));
    f.malformed.Add({}, number(now.malformed - f.seen.malformed));
    f.refused_connections.Add({}, number(now.refused_connections - f.seen.refused_connections));
    f.damaged.Add({}, number(now.damaged - f.seen.damaged));
    f.seen = now;
  });
}

}  // namespace tessera::node
