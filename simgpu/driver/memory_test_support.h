// For the memory tests: kernels that touch memory, and two processes that talk to each other.
#pragma once

#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "abi/cuda_memory.h"
#include "simgpu/driver/test_support.h"

namespace simgpu {

inline constexpr size_t kMiBytes = size_t{1} << 20;

// Stores a value.
inline constexpr const char* kTouchKernels = R"(
.version 7.0
.target sm_75
.address_size 64
.visible .entry store(.param .u64 to, .param .u32 value) {
  .reg .u32 %r;
  .reg .u64 %d;
  ld.param.u64 %d, [to];
  ld.param.u32 %r, [value];
  st.global.u32 [%d], %r;
  ret;
}
)";

// Launches one of them and waits; the fault it met, if any. The module is gone afterwards, because
// it takes memory of the card too.
inline CUresult Touch(const char* name, void** parameters) {
  CUmodule module = nullptr;
  CUfunction function = nullptr;
  EXPECT_EQ(cuModuleLoadData(&module, kTouchKernels), CUDA_SUCCESS);
  EXPECT_EQ(cuModuleGetFunction(&function, module, name), CUDA_SUCCESS);
  CUresult result = cuLaunchKernel(function, 1, 1, 1, 1, 1, 1, 0, nullptr, parameters, nullptr);
  if (result == CUDA_SUCCESS) result = cuCtxSynchronize();
  if (result == CUDA_SUCCESS) result = cuModuleUnload(module);
  return result;
}

inline CUresult StoreByKernel(CUdeviceptr to, unsigned int value) {
  void* parameters[] = {&to, &value};
  return Touch("store", parameters);
}

// One end of a conversation between two processes: bytes and descriptors, in order.
class Line {
 public:
  explicit Line(int fd) : fd_(fd) {}
  template <typename T>
  void Say(const T& value) {
    ASSERT_EQ(send(fd_, &value, sizeof value, MSG_NOSIGNAL), static_cast<ssize_t>(sizeof value));
  }
  template <typename T>
  T Hear() {
    T value{};
    EXPECT_EQ(recv(fd_, &value, sizeof value, MSG_WAITALL), static_cast<ssize_t>(sizeof value));
    return value;
  }
  void SayFd(int fd) {
    char byte = 'f';
    iovec data{.iov_base = &byte, .iov_len = 1};
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
    msghdr message{};
    message.msg_iov = &data;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = sizeof control;
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(header), &fd, sizeof fd);
    ASSERT_EQ(sendmsg(fd_, &message, MSG_NOSIGNAL), 1);
  }
  int HearFd() {
    char byte = 0;
    iovec data{.iov_base = &byte, .iov_len = 1};
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
    msghdr message{};
    message.msg_iov = &data;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = sizeof control;
    EXPECT_EQ(recvmsg(fd_, &message, 0), 1);
    const cmsghdr* header = CMSG_FIRSTHDR(&message);
    int fd = -1;
    if (header != nullptr) memcpy(&fd, CMSG_DATA(header), sizeof fd);
    return fd;
  }

 private:
  int fd_;
};

class TwoProcessTest : public DriverTest {
 protected:
  // Runs both in children of their own, each with the primary context of device 0 current. The
  // first may end (or be killed) before the second.
  static void Converse(const std::function<void(Line)>& first,
                       const std::function<void(Line)>& second) {
    int ends[2];
    ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
    fflush(stdout);
    pid_t pids[2];
    for (int i = 0; i < 2; ++i) {
      pids[i] = fork();
      ASSERT_GE(pids[i], 0);
      if (pids[i] != 0) continue;
      close(ends[1 - i]);
      CUcontext context = nullptr;
      EXPECT_EQ(cuInit(0), CUDA_SUCCESS);
      EXPECT_EQ(cuDevicePrimaryCtxRetain(&context, 0), CUDA_SUCCESS);
      EXPECT_EQ(cuCtxSetCurrent(context), CUDA_SUCCESS);
      (i == 0 ? first : second)(Line(ends[i]));
      fflush(stdout);
      _exit(testing::Test::HasFailure() ? 1 : 0);
    }
    close(ends[0]);
    close(ends[1]);
    for (int i = 0; i < 2; ++i) {
      int status = 0;
      ASSERT_EQ(waitpid(pids[i], &status, 0), pids[i]);
      EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0)
          << "process " << i << ": see its failures above";
    }
  }
};

}  // namespace simgpu
