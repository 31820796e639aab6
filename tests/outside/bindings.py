"""cuda-python's driver bindings against simgpu: a vector addition with our own PTX, and honest memory figures."""
import array
import ctypes
import sys

import outside
from outside import expect


def main():
    with outside.Machine(sys.argv[1], "T4") as machine:
        machine.enter()
        from cuda.bindings import driver
        ok = driver.CUresult.CUDA_SUCCESS

        def must(answer):
            expect(answer[0] == ok, f"a driver call answered {answer[0]!r}")
            return answer[1] if len(answer) == 2 else answer[1:]

        must(driver.cuInit(0))
        expect(must(driver.cuDriverGetVersion()) == 13000, "the driver is not of CUDA 13.0")
        expect(must(driver.cuDeviceGetCount()) == 1, "not one card")
        device = must(driver.cuDeviceGet(0))
        name = must(driver.cuDeviceGetName(96, device)).split(b"\0")[0].strip()
        expect(name == b"Tesla T4", f"the card is called {name}")
        must(driver.cuCtxSetCurrent(must(driver.cuDevicePrimaryCtxRetain(device))))
        free, total = must(driver.cuMemGetInfo())
        expect(total == must(driver.cuDeviceTotalMem(device)) and 0 < free < total, f"{free} of {total} bytes free")

        # What is called free can be had in one piece; a granule more cannot.
        everything = must(driver.cuMemAlloc(free))
        expect(driver.cuMemAlloc(2 << 20)[0] == driver.CUresult.CUDA_ERROR_OUT_OF_MEMORY, "more than all was given")
        expect(must(driver.cuMemGetInfo())[0] == 0, "something is free beside everything")
        must(driver.cuMemFree(everything))
        expect(must(driver.cuMemGetInfo())[0] == free, "what was freed did not return")

        with open(sys.argv[2], "rb") as file:
            ptx = file.read() + b"\0"
        module = must(driver.cuModuleLoadData(ptx))
        kernel = must(driver.cuModuleGetFunction(module, b"vector_add"))
        n = 10_007
        a = array.array("f", (0.25 * i for i in range(n)))
        b = array.array("f", (float(n - i) for i in range(n)))
        c = array.array("f", bytes(4 * n))
        device_a, device_b, device_c = (must(driver.cuMemAlloc(4 * n)) for _ in range(3))
        for memory, host in ((device_a, a), (device_b, b)):
            must(driver.cuMemcpyHtoD(memory, host.buffer_info()[0], 4 * n))
        must(driver.cuMemsetD8(device_c, 0xff, 4 * n))
        arguments = ((int(device_a), int(device_b), int(device_c), n), (ctypes.c_uint64,) * 4)
        stream = must(driver.cuStreamCreate(0))
        must(driver.cuLaunchKernel(kernel, 16, 1, 1, 128, 1, 1, 0, stream, arguments, 0))
        must(driver.cuStreamSynchronize(stream))
        must(driver.cuMemcpyDtoH(c.buffer_info()[0], device_c, 4 * n))
        wrong = [i for i in range(n) if c[i] != a[i] + b[i]]
        expect(not wrong, f"{len(wrong)} sums are wrong, first at {wrong[:1]}")
        expect(driver.cuModuleGetFunction(module, b"no_such_kernel")[0] == driver.CUresult.CUDA_ERROR_NOT_FOUND,
               "a kernel that is not there was found")
        must(driver.cuModuleUnload(module))
    print("PASSED cuda bindings")


main()
