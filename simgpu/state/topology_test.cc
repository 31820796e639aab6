#include "simgpu/state/topology.h"

#include <gtest/gtest.h>
#include <stdlib.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>

namespace simgpu {
namespace {

Plan Make(const char* spec) {
  Plan plan;
  std::string error;
  EXPECT_TRUE(PlanMachine(spec, &plan, &error)) << error;
  EXPECT_EQ(plan.profiles.size(), plan.topology.card_count);
  return plan;
}

Peer PeersOf(const Plan& plan, uint32_t a, uint32_t b) {
  return PeerAccess(plan.topology, plan.profiles[a], a, plan.profiles[b], b);
}

std::string Refusal(const char* text) {
  Plan plan;
  std::string error;
  EXPECT_FALSE(ParseMachine("m", text, &plan, &error)) << text;
  return error;
}

TEST(Profiles, EveryFileIsBuiltInAndParses) {
  unsigned files = 0;
  for (const auto& entry : std::filesystem::directory_iterator(SIMGPU_PROFILE_FOLDER)) {
    if (entry.path().extension() != ".profile") continue;
    ++files;
    const std::string key = entry.path().stem();
    SCOPED_TRACE(key);
    std::ifstream in(entry.path());
    std::stringstream text;
    text << in.rdbuf();
    Profile from_file = {};
    std::string error;
    ASSERT_TRUE(ParseProfile(text.str(), &from_file, &error)) << error;
    Profile built_in;
    ASSERT_TRUE(FindProfile(key, &built_in, &error)) << error;
    EXPECT_STREQ(built_in.key, key.c_str());
    memcpy(from_file.key, built_in.key, sizeof from_file.key);
    EXPECT_EQ(memcmp(&from_file, &built_in, sizeof built_in), 0) << "the built-in text is older";
    // Instances fit beside each other as often as the table says.
    for (uint32_t i = 0; i < built_in.mig_count; ++i) {
      const MigProfile& mig = built_in.mig[i];
      EXPECT_LE(mig.instances, static_cast<uint32_t>(__builtin_popcount(mig.starts))) << mig.name;
      EXPECT_LE(mig.instances * mig.compute_slices, 7u) << mig.name;
      EXPECT_LE(mig.instances * mig.sms, built_in.sm_count) << mig.name;
      EXPECT_LE(uint64_t{mig.instances} * mig.memory_mib << 20, built_in.memory_bytes) << mig.name;
    }
  }
  EXPECT_EQ(files, 8u);
}

TEST(Profiles, H200IsAShortName) {
  Profile one;
  Profile two;
  std::string error;
  ASSERT_TRUE(FindProfile("H200", &one, &error)) << error;
  ASSERT_TRUE(FindProfile("H200-141", &two, &error)) << error;
  EXPECT_STREQ(one.key, "H200");
  EXPECT_STREQ(one.name, two.name);
  EXPECT_EQ(one.memory_bytes, two.memory_bytes);
}

TEST(Profiles, RefusesWhatDoesNotFitTogether) {
  std::ifstream in(SIMGPU_PROFILE_FOLDER "/A100-40.profile");
  std::stringstream stream;
  stream << in.rdbuf();
  const std::string text = stream.str();
  const auto with = [&](const std::string& from, const std::string& to) {
    std::string changed = text;
    const size_t at = changed.find(from);
    EXPECT_NE(at, std::string::npos) << from;
    changed.replace(at, from.size(), to);
    Profile profile = {};
    std::string error;
    EXPECT_FALSE(ParseProfile(changed, &profile, &error)) << to;
    return error;
  };
  EXPECT_TRUE(
      with("ecc on", "ecc maybe").ends_with(": ecc: expected none, off or on, not \"maybe\""));
  EXPECT_NE(with("brand nvidia", "brand acme").find("tesla, nvidia or geforce"), std::string::npos);
  EXPECT_EQ(with("nvlink_links 12", "nvlink_links 0"),
            "nvlink_links: expected together with nvlink_version and nvlink_mb_s");
  EXPECT_NE(with("power_min_mw 100000", "power_min_mw 500000").find("power_limit_mw"),
            std::string::npos);
  EXPECT_NE(with("temperature_max_c 85", "temperature_max_c 95").find("to rise"),
            std::string::npos);
  EXPECT_NE(with("1 0,1,2,3,4,5,6\nmig 1g.5gb+me", "3 0\nmig 1g.5gb+me").find("1, 2, 4 or 8"),
            std::string::npos);
  EXPECT_NE(with("4 0,4\n", "4 0,2\n").find("multiples of SIZE"), std::string::npos);
  EXPECT_NE(with("4 0,4\n", "4\n").find("STARTS"), std::string::npos);
  EXPECT_NE(with("mig 3g.20gb 9 2 3 2 19968 42", "mig 3g.20gb 9 2 3 2 19968 142")
                .find("no more than the card has"),
            std::string::npos);
  EXPECT_NE(with("mig 3g.20gb 9 2", "mig 3g.20gb 9 x").find("twelve numbers"), std::string::npos);
}

TEST(Machines, EveryFileIsBuiltIn) {
  unsigned files = 0;
  for (const auto& entry : std::filesystem::directory_iterator(SIMGPU_PROFILE_FOLDER)) {
    if (entry.path().extension() != ".machine") continue;
    ++files;
    const std::string name = entry.path().stem();
    SCOPED_TRACE(name);
    const Plan plan = Make(name.c_str());
    EXPECT_EQ(plan.topology.machine, name);
    EXPECT_EQ(std::to_string(plan.topology.card_count), name.substr(name.rfind('-') + 1));
  }
  EXPECT_EQ(files, 7u);
}

TEST(Machines, AListHasARootForEveryCard) {
  const Plan plan = Make(" T4 , T4,A100-80");
  EXPECT_STREQ(plan.topology.machine, "");
  ASSERT_EQ(plan.topology.card_count, 3u);
  EXPECT_EQ(plan.topology.places[0].pci_bus, 0x17u);
  EXPECT_EQ(plan.topology.places[2].pci_bus, 0x37u);
  EXPECT_EQ(CommonAncestor(plan.topology, 0, 0), Ancestor::kSelf);
  EXPECT_EQ(CommonAncestor(plan.topology, 0, 1), Ancestor::kNode);
  EXPECT_EQ(PeersOf(plan, 0, 1), Peer::kOk);
  EXPECT_EQ(PeersOf(plan, 0, 2), Peer::kCardCannot);
  EXPECT_EQ(NvLinksBetween(plan.topology, 0, 1), 0u);
  EXPECT_EQ(PeersOf(Make("RTX-4090,RTX-4090"), 0, 1), Peer::kCardCannot);
}

TEST(Machines, SwitchesRootsAndNodes) {
  const Plan a10 = Make("PCIE-A10-4");
  EXPECT_EQ(CommonAncestor(a10.topology, 0, 1), Ancestor::kSingleSwitch);
  EXPECT_EQ(CommonAncestor(a10.topology, 1, 2), Ancestor::kSystem);
  EXPECT_EQ(PeersOf(a10, 2, 3), Peer::kOk);
  EXPECT_EQ(PeersOf(a10, 0, 3), Peer::kTopologyCannot);
  const Plan t4 = Make("PCIE-T4-4");
  EXPECT_EQ(CommonAncestor(t4.topology, 0, 1), Ancestor::kHostBridge);
  EXPECT_EQ(CommonAncestor(t4.topology, 2, 3), Ancestor::kNode);
  const Plan a100 = Make("HGX-A100-8");
  EXPECT_EQ(CommonAncestor(a100.topology, 0, 1), Ancestor::kSingleSwitch);
  EXPECT_EQ(CommonAncestor(a100.topology, 0, 2), Ancestor::kSystem);
  EXPECT_EQ(a100.topology.places[0].numa_node, 3u);
  EXPECT_EQ(a100.topology.places[0].cpus[0], 0xffffull << 48);
  EXPECT_EQ(a100.topology.places[0].cpus[2], 0xffffull << 48);
  EXPECT_EQ(a100.topology.places[0].cpus[1] | a100.topology.places[0].cpus[3], 0u);
}

TEST(Machines, NvLinks) {
  const struct {
    const char* name;
    uint32_t cards, links;
  } kBoards[] = {{"HGX-A100-8", 8, 12},
                 {"HGX-H100-8", 8, 18},
                 {"HGX-H200-8", 8, 18},
                 {"HGX-B200-8", 8, 18},
                 {"NVL-A100-4", 4, 4}};
  for (const auto& board : kBoards) {
    SCOPED_TRACE(board.name);
    const Plan plan = Make(board.name);
    for (uint32_t a = 0; a < board.cards; ++a) {
      for (uint32_t b = 0; b < board.cards; ++b) {
        EXPECT_EQ(NvLinksBetween(plan.topology, a, b), a == b ? 0 : board.links);
        EXPECT_EQ(PeersOf(plan, a, b), Peer::kOk);
      }
    }
  }
  // Both ends of a straight link name each other.
  const Topology straight = Make("NVL-A100-4").topology;
  for (uint32_t card = 0; card < 4; ++card) {
    for (uint32_t link = 0; link < 12; ++link) {
      const NvLink& one = straight.links[card][link];
      ASSERT_EQ(one.kind, NvLink::Kind::kCard);
      const NvLink& back = straight.links[one.remote][one.remote_link];
      EXPECT_EQ(back.remote, card);
      EXPECT_EQ(back.remote_link, link);
    }
  }
}

TEST(Machines, RefusesWithLineAndWhatWasExpected) {
  EXPECT_EQ(Refusal(""), "expected at least one line \"card\"");
  EXPECT_EQ(Refusal("cart T4\n"), "line 1: cart: expected card, nvswitches or nvlink");
  EXPECT_EQ(Refusal("# x\ncard T4 0x17 0 0-3 0\n"),
            "line 2: card: expected PROFILE BUS NUMA CPUS ROOT SWITCH");
  EXPECT_EQ(Refusal("card T4 0x17 0 3-0 0 none\n"),
            "line 1: card: expected PROFILE BUS NUMA CPUS ROOT SWITCH");
  EXPECT_EQ(Refusal("card T4 0x17 0 0-256 0 none\n"),
            "line 1: card: expected PROFILE BUS NUMA CPUS ROOT SWITCH");
  EXPECT_EQ(Refusal("card T4 0x17 0 0 0 none\ncard T4 0x17 0 0 1 none\n"),
            "line 2: card: expected a BUS no other card has");
  EXPECT_NE(Refusal("card V100 1 0 0 0 none\n").find("no profile \"V100\""), std::string::npos);
  EXPECT_EQ(Refusal("card T4 1 0 0 0 none\nnvswitches 2 0x05\n"),
            "line 2: nvswitches: expected cards with NVLink above it");
  EXPECT_EQ(Refusal("card A100-40 1 0 0 0 none\ncard A100-40 2 0 0 0 none\nnvlink 0 1 13\n"),
            "line 3: nvlink: expected no more links than the cards have");
  EXPECT_EQ(Refusal("card A100-40 1 0 0 0 none\nnvlink 0 1 1\n"),
            "line 2: nvlink: expected two cards that stand above it and a number of links");
  EXPECT_EQ(Refusal("card A100-40 1 0 0 0 none\nnvswitches 9 5\n"),
            "line 2: nvswitches: expected a number of NVSwitches, 1 to kNvSwitchesMax = 8, and a "
            "PCI bus");
  std::string nine;
  for (int i = 1; i <= 9; ++i) nine += "card T4 " + std::to_string(i) + " 0 0 0 none\n";
  EXPECT_EQ(Refusal(nine.c_str()), "line 9: card: expected no more than kCardsMax = 8 cards");
  Plan plan;
  std::string error;
  EXPECT_FALSE(PlanMachine("HGX-V100-8", &plan, &error));
  EXPECT_NE(error.find("or a machine: HGX-A100-8"), std::string::npos) << error;
  EXPECT_FALSE(ParseMachine("a-name-of-more-than-thirty-one-letters", "", &plan, &error));
}

TEST(Machines, AFolderAddsOnes) {
  char name[] = "/tmp/simgpu-machines-XXXXXX";
  ASSERT_NE(mkdtemp(name), nullptr);
  std::ofstream(std::string(name) + "/mine.machine") << "card T4 0x40 5 7 0 none\n";
  setenv("SIMGPU_PROFILES", name, 1);
  const Plan plan = Make("mine");
  EXPECT_EQ(plan.topology.places[0].numa_node, 5u);
  EXPECT_EQ(plan.topology.places[0].cpus[0], uint64_t{1} << 7);
  std::ofstream(std::string(name) + "/mine.machine") << "card T4\n";
  Plan bad;
  std::string error;
  EXPECT_FALSE(PlanMachine("mine", &bad, &error));
  EXPECT_NE(error.find("mine.machine: line 1: card: expected"), std::string::npos) << error;
  unsetenv("SIMGPU_PROFILES");
  std::filesystem::remove_all(name);
}

}  // namespace
}  // namespace simgpu
