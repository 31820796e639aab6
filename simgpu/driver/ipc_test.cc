// Handles between processes: memory and events, the lifetimes of both ends, what is left behind.
#include <string.h>

#include <atomic>
#include <filesystem>

#include "simgpu/driver/memory_test_support.h"
#include "simgpu/state/state.h"

namespace simgpu {
namespace {

size_t SocketsIn(const std::string& folder) {
  size_t count = 0;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(folder + "/ipc", error)) {
    if (entry.path().extension() == ".sock") ++count;
  }
  return count;
}

TEST_F(TwoProcessTest, AHandleOpensTheSameMemory) {
  Converse(
      [](Line line) {
        CUdeviceptr large = 0, small = 0, again = 0;
        CUipcMemHandle handles[2];
        ASSERT_EQ(cuMemAlloc_v2(&large, 10 * kMiBytes), CUDA_SUCCESS);
        ASSERT_EQ(cuMemAlloc_v2(&small, 3000), CUDA_SUCCESS);
        ASSERT_EQ(cuMemAlloc_v2(&small, 3000), CUDA_SUCCESS);
        ASSERT_EQ(StoreByKernel(large + 10 * kMiBytes - 4, 1), CUDA_SUCCESS);
        ASSERT_EQ(StoreByKernel(small + 2996, 2), CUDA_SUCCESS);
        EXPECT_EQ(cuIpcGetMemHandle(&handles[0], large + 512), CUDA_ERROR_INVALID_VALUE);
        ASSERT_EQ(cuIpcGetMemHandle(&handles[0], large), CUDA_SUCCESS);
        ASSERT_EQ(cuIpcGetMemHandle(&handles[1], small), CUDA_SUCCESS);
        // Not in the process whose memory it is.
        EXPECT_EQ(cuIpcOpenMemHandle_v2(&again, handles[0], 1), CUDA_ERROR_INVALID_CONTEXT);
        line.Say(handles[0]);
        line.Say(handles[1]);
        EXPECT_EQ(line.Hear<int>(), 1);
        unsigned int value = 0;
        EXPECT_EQ(cuMemcpyDtoH_v2(&value, small, 4), CUDA_SUCCESS);
        EXPECT_EQ(value, 3u);
        EXPECT_EQ(cuMemFree_v2(large), CUDA_SUCCESS);
        line.Say(1);
        EXPECT_EQ(line.Hear<int>(), 2);
      },
      [](Line line) {
        CUipcMemHandle handles[2];
        handles[0] = line.Hear<CUipcMemHandle>();
        handles[1] = line.Hear<CUipcMemHandle>();
        const size_t both = UsedMiB();
        CUdeviceptr large = 0, small = 0, again = 0;
        EXPECT_EQ(cuIpcOpenMemHandle_v2(&large, handles[0], 0), CUDA_ERROR_INVALID_VALUE);
        ASSERT_EQ(cuIpcOpenMemHandle_v2(&large, handles[0], 1), CUDA_SUCCESS);
        ASSERT_EQ(cuIpcOpenMemHandle(&small, handles[1], 1), CUDA_SUCCESS);
        ASSERT_EQ(cuIpcOpenMemHandle_v2(&again, handles[0], 1), CUDA_SUCCESS);
        EXPECT_EQ(again, large);
        EXPECT_EQ(UsedMiB(), both);
        unsigned int value = 0;
        EXPECT_EQ(cuMemcpyDtoH_v2(&value, large + 10 * kMiBytes - 4, 4), CUDA_SUCCESS);
        EXPECT_EQ(value, 1u);
        EXPECT_EQ(cuMemcpyDtoH_v2(&value, small + 2996, 4), CUDA_SUCCESS);
        EXPECT_EQ(value, 2u);
        EXPECT_EQ(cuMemcpyDtoH_v2(&value, large + 10 * kMiBytes, 4), CUDA_ERROR_INVALID_VALUE);
        EXPECT_EQ(StoreByKernel(small, 3), CUDA_SUCCESS);
        size_t bytes = 0;
        EXPECT_EQ(cuMemGetAddressRange_v2(nullptr, &bytes, small), CUDA_SUCCESS);
        EXPECT_EQ(bytes, 3000u);
        EXPECT_EQ(cuMemFree_v2(large), CUDA_ERROR_INVALID_VALUE);
        CUipcMemHandle mine;
        EXPECT_EQ(cuIpcGetMemHandle(&mine, large), CUDA_ERROR_INVALID_VALUE);
        // Closed as often as it was opened, it is gone.
        EXPECT_EQ(cuIpcCloseMemHandle(large), CUDA_SUCCESS);
        EXPECT_EQ(cuMemcpyDtoH_v2(&value, large, 4), CUDA_SUCCESS);
        EXPECT_EQ(cuIpcCloseMemHandle(large), CUDA_SUCCESS);
        EXPECT_EQ(cuMemcpyDtoH_v2(&value, large, 4), CUDA_ERROR_INVALID_VALUE);
        EXPECT_EQ(cuIpcCloseMemHandle(large), CUDA_ERROR_INVALID_VALUE);
        line.Say(1);
        EXPECT_EQ(line.Hear<int>(), 1);
        EXPECT_EQ(cuIpcOpenMemHandle_v2(&large, handles[0], 1), CUDA_ERROR_INVALID_HANDLE);
        memset(&mine, 1, sizeof mine);
        EXPECT_EQ(cuIpcOpenMemHandle_v2(&large, mine, 1), CUDA_ERROR_INVALID_HANDLE);
        EXPECT_EQ(cuIpcCloseMemHandle(small), CUDA_SUCCESS);
        line.Say(2);
      });
}

// The exporter dies: what was opened stays, and counts here from then on; its socket goes with the
// next export.
TEST_F(TwoProcessTest, OpenedMemoryOutlivesItsProcess) {
  const std::string folder = folder_;
  Converse(
      [](Line line) {
        CUdeviceptr address = 0;
        CUipcMemHandle handle;
        ASSERT_EQ(cuMemAlloc_v2(&address, 100 * kMiBytes), CUDA_SUCCESS);
        ASSERT_EQ(StoreByKernel(address, 9), CUDA_SUCCESS);
        ASSERT_EQ(cuIpcGetMemHandle(&handle, address), CUDA_SUCCESS);
        line.Say(handle);
        EXPECT_EQ(line.Hear<int>(), 1);
      },
      [folder](Line line) {
        auto handle = line.Hear<CUipcMemHandle>();
        CUdeviceptr address = 0, other = 0;
        ASSERT_EQ(cuIpcOpenMemHandle_v2(&address, handle, 1), CUDA_SUCCESS);
        EXPECT_EQ(UsedMiB(), 2 * 106u + 100u);
        line.Say(1);
        for (int i = 0; i < 2000 && UsedMiB() != 106u + 100u; ++i) usleep(5000);
        EXPECT_EQ(UsedMiB(), 106u + 100u);
        unsigned int value = 0;
        EXPECT_EQ(cuMemcpyDtoH_v2(&value, address, 4), CUDA_SUCCESS);
        EXPECT_EQ(value, 9u);
        EXPECT_EQ(cuIpcCloseMemHandle(address), CUDA_SUCCESS);
        EXPECT_EQ(UsedMiB(), 106u);
        EXPECT_EQ(cuIpcOpenMemHandle_v2(&address, handle, 1), CUDA_ERROR_INVALID_HANDLE);
        EXPECT_EQ(SocketsIn(folder), 1u);  // the dead one's
        ASSERT_EQ(cuMemAlloc_v2(&other, 10), CUDA_SUCCESS);
        ASSERT_EQ(cuIpcGetMemHandle(&handle, other), CUDA_SUCCESS);
        EXPECT_EQ(SocketsIn(folder), 1u);  // ours
      });
}

TEST_F(TwoProcessTest, ImportsGoWithTheirContext) {
  Converse(
      [](Line line) {
        CUdeviceptr address = 0;
        CUipcMemHandle handle;
        ASSERT_EQ(cuMemAlloc_v2(&address, 100), CUDA_SUCCESS);
        ASSERT_EQ(cuIpcGetMemHandle(&handle, address), CUDA_SUCCESS);
        line.Say(handle);
        EXPECT_EQ(line.Hear<int>(), 1);
      },
      [](Line line) {
        auto handle = line.Hear<CUipcMemHandle>();
        CUdeviceptr address = 0;
        CUcontext context = nullptr;
        ASSERT_EQ(cuCtxCreate_v2(&context, 0, 0), CUDA_SUCCESS);
        ASSERT_EQ(cuIpcOpenMemHandle_v2(&address, handle, 1), CUDA_SUCCESS);
        ASSERT_EQ(cuCtxDestroy_v2(context), CUDA_SUCCESS);
        unsigned int value = 0;
        EXPECT_EQ(cuMemcpyDtoH_v2(&value, address, 4), CUDA_ERROR_INVALID_VALUE);
        EXPECT_EQ(cuIpcCloseMemHandle(address), CUDA_ERROR_INVALID_VALUE);
        line.Say(1);
      });
}

// A stream of one process waits for the work of a stream of another.
// Each process makes its socket at its first export, and looks for stale ones of others then.
TEST_F(TwoProcessTest, ManyProcessesMayExportForTheFirstTimeAtOnce) {
  constexpr int kProcesses = 12;
  for (int round = 0; round < 8; ++round) {
    int gate[2];
    ASSERT_EQ(pipe(gate), 0);
    std::vector<pid_t> pids;
    for (int i = 0; i < kProcesses; ++i) {
      pids.push_back(fork());
      ASSERT_GE(pids.back(), 0);
      if (pids.back() != 0) continue;
      close(gate[1]);
      CUcontext context = nullptr;
      CUdeviceptr pointer = 0;
      CUipcMemHandle handle;
      char never = 0;
      CUresult result = cuInit(0);
      if (result == CUDA_SUCCESS) result = cuDevicePrimaryCtxRetain(&context, 0);
      if (result == CUDA_SUCCESS) result = cuCtxSetCurrent(context);
      if (result == CUDA_SUCCESS) result = cuMemAlloc_v2(&pointer, kMiBytes);
      (void)!read(gate[0], &never, 1);
      if (result == CUDA_SUCCESS) result = cuIpcGetMemHandle(&handle, pointer);
      _exit(static_cast<int>(result));
    }
    close(gate[0]);
    close(gate[1]);
    for (const pid_t pid : pids) {
      int status = 0;
      ASSERT_EQ(waitpid(pid, &status, 0), pid);
      EXPECT_EQ(status, 0) << "round " << round << ": CUDA error " << WEXITSTATUS(status);
    }
  }
}

TEST_F(TwoProcessTest, AnEventOrdersStreamsOfTwoProcesses) {
  Converse(
      [](Line line) {
        CUdeviceptr address = 0;
        CUipcMemHandle memory;
        CUipcEventHandle handle;
        CUevent event = nullptr, plain = nullptr, again = nullptr;
        CUstream stream = nullptr;
        void* word = nullptr;
        EXPECT_EQ(cuEventCreate(&event, CU_EVENT_INTERPROCESS), CUDA_ERROR_INVALID_VALUE);
        ASSERT_EQ(cuEventCreate(&event, CU_EVENT_INTERPROCESS | CU_EVENT_DISABLE_TIMING),
                  CUDA_SUCCESS);
        ASSERT_EQ(cuEventCreate(&plain, 0), CUDA_SUCCESS);
        EXPECT_EQ(cuIpcGetEventHandle(&handle, plain), CUDA_ERROR_INVALID_VALUE);
        ASSERT_EQ(cuIpcGetEventHandle(&handle, event), CUDA_SUCCESS);
        EXPECT_EQ(cuIpcOpenEventHandle(&again, handle), CUDA_ERROR_INVALID_CONTEXT);
        EXPECT_EQ(cuEventQuery(event), CUDA_SUCCESS);  // never recorded
        ASSERT_EQ(cuMemAlloc_v2(&address, 4), CUDA_SUCCESS);
        ASSERT_EQ(cuMemsetD32_v2(address, 1, 1), CUDA_SUCCESS);
        ASSERT_EQ(cuCtxSynchronize(), CUDA_SUCCESS);
        ASSERT_EQ(cuIpcGetMemHandle(&memory, address), CUDA_SUCCESS);
        ASSERT_EQ(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING), CUDA_SUCCESS);
        ASSERT_EQ(cuMemHostAlloc(&word, 4, 0), CUDA_SUCCESS);
        auto* gate = static_cast<std::atomic<unsigned int>*>(word);
        gate->store(0);
        ASSERT_EQ(cuStreamWaitValue32_v2(stream, reinterpret_cast<CUdeviceptr>(word), 1, 0),
                  CUDA_SUCCESS);
        ASSERT_EQ(cuMemsetD32Async(address, 2, 1, stream), CUDA_SUCCESS);
        ASSERT_EQ(cuEventRecord(event, stream), CUDA_SUCCESS);
        EXPECT_EQ(cuEventQuery(event), CUDA_ERROR_NOT_READY);
        line.Say(memory);
        line.Say(handle);
        EXPECT_EQ(line.Hear<int>(), 1);
        gate->store(1);
        EXPECT_EQ(cuEventSynchronize(event), CUDA_SUCCESS);
        EXPECT_EQ(cuEventQuery(event), CUDA_SUCCESS);
        EXPECT_EQ(line.Hear<int>(), 2);
        EXPECT_EQ(cuEventDestroy_v2(event), CUDA_SUCCESS);
      },
      [](Line line) {
        auto memory = line.Hear<CUipcMemHandle>();
        auto handle = line.Hear<CUipcEventHandle>();
        CUdeviceptr address = 0, copy = 0;
        CUevent event = nullptr;
        CUstream stream = nullptr;
        ASSERT_EQ(cuIpcOpenMemHandle_v2(&address, memory, 1), CUDA_SUCCESS);
        ASSERT_EQ(cuIpcOpenEventHandle(&event, handle), CUDA_SUCCESS);
        ASSERT_EQ(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING), CUDA_SUCCESS);
        ASSERT_EQ(cuMemAlloc_v2(&copy, 4), CUDA_SUCCESS);
        EXPECT_EQ(cuEventQuery(event), CUDA_ERROR_NOT_READY);
        ASSERT_EQ(cuStreamWaitEvent(stream, event, 0), CUDA_SUCCESS);
        ASSERT_EQ(cuMemcpyDtoDAsync_v2(copy, address, 4, stream), CUDA_SUCCESS);
        EXPECT_EQ(cuStreamQuery(stream), CUDA_ERROR_NOT_READY);
        line.Say(1);
        ASSERT_EQ(cuStreamSynchronize(stream), CUDA_SUCCESS);
        unsigned int value = 0;
        ASSERT_EQ(cuMemcpyDtoH_v2(&value, copy, 4), CUDA_SUCCESS);
        EXPECT_EQ(value, 2u);
        EXPECT_EQ(cuEventSynchronize(event), CUDA_SUCCESS);
        CUipcEventHandle wrong;
        memset(&wrong, 0, sizeof wrong);
        EXPECT_EQ(cuIpcOpenEventHandle(&event, wrong), CUDA_ERROR_INVALID_HANDLE);
        line.Say(2);
      });
}

}  // namespace
}  // namespace simgpu
