"""cuda-python's driver bindings against simgpu, a part of the driver at a time: PTX as text, streams and events,
captured and explicit graphs, pools, mapped memory, two cards."""
import array
import ctypes
import sys

import outside
from outside import expect

PTX = b"""
.version 7.0
.target sm_75
.address_size 64
.visible .const .align 4 .u32 bias = 5;
.visible .entry ramp(.param .u64 out, .param .u32 step, .param .u32 n)
{
  .reg .pred %p;
  .reg .u32 %i, %t, %b, %s, %n, %c;
  .reg .u64 %a, %o;
  ld.param.u64 %a, [out];
  ld.param.u32 %s, [step];
  ld.param.u32 %n, [n];
  mov.u32 %i, %ctaid.x;
  mov.u32 %b, %ntid.x;
  mov.u32 %t, %tid.x;
  mad.lo.u32 %i, %i, %b, %t;
  setp.ge.u32 %p, %i, %n;
  @%p bra DONE;
  ld.const.u32 %c, [bias];
  mul.wide.u32 %o, %i, 4;
  add.u64 %a, %a, %o;
  mad.lo.u32 %i, %i, %s, %c;
  st.global.u32 [%a], %i;
DONE:
  ret;
}
.visible .entry bump(.param .u64 out)
{
  .reg .u64 %a;
  .reg .u32 %x;
  ld.param.u64 %a, [out];
  atom.global.add.u32 %x, [%a], 1;
  ret;
}
\0"""
N = 5000
BYTES = 4 * N


