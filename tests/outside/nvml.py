"""nvidia-ml-py against simgpu: what it reads must be what processes on the cards really hold."""
import inspect
import sys

import outside
from outside import expect, wait_for

CARDS = "A100-80,T4"


def by_pid(pynvml, handle):
    return {p.pid: p.usedGpuMemory for p in pynvml.nvmlDeviceGetComputeRunningProcesses(handle)}


def sweep(pynvml, handle):
    """Every call of the bindings that takes a card alone either answers or says that it is not supported."""
    tried = 0
    for name, function in sorted(vars(pynvml).items()):
        if not name.startswith("nvmlDeviceGet") or not callable(function):
            continue
        parameters = list(inspect.signature(function).parameters.values())
        if len(parameters) != 1 or parameters[0].name not in ("handle", "device"):
            continue
        tried += 1
        try:
            function(handle)
        except (pynvml.NVMLError_NotSupported, pynvml.NVMLError_NotFound):
            pass
        except pynvml.NVMLError as error:
            expect("Function Not Found" in str(error), f"{name} answered {error}")
    expect(tried > 80, f"only {tried} calls were tried")


def main():
    with outside.Machine(sys.argv[1], CARDS) as machine:
        machine.enter()
        first = machine.start_guest(0, 3072)
        second = machine.start_guest(1, 512, busy=True)
        import pynvml
        pynvml.nvmlInit()
        expect("simgpu" in pynvml.nvmlSystemGetDriverVersion(), "the driver version does not say simgpu")
        expect(pynvml.nvmlSystemGetCudaDriverVersion() == 13000, "the CUDA version is not 13.0")
        expect(pynvml.nvmlDeviceGetCount() == 2, "not two cards")
        a100, t4 = (pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(2))
        expect(pynvml.nvmlDeviceGetName(a100) == "NVIDIA A100-SXM4-80GB", pynvml.nvmlDeviceGetName(a100))
        expect(pynvml.nvmlDeviceGetCudaComputeCapability(t4) == (7, 5), "a T4 is not 7.5")
        uuid = pynvml.nvmlDeviceGetUUID(t4)
        again = pynvml.nvmlDeviceGetHandleByUUID(uuid)
        expect(pynvml.nvmlDeviceGetIndex(again) == 1, f"{uuid} is not card 1")

        used = by_pid(pynvml, a100)
        expect(list(used) == [first.pid], f"card 0 lists {used}, expected process {first.pid}")
        context = used[first.pid] - (3072 << 20)
        expect(0 < context < 1 << 30, f"the context takes {context} bytes")
        memory = pynvml.nvmlDeviceGetMemoryInfo(a100)
        expect(memory.used == used[first.pid], f"card 0 has {memory.used} used, its process {used}")
        expect(memory.free + memory.used == memory.total, "free and used do not add up")
        memory2 = pynvml.nvmlDeviceGetMemoryInfo(a100, version=pynvml.nvmlMemory_v2)
        expect((memory2.used, memory2.total) == (memory.used, memory.total), "the second layout differs")
        older = pynvml.nvmlDeviceGetComputeRunningProcesses_v2(a100)
        expect([(p.pid, p.usedGpuMemory) for p in older] == list(used.items()), "the _v2 list differs")

        expect(list(by_pid(pynvml, t4)) == [second.pid], "card 1 does not list its process")
        wait_for("card 1 to be busy", lambda: pynvml.nvmlDeviceGetUtilizationRates(t4).gpu >= 50)
        expect(pynvml.nvmlDeviceGetUtilizationRates(a100).gpu == 0, "card 0 is busy with nothing")
        samples = pynvml.nvmlDeviceGetProcessUtilization(t4, 0)
        expect([s.pid for s in samples] == [second.pid] and samples[0].smUtil > 0, "no sample of the busy process")
        expect(pynvml.nvmlDeviceGetPowerUsage(t4) > 10_000, "a busy T4 draws more than 10 W")
        sweep(pynvml, a100)
        sweep(pynvml, t4)

        machine.end(second)
        wait_for("card 1 to rest", lambda: pynvml.nvmlDeviceGetUtilizationRates(t4).gpu == 0)
        expect(by_pid(pynvml, t4) == {} and pynvml.nvmlDeviceGetMemoryInfo(t4).used == 0, "the dead are remembered")
        pynvml.nvmlShutdown()
    print("PASSED nvml")


main()
