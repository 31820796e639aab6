"""clang.py LIB_DIR BUILD_DIR: device code by clang for three architectures, loaded through the driver's interface and
checked against the same arithmetic here."""
import array
import ctypes
import math
import os
import shutil
import struct
import subprocess
import sys

import outside
from outside import expect

N = 1000


def as_signed(value, bits):
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> (bits - 1) else value


def quotient(a, b):
    return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)


def remainder(a, b):
    return a - quotient(a, b) * b


def single(value):
    return struct.unpack("f", struct.pack("f", value))[0]


def integers(x):
    wide = as_signed(x * 0x123456789, 64)
    divisor = remainder(x, 97)
    return [as_signed(quotient(wide, divisor or 5) + remainder(wide, 1001), 64),
            as_signed(x * 3, 16) + as_signed(x >> 3, 8) - (x & 255),
            bin(wide & (1 << 64) - 1).count("1") * 100 + 32 - ((x | 1) & 0xffffffff).bit_length(),
            as_signed(int.from_bytes((x & 0xffffffff).to_bytes(4, "little"), "big") ^ as_signed(wide << (x & 63), 64), 64)]


def collatz(x):
    steps = 0
    while x != 1:
        x, steps = (x // 2 if x % 2 == 0 else 3 * x + 1), steps + 1
    return steps


def compiled(folder, architecture):
    clang = shutil.which("clang++-19") or shutil.which("clang++")
    expect(clang is not None, "no clang++: the tests need the packages CONTRIBUTING.md names")
    source = os.path.join(os.path.dirname(os.path.abspath(__file__)), "clang_kernels.cu")
    os.makedirs(folder, exist_ok=True)
    out = os.path.join(folder, f"clang-{architecture}.{os.getpid()}.ptx")
    command = [clang, "-x", "cuda", "--cuda-device-only", f"--cuda-gpu-arch={architecture}", "-nocudainc", "-nocudalib",
               "-Wno-unknown-cuda-version", "-O2", "-ffp-contract=off", "-S", "-o", out, source]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    expect(built.returncode == 0, f"{' '.join(command)}\n{built.stderr}")
    with open(out, "rb") as file:
        text = file.read()
    os.unlink(out)
    return text + b"\0"


def check(driver, text, architecture):
    def must(answer):
        expect(answer[0] == driver.CUresult.CUDA_SUCCESS, f"{architecture}: a driver call answered {answer[0]!r}")
        return answer[1] if len(answer) == 2 else answer[1:]

    module = must(driver.cuModuleLoadData(text))

    def run(kernel, blocks, threads, source, answer):
        """Launches kernel(source, answer, N), or kernel(answer, N), and brings the answer back."""
        arguments = []
        for words in (source, answer):
            if words is None:
                continue
            memory = must(driver.cuMemAlloc(len(words) * words.itemsize))
            must(driver.cuMemcpyHtoD(memory, words.buffer_info()[0], len(words) * words.itemsize))
            arguments.append(memory)
        values = (*(int(memory) for memory in arguments), N)
        types = (*(ctypes.c_uint64 for _ in arguments), ctypes.c_uint32)
        function = must(driver.cuModuleGetFunction(module, kernel))
        must(driver.cuLaunchKernel(function, blocks, 1, 1, threads, 1, 1, 0, 0, (values, types), 0))
        must(driver.cuCtxSynchronize())
        must(driver.cuMemcpyDtoH(answer.buffer_info()[0], arguments[-1], len(answer) * answer.itemsize))
        for memory in arguments:
            must(driver.cuMemFree(memory))
        return answer

    numbers = array.array("i", ((i * 2654435761 + 12345) % (1 << 31) - (1 << 30) for i in range(N)))
    got = run(b"integers", 8, 128, numbers, array.array("q", bytes(32 * N)))
    for i, x in enumerate(numbers):
        expect(list(got[4 * i:4 * i + 4]) == integers(x), f"{architecture}: integers({x}) are {got[4 * i:4 * i + 4]}")

    floats = array.array("f", ((i * 37 % 501 - 100) * 0.5 for i in range(N)))
    answer = run(b"merge", 1, 128, floats, array.array("B", bytes(16)))
    total, least, count = struct.unpack("dfi", answer.tobytes())
    kept = [x for x in floats if x >= 0]
    expect((total, least, count) == (sum(kept), min(kept), len(kept)), f"{architecture}: merged {total}, {least}, {count}")

    steps = run(b"collatz", 8, 128, None, array.array("I", bytes(4 * N)))
    expect(all(steps[i] == collatz(i + 1) for i in range(N)), f"{architecture}: the recursion went wrong")

    reals = array.array("d", ((i - 400) * 0.7123 for i in range(N)))
    got = run(b"reals", 8, 128, reals, array.array("d", bytes(32 * N)))
    for i, x in enumerate(reals):
        want = [math.sqrt(abs(x)) + math.floor(x) + math.trunc(x * 3), None, single(single(x) * 2.0 ** (i % 16)),
                float(math.trunc(x)) + float(math.trunc(max(x, 0)))]
        for k, value in enumerate(want):
            expect(value is None or got[4 * i + k] == value, f"{architecture}: reals({x})[{k}] is {got[4 * i + k]}")
        # The host has no fused multiplication to compare with exactly.
        expect(abs(got[4 * i + 1] - (x * x - 1.5) / (x * x + 1)) < 1e-12, f"{architecture}: reals({x})[1]")
    must(driver.cuModuleUnload(module))


def main():
    with outside.Machine(sys.argv[1], "T4,A100-80,H100-80") as machine:
        machine.enter()
        from cuda.bindings import driver
        expect(driver.cuInit(0)[0] == driver.CUresult.CUDA_SUCCESS, "no driver")
        for card, architecture in enumerate(("sm_75", "sm_80", "sm_90")):
            context = driver.cuDevicePrimaryCtxRetain(driver.cuDeviceGet(card)[1])[1]
            expect(driver.cuCtxSetCurrent(context)[0] == driver.CUresult.CUDA_SUCCESS, f"no context on card {card}")
            check(driver, compiled(sys.argv[2], architecture), architecture)
    print("PASSED clang")


main()
