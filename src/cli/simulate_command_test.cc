#include "cli/simulate_command.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>

#include "http/json.h"
#include "os/files.h"
#include "os/scratch.h"

namespace tessera::cli {
namespace {

using testing::HasSubstr;

class SimulateTest : public testing::Test {
 protected:
  void SetUp() override {
    std::ofstream(folder_ / "nodes") << "sn,cpu_milli,memory_mib,gpu,model\n"
                                        "a,64000,262144,4,T4\nb,64000,262144,4,T4\n";
    std::ofstream(folder_ / "pods") << "name,cpu_milli,memory_mib,num_gpu,gpu_milli,gpu_spec\n"
                                       "p,1000,1024,1,500,\nq,1000,1024,2,1000,T4\n";
    options_.nodes = folder_ / "nodes";
    options_.pods = folder_ / "pods";
    options_.json = folder_ / "curves.json";
    options_.policies = {"tessera", "fgd", "random"};
    context_.out = open_memstream(&out_, &out_bytes_);
    context_.err = open_memstream(&err_, &err_bytes_);
  }
  void TearDown() override {
    std::fclose(context_.out);
    std::fclose(context_.err);
    std::free(out_);
    std::free(err_);
  }
  int Run() {
    const int code = SimulatePlacement(context_, options_);
    std::fflush(context_.out);
    std::fflush(context_.err);
    return code;
  }

