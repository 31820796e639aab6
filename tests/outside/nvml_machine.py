"""nvidia-ml-py on an HGX board with eight A100: its own idea of every structure must fit what the library fills."""
import ctypes
import os
import sys

import outside
from outside import expect, wait_for


def joins(pynvml, cards):
    for a in cards:
        for b in cards:
            if a is b:
                continue
            level = pynvml.nvmlDeviceGetTopologyCommonAncestor(a, b)
            i, j = pynvml.nvmlDeviceGetIndex(a), pynvml.nvmlDeviceGetIndex(b)
            expect(level == (pynvml.NVML_TOPOLOGY_SINGLE if i // 2 == j // 2 else pynvml.NVML_TOPOLOGY_SYSTEM),
                   f"cards {i} and {j} share {level}")
            expect(pynvml.nvmlDeviceGetP2PStatus(a, b, pynvml.NVML_P2P_CAPS_INDEX_NVLINK) == 0, f"no NVLink {i} {j}")
    near = pynvml.nvmlDeviceGetTopologyNearestGpus(cards[4], pynvml.NVML_TOPOLOGY_SINGLE)
    expect([pynvml.nvmlDeviceGetIndex(card) for card in near] == [5], "card 5 is nearest to card 4")
    cpus = pynvml.nvmlDeviceGetCpuAffinity(cards[0], 4)
    expect(list(cpus) == [0xffff << 48, 0, 0xffff << 48, 0], f"the CPUs of card 0 are {list(map(hex, cpus))}")
    for link in range(12):
        expect(pynvml.nvmlDeviceGetNvLinkState(cards[0], link) == 1, f"link {link} is down")
        expect(pynvml.nvmlDeviceGetNvLinkVersion(cards[0], link) == pynvml.NVML_NVLINK_VERSION_3_0, "not NVLink 3")
        remote = pynvml.nvmlDeviceGetNvLinkRemotePciInfo(cards[0], link)
        expect(remote.bus in range(0xC4, 0xCA), f"link {link} leads to bus {remote.bus:#x}")
    speed, count, gone = pynvml.nvmlDeviceGetFieldValues(
        cards[0], [pynvml.NVML_FI_DEV_NVLINK_SPEED_MBPS_COMMON, pynvml.NVML_FI_DEV_NVLINK_LINK_COUNT, 33])
    expect((speed.value.uiVal, count.value.uiVal) == (25781, 12), f"{speed.value.uiVal} MB/s, {count.value.uiVal} links")
    expect(gone.nvmlReturn == pynvml.NVML_ERROR_NOT_SUPPORTED, "a figure nobody simulates was answered")


def mig(pynvml, card):
    """The board's first card divided into 3g.40gb and 1g.10gb, and put together again."""
    expect(pynvml.nvmlDeviceGetMigMode(card) == [0, 0], "MIG is on at first")
    expect(pynvml.nvmlDeviceSetMigMode(card, 1) == pynvml.NVML_SUCCESS, "MIG was not activated")
    expect(pynvml.nvmlDeviceGetMaxMigDeviceCount(card) == 7, "not seven MIG devices at most")
    info = pynvml.nvmlDeviceGetGpuInstanceProfileInfo(card, pynvml.NVML_GPU_INSTANCE_PROFILE_3_SLICE, 2)
    expect((info.id, info.sliceCount, info.instanceCount, info.multiprocessorCount, info.memorySizeMB, info.name) ==
           (9, 3, 2, 42, 40192, "MIG 3g.40gb"), f"the profile is {info}")
    made = []
    for kind in (pynvml.NVML_GPU_INSTANCE_PROFILE_3_SLICE, pynvml.NVML_GPU_INSTANCE_PROFILE_1_SLICE):
        info = pynvml.nvmlDeviceGetGpuInstanceProfileInfo(card, kind, 2)
        count = ctypes.c_uint(0)
        pynvml.nvmlDeviceGetGpuInstancePossiblePlacements(card, info.id, None, ctypes.byref(count))
        expect(count.value == (2 if info.sliceCount == 3 else 7), f"{count.value} placements of {info.name}")
        instance = pynvml.nvmlDeviceCreateGpuInstance(card, info.id)
        whole = pynvml.nvmlGpuInstanceGetComputeInstanceProfileInfo(
            instance, pynvml.NVML_COMPUTE_INSTANCE_PROFILE_3_SLICE if info.sliceCount == 3 else 0, 0, 2)
        made.append((instance, pynvml.nvmlGpuInstanceCreateComputeInstance(instance, whole.id)))
    names, uuids = [], []
    for i in range(2):
        device = pynvml.nvmlDeviceGetMigDeviceHandleByIndex(card, i)
        names.append(pynvml.nvmlDeviceGetName(device))
        uuids.append(pynvml.nvmlDeviceGetUUID(device))
        attributes = pynvml.nvmlDeviceGetAttributes(device)
        expect(attributes.multiprocessorCount == (42, 14)[i], f"{attributes.multiprocessorCount} SMs")
        expect(pynvml.nvmlDeviceGetMemoryInfo(device).total == (40192, 9728)[i] << 20, "the memory of a MIG device")
        expect(pynvml.nvmlDeviceGetComputeRunningProcesses(device) == [], "something runs in a MIG device")
        found = pynvml.nvmlDeviceGetHandleByUUID(uuids[i])
        expect(pynvml.nvmlDeviceGetGpuInstanceId(found) == pynvml.nvmlDeviceGetGpuInstanceId(device), uuids[i])
    expect(names == ["NVIDIA A100-SXM4-80GB MIG 3g.40gb", "NVIDIA A100-SXM4-80GB MIG 1g.10gb"], f"{names}")
    expect(all(uuid.startswith("MIG-") for uuid in uuids) and len(set(uuids)) == 2, f"{uuids}")
    for instance, compute in made:
        data = pynvml.nvmlComputeInstanceGetInfo(compute)
        expect(data.id == 0 and data.placement.start == 0, "the compute instance lies elsewhere")
        pynvml.nvmlComputeInstanceDestroy(compute)
        pynvml.nvmlGpuInstanceDestroy(instance)
    expect(pynvml.nvmlDeviceSetMigMode(card, 0) == pynvml.NVML_SUCCESS, "MIG was not switched off")


def faults(pynvml, machine, card, other):
    events = pynvml.nvmlEventSetCreate()
    pynvml.nvmlDeviceRegisterEvents(card, pynvml.nvmlEventTypeXidCriticalError | pynvml.nvmlEventTypeDoubleBitEccError,
                                    events)
    with open(os.path.join(machine.environment["SIMGPU_STATE"], "faults"), "w", encoding="utf-8") as file:
        file.write("xid card 1 48\necc card 1 dbe 2\n")
    seen = {}
    while len(seen) < 2:
        data = pynvml.nvmlEventSetWait_v2(events, outside.PATIENCE_SECONDS * 1000)
        expect(pynvml.nvmlDeviceGetIndex(data.device) == 1, "an event of another card")
        seen[data.eventType] = data.eventData
    expect(seen == {pynvml.nvmlEventTypeXidCriticalError: 48, pynvml.nvmlEventTypeDoubleBitEccError: 0}, f"{seen}")
    pynvml.nvmlEventSetFree(events)
    expect(pynvml.nvmlDeviceGetRemappedRows(card) == (0, 2, 1, 0), "the rows are not replaced")
    expect(pynvml.nvmlDeviceGetTotalEccErrors(card, 1, 0) == 2, "not two uncorrected errors")
    expect(pynvml.nvmlDeviceGetDetailedEccErrors(card, 1, 0).deviceMemory == 2, "the errors are not in memory")
    expect(pynvml.nvmlDeviceGetTotalEccErrors(other, 1, 0) == 0, "another card has errors")
    expect(len(pynvml.nvmlDeviceGetSamples(card, pynvml.NVML_TOTAL_POWER_SAMPLES, 0)[1]) >= 4, "no samples of power")
    energy = pynvml.nvmlDeviceGetTotalEnergyConsumption(card)
    wait_for("energy to be used", lambda: pynvml.nvmlDeviceGetTotalEnergyConsumption(card) > energy)
    expect(pynvml.nvmlDeviceGetViolationStatus(card, 0).violationTime == 0, "clocks were lowered")


def main():
    with outside.Machine(sys.argv[1], "HGX-A100-8") as machine:
        machine.enter()
        import pynvml
        pynvml.nvmlInit()
        expect(pynvml.nvmlDeviceGetCount() == 8, "not eight cards")
        cards = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(8)]
        joins(pynvml, cards)
        mig(pynvml, cards[0])
        faults(pynvml, machine, cards[1], cards[2])
        pynvml.nvmlShutdown()
    print("PASSED nvidia-ml-py on HGX-A100-8")


main()
