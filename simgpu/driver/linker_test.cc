// Linking PTX through the driver, and what it says about modules and libraries.
#include <string.h>
#include <unistd.h>

#include <fstream>
#include <vector>

#include "simgpu/driver/fatbin.h"
#include "simgpu/driver/test_support.h"

namespace simgpu {
namespace {

constexpr char kMain[] = R"(.version 7.0
.target sm_75
.address_size 64
.extern .func (.param .b32 r) triple(.param .b32 x);
.visible .global .align 4 .u32 seen = 0;
.visible .entry k(.param .u32 n)
{
  .reg .b32 %r<4>;
  ld.param.u32 %r1, [n];
  {
  .param .b32 x; .param .b32 y;
  st.param.b32 [x], %r1;
  call.uni (y), triple, (x);
  ld.param.b32 %r2, [y];
  }
  st.global.u32 [seen], %r2;
  ret;
}
)";
constexpr char kPart[] = R"(.version 7.0
.target sm_75
.address_size 64
.visible .func (.param .b32 r) triple(.param .b32 x)
{
  .reg .b32 %r<3>;
  ld.param.b32 %r1, [x];
  mul.lo.u32 %r2, %r1, 3;
  st.param.b32 [r], %r2;
  ret;
}
)";
constexpr CUjitInputType kPtxInput{1};

CUresult Add(CUlinkState state, const char* text, const char* name) {
  return cuLinkAddData_v2(state, kPtxInput, const_cast<char*>(text), strlen(text) + 1, name, 0,
                          nullptr, nullptr);
}

// Launches k(14) of the image and answers what the variable holds then.
unsigned int Seen(const void* image) {
  CUmodule module = nullptr;
  CUfunction function = nullptr;
  EXPECT_EQ(cuModuleLoadData(&module, image), CUDA_SUCCESS);
  EXPECT_EQ(cuModuleGetFunction(&function, module, "k"), CUDA_SUCCESS);
  unsigned int n = 14, seen = 0;
  void* parameters[] = {&n};
  EXPECT_EQ(cuLaunchKernel(function, 1, 1, 1, 1, 1, 1, 0, nullptr, parameters, nullptr),
            CUDA_SUCCESS);
  EXPECT_EQ(cuCtxSynchronize(), CUDA_SUCCESS);
  CUdeviceptr address = 0;
  size_t bytes = 0;
  EXPECT_EQ(cuModuleGetGlobal_v2(&address, &bytes, module, "seen"), CUDA_SUCCESS);
  EXPECT_EQ(bytes, 4u);
  EXPECT_EQ(cuMemcpyDtoH_v2(&seen, address, 4), CUDA_SUCCESS);
  EXPECT_EQ(cuModuleUnload(module), CUDA_SUCCESS);
  return seen;
}

TEST_F(DriverTest, LinksPtxOfTwoTexts) {
  WithContext([](CUcontext) {
    char info[256] = "untouched", error[256] = "untouched";
    CUjit_option options[] = {CU_JIT_INFO_LOG_BUFFER, CU_JIT_INFO_LOG_BUFFER_SIZE_BYTES,
                              CU_JIT_ERROR_LOG_BUFFER, CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES};
    void* values[] = {info, reinterpret_cast<void*>(sizeof info), error,
                      reinterpret_cast<void*>(sizeof error)};
    CUlinkState state = nullptr;
    ASSERT_EQ(cuLinkCreate_v2(4, options, values, &state), CUDA_SUCCESS);
    ASSERT_EQ(Add(state, kMain, "main"), CUDA_SUCCESS);
    void* image = nullptr;
    size_t size = 0;
    EXPECT_EQ(cuLinkComplete(state, &image, &size), CUDA_ERROR_INVALID_PTX);
    EXPECT_STREQ(error, "link error: undefined reference to 'triple' in 'main'");
    EXPECT_EQ(values[3], reinterpret_cast<void*>(strlen(error)));

    const std::string path = testing::TempDir() + "/simgpu_link_" + std::to_string(getpid());
    std::ofstream(path) << kPart;
    EXPECT_EQ(cuLinkAddFile_v2(state, kPtxInput, "/nowhere", 0, nullptr, nullptr),
              CUDA_ERROR_FILE_NOT_FOUND);
    EXPECT_EQ(cuLinkAddFile_v2(state, kPtxInput, path.c_str(), 0, nullptr, nullptr), CUDA_SUCCESS);
    unlink(path.c_str());
    ASSERT_EQ(cuLinkComplete(state, &image, &size), CUDA_SUCCESS) << error;
    EXPECT_STREQ(info, "linked 2 inputs");
    EXPECT_STREQ(error, "");
    EXPECT_EQ(Seen(image), 42u);

    // The image is an input again, and a copy of it as good as itself.
    const std::string copy(static_cast<char*>(image), size);
    CUlinkState again = nullptr;
    ASSERT_EQ(cuLinkCreate_v2(0, nullptr, nullptr, &again), CUDA_SUCCESS);
    EXPECT_EQ(cuLinkAddData_v2(again, CUjitInputType{0}, const_cast<char*>(copy.data()),
                               copy.size(), "copy", 0, nullptr, nullptr),
              CUDA_SUCCESS);
    ASSERT_EQ(cuLinkComplete(again, &image, &size), CUDA_SUCCESS);
    EXPECT_EQ(Seen(image), 42u);
    EXPECT_EQ(cuLinkDestroy(again), CUDA_SUCCESS);
    EXPECT_EQ(cuLinkDestroy(state), CUDA_SUCCESS);
    EXPECT_EQ(cuLinkDestroy(state), CUDA_ERROR_INVALID_HANDLE);
    EXPECT_EQ(Add(state, kPart, "late"), CUDA_ERROR_INVALID_HANDLE);
  });
}

