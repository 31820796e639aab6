// A node with fake cards and a fake runner in a folder of its own, for tests here and in apps/.
#pragma once

#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <string>

#include <gtest/gtest.h>

#include "node/node.h"
#include "os/scratch.h"
#include "vendors/fake.h"

namespace tessera::node {

// Instances that run only in a table. Outlives the nodes over it, as supervisors outlive a daemon.
class FakeRunner : public Runner {
 public:
  bool contained() const override { return true; }
  std::string why_not_contained() const override { return ""; }
  Result<runtime::Report> Start(const runtime::Spec& spec) override {
    const std::lock_guard lock(mutex_);
    if (fail_next_) {
      fail_next_ = false;
      return Error(Code::kInternal, "the runner was told to fail");
    }
    if (spec.workload.argv[0].find("bad") == 0)
      return Error::Field("workload.argv", "expected another");
    if (table_.contains(spec.id)) return Error(Code::kAlreadyExists, spec.id);
    Item& item = table_[spec.id];
    item.spec = spec;
    item.report.id = spec.id;
    item.report.generation = spec.generation;
    item.report.contained = true;
    item.report.cgroup = "/fake/" + spec.id;
    item.report.started_wall_micros = 1000;
    item.end = os::Fd(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    return item.report;
  }
  Result<runtime::Report> Inspect(const std::string& id) override {
    const std::lock_guard lock(mutex_);
    const auto at = table_.find(id);
    if (at == table_.end()) return Error(Code::kNotFound, id);
    return at->second.report;
  }
  Result<runtime::Report> Stop(const std::string& id, int) override {
    End(id, 143);
    return Inspect(id);
  }
  Result<os::Fd> WatchEnd(const std::string& id) override {
    const std::lock_guard lock(mutex_);
    const auto at = table_.find(id);
    if (at == table_.end() || at->second.report.state == runtime::State::kEnded) {
      return Error(Code::kFailedPrecondition, id);
    }
    return os::Fd(dup(at->second.end.get()));
  }
  Result<runtime::ExecOutcome> Exec(const std::string& id, const std::vector<std::string>& argv,
                                    const std::string& stdin_bytes, int) override {
    if (!Inspect(id)) return Error(Code::kNotFound, id);
    return runtime::ExecOutcome{static_cast<int>(argv.size()), argv[0] + "|" + stdin_bytes, false,
                                false};
  }
  Result<runtime::LogChunk> ReadLog(const std::string& id, std::uint64_t offset,
                                    std::size_t) override {
    const std::string text = "log of " + id;
    runtime::LogChunk chunk;
    chunk.offset = offset;
    chunk.bytes = text.substr(std::min<std::size_t>(offset, text.size()));
    chunk.next_offset = chunk.end_offset = text.size();
    return chunk;
  }
  Status Remove(const std::string& id) override {
    const std::lock_guard lock(mutex_);
    const auto at = table_.find(id);
    if (at != table_.end() && at->second.report.state == runtime::State::kRunning) {
      return Error(Code::kFailedPrecondition, id + " runs");
    }
    table_.erase(id);
    return {};
  }
  Result<std::vector<runtime::Report>> List() override {
    const std::lock_guard lock(mutex_);
    std::vector<runtime::Report> all;
    for (const auto& [id, item] : table_) all.push_back(item.report);
    return all;
  }

  void End(const std::string& id, int exit_code) {
    const std::lock_guard lock(mutex_);
    const auto at = table_.find(id);
    if (at == table_.end() || at->second.report.state == runtime::State::kEnded) return;
    at->second.report.state = runtime::State::kEnded;
    at->second.report.exit_code = exit_code;
    at->second.report.ended_wall_micros = 2000;
    const std::uint64_t one = 1;
    (void)!write(at->second.end.get(), &one, sizeof one);
  }
  void FailNext() {
    const std::lock_guard lock(mutex_);
    fail_next_ = true;
  }
  std::size_t running() {
    const std::lock_guard lock(mutex_);
    std::size_t count = 0;
    for (const auto& [id, item] : table_) count += item.report.state == runtime::State::kRunning;
    return count;
  }
  runtime::Spec SpecOf(const std::string& id) {
    const std::lock_guard lock(mutex_);
    return table_.at(id).spec;
  }

 private:
  struct Item {
    runtime::Spec spec;
    runtime::Report report;
    os::Fd end;
  };
  std::mutex mutex_;
  std::map<std::string, Item> table_;
  bool fail_next_ = false;
};

class TestNode {
 public:
  explicit TestNode(std::size_t cards = 2) {
    std::vector<device::Card> all;
    for (std::size_t i = 0; i < cards; ++i) {
      all.push_back(vendors::FakeVendor::MakeCard(static_cast<int>(i), 10 * kGiB));
      uuids.push_back(all.back().uuid);
    }
    // One direction will do for whoever reads them.
    if (cards > 1) all[0].links = {{uuids[1], 12}};
    vendor = std::make_unique<vendors::FakeVendor>(all);
  }
  // Replaces the node, as a restart of the daemon would.
  Status Restart(os::Files* files = nullptr, bool background = false) {
    node.reset();
    Node::Options options;
    options.name = "n1";
    options.run_dir = folder + "/run";
    options.state_dir = folder + "/state";
    options.cpu_millis = 4000;
    options.ram_bytes = 8 * kGiB;
    options.vendors = {vendor.get()};
    options.runner = &runner;
    options.files = files;
    options.boot_id = boot_id;
    options.background = background;
    options.audit = audit;
    options.clock = clock;
    options.cgroups = cgroups;
    options.cdi = cdi;
    options.mps_control = mps_control;
    options.rack = rack;
    TRY(node, Node::Start(std::move(options)));
    return {};
  }
  device::Share Share(std::size_t card, std::uint64_t bytes, std::uint32_t permille = 100) const {
    return {uuids[card], bytes, Permille{permille}};
  }
  std::uint64_t Reserved(std::size_t card) { return node->Cards()[card].reserved_bytes; }

  const os::ScratchFolder scratch;
  const std::string& folder = scratch.path();
  std::string boot_id = "boot-1";
  AuditPolicy audit;
  const os::Clock* clock = nullptr;
  std::optional<runtime::Cgroups> cgroups;
  CdiOptions cdi;
  std::string mps_control = "/none";  // whatever is installed here
  std::string rack;
  std::vector<std::string> uuids;
  std::unique_ptr<vendors::FakeVendor> vendor;
  FakeRunner runner;
  std::unique_ptr<Node> node;
};

}  // namespace tessera::node