def main():
    with outside.Machine(sys.argv[1], "A100-80,A100-80") as machine:
        machine.enter()
        from cuda.bindings import driver
        result = driver.CUresult

        def must(answer):
            expect(answer[0] == result.CUDA_SUCCESS, f"a driver call answered {answer[0]!r}")
            return answer[1] if len(answer) == 2 else answer[1:]

        def read(memory, count=N):
            words = array.array("I", bytes(4 * count))
            must(driver.cuMemcpyDtoH(words.buffer_info()[0], memory, 4 * count))
            return words

        def ramp_arguments(memory, step):
            return (int(memory), step, N), (ctypes.c_uint64, ctypes.c_uint32, ctypes.c_uint32)

        def is_ramp(words, step, bias=5):
            return all(word == step * i + bias for i, word in enumerate(words))

        must(driver.cuInit(0))
        contexts = [must(driver.cuDevicePrimaryCtxRetain(must(driver.cuDeviceGet(i)))) for i in range(2)]
        must(driver.cuCtxSetCurrent(contexts[0]))

        def code():
            module = must(driver.cuModuleLoadData(PTX))
            return module, must(driver.cuModuleGetFunction(module, b"ramp")), must(driver.cuModuleGetFunction(module, b"bump"))

        module, ramp, bump = code()

        def launch(memory, step, stream):
            must(driver.cuLaunchKernel(ramp, (N + 255) // 256, 1, 1, 256, 1, 1, 0, stream, ramp_arguments(memory, step), 0))

        # Text that is no PTX is refused, and so is a kernel's wrong shape.
        expect(driver.cuModuleLoadData(b".version 7.0\n.target sm_75\nnonsense\0")[0] == result.CUDA_ERROR_INVALID_PTX,
               "nonsense was compiled")
        memory = must(driver.cuMemAlloc(BYTES))
        expect(driver.cuLaunchKernel(ramp, 1, 1, 1, 2000, 1, 1, 0, 0, ramp_arguments(memory, 1), 0)[0] ==
               result.CUDA_ERROR_INVALID_VALUE, "2000 threads were launched")
        bias, size = must(driver.cuModuleGetGlobal(module, b"bias"))
        expect(size == 4 and read(bias, 1)[0] == 5, "the constant is not what the text says")

        # Two streams, one after the other by an event; time between events.
        streams = [must(driver.cuStreamCreate(driver.CUstream_flags.CU_STREAM_NON_BLOCKING)) for _ in range(2)]
        events = [must(driver.cuEventCreate(0)) for _ in range(2)]
        other = must(driver.cuMemAlloc(BYTES))
        must(driver.cuEventRecord(events[0], streams[0]))
        launch(memory, 3, streams[0])
        must(driver.cuEventRecord(events[1], streams[0]))
        must(driver.cuStreamWaitEvent(streams[1], events[1], 0))
        must(driver.cuMemcpyDtoDAsync(other, memory, BYTES, streams[1]))
        must(driver.cuStreamSynchronize(streams[1]))
        expect(is_ramp(read(other), 3), "the copy overtook the kernel")
        expect(must(driver.cuEventElapsedTime(events[0], events[1])) >= 0, "time went backwards")

        # A captured graph, launched thrice; then one made by hand, with its kernel's arguments changed.
        counter = must(driver.cuMemAlloc(4))
        must(driver.cuMemsetD32(counter, 0, 1))
        must(driver.cuStreamBeginCapture(streams[0], driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_GLOBAL))
        launch(memory, 7, streams[0])
        must(driver.cuLaunchKernel(bump, 1, 1, 1, 2, 1, 1, 0, streams[0], ((int(counter),), (ctypes.c_uint64,)), 0))
        graph = must(driver.cuStreamEndCapture(streams[0]))
        executable = must(driver.cuGraphInstantiate(graph, 0))
        expect(read(counter, 1)[0] == 0, "a captured kernel ran")
        for _ in range(3):
            must(driver.cuGraphLaunch(executable, streams[0]))
        must(driver.cuStreamSynchronize(streams[0]))
        expect(read(counter, 1)[0] == 6 and is_ramp(read(memory), 7), "the graph did not run thrice")
        must(driver.cuGraphExecDestroy(executable))
        must(driver.cuGraphDestroy(graph))

        graph = must(driver.cuGraphCreate(0))
        clear = driver.CUDA_MEMSET_NODE_PARAMS()
        clear.dst, clear.elementSize, clear.width, clear.height, clear.value = other, 4, N, 1, 9
        first = must(driver.cuGraphAddMemsetNode(graph, [], 0, clear, contexts[0]))
        node = driver.CUDA_KERNEL_NODE_PARAMS()
        node.func = bump
        node.gridDimX = node.gridDimY = node.gridDimZ = node.blockDimX = node.blockDimY = node.blockDimZ = 1
        address = ctypes.c_uint64(int(other))
        pointers = (ctypes.c_void_p * 1)(ctypes.addressof(address))
        node.kernelParams = ctypes.addressof(pointers)
        must(driver.cuGraphAddKernelNode(graph, [first], 1, node))
        expect(len(must(driver.cuGraphGetNodes(graph, 2))[0]) == 2, "the graph has not two nodes")
        executable = must(driver.cuGraphInstantiate(graph, 0))
        must(driver.cuGraphLaunch(executable, streams[1]))
        must(driver.cuStreamSynchronize(streams[1]))
        words = read(other)
        expect(words[0] == 10 and words[1] == 9 and words[N - 1] == 9, f"the graph wrote {words[0]}, {words[1]}")
        must(driver.cuGraphExecDestroy(executable))
        must(driver.cuGraphDestroy(graph))

        # Memory in stream order from a pool of one's own.
        props = driver.CUmemPoolProps()
        props.allocType = driver.CUmemAllocationType.CU_MEM_ALLOCATION_TYPE_PINNED
        props.location.type = driver.CUmemLocationType.CU_MEM_LOCATION_TYPE_DEVICE
        props.location.id = 0
        pool = must(driver.cuMemPoolCreate(props))
        pooled = must(driver.cuMemAllocFromPoolAsync(BYTES, pool, streams[0]))
        launch(pooled, 2, streams[0])
        must(driver.cuStreamSynchronize(streams[0]))
        expect(is_ramp(read(pooled), 2), "the pool's memory holds something else")
        used = must(driver.cuMemPoolGetAttribute(pool, driver.CUmemPool_attribute.CU_MEMPOOL_ATTR_USED_MEM_CURRENT))
        expect(int(used) >= BYTES, f"{int(used)} bytes of the pool are used")
        must(driver.cuMemFreeAsync(pooled, streams[0]))
        must(driver.cuStreamSynchronize(streams[0]))
        must(driver.cuMemPoolDestroy(pool))

        # Addresses, memory and access apart: one piece of memory seen at two addresses.
        want = driver.CUmemAllocationProp()
        want.type = driver.CUmemAllocationType.CU_MEM_ALLOCATION_TYPE_PINNED
        want.location.type = driver.CUmemLocationType.CU_MEM_LOCATION_TYPE_DEVICE
        want.location.id = 0
        granule = must(driver.cuMemGetAllocationGranularity(
            want, driver.CUmemAllocationGranularity_flags.CU_MEM_ALLOC_GRANULARITY_MINIMUM))
        free_before = must(driver.cuMemGetInfo())[0]
        physical = must(driver.cuMemCreate(granule, want, 0))
        expect(must(driver.cuMemGetInfo())[0] <= free_before - granule, "created memory costs nothing")
        base = must(driver.cuMemAddressReserve(2 * granule, 0, 0, 0))
        access = driver.CUmemAccessDesc()
        access.location.type = driver.CUmemLocationType.CU_MEM_LOCATION_TYPE_DEVICE
        access.location.id = 0
        access.flags = driver.CUmemAccess_flags.CU_MEM_ACCESS_FLAGS_PROT_READWRITE
        for half in range(2):
            must(driver.cuMemMap(driver.CUdeviceptr(int(base) + half * granule), granule, 0, physical, 0))
        must(driver.cuMemSetAccess(base, 2 * granule, [access], 1))
        launch(base, 4, 0)
        must(driver.cuCtxSynchronize())
        expect(is_ramp(read(driver.CUdeviceptr(int(base) + granule)), 4), "the second address shows something else")
        must(driver.cuMemUnmap(base, 2 * granule))
        must(driver.cuMemRelease(physical))
        must(driver.cuMemAddressFree(base, 2 * granule))
        expect(must(driver.cuMemGetInfo())[0] == free_before, "released memory did not return")

        # The other card: a copy between them, then its own kernel on this card's memory.
        must(driver.cuCtxSetCurrent(contexts[1]))
        there = must(driver.cuMemAlloc(BYTES))
        must(driver.cuCtxSetCurrent(contexts[0]))
        launch(memory, 6, 0)
        must(driver.cuCtxSynchronize())
        must(driver.cuMemcpyPeer(there, contexts[1], memory, contexts[0], BYTES))
        must(driver.cuCtxSetCurrent(contexts[1]))
        expect(is_ramp(read(there), 6), "the copy between cards is wrong")
        expect(must(driver.cuDeviceCanAccessPeer(1, 0)) == 1, "the cards do not reach each other")
        must(driver.cuCtxEnablePeerAccess(contexts[0], 0))
        module, ramp, bump = code()
        launch(memory, 8, 0)
        must(driver.cuCtxSynchronize())
        must(driver.cuCtxSetCurrent(contexts[0]))
        expect(is_ramp(read(memory), 8), "the other card's kernel did not reach this one's memory")
    print("PASSED cuda samples")


main()
