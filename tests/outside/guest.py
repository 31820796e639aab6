"""guest.py CARD MEGABYTES [busy]: a program on a card, through cuda-python's driver bindings. Says "ready" when it
holds the memory, then waits for its stdin to end; with "busy" it keeps the card at work meanwhile: while it waits for
one stream, the other still has kernels to run."""
import select
import sys

from cuda.bindings import driver

SPIN = b"""
.version 6.4
.target sm_75
.address_size 64
.visible .entry spin(.param .u64 out, .param .u32 turns)
{
  .reg .pred %p;
  .reg .u32 %x, %i, %n;
  .reg .u64 %a;
  ld.param.u64 %a, [out];
  ld.param.u32 %n, [turns];
  mov.u32 %i, 0;
  mov.u32 %x, 1;
LOOP:
  mad.lo.u32 %x, %x, 1664525, 1013904223;
  add.u32 %i, %i, 1;
  setp.lt.u32 %p, %i, %n;
  @%p bra LOOP;
  st.global.u32 [%a], %x;
  ret;
}
\0"""


def must(answer):
    if answer[0] != driver.CUresult.CUDA_SUCCESS:
        print(f"error: {answer[0]!r}", flush=True)
        sys.exit(1)
    return answer[1] if len(answer) == 2 else answer[1:]


def main():
    import ctypes
    card, megabytes, busy = int(sys.argv[1]), int(sys.argv[2]), "busy" in sys.argv[3:]
    must(driver.cuInit(0))
    device = must(driver.cuDeviceGet(card))
    must(driver.cuCtxSetCurrent(must(driver.cuDevicePrimaryCtxRetain(device))))
    memory = must(driver.cuMemAlloc(megabytes << 20))
    if not busy:
        print("ready", flush=True)
        sys.stdin.read()
        return
    kernel = must(driver.cuModuleGetFunction(must(driver.cuModuleLoadData(SPIN)), b"spin"))
    out = ctypes.c_uint64(int(memory))
    turns = ctypes.c_uint32(200_000)
    arguments = ((out.value, turns.value), (ctypes.c_uint64, ctypes.c_uint32))
    streams = [must(driver.cuStreamCreate(driver.CUstream_flags.CU_STREAM_NON_BLOCKING)) for _ in range(2)]
    turn = 0
    while not select.select([sys.stdin], [], [], 0)[0]:
        for _ in range(32):
            must(driver.cuLaunchKernel(kernel, 1, 1, 1, 1, 1, 1, 0, streams[turn % 2], arguments, 0))
        turn += 1
        if turn >= 2:
            must(driver.cuStreamSynchronize(streams[turn % 2]))
        if turn == 2:
            print("ready", flush=True)


main()
