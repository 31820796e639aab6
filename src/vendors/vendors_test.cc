// The NVML adapter against simgpu's library, its refusals against wrong ones, and the fake.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "os/process.h"
#include "vendors/fake.h"
#include "vendors/probe.h"
#include "vendors/vendor.h"

namespace tessera::vendors {
namespace {

using testing::HasSubstr;

class Folder : public testing::Environment {
 public:
  void SetUp() override {
    char path[] = "/tmp/tessera-vendors.XXXXXX";
    ASSERT_NE(mkdtemp(path), nullptr);
    Path() = path;
    setenv("SIMGPU_STATE", (Path() + "/state").c_str(), 1);
    setenv("SIMGPU_CARDS", "A100-80,T4", 1);
  }
  void TearDown() override { std::filesystem::remove_all(Path()); }
  static std::string& Path() {
    static std::string path;
    return path;
  }
};
const auto* const folder = testing::AddGlobalTestEnvironment(new Folder);

// A shell script that stands in for tessera-probe.
std::string Script(const std::string& name, const std::string& body) {
  const std::string path = Folder::Path() + "/" + name;
  std::ofstream(path) << "#!/bin/sh\n" << body << "\n";
  chmod(path.c_str(), 0755);
  return path;
}

bool HasChildren() {
  // WNOWAIT looks without reaping; ECHILD means that nothing was left behind.
  siginfo_t info = {};
  return waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT) == 0;
}

NvmlOptions Simulated() {
  NvmlOptions options;
  options.library = SIMGPU_LIB_DIR "/libnvidia-ml.so.1";
  options.probe = TESSERA_PROBE;
  return options;
}

class NvmlVendor : public testing::Test {
 protected:
  void SetUp() override { Open(Simulated()); }
  void Open(const NvmlOptions& options) {
    auto vendor = OpenNvml(options);
    ASSERT_TRUE(vendor) << vendor.error().ToString();
    vendor_ = std::move(*vendor);
    auto cards = vendor_->Discover();
    ASSERT_TRUE(cards) << cards.error().ToString();
    cards_ = std::move(*cards);
    ASSERT_EQ(cards_.size(), 2u);
  }
  std::unique_ptr<Vendor> vendor_;
  std::vector<device::Card> cards_;
};

TEST(OpenNvmlTest, AMachineWithoutTheLibraryIsUnavailable) {
  NvmlOptions options;
  options.library = "libnvidia-ml-that-is-not-there.so.1";
  const auto vendor = OpenNvml(options);
  ASSERT_FALSE(vendor);
  EXPECT_EQ(vendor.error().code(), Code::kUnavailable);
  EXPECT_THAT(vendor.error().message(), HasSubstr(options.library));
}

TEST(OpenNvmlTest, AnotherLibraryIsRefusedWithWhatItLacks) {
  NvmlOptions options;
  options.library = "libm.so.6";
  const auto vendor = OpenNvml(options);
  ASSERT_FALSE(vendor);
  EXPECT_EQ(vendor.error().code(), Code::kFailedPrecondition);
  EXPECT_THAT(vendor.error().message(), HasSubstr("nvmlDeviceGetCount_v2"));
}

TEST(OpenNvmlTest, TheDeadlineHasARange) {
  for (const std::int64_t millis : {std::int64_t{0}, std::int64_t{-1}, std::int64_t{600'001}}) {
    NvmlOptions options = Simulated();
    options.probe_deadline_millis = millis;
    const auto vendor = OpenNvml(options);
    ASSERT_FALSE(vendor);
    EXPECT_EQ(vendor.error().field(), "probe_deadline_millis");
  }
}

TEST_F(NvmlVendor, DiscoversTheSimulatedCards) {
  EXPECT_EQ(cards_[0].model, "NVIDIA A100-SXM4-80GB");
  EXPECT_EQ(cards_[0].memory_bytes, 80 * kGiB);
  EXPECT_EQ(cards_[0].compute_units, 108u);
  EXPECT_EQ(cards_[1].compute_units, 40u);
  for (int i = 0; i < 2; ++i) {
    const device::Card& card = cards_[static_cast<std::size_t>(i)];
    EXPECT_EQ(card.index, i);
    EXPECT_EQ(card.vendor, vendor_->name());
    EXPECT_TRUE(card.simulated);
    EXPECT_TRUE(card.healthy) << card.health_reason;
    EXPECT_THAT(card.uuid, testing::StartsWith("GPU-"));
    EXPECT_EQ(card.pci_bus_id.size(), 16u) << card.pci_bus_id;
  }
  EXPECT_NE(cards_[0].uuid, cards_[1].uuid);
  const auto version = vendor_->DriverVersion();
  ASSERT_TRUE(version);
  EXPECT_THAT(*version, HasSubstr("simgpu"));
  const auto health = vendor_->Health();
  ASSERT_TRUE(health);
  ASSERT_EQ(health->size(), 2u);
  EXPECT_EQ((*health)[1].card_uuid, cards_[1].uuid);
  EXPECT_TRUE((*health)[1].healthy);
}

TEST_F(NvmlVendor, AnUnknownCardIsNotFound) {
  EXPECT_EQ(vendor_->Telemetry("GPU-x").error().code(), Code::kNotFound);
  EXPECT_EQ(vendor_->Processes("GPU-x").error().code(), Code::kNotFound);
  EXPECT_EQ(vendor_->MeasureContext("GPU-x").error().code(), Code::kNotFound);
}

TEST_F(NvmlVendor, MeasuresAContextOnTheCardThatWasAsked) {
  for (const device::Card& card : cards_) {
    const auto bytes = vendor_->MeasureContext(card.uuid);
    ASSERT_TRUE(bytes) << bytes.error().ToString();
    EXPECT_GE(*bytes, 64 * kMiB);
    EXPECT_EQ(*bytes % card.granule_bytes, 0u);
    const auto telemetry = vendor_->Telemetry(card.uuid);
    ASSERT_TRUE(telemetry);
    EXPECT_EQ(telemetry->used_bytes, 0u) << "the probe is gone";
  }
  EXPECT_FALSE(HasChildren());
}

// More processes than the first array holds, so that the size protocol is walked.
TEST_F(NvmlVendor, ReportsWhoUsesWhat) {
  constexpr std::size_t kProcesses = 20;
  const auto context = vendor_->MeasureContext(cards_[0].uuid);
  ASSERT_TRUE(context) << context.error().ToString();
  std::vector<Probe> probes;
  std::vector<CardProcess> expected;
  for (std::size_t i = 0; i < kProcesses; ++i) {
    Probe::Options options;
    options.program = TESSERA_PROBE;
    options.card_uuid = cards_[0].uuid;
    options.library_path = SIMGPU_LIB_DIR;
    auto probe = Probe::Start(options);
    ASSERT_TRUE(probe) << probe.error().ToString();
    expected.push_back({probe->pid(), *context});
    probes.push_back(std::move(*probe));
  }
  const auto processes = vendor_->Processes(cards_[0].uuid);
  ASSERT_TRUE(processes) << processes.error().ToString();
  EXPECT_THAT(*processes, testing::UnorderedElementsAreArray(expected));
  const auto others = vendor_->Processes(cards_[1].uuid);
  ASSERT_TRUE(others);
  EXPECT_TRUE(others->empty());
  const auto telemetry = vendor_->Telemetry(cards_[0].uuid);
  ASSERT_TRUE(telemetry);
  EXPECT_EQ(telemetry->used_bytes, kProcesses * *context);
  EXPECT_EQ(telemetry->total_bytes, cards_[0].memory_bytes);
  EXPECT_TRUE(telemetry->busy.has_value());
  EXPECT_TRUE(telemetry->temperature_celsius.has_value());
  EXPECT_TRUE(telemetry->power_milliwatts.has_value());
  probes.clear();
  const auto after = vendor_->Telemetry(cards_[0].uuid);
  ASSERT_TRUE(after);
  EXPECT_EQ(after->used_bytes, 0u);
  EXPECT_FALSE(HasChildren());
}

TEST_F(NvmlVendor, AProbeThatFailsIsQuoted) {
  NvmlOptions options = Simulated();
  options.probe = Script("failing", "echo 'error: cuInit: CUDA error 100'; exit 1");
  Open(options);
  const auto bytes = vendor_->MeasureContext(cards_[0].uuid);
  ASSERT_FALSE(bytes);
  EXPECT_EQ(bytes.error().code(), Code::kUnavailable);
  EXPECT_THAT(bytes.error().message(), HasSubstr("cuInit: CUDA error 100"));
  EXPECT_FALSE(HasChildren());
}

TEST_F(NvmlVendor, AProbeThatDiesOrIsMissingIsAnError) {
  NvmlOptions options = Simulated();
  options.probe = Script("dying", "exit 3");
  Open(options);
  EXPECT_EQ(vendor_->MeasureContext(cards_[0].uuid).error().code(), Code::kUnavailable);
  options.probe = Folder::Path() + "/nothing";
  Open(options);
  const auto bytes = vendor_->MeasureContext(cards_[0].uuid);
  EXPECT_EQ(bytes.error().code(), Code::kUnavailable);
  EXPECT_THAT(bytes.error().message(), HasSubstr(options.probe));
  EXPECT_FALSE(HasChildren());
}

TEST_F(NvmlVendor, AProbeThatHangsIsEndedAtTheDeadline) {
  NvmlOptions options = Simulated();
  options.probe_deadline_millis = 300;
  options.probe = Script("silent", "exec cat");
  Open(options);
  auto bytes = vendor_->MeasureContext(cards_[0].uuid);
  EXPECT_EQ(bytes.error().code(), Code::kDeadlineExceeded);
  EXPECT_THAT(bytes.error().message(), HasSubstr("probe_deadline_millis (300)"));
  // One that claims a context NVML never lists.
  options.probe = Script("lying", "echo ready; exec cat >/dev/null");
  Open(options);
  bytes = vendor_->MeasureContext(cards_[0].uuid);
  EXPECT_EQ(bytes.error().code(), Code::kDeadlineExceeded);
  EXPECT_THAT(bytes.error().message(), HasSubstr("did not list"));
  EXPECT_FALSE(HasChildren());
}

TEST(ProbeTest, ChoosesTheCardAndDropsPreloads) {
  setenv("CUDA_VISIBLE_DEVICES", "7", 1);
  setenv("LD_PRELOAD", "", 1);
  const std::string seen = Folder::Path() + "/environment";
  Probe::Options options;
  options.program = Script("telling", "env > " + seen + "; echo ready; exec cat >/dev/null");
  options.card_uuid = "GPU-chosen";
  options.library_path = "/somewhere";
  {
    const auto probe = Probe::Start(options);
    ASSERT_TRUE(probe) << probe.error().ToString();
    EXPECT_TRUE(os::IdentifyProcess(probe->pid()));
  }
  unsetenv("CUDA_VISIBLE_DEVICES");
  unsetenv("LD_PRELOAD");
  std::ifstream file(seen);
  const std::string text((std::istreambuf_iterator<char>(file)), {});
  EXPECT_THAT(text, HasSubstr("CUDA_VISIBLE_DEVICES=GPU-chosen\n"));
  EXPECT_THAT(text, HasSubstr("LD_LIBRARY_PATH=/somewhere\n"));
  EXPECT_THAT(text, testing::Not(HasSubstr("LD_PRELOAD=")));
  EXPECT_FALSE(HasChildren());
}

TEST(FakeVendorTest, AnswersWhatATestSets) {
  FakeVendor fake({FakeVendor::MakeCard(0, 8 * kGiB), FakeVendor::MakeCard(1, 4 * kGiB)});
  const auto cards = fake.Discover();
  ASSERT_TRUE(cards);
  const std::string uuid = (*cards)[1].uuid;
  EXPECT_NE(uuid, (*cards)[0].uuid);
  EXPECT_EQ(fake.Telemetry(uuid)->total_bytes, 4 * kGiB);
  fake.SetProcesses(uuid, {{17, kGiB}});
  fake.SetHealth(uuid, false, "on fire");
  EXPECT_EQ(fake.Processes(uuid)->at(0).host_pid, 17);
  EXPECT_EQ(fake.Health()->at(1).reason, "on fire");
  EXPECT_TRUE(fake.Health()->at(0).healthy);
  EXPECT_EQ(fake.Telemetry("GPU-x").error().code(), Code::kNotFound);
  fake.Fail(Error(Code::kUnavailable, "gone"));
  EXPECT_EQ(fake.Discover().error().code(), Code::kUnavailable);
  EXPECT_EQ(fake.MeasureContext(uuid).error().code(), Code::kUnavailable);
  fake.ClearFailure();
  fake.SetContextBytes(5);
  EXPECT_EQ(*fake.MeasureContext(uuid), 5u);
}

}  // namespace
}  // namespace tessera::vendors
