// An HGX board with eight H100: how the cards are joined, MIG, memory errors and events.
#include <cstring>
#include <set>

#include "simgpu/nvml/test_support.h"

namespace simgpu {
namespace {

const auto* const folder = testing::AddGlobalTestEnvironment(new Folder("HGX-H100-8"));

class Machine : public Nvml {
 protected:
  void SetUp() override {
    Nvml::SetUp();
    ASSERT_EQ(Call("nvmlInit_v2"), NVML_SUCCESS);
    unsigned count = 0;
    ASSERT_EQ(Call("nvmlDeviceGetCount_v2", &count), NVML_SUCCESS);
    ASSERT_EQ(count, 8u);
  }
  void TearDown() override {
    Faults("");
    Nvml::TearDown();
  }
  std::string Field(nvmlDevice_t card, unsigned id, unsigned scope = 0) {
    nvmlFieldValue_t value = {};
    value.fieldId = id;
    value.scopeId = scope;
    EXPECT_EQ(Call("nvmlDeviceGetFieldValues", card, 1, &value), NVML_SUCCESS);
    if (value.nvmlReturn != NVML_SUCCESS) return "none";
    return std::to_string(value.valueType == NVML_VALUE_TYPE_UNSIGNED_INT ? value.value.uiVal
                                                                          : value.value.ullVal);
  }
};

TEST_F(Machine, CardsSitWhereTheFileSays) {
  // The machine's file, read by the test itself.
  std::ifstream in(SIMGPU_PROFILE_FOLDER "/HGX-H100-8.machine");
  std::vector<std::vector<std::string>> cards;
  for (std::string line; std::getline(in, line);) {
    std::istringstream columns(line);
    std::vector<std::string> row((std::istream_iterator<std::string>(columns)),
                                 std::istream_iterator<std::string>());
    if (!row.empty() && row[0] == "card") cards.push_back(row);
  }
  ASSERT_EQ(cards.size(), 8u);
  for (unsigned i = 0; i < 8; ++i) {
    SCOPED_TRACE(i);
    nvmlPciInfo_t pci = {};
    ASSERT_EQ(Call("nvmlDeviceGetPciInfo_v3", Card(i), &pci), NVML_SUCCESS);
    EXPECT_EQ(pci.bus, std::stoul(cards[i][2], nullptr, 0));
    const unsigned node = static_cast<unsigned>(std::stoul(cards[i][3]));
    unsigned long nodes[2] = {7, 7};
    ASSERT_EQ(Call("nvmlDeviceGetMemoryAffinity", Card(i), 2u, &nodes[0], NVML_AFFINITY_SCOPE_NODE),
              NVML_SUCCESS);
    EXPECT_EQ(nodes[0], 1ul << node);
    EXPECT_EQ(nodes[1], 0ul);
    // 0-55,112-167 or 56-111,168-223.
    unsigned long cpus[4] = {};
    ASSERT_EQ(Call("nvmlDeviceGetCpuAffinity", Card(i), 4u, &cpus[0]), NVML_SUCCESS);
    std::set<unsigned> seen;
    for (unsigned cpu = 0; cpu < 256; ++cpu) {
      if ((cpus[cpu / 64] >> (cpu % 64) & 1) != 0) seen.insert(cpu);
    }
    std::set<unsigned> expected;
    std::istringstream ranges(cards[i][4]);
    for (std::string range; std::getline(ranges, range, ',');) {
      const unsigned first = static_cast<unsigned>(std::stoul(range));
      const unsigned last = static_cast<unsigned>(std::stoul(range.substr(range.find('-') + 1)));
      for (unsigned cpu = first; cpu <= last; ++cpu) expected.insert(cpu);
    }
    EXPECT_EQ(seen, expected);
    unsigned long again[4] = {};
    ASSERT_EQ(Call("nvmlDeviceGetCpuAffinityWithinScope", Card(i), 4u, &again[0],
                   NVML_AFFINITY_SCOPE_NODE),
              NVML_SUCCESS);
    EXPECT_EQ(memcmp(cpus, again, sizeof cpus), 0);
    EXPECT_EQ(Call("nvmlDeviceGetCpuAffinity", Card(i), 0u, &cpus[0]), NVML_ERROR_INVALID_ARGUMENT);
  }
  unsigned count = 0;
  nvmlDevice_t near[8] = {};
  ASSERT_EQ(Call("nvmlSystemGetTopologyGpuSet", 60u, &count, static_cast<nvmlDevice_t*>(nullptr)),
            NVML_SUCCESS);
  ASSERT_EQ(count, 4u);
  ASSERT_EQ(Call("nvmlSystemGetTopologyGpuSet", 60u, &count, &near[0]), NVML_SUCCESS);
  for (unsigned i = 0; i < 4; ++i) EXPECT_EQ(near[i], Card(4 + i));
}

TEST_F(Machine, PairsOfCards) {
  for (unsigned a = 0; a < 8; ++a) {
    for (unsigned b = 0; b < 8; ++b) {
      unsigned level = 1;
      ASSERT_EQ(Call("nvmlDeviceGetTopologyCommonAncestor", Card(a), Card(b), &level),
                NVML_SUCCESS);
      const unsigned expected = a == b           ? NVML_TOPOLOGY_INTERNAL
                                : a / 4 == b / 4 ? NVML_TOPOLOGY_NODE
                                                 : NVML_TOPOLOGY_SYSTEM;
      EXPECT_EQ(level, expected) << a << " " << b;
      if (a == b) continue;
      const std::map<unsigned, unsigned> statuses = {
          {NVML_P2P_CAPS_INDEX_READ, NVML_P2P_STATUS_OK},
          {NVML_P2P_CAPS_INDEX_WRITE, NVML_P2P_STATUS_OK},
          {NVML_P2P_CAPS_INDEX_NVLINK, NVML_P2P_STATUS_OK},
          {NVML_P2P_CAPS_INDEX_ATOMICS, NVML_P2P_STATUS_OK},
          {NVML_P2P_CAPS_INDEX_PCI, NVML_P2P_STATUS_NOT_SUPPORTED}};
      for (const auto& [capability, status] : statuses) {
        unsigned answer = 77;
        ASSERT_EQ(Call("nvmlDeviceGetP2PStatus", Card(a), Card(b), capability, &answer),
                  NVML_SUCCESS);
        EXPECT_EQ(answer, status) << capability;
      }
    }
  }
  unsigned count = 8;
  nvmlDevice_t near[8] = {};
  ASSERT_EQ(Call("nvmlDeviceGetTopologyNearestGpus", Card(1), NVML_TOPOLOGY_NODE, &count, &near[0]),
            NVML_SUCCESS);
  ASSERT_EQ(count, 3u);
  EXPECT_EQ(near[0], Card(0));
  EXPECT_EQ(near[2], Card(3));
  count = 8;
  ASSERT_EQ(
      Call("nvmlDeviceGetTopologyNearestGpus", Card(1), NVML_TOPOLOGY_SINGLE, &count, &near[0]),
      NVML_SUCCESS);
  EXPECT_EQ(count, 0u);
  // Exactly of that level: those on the other processor only.
  count = 8;
  ASSERT_EQ(
      Call("nvmlDeviceGetTopologyNearestGpus", Card(1), NVML_TOPOLOGY_SYSTEM, &count, &near[0]),
      NVML_SUCCESS);
  ASSERT_EQ(count, 4u);
  EXPECT_EQ(near[0], Card(4));
  EXPECT_EQ(Call("nvmlDeviceGetTopologyNearestGpus", Card(1), 11u, &count, &near[0]),
            NVML_ERROR_INVALID_ARGUMENT);
}

TEST_F(Machine, EveryLinkLeadsToASwitch) {
  std::set<std::pair<unsigned, unsigned>> ports;
  std::map<unsigned, unsigned> links_of;  // by the switch's bus
  for (unsigned i = 0; i < 8; ++i) {
    for (unsigned link = 0; link < 18; ++link) {
      unsigned value = 7;
      ASSERT_EQ(Call("nvmlDeviceGetNvLinkState", Card(i), link, &value), NVML_SUCCESS);
      EXPECT_EQ(value, 1u);
      ASSERT_EQ(Call("nvmlDeviceGetNvLinkVersion", Card(i), link, &value), NVML_SUCCESS);
      EXPECT_EQ(value, 6u);  // NVLink 4
      ASSERT_EQ(Call("nvmlDeviceGetNvLinkRemoteDeviceType", Card(i), link, &value), NVML_SUCCESS);
      EXPECT_EQ(value, NVML_NVLINK_DEVICE_TYPE_SWITCH);
      ASSERT_EQ(Call("nvmlDeviceGetNvLinkCapability", Card(i), link, NVML_NVLINK_CAP_P2P_SUPPORTED,
                     &value),
                NVML_SUCCESS);
      EXPECT_EQ(value, 1u);
      ASSERT_EQ(
          Call("nvmlDeviceGetNvLinkCapability", Card(i), link, NVML_NVLINK_CAP_SLI_BRIDGE, &value),
          NVML_SUCCESS);
      EXPECT_EQ(value, 0u);
      unsigned long long errors = 7;
      ASSERT_EQ(Call("nvmlDeviceGetNvLinkErrorCounter", Card(i), link, 0u, &errors), NVML_SUCCESS);
      EXPECT_EQ(errors, 0u);
      nvmlPciInfo_t pci = {};
      ASSERT_EQ(Call("nvmlDeviceGetNvLinkRemotePciInfo_v2", Card(i), link, &pci), NVML_SUCCESS);
      EXPECT_GE(pci.bus, 5u);
      EXPECT_LE(pci.bus, 8u);
      char bus_id[32];
      snprintf(bus_id, sizeof bus_id, "00000000:%02X:00.0", pci.bus);
      EXPECT_STREQ(pci.busId, bus_id);
      ++links_of[pci.bus];
      const std::string port = Field(Card(i), NVML_FI_DEV_NVLINK_REMOTE_NVLINK_ID, link);
      EXPECT_TRUE(ports.insert({pci.bus, static_cast<unsigned>(std::stoul(port))}).second)
          << "two links end at port " << port << " of the switch on bus " << pci.bus;
      EXPECT_EQ(Field(Card(i), NVML_FI_DEV_NVLINK_GET_SPEED, link), "26562");
    }
    unsigned value = 0;
    EXPECT_EQ(Call("nvmlDeviceGetNvLinkState", Card(i), 18u, &value), NVML_ERROR_INVALID_ARGUMENT);
    EXPECT_EQ(Field(Card(i), NVML_FI_DEV_NVSWITCH_CONNECTED_LINK_COUNT), "18");
  }
  EXPECT_EQ(links_of.size(), 4u);
  for (const auto& [bus, links] : links_of) EXPECT_TRUE(links == 32 || links == 40) << links;
  nvmlGpuFabricInfo_t fabric = {};
  ASSERT_EQ(Call("nvmlDeviceGetGpuFabricInfo", Card(0), &fabric), NVML_SUCCESS);
  EXPECT_EQ(fabric.state, NVML_GPU_FABRIC_STATE_COMPLETED);
  nvmlGpuFabricInfo_v2_t second = {};
  EXPECT_EQ(Call("nvmlDeviceGetGpuFabricInfoV", Card(0), &second),
            NVML_ERROR_ARGUMENT_VERSION_MISMATCH);
  second.version = NvmlVersion<nvmlGpuFabricInfo_v2_t>(2);
  ASSERT_EQ(Call("nvmlDeviceGetGpuFabricInfoV", Card(0), &second), NVML_SUCCESS);
  EXPECT_EQ(second.state, NVML_GPU_FABRIC_STATE_COMPLETED);
  nvmlGpuFabricInfo_v3_t third = {};
  third.version = NvmlVersion<nvmlGpuFabricInfo_v3_t>(3);
  ASSERT_EQ(Call("nvmlDeviceGetGpuFabricInfoV", Card(0),
                 reinterpret_cast<nvmlGpuFabricInfo_v2_t*>(&third)),
            NVML_SUCCESS);
  EXPECT_EQ(third.healthSummary, 1);
}

TEST_F(Machine, SerialsFindCards) {
  std::set<std::string> serials;
  for (unsigned i = 0; i < 8; ++i) {
    char serial[NVML_DEVICE_SERIAL_BUFFER_SIZE] = {};
    ASSERT_EQ(Call("nvmlDeviceGetSerial", Card(i), &serial[0], NVML_DEVICE_SERIAL_BUFFER_SIZE),
              NVML_SUCCESS);
    EXPECT_EQ(strlen(serial), 13u);
    EXPECT_TRUE(serials.insert(serial).second);
    nvmlDevice_t found = nullptr;
    ASSERT_EQ(Call("nvmlDeviceGetHandleBySerial", static_cast<const char*>(serial), &found),
              NVML_SUCCESS);
    EXPECT_EQ(found, Card(i));
    int same = 7;
    ASSERT_EQ(Call("nvmlDeviceOnSameBoard", Card(0), Card(i), &same), NVML_SUCCESS);
    EXPECT_EQ(same, i == 0 ? 1 : 0);
  }
  std::set<unsigned> boards;
  for (unsigned i = 0; i < 8; ++i) boards.insert(Number("nvmlDeviceGetBoardId", Card(i)));
  EXPECT_EQ(boards.size(), 8u);
  nvmlDevice_t found = nullptr;
  EXPECT_EQ(Call("nvmlDeviceGetHandleBySerial", "nobody", &found), NVML_ERROR_NOT_FOUND);
}

TEST_F(Machine, MemoryErrorsAreCountedAndRowsReplaced) {
  const auto errors = [&](unsigned type, unsigned since) {
    unsigned long long count = 99;
    EXPECT_EQ(Call("nvmlDeviceGetTotalEccErrors", Card(2), type, since, &count), NVML_SUCCESS);
    return count;
  };
  EXPECT_EQ(errors(NVML_MEMORY_ERROR_TYPE_CORRECTED, NVML_VOLATILE_ECC), 0u);
  unsigned rows[4] = {9, 9, 9, 9};
  ASSERT_EQ(Call("nvmlDeviceGetRemappedRows", Card(2), &rows[0], &rows[1], &rows[2], &rows[3]),
            NVML_SUCCESS);
  for (const unsigned row : rows) EXPECT_EQ(row, 0u);
  Faults("ecc card 2 sbe 5\necc card 2 dbe 3\n");
  EXPECT_TRUE(
      Comes([&] { return errors(NVML_MEMORY_ERROR_TYPE_CORRECTED, NVML_VOLATILE_ECC) == 5; }));
  EXPECT_EQ(errors(NVML_MEMORY_ERROR_TYPE_UNCORRECTED, NVML_AGGREGATE_ECC), 3u);
  unsigned long long other = 9;
  ASSERT_EQ(Call("nvmlDeviceGetTotalEccErrors", Card(1), 1u, 0u, &other), NVML_SUCCESS);
  EXPECT_EQ(other, 0u);
  nvmlEccErrorCounts_t detail = {9, 9, 9, 9};
  ASSERT_EQ(Call("nvmlDeviceGetDetailedEccErrors", Card(2), NVML_MEMORY_ERROR_TYPE_UNCORRECTED,
                 NVML_VOLATILE_ECC, &detail),
            NVML_SUCCESS);
  EXPECT_EQ(detail.deviceMemory, 3u);
  EXPECT_EQ(detail.l1Cache + detail.l2Cache + detail.registerFile, 0u);
  for (unsigned location = 0; location < NVML_MEMORY_LOCATION_COUNT; ++location) {
    unsigned long long count = 9;
    ASSERT_EQ(Call("nvmlDeviceGetMemoryErrorCounter", Card(2), 1u, 0u, location, &count),
              NVML_SUCCESS);
    EXPECT_EQ(count, location == NVML_MEMORY_LOCATION_DRAM ? 3u : 0u);
  }
  ASSERT_EQ(Call("nvmlDeviceGetRemappedRows", Card(2), &rows[0], &rows[1], &rows[2], &rows[3]),
            NVML_SUCCESS);
  EXPECT_EQ(rows[0], 0u);
  EXPECT_EQ(rows[1], 3u);
  EXPECT_EQ(rows[2], 1u);
  EXPECT_EQ(rows[3], 0u);
  nvmlRemappedRowsInfo_v2_t info = {};
  ASSERT_EQ(Call("nvmlDeviceGetRemappedRows_v2", Card(2), &info), NVML_SUCCESS);
  EXPECT_EQ(info.uncInactiveRemaps, 3u);
  EXPECT_EQ(Field(Card(2), NVML_FI_DEV_REMAPPED_UNC), "3");
  EXPECT_EQ(Field(Card(2), NVML_FI_DEV_REMAPPED_PENDING), "1");
  EXPECT_EQ(Field(Card(2), NVML_FI_DEV_ECC_SBE_VOL_DEV), "5");
  unsigned pages = 0;
  EXPECT_EQ(Call("nvmlDeviceGetRetiredPages", Card(2), 1u, &pages,
                 static_cast<unsigned long long*>(nullptr)),
            NVML_ERROR_NOT_SUPPORTED);
  Faults("ecc card 2 dbe 513\n");
  EXPECT_TRUE(Comes([&] { return Field(Card(2), NVML_FI_DEV_REMAPPED_FAILURE) == "1"; }));
  EXPECT_EQ(Field(Card(2), NVML_FI_DEV_REMAPPED_UNC), "512");
}

TEST_F(Machine, ALostCardSaysSo) {
  Faults("card 3 lost\n");
  unsigned power = 0;
  EXPECT_TRUE(Comes(
      [&] { return Call("nvmlDeviceGetPowerUsage", Card(3), &power) == NVML_ERROR_GPU_IS_LOST; }));
  nvmlMemory_t memory = {};
  EXPECT_EQ(Call("nvmlDeviceGetMemoryInfo", Card(3), &memory), NVML_ERROR_GPU_IS_LOST);
  char uuid[96] = {};
  EXPECT_EQ(Call("nvmlDeviceGetUUID", Card(3), &uuid[0], 96u), NVML_SUCCESS);
  EXPECT_EQ(Call("nvmlDeviceGetPowerUsage", Card(2), &power), NVML_SUCCESS);
  Faults("");
  EXPECT_TRUE(
      Comes([&] { return Call("nvmlDeviceGetPowerUsage", Card(3), &power) == NVML_SUCCESS; }));
}

TEST_F(Machine, EventsReachWhoeverWaits) {
  nvmlEventSet_t set = nullptr;
  ASSERT_EQ(Call("nvmlEventSetCreate", &set), NVML_SUCCESS);
  unsigned long long types = 0;
  ASSERT_EQ(Call("nvmlDeviceGetSupportedEventTypes", Card(0), &types), NVML_SUCCESS);
  EXPECT_EQ(types, nvmlEventTypeXidCriticalError | nvmlEventTypeSingleBitEccError |
                       nvmlEventTypeDoubleBitEccError | nvmlEventTypeClock | nvmlEventTypePState);
  EXPECT_EQ(Call("nvmlDeviceRegisterEvents", Card(0), 0x80ull, set), NVML_ERROR_NOT_SUPPORTED);
  ASSERT_EQ(Call("nvmlDeviceRegisterEvents", Card(0),
                 nvmlEventTypeXidCriticalError | nvmlEventTypeDoubleBitEccError, set),
            NVML_SUCCESS);
  ASSERT_EQ(Call("nvmlDeviceRegisterEvents", Card(1), nvmlEventTypeXidCriticalError, set),
            NVML_SUCCESS);
  nvmlEventData_t data = {};
  EXPECT_EQ(Call("nvmlEventSetWait_v2", set, &data, 0u), NVML_ERROR_TIMEOUT);
  Faults("xid card 1 79\nxid card 5 13\n");
  ASSERT_EQ(Call("nvmlEventSetWait_v2", set, &data, 60'000u), NVML_SUCCESS);
  EXPECT_EQ(data.device, Card(1));
  EXPECT_EQ(data.eventType, nvmlEventTypeXidCriticalError);
  EXPECT_EQ(data.eventData, 79u);
  EXPECT_EQ(data.gpuInstanceId, kNvmlNoInstance);
  // Once, and card 5 is not watched.
  EXPECT_EQ(Call("nvmlEventSetWait_v2", set, &data, 50u), NVML_ERROR_TIMEOUT);
  Faults("ecc card 0 dbe 1\n");
  struct {
    nvmlEventDataLegacy_t data;
    unsigned long long guard;
  } legacy = {{}, 0xee};
  ASSERT_EQ(Call("nvmlEventSetWait", set, &legacy.data, 60'000u), NVML_SUCCESS);
  EXPECT_EQ(legacy.data.device, Card(0));
  EXPECT_EQ(legacy.data.eventType, nvmlEventTypeDoubleBitEccError);
  EXPECT_EQ(legacy.guard, 0xeeu);
  EXPECT_EQ(Call("nvmlEventSetFree", set), NVML_SUCCESS);
  EXPECT_EQ(Call("nvmlEventSetWait_v2", set, &data, 0u), NVML_ERROR_INVALID_ARGUMENT);
  EXPECT_EQ(Call("nvmlEventSetFree", set), NVML_ERROR_INVALID_ARGUMENT);
}

TEST_F(Machine, ClockAndStateChangesAreEvents) {
  EXPECT_TRUE(Comes([&] { return Load(Card(0)) == 0; }));
  nvmlEventSet_t set = nullptr;
  ASSERT_EQ(Call("nvmlEventSetCreate", &set), NVML_SUCCESS);
  ASSERT_EQ(
      Call("nvmlDeviceRegisterEvents", Card(0), nvmlEventTypeClock | nvmlEventTypePState, set),
      NVML_SUCCESS);
  Guest guest(uint64_t{2} << 20);
  nvmlEventData_t data = {};
  ASSERT_EQ(Call("nvmlEventSetWait_v2", set, &data, 60'000u), NVML_SUCCESS);
  EXPECT_EQ(data.eventType, nvmlEventTypePState);
  guest.Say('b');
  ASSERT_EQ(Call("nvmlEventSetWait_v2", set, &data, 60'000u), NVML_SUCCESS);
  EXPECT_EQ(data.eventType, nvmlEventTypeClock);
  EXPECT_EQ(data.device, Card(0));
  EXPECT_EQ(Call("nvmlEventSetFree", set), NVML_SUCCESS);
}

TEST_F(Machine, MigDevicesComeAndGo) {
  const nvmlDevice_t card = Card(0);
  EXPECT_EQ(Number("nvmlDeviceGetMaxMigDeviceCount", card), 0u);
  nvmlGpuInstance_t gpu = nullptr;
  EXPECT_EQ(Call("nvmlDeviceCreateGpuInstance", card, 9u, &gpu), NVML_ERROR_NOT_SUPPORTED);
  nvmlReturn_t activation = 77;
  {
    // In use: noted, in force when nobody is there any more.
    Guest guest(uint64_t{2} << 20);
    ASSERT_EQ(Call("nvmlDeviceSetMigMode", card, 1u, &activation), NVML_SUCCESS);
    EXPECT_EQ(activation, NVML_ERROR_IN_USE);
    unsigned current = 7;
    unsigned pending = 7;
    ASSERT_EQ(Call("nvmlDeviceGetMigMode", card, &current, &pending), NVML_SUCCESS);
    EXPECT_EQ(current, 0u);
    EXPECT_EQ(pending, 1u);
  }
  unsigned current = 7;
  unsigned pending = 7;
  ASSERT_EQ(Call("nvmlDeviceGetMigMode", card, &current, &pending), NVML_SUCCESS);
  EXPECT_EQ(current, 1u);
  EXPECT_EQ(Number("nvmlDeviceGetMaxMigDeviceCount", card), 7u);

  // 3g.40gb twice fills the memory; of the single slices none is left.
  const auto remaining = [&](unsigned profile) {
    unsigned count = 99;
    EXPECT_EQ(Call("nvmlDeviceGetGpuInstanceRemainingCapacity", card, profile, &count),
              NVML_SUCCESS);
    return count;
  };
  EXPECT_EQ(remaining(19), 7u);
  EXPECT_EQ(remaining(15), 4u);
  EXPECT_EQ(remaining(9), 2u);
  nvmlGpuInstance_t other = nullptr;
  const nvmlGpuInstancePlacement_t behind = {4, 4};
  const nvmlGpuInstancePlacement_t wrong = {2, 4};
  EXPECT_EQ(Call("nvmlDeviceCreateGpuInstanceWithPlacement", card, 9u, &wrong, &gpu),
            NVML_ERROR_INVALID_ARGUMENT);
  ASSERT_EQ(Call("nvmlDeviceCreateGpuInstanceWithPlacement", card, 9u, &behind, &gpu),
            NVML_SUCCESS);
  EXPECT_EQ(remaining(19), 4u);
  EXPECT_EQ(remaining(14), 2u);
  EXPECT_EQ(remaining(0), 0u);
  ASSERT_EQ(Call("nvmlDeviceCreateGpuInstance", card, 9u, &other), NVML_SUCCESS);
  EXPECT_EQ(remaining(19), 0u);
  nvmlGpuInstance_t none = nullptr;
  EXPECT_EQ(Call("nvmlDeviceCreateGpuInstance", card, 19u, &none),
            NVML_ERROR_INSUFFICIENT_RESOURCES);
  EXPECT_EQ(Call("nvmlDeviceCreateGpuInstance", card, 33u, &none), NVML_ERROR_INVALID_ARGUMENT);
  nvmlGpuInstanceInfo_t info = {};
  ASSERT_EQ(Call("nvmlGpuInstanceGetInfo", gpu, &info), NVML_SUCCESS);
  EXPECT_EQ(info.device, card);
  EXPECT_EQ(info.profileId, 9u);
  EXPECT_EQ(info.placement.start, 4u);
  EXPECT_EQ(info.placement.size, 4u);
  nvmlGpuInstance_t again = nullptr;
  ASSERT_EQ(Call("nvmlDeviceGetGpuInstanceById", card, info.id, &again), NVML_SUCCESS);
  EXPECT_EQ(again, gpu);
  nvmlGpuInstance_t all[2] = {};
  unsigned count = 0;
  ASSERT_EQ(Call("nvmlDeviceGetGpuInstances", card, 9u, &all[0], &count), NVML_SUCCESS);
  EXPECT_EQ(count, 2u);

  // Compute instances: 2c and 1c in one, all of the other.
  nvmlComputeInstanceProfileInfo_v2_t profile = {};
  profile.version = NvmlVersion<nvmlComputeInstanceProfileInfo_v2_t>(2);
  ASSERT_EQ(Call("nvmlGpuInstanceGetComputeInstanceProfileInfoV", gpu, 1u, 0u, &profile),
            NVML_SUCCESS);
  EXPECT_STREQ(profile.name, "MIG 2c.3g.40gb");
  EXPECT_EQ(profile.sliceCount, 2u);
  EXPECT_EQ(profile.instanceCount, 1u);
  EXPECT_EQ(profile.sharedDecoderCount, 3u);
  nvmlComputeInstanceProfileInfo_t first = {};
  EXPECT_EQ(Call("nvmlGpuInstanceGetComputeInstanceProfileInfo", gpu, 4u, 0u, &first),
            NVML_ERROR_NOT_SUPPORTED);
  ASSERT_EQ(Call("nvmlGpuInstanceGetComputeInstanceProfileInfo", gpu, 2u, 0u, &first),
            NVML_SUCCESS);
  EXPECT_EQ(first.multiprocessorCount, 60u);
  nvmlComputeInstance_t compute[3] = {};
  ASSERT_EQ(Call("nvmlGpuInstanceCreateComputeInstance", gpu, 1u, &compute[0]), NVML_SUCCESS);
  ASSERT_EQ(Call("nvmlGpuInstanceGetComputeInstanceRemainingCapacity", gpu, 0u, &count),
            NVML_SUCCESS);
  EXPECT_EQ(count, 1u);
  ASSERT_EQ(Call("nvmlGpuInstanceCreateComputeInstance", gpu, 0u, &compute[1]), NVML_SUCCESS);
  EXPECT_EQ(Call("nvmlGpuInstanceCreateComputeInstance", gpu, 0u, &compute[2]),
            NVML_ERROR_INSUFFICIENT_RESOURCES);
  ASSERT_EQ(Call("nvmlGpuInstanceCreateComputeInstance", other, 2u, &compute[2]), NVML_SUCCESS);
  nvmlComputeInstanceInfo_t compute_info = {};
  ASSERT_EQ(Call("nvmlComputeInstanceGetInfo_v2", compute[1], &compute_info), NVML_SUCCESS);
  EXPECT_EQ(compute_info.gpuInstance, gpu);
  EXPECT_EQ(compute_info.placement.start, 2u);
  EXPECT_EQ(compute_info.placement.size, 1u);

  // The devices they make.
  struct Expected {
    const char* name;
    unsigned gpu, compute, sms, slices;
  };
  constexpr Expected kExpected[] = {{"NVIDIA H100 80GB HBM3 MIG 3g.40gb", 1, 0, 60, 3},
                                    {"NVIDIA H100 80GB HBM3 MIG 2c.3g.40gb", 2, 0, 32, 2},
                                    {"NVIDIA H100 80GB HBM3 MIG 1c.3g.40gb", 2, 1, 16, 1}};
  std::set<std::string> uuids;
  for (unsigned i = 0; i < 3; ++i) {
    SCOPED_TRACE(i);
    nvmlDevice_t mig = nullptr;
    ASSERT_EQ(Call("nvmlDeviceGetMigDeviceHandleByIndex", card, i, &mig), NVML_SUCCESS);
    unsigned is_mig = 0;
    ASSERT_EQ(Call("nvmlDeviceIsMigDeviceHandle", mig, &is_mig), NVML_SUCCESS);
    EXPECT_EQ(is_mig, 1u);
    nvmlDevice_t parent = nullptr;
    ASSERT_EQ(Call("nvmlDeviceGetDeviceHandleFromMigDeviceHandle", mig, &parent), NVML_SUCCESS);
    EXPECT_EQ(parent, card);
    char text[96] = {};
    ASSERT_EQ(Call("nvmlDeviceGetName", mig, &text[0], 96u), NVML_SUCCESS);
    EXPECT_STREQ(text, kExpected[i].name);
    EXPECT_EQ(Number("nvmlDeviceGetIndex", mig), i);
    unsigned minor = 0;
    EXPECT_EQ(Call("nvmlDeviceGetMinorNumber", mig, &minor), NVML_ERROR_NOT_SUPPORTED);
    EXPECT_EQ(Number("nvmlDeviceGetGpuInstanceId", mig), kExpected[i].gpu);
    EXPECT_EQ(Number("nvmlDeviceGetComputeInstanceId", mig), kExpected[i].compute);
    ASSERT_EQ(Call("nvmlDeviceGetUUID", mig, &text[0], 96u), NVML_SUCCESS);
    EXPECT_EQ(std::string(text).substr(0, 4), "MIG-");
    EXPECT_TRUE(uuids.insert(text).second);
    nvmlDevice_t found = nullptr;
    ASSERT_EQ(Call("nvmlDeviceGetHandleByUUID", static_cast<const char*>(text), &found),
              NVML_SUCCESS);
    EXPECT_EQ(found, mig);
    nvmlDeviceAttributes_t attributes = {};
    ASSERT_EQ(Call("nvmlDeviceGetAttributes_v2", mig, &attributes), NVML_SUCCESS);
    EXPECT_EQ(attributes.multiprocessorCount, kExpected[i].sms);
    EXPECT_EQ(attributes.gpuInstanceSliceCount, 3u);
    EXPECT_EQ(attributes.computeInstanceSliceCount, kExpected[i].slices);
    EXPECT_EQ(attributes.sharedCopyEngineCount, 3u);
    EXPECT_EQ(attributes.sharedJpegCount, 3u);
    EXPECT_EQ(attributes.sharedOfaCount, 0u);
    EXPECT_EQ(attributes.memorySizeMB, 40448u);
    nvmlMemory_t memory = {};
    ASSERT_EQ(Call("nvmlDeviceGetMemoryInfo", mig, &memory), NVML_SUCCESS);
    EXPECT_EQ(memory.total, uint64_t{40448} << 20);
    count = 5;
    ASSERT_EQ(Call("nvmlDeviceGetComputeRunningProcesses_v3", mig, &count,
                   static_cast<nvmlProcessInfo_v2_t*>(nullptr)),
              NVML_SUCCESS);
    EXPECT_EQ(count, 0u);
    unsigned power = 0;
    EXPECT_EQ(Call("nvmlDeviceGetPowerUsage", mig, &power), NVML_ERROR_NOT_SUPPORTED);
  }
  EXPECT_EQ(Number("nvmlDeviceGetMinorNumber", Card(5)), 5u);
  nvmlDevice_t mig = nullptr;
  EXPECT_EQ(Call("nvmlDeviceGetMigDeviceHandleByIndex", card, 3u, &mig), NVML_ERROR_NOT_FOUND);
  nvmlDeviceAttributes_t attributes = {};
  EXPECT_EQ(Call("nvmlDeviceGetAttributes_v2", card, &attributes), NVML_ERROR_NOT_SUPPORTED);

  // What others lie in cannot go; handles of what went are refused.
  EXPECT_EQ(Call("nvmlGpuInstanceDestroy", gpu), NVML_ERROR_IN_USE);
  ASSERT_EQ(Call("nvmlDeviceSetMigMode", card, 0u, &activation), NVML_ERROR_IN_USE);
  ASSERT_EQ(Call("nvmlDeviceGetMigDeviceHandleByIndex", card, 2u, &mig), NVML_SUCCESS);
  for (const nvmlComputeInstance_t one : compute) {
    EXPECT_EQ(Call("nvmlComputeInstanceDestroy", one), NVML_SUCCESS);
    EXPECT_EQ(Call("nvmlComputeInstanceDestroy", one), NVML_ERROR_INVALID_ARGUMENT);
  }
  char text[96] = {};
  EXPECT_EQ(Call("nvmlDeviceGetName", mig, &text[0], 96u), NVML_ERROR_INVALID_ARGUMENT);
  EXPECT_EQ(Call("nvmlGpuInstanceDestroy", gpu), NVML_SUCCESS);
  EXPECT_EQ(Call("nvmlGpuInstanceDestroy", other), NVML_SUCCESS);
  EXPECT_EQ(Call("nvmlGpuInstanceGetInfo", gpu, &info), NVML_ERROR_INVALID_ARGUMENT);
  ASSERT_EQ(Call("nvmlDeviceSetMigMode", card, 0u, &activation), NVML_SUCCESS);
  EXPECT_EQ(activation, NVML_SUCCESS);
  EXPECT_EQ(Number("nvmlDeviceGetMaxMigDeviceCount", card), 0u);
}

}  // namespace
}  // namespace simgpu
