// For driver tests: runs a piece of a program against libcuda in a process of its own, because a
// driver initialises once per process and reads its environment then.
#pragma once

#include <gtest/gtest.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <functional>
#include <string>

#include "abi/cuda.h"

namespace tessera::abi {
#include "simgpu/cuda_declarations.inc"
}  // namespace tessera::abi

namespace simgpu {

using namespace tessera::abi;  // NOLINT

class DriverTest : public testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/dev/shm/simgpu-test-XXXXXX";
    ASSERT_NE(mkdtemp(name), nullptr);
    folder_ = name;
    setenv("SIMGPU_STATE", name, 1);
    setenv("SIMGPU_CARDS", "T4,A100-80", 1);
    unsetenv("CUDA_VISIBLE_DEVICES");
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  // Runs `program` in a child; its failed expectations fail the test.
  static void InChild(const std::function<void()>& program) {
    fflush(stdout);
    pid_t pid = fork();
    ASSERT_GE(pid, 0);
    if (pid == 0) {
      program();
      fflush(stdout);
      _exit(testing::Test::HasFailure() ? 1 : 0);
    }
    int status = 0;
    ASSERT_EQ(waitpid(pid, &status, 0), pid);
    EXPECT_TRUE(WIFEXITED(status)) << "died of signal " << WTERMSIG(status);
    EXPECT_EQ(WEXITSTATUS(status), 0) << "see the child's failures above";
  }

  // As InChild, with cuInit and the primary context of device 0 current.
  static void WithContext(const std::function<void(CUcontext)>& program) {
    InChild([&] {
      ASSERT_EQ(cuInit(0), CUDA_SUCCESS);
      CUcontext context = nullptr;
      ASSERT_EQ(cuDevicePrimaryCtxRetain(&context, 0), CUDA_SUCCESS);
      ASSERT_EQ(cuCtxSetCurrent(context), CUDA_SUCCESS);
      program(context);
    });
  }

  static size_t UsedMiB() {
    size_t free = 0, total = 0;
    EXPECT_EQ(cuMemGetInfo_v2(&free, &total), CUDA_SUCCESS);
    EXPECT_EQ((total - free) % (2 << 20), 0u);
    return (total - free) >> 20;
  }

  std::string folder_;
};

}  // namespace simgpu