  const os::ScratchFolder folder_;
  SimulateOptions options_;
  Context context_;
  char* out_ = nullptr;
  char* err_ = nullptr;
  std::size_t out_bytes_ = 0, err_bytes_ = 0;
};

TEST_F(SimulateTest, PrintsAPolicyALineAndWritesTheCurves) {
  ASSERT_EQ(Run(), 0) << err_;
  EXPECT_THAT(out_, HasSubstr("POLICY"));
  for (const std::string& policy : options_.policies) EXPECT_THAT(out_, HasSubstr("\n" + policy));
  const auto text = os::PosixFiles().Read(options_.json);
  ASSERT_TRUE(text);
  EXPECT_TRUE(http::JsonObject::Parse(*text));
  EXPECT_THAT(*text, HasSubstr("\"allocated_percent_at_load\":["));
  const std::string first = out_;
  ASSERT_EQ(Run(), 0);
  EXPECT_EQ(std::string(out_), first + first) << "the same seed, the same answer";
}

TEST_F(SimulateTest, WritesAPageWithACurveAPolicy) {
  options_.html = folder_ / "curves.html";
  ASSERT_EQ(Run(), 0) << err_;
  const auto page = os::PosixFiles().Read(options_.html);
  ASSERT_TRUE(page);
  for (const std::string& policy : options_.policies) {
    EXPECT_THAT(*page, HasSubstr("<title>" + policy + "</title></polyline>"));
  }
}

TEST_F(SimulateTest, RandomTiesRepeatFromTheirSeed) {
  options_.random_ties = true;
  options_.policies = {"fgd", "hami", "least-allocated"};
  ASSERT_EQ(Run(), 0) << err_;
  const std::string first = out_;
  ASSERT_EQ(Run(), 0);
  EXPECT_EQ(std::string(out_), first + first);
  const auto text = os::PosixFiles().Read(options_.json);
  ASSERT_TRUE(text);
  EXPECT_THAT(*text, HasSubstr("\"ties\":\"random\""));
}

TEST_F(SimulateTest, WritesTheCurvesAsLines) {
  options_.csv = folder_ / "curves.csv";
  ASSERT_EQ(Run(), 0) << err_;
  const auto text = os::PosixFiles().Read(options_.csv);
  ASSERT_TRUE(text);
  EXPECT_THAT(*text, HasSubstr("policy,load_percent,allocated_percent,fragmented_percent\n"));
  for (const std::string& policy : options_.policies)
    EXPECT_THAT(*text, HasSubstr("\n" + policy + ",56,56.25,"));
}

TEST_F(SimulateTest, ChurnRunsEachPolicyWithAndWithoutMoves) {
  {
    std::ofstream pods(options_.pods);
    pods << "name,cpu_milli,memory_mib,num_gpu,gpu_milli,gpu_spec,qos,pod_phase,creation_time,"
            "deletion_time\n";
    for (int i = 0; i < 200; ++i) {
      pods << "p" << i << ",1000,1024,1," << (i % 3 == 0 ? 1000 : 400) << ",,LS,Running," << i * 10
           << "," << i * 10 + 100 + i % 7 * 50 << "\n";
    }
  }
  options_.churn = true;
  options_.nodes_every = 1;
  options_.policies = {"tessera", "bestfit"};
  options_.csv = folder_ / "churn.csv";
  options_.html = folder_ / "churn.html";
  ASSERT_EQ(Run(), 0) << err_;
  const auto json = os::PosixFiles().Read(options_.json);
  ASSERT_TRUE(json);
  EXPECT_TRUE(http::JsonObject::Parse(*json));
  EXPECT_THAT(*json, HasSubstr("\"moves_max\":0,"));
  EXPECT_THAT(*json, HasSubstr("\"moves_max\":4,"));
  EXPECT_THAT(*os::PosixFiles().Read(options_.csv), HasSubstr("\nbestfit,4,1000,"));
  const auto page = os::PosixFiles().Read(options_.html);
  EXPECT_THAT(*page, HasSubstr("<title>tessera, up to 4 moves</title></polyline>"));
  EXPECT_EQ(page->find("Fragmented"), std::string::npos) << "nothing is known of it";
  const std::string first = out_;
  ASSERT_EQ(Run(), 0);
  EXPECT_EQ(std::string(out_), first + first) << "the same seed, the same answer";
  options_.backfill = "some";
  EXPECT_EQ(Run(), 2);
  EXPECT_THAT(err_, HasSubstr("backfill: expected none, easy or any"));
}

TEST_F(SimulateTest, SpotRunsEachPolicyAtEachRatio) {
  {
    std::ofstream pods(options_.pods);
    pods << "name,cpu_milli,memory_mib,num_gpu,gpu_milli,gpu_spec,qos,pod_phase,creation_time,"
            "deletion_time\n";
    for (int i = 0; i < 200; ++i) {
      pods << "p" << i << ",1000,1024,1," << (i % 3 == 0 ? 1000 : 400) << ",,"
           << (i % 4 == 0 ? "LS" : "BE") << ",Running," << i * 10 << ","
           << i * 10 + 100 + i % 7 * 50 << "\n";
    }
  }
  options_.churn = true;
  options_.spot = true;
  options_.nodes_every = 1;
  options_.pods_every = 2;
  options_.churn_load_percent = 150;
  options_.policies = {"tessera", "binpack"};
  options_.oversell = {"1", "1.45"};
  options_.csv = folder_ / "spot.csv";
  options_.html = folder_ / "spot.html";
  ASSERT_EQ(Run(), 0) << err_;
  EXPECT_THAT(out_, HasSubstr("\nbinpack      1.45"));
  const auto json = os::PosixFiles().Read(options_.json);
  ASSERT_TRUE(json);
  EXPECT_TRUE(http::JsonObject::Parse(*json));
  EXPECT_THAT(*json, HasSubstr("\"spot\":\"qos BE\""));
  EXPECT_THAT(*json, HasSubstr("\"oversell_permille\":1450,\"moves_max\":4,"));
  EXPECT_THAT(*json, HasSubstr("\"guaranteed\":{\"arrived\":50,"))
      << "every second pod, of them every second LS";
  EXPECT_THAT(*os::PosixFiles().Read(options_.csv), HasSubstr("\nbinpack,1450,4,1000,"));
  EXPECT_THAT(*os::PosixFiles().Read(options_.html),
              HasSubstr("<title>tessera at 1.45, up to 4 moves</title></polyline>"));
  for (const char* wrong : {"0.9", "1.81", "2", "x", "1.4x", "", "1.40001", "14"}) {
    options_.oversell = {wrong};
    EXPECT_EQ(Run(), 2) << wrong;
  }
  EXPECT_THAT(err_, HasSubstr("oversell: expected ratios from 1.0 to 1.8"));
}

TEST_F(SimulateTest, BadInputNamesTheField) {
  options_.policies = {"best"};
  EXPECT_EQ(Run(), 2);
  EXPECT_THAT(err_, HasSubstr("policy: expected one of"));
  options_.policies = {"fgd"};
  std::ofstream(folder_ / "nodes") << "sn,cpu_milli,memory_mib,gpu,model\na,x,1,1,T4\n";
  EXPECT_EQ(Run(), 2);
  EXPECT_THAT(err_, HasSubstr("cpu_milli: expected a whole number"));
}

}  // namespace
}  // namespace tessera::cli
