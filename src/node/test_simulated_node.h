// A node over the software GPU and its management library, for tests that run real programs on it.
#pragma once

#include <gtest/gtest.h>
#include <stdlib.h>

#include <filesystem>
#include <memory>
#include <string>
#include <utility>

#include "node/node.h"
#include "os/scratch.h"
#include "vendors/vendor.h"

namespace tessera::node {

// One card; the node comes per test. The card's state is one a test program, because the driver's
// libraries keep it open.
class SimulatedNodeTest : public testing::Test {
 protected:
  // `simgpu`: the folder of the libraries; `probe`: the program that reads what a process holds.
  static void OpenCard(const std::string& simgpu, const std::string& probe) {
    char folder[] = "/tmp/tnXXXXXX";
    ASSERT_NE(mkdtemp(folder), nullptr);
    folder_ = folder;
    setenv("SIMGPU_STATE", (folder_ + "/g").c_str(), 1);
    setenv("SIMGPU_CARDS", "T4", 1);
    vendors::NvmlOptions nvml;
    nvml.library = simgpu + "/libnvidia-ml.so.1";
    nvml.probe = probe;
    auto vendor = vendors::OpenNvml(nvml);
    ASSERT_TRUE(vendor) << vendor.error().ToString();
    vendor_ = std::move(*vendor);
  }
  static void TearDownTestSuite() {
    vendor_.reset();
    std::filesystem::remove_all(folder_);
  }

  // The node, with slice "s" of that much memory on the card.
  void StartWithSlice(std::uint64_t bytes, CdiOptions cdi = {}) {
    Node::Options options;
    options.name = "n";
    options.run_dir = scratch_ / "run";
    options.state_dir = scratch_ / "state";
    options.vendors = {vendor_.get()};
    options.background = false;
    options.cdi = std::move(cdi);
    options.audit = audit_;
    auto node = Node::Start(std::move(options));
    ASSERT_TRUE(node) << node.error().ToString();
    node_ = std::move(*node);
    uuid_ = node_->Cards()[0].card.uuid;
    ASSERT_TRUE(node_->PutSlice("s", 1, {{uuid_, bytes, Permille{1000}}}));
  }

  static inline std::string folder_;
  static inline std::unique_ptr<vendors::Vendor> vendor_;
  AuditPolicy audit_;  // of the next node
  const os::ScratchFolder scratch_;
  std::unique_ptr<Node> node_;
  std::string uuid_;
};

}  // namespace tessera::node
