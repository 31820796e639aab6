// What a node tells Prometheus. The names are a contract; a golden test holds them.
#include <map>
#include <memory>
#include <set>

#include "node/api.h"

namespace tessera::node {

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
    metrics::Counters& slice_refusals;
    metrics::Counters& slice_overruns;
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
    // Counters that live elsewhere are followed by their differences.
    std::map<metrics::LabelValues, std::uint64_t> refusals_seen;
    std::map<std::string, std::uint64_t> overruns_seen;
    AuditCounts audit_seen;
    broker::BrokerCounters seen;
  };
  const metrics::LabelValues card_labels = {"card", "model"};
  const metrics::LabelValues slice_labels = {"slice", "card"};
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
                         slice_labels),
      registry.AddGauges("tessera_slice_used_bytes",
                         "Memory the slice holds on the card by its ledger page.", slice_labels),
      registry.AddGauges("tessera_slice_peak_bytes",
                         "Highest memory the slice has held on the card.", slice_labels),
      registry.AddGauges("tessera_slice_processes", "Live processes attached to the slice.",
                         {"slice"}),
      registry.AddGauges("tessera_slice_driver_bytes",
                         "Memory the slice's processes hold by the driver's word.", slice_labels),
      registry.AddCounters("tessera_slice_refusals_total",
                           "Asks for memory that did not fit the slice.", slice_labels),
      registry.AddCounters("tessera_slice_overruns_total",
                           "Samples in which the driver's word was well above the slice's ledger.",
                           {"slice"}),
      registry.AddGauges(
          "tessera_slice_last_kernel_age_seconds",
          "Since a process of the slice last submitted work, to the second; absent before.",
          {"slice"}),
      registry.AddGauges("tessera_node_card_strangers",
                         "Processes on the card that belong to no slice.", {"card"}),
      registry.AddCounters(
          "tessera_node_audit_findings_total",
          "Processes found on a card without a session, past their ledger or of no slice.",
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
      {},
      {},
      {}});
  registry.AddCollector([&node, families] {
    Families& f = *families;
    for (metrics::Gauges* const gauges :
         {&f.card_memory, &f.card_reserved, &f.card_reserved_compute, &f.card_used, &f.card_busy,
          &f.card_healthy, &f.slice_limit, &f.slice_used, &f.slice_peak, &f.slice_processes,
          &f.slice_last_kernel, &f.strangers_on_card, &f.instances}) {
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
    std::map<metrics::LabelValues, std::uint64_t> refusals;
    std::set<std::string> slices;
    for (const SliceView& view : node.Slices()) {
      f.slice_processes.Set({view.id}, number(view.processes.size()));
      for (const device::Share& share : view.shares) {
        f.slice_limit.Set({view.id, share.card_uuid}, number(share.memory_bytes));
      }
      for (const broker::CardAudit& audit : view.audit) {
        if (audit.driver) f.slice_driver.Set({view.id, audit.uuid}, number(*audit.driver));
      }
      if (const auto age = node.LastKernelNanos(view.id)) {
        f.slice_last_kernel.Set({view.id}, static_cast<double>(*age) / 1e9);
      }
      std::uint64_t& overruns_before = f.overruns_seen[view.id];
      f.slice_overruns.Add(
          {view.id}, view.overruns > overruns_before ? number(view.overruns - overruns_before) : 0);
      overruns_before = view.overruns;
      slices.insert(view.id);
      for (const broker::CardUsage& usage : view.usage) {
        const metrics::LabelValues labels = {view.id, usage.uuid};
        f.slice_used.Set(labels, number(usage.used));
        f.slice_peak.Set(labels, number(usage.peak));
        // The page belongs to the tenant: a count that went back starts anew, one that jumped is
        // his own figure.
        const auto seen = f.refusals_seen.find(labels);
        const std::uint64_t before = seen == f.refusals_seen.end() ? 0 : seen->second;
        f.slice_refusals.Add(labels, usage.refusals > before ? number(usage.refusals - before) : 0);
        refusals[labels] = usage.refusals;
      }
    }
    for (const auto& [labels, count] : f.refusals_seen) {
      if (!refusals.contains(labels)) f.slice_refusals.Remove(labels);
    }
    f.refusals_seen = std::move(refusals);
    std::erase_if(f.overruns_seen, [&](const auto& item) {
      if (slices.contains(item.first)) return false;
      f.slice_overruns.Remove({item.first});
      return true;
    });
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
