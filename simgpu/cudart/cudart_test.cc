// The library as a file: what it exports, and what the names that do nothing answer. What the rest
// does is tested by programs that nvcc builds (tests/outside).
#include <dlfcn.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <string>
#include <vector>

#include "simgpu/cudart/types.h"

namespace simgpu::cudart {
namespace {

std::vector<std::string> Names() {
  std::ifstream in(CUDART_NAMES);
  std::vector<std::string> names;
  for (std::string line; std::getline(in, line);) names.push_back(line);
  return names;
}

void* Library() {
  static void* const library = dlopen(CUDART_LIBRARY, RTLD_NOW | RTLD_LOCAL);
  return library;
}

template <typename Function>
Function Find(const char* name) {
  return reinterpret_cast<Function>(dlsym(Library(), name));
}

TEST(Cudart, ExportsEveryPublicNameUnderTheVersionOfTheRuntime) {
  ASSERT_NE(Library(), nullptr) << dlerror();
  const std::vector<std::string> names = Names();
  EXPECT_EQ(names.size(), 422u);
  for (const std::string& name : names) {
    EXPECT_NE(dlvsym(Library(), name.c_str(), "libcudart.so.13"), nullptr) << name;
  }
  EXPECT_EQ(dlsym(Library(), "cudaNoSuchThing"), nullptr);
}

TEST(Cudart, NamesThatDoNothingSaySoOnceAndAreRemembered) {
  const auto refused = Find<unsigned int (*)()>("cudaGraphicsMapResources");
  const auto last = Find<cudaError_t (*)()>("cudaGetLastError");
  ASSERT_TRUE(refused != nullptr && last != nullptr);
  unsetenv("SIMGPU_QUIET");
  testing::internal::CaptureStderr();
  EXPECT_EQ(refused(), cudaErrorNotSupported);
  EXPECT_EQ(refused(), cudaErrorNotSupported);
  EXPECT_EQ(testing::internal::GetCapturedStderr(),
            "simgpu: cudaGraphicsMapResources is not simulated; it answers "
            "cudaErrorNotSupported\n");
  EXPECT_EQ(last(), cudaErrorNotSupported);
  EXPECT_EQ(last(), cudaSuccess);
}

TEST(Cudart, EveryErrorHasItsNameAndASentence) {
  const auto name = Find<const char* (*)(cudaError_t)>("cudaGetErrorName");
  const auto sentence = Find<const char* (*)(cudaError_t)>("cudaGetErrorString");
  ASSERT_TRUE(name != nullptr && sentence != nullptr);
  const std::vector<std::pair<cudaError_t, std::string>> errors = {
#define CUDART_ERROR(code, error, text) {error, #error},
#include "simgpu/cudart/errors.inc"
#undef CUDART_ERROR
  };
  EXPECT_GT(errors.size(), 130u);
  for (const auto& [error, expected] : errors) {
    EXPECT_EQ(name(error), expected);
    EXPECT_STRNE(sentence(error), "unrecognized error code") << expected;
  }
  EXPECT_STREQ(name(static_cast<cudaError_t>(12345)), "unrecognized error code");
}

// The launch configuration is a stack of the thread's own.
TEST(Cudart, LaunchConfigurationsArePoppedInTheOrderOfAStack) {
  const auto push =
      Find<unsigned int (*)(dim3, dim3, size_t, CUstream)>("__cudaPushCallConfiguration");
  const auto pop =
      Find<cudaError_t (*)(dim3*, dim3*, size_t*, void*)>("__cudaPopCallConfiguration");
  ASSERT_TRUE(push != nullptr && pop != nullptr);
  dim3 grid = {};
  dim3 block = {};
  size_t shared = 0;
  CUstream stream = nullptr;
  EXPECT_EQ(pop(&grid, &block, &shared, &stream), cudaErrorMissingConfiguration);
  for (unsigned int depth = 1; depth <= 64; ++depth) {
    EXPECT_EQ(push({depth, 2, 3}, {4, 5, depth}, depth * 7, nullptr), 0u);
  }
  EXPECT_EQ(push({1, 1, 1}, {1, 1, 1}, 0, nullptr), cudaErrorInvalidConfiguration);
  for (unsigned int depth = 64; depth >= 1; --depth) {
    EXPECT_EQ(pop(&grid, &block, &shared, &stream), cudaSuccess);
    EXPECT_TRUE(grid.x == depth && grid.z == 3 && block.z == depth && shared == depth * 7);
  }
  EXPECT_EQ(pop(&grid, &block, &shared, &stream), cudaErrorMissingConfiguration);
}

}  // namespace
}  // namespace simgpu::cudart
