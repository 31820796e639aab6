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