TEST_F(DriverTest, LinkerRefusesWhatIsNoPtx) {
  WithContext([](CUcontext) {
    CUlinkState state = nullptr;
    ASSERT_EQ(cuLinkCreate_v2(0, nullptr, nullptr, &state), CUDA_SUCCESS);
    char junk[] =
        "\x7f"
        "ELF and so on";
    const auto add = [&](unsigned int type) {
      return cuLinkAddData_v2(state, CUjitInputType{type}, junk, sizeof junk, "junk", 0, nullptr,
                              nullptr);
    };
    EXPECT_EQ(add(0), CUDA_ERROR_NO_BINARY_FOR_GPU);
    EXPECT_EQ(add(1), CUDA_ERROR_INVALID_PTX);
    EXPECT_EQ(add(3), CUDA_ERROR_NOT_SUPPORTED);
    EXPECT_EQ(add(4), CUDA_ERROR_NOT_SUPPORTED);
    EXPECT_EQ(add(17), CUDA_ERROR_INVALID_VALUE);
    void* image = nullptr;
    EXPECT_EQ(cuLinkComplete(state, &image, nullptr), CUDA_ERROR_INVALID_PTX);
    EXPECT_EQ(cuLinkDestroy(state), CUDA_SUCCESS);
  });
}

TEST_F(DriverTest, KernelsOfALibraryAndManagedVariables) {
  WithContext([](CUcontext) {
    constexpr char kText[] = R"(.version 7.0
.target sm_75
.address_size 64
.visible .global .attribute(.managed) .align 4 .u32 shared_word = 6;
.visible .global .align 4 .u32 plain_word = 9;
.visible .entry add_one()
{
  .reg .b32 %r<2>;
  ld.global.u32 %r1, [shared_word];
  add.u32 %r1, %r1, 1;
  st.global.u32 [shared_word], %r1;
  ret;
}
.visible .entry other() { ret; }
)";
    CUlibrary library = nullptr, found = nullptr;
    ASSERT_EQ(cuLibraryLoadData(&library, kText, nullptr, nullptr, 0, nullptr, nullptr, 0),
              CUDA_SUCCESS);
    CUkernel kernels[4] = {};
    ASSERT_EQ(cuLibraryEnumerateKernels(kernels, 4, library), CUDA_SUCCESS);
    const char* name = nullptr;
    ASSERT_EQ(cuKernelGetName(&name, kernels[0]), CUDA_SUCCESS);
    EXPECT_STREQ(name, "add_one");
    EXPECT_EQ(kernels[2], nullptr);
    EXPECT_EQ(cuKernelGetLibrary(&found, kernels[0]), CUDA_SUCCESS);
    EXPECT_EQ(found, library);
    CUdeviceptr address = 0;
    size_t bytes = 0;
    EXPECT_EQ(cuLibraryGetManaged(&address, &bytes, library, "plain_word"), CUDA_ERROR_NOT_FOUND);
    ASSERT_EQ(cuLibraryGetManaged(&address, &bytes, library, "shared_word"), CUDA_SUCCESS);
    EXPECT_EQ(bytes, 4u);
    auto* word = reinterpret_cast<volatile unsigned int*>(address);
    EXPECT_EQ(*word, 6u);
    *word = 20;
    CUfunction function = nullptr;
    ASSERT_EQ(cuKernelGetFunction(&function, kernels[0]), CUDA_SUCCESS);
    CUfunctionLoadingState state{0};
    EXPECT_EQ(cuFuncLoad(function), CUDA_SUCCESS);
    EXPECT_EQ(cuFuncIsLoaded(&state, function), CUDA_SUCCESS);
    EXPECT_EQ(static_cast<unsigned int>(state), 1u);
    EXPECT_EQ(cuFuncSetCacheConfig(function, CUfunc_cache{2}), CUDA_SUCCESS);
    EXPECT_EQ(cuFuncSetCacheConfig(function, CUfunc_cache{9}), CUDA_ERROR_INVALID_VALUE);
    ASSERT_EQ(cuLaunchKernel(function, 1, 1, 1, 1, 1, 1, 0, nullptr, nullptr, nullptr),
              CUDA_SUCCESS);
    ASSERT_EQ(cuCtxSynchronize(), CUDA_SUCCESS);
    EXPECT_EQ(*word, 21u);
    EXPECT_EQ(cuLibraryUnload(library), CUDA_SUCCESS);
    EXPECT_EQ(cuKernelGetLibrary(&found, kernels[0]), CUDA_ERROR_INVALID_HANDLE);
  });
}

}  // namespace
}  // namespace simgpu
