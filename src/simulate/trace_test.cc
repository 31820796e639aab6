#include "simulate/trace.h"

#include <gtest/gtest.h>

#include <fstream>

#include "os/scratch.h"

namespace tessera::simulate {
namespace {

class TraceTest : public testing::Test {
 protected:
  std::string Write(const std::string& text) {
    const std::string path = folder_ / "file";
    std::ofstream(path) << text;
    return path;
  }
  const os::ScratchFolder folder_;
};

TEST_F(TraceTest, ReadsNodesByName) {
  const auto nodes =
      ReadNodes(Write("sn,cpu_milli,memory_mib,gpu,model\nb,64000,262144,2,P100\n"
                      "a,96000,1024,0,\r\n"));
  ASSERT_TRUE(nodes) << nodes.error().ToString();
  ASSERT_EQ(nodes->size(), 2u);
  EXPECT_EQ((*nodes)[0].name, "a");
  EXPECT_EQ((*nodes)[1].cards, 2u);
  EXPECT_EQ((*nodes)[1].model, "P100");
}

TEST_F(TraceTest, ReadsPodsWithAndWithoutModels) {
  const std::string head = "name,cpu_milli,memory_mib,num_gpu,gpu_milli";
  auto pods = ReadPods(Write(head + "\np,1000,2,1,460\n"));
  ASSERT_TRUE(pods) << pods.error().ToString();
  EXPECT_EQ((*pods)[0].milli, 460u);
  pods = ReadPods(Write(head + ",gpu_spec,qos\np,1000,2,2,1000,A|B,LS\nq,1,1,0,0,A,LS\n"));
  ASSERT_TRUE(pods) << pods.error().ToString();
  EXPECT_EQ((*pods)[0].models, "A|B");
  EXPECT_EQ((*pods)[1].models, "") << "a pod without cards has no models";
}

TEST_F(TraceTest, SaysWhereAFileIsWrong) {
  struct Case {
    const char* text;
    const char* says;
  };
  const Case cases[] = {
      {"", ":0: header"},
      {"sn,cpu,memory_mib,gpu,model\n", ":1: header: expected column \"cpu_milli\""},
      {"sn,cpu_milli,memory_mib,gpu,model\na,1,1\n", ":2: line: expected at least 5 columns"},
      {"sn,cpu_milli,memory_mib,gpu,model\na,x,1,1,T4\n", ":2: cpu_milli: expected a whole number"},
      {"sn,cpu_milli,memory_mib,gpu,model\na,-1,1,1,T4\n", ":2: cpu_milli: expected"},
      {"sn,cpu_milli,memory_mib,gpu,model\na,1,1,65,T4\n",
       ":2: gpu: expected a whole number of 0 to 64"},
      {"sn,cpu_milli,memory_mib,gpu,model\n,1,1,1,T4\n", ":2: sn: expected a name"},
  };
  for (const Case& one : cases) {
    const auto nodes = ReadNodes(Write(one.text));
    ASSERT_FALSE(nodes) << one.text;
    EXPECT_NE(nodes.error().message().find(one.says), std::string::npos) << nodes.error().message();
  }
  EXPECT_FALSE(ReadNodes(folder_ / "absent"));
  const auto pods = ReadPods(Write("name,cpu_milli,memory_mib,num_gpu,gpu_milli\np,1,1,1,0\n"));
  ASSERT_FALSE(pods);
  EXPECT_NE(pods.error().message().find("gpu_milli"), std::string::npos);
}

TEST_F(TraceTest, ReadsOrdersAndRefusesForeignOnes) {
  auto order = ReadOrder(Write("1\n0\n-1\n1\n0\n"), 2, 2);
  ASSERT_TRUE(order) << order.error().ToString();
  EXPECT_EQ(order->arrivals, (std::vector<std::uint32_t>{1, 0}));
  EXPECT_EQ(order->ranks, (std::vector<std::uint32_t>{1, 0}));
  EXPECT_FALSE(ReadOrder(Write("2\n-1\n0\n1\n"), 2, 2)) << "no pod 2";
  EXPECT_FALSE(ReadOrder(Write("0\n-1\n0\n"), 2, 2)) << "a rank is missing";
  EXPECT_FALSE(ReadOrder(Write("0\nx\n"), 2, 2));
}

TEST_F(TraceTest, OwnOrdersRepeatFromTheirSeedAndReachTheLoad) {
  const std::vector<TraceNode> nodes = {{"a", 1000, 1, 4, "T4"}, {"b", 1000, 1, 4, "T4"}};
  const std::vector<TracePod> pods = {{"p", 1, 1, 1, 500, ""}, {"q", 1, 1, 2, 1000, ""}};
  const TraceOrder order = MakeOrder(nodes, pods, 5, 1300);
  EXPECT_EQ(order.arrivals, MakeOrder(nodes, pods, 5, 1300).arrivals);
  EXPECT_NE(order.arrivals, MakeOrder(nodes, pods, 6, 1300).arrivals);
  std::int64_t milli = 0;
  for (const std::uint32_t pod : order.arrivals) milli += pods[pod].cards * pods[pod].milli;
  EXPECT_GE(milli, 10'400);
  EXPECT_LT(milli, 12'400);
}

}  // namespace
}  // namespace tessera::simulate
