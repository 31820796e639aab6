#include <dlfcn.h>

#include <fstream>
#include <iterator>
#include <set>

#include "simgpu/driver/test_support.h"
#include "tools/manifest/manifest.h"

namespace simgpu {
namespace {

// Every name at every version at which an answer changes, and one below it, with both flags,
// against the manifest's own rule.
TEST(ProcAddress, AnswersEveryPairOfTheManifest) {
  std::ifstream in(std::getenv("TESSERA_CUDA_MANIFEST"), std::ios::binary);
  std::string text((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
  tessera::manifest::Manifest manifest;
  std::string error;
  ASSERT_TRUE(tessera::manifest::Parse("cuda.manifest", text, &manifest, &error)) << error;
  void* library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_NOLOAD);
  ASSERT_NE(library, nullptr);
  std::set<std::string> bases;
  std::set<int> versions = {1000, 99990};
  for (const auto& entry : manifest.entries) {
    bases.insert(entry.base);
    versions.insert(entry.version);
    versions.insert(entry.version - 1);
    EXPECT_NE(dlsym(library, entry.symbol.c_str()), nullptr) << entry.symbol;
  }
  int asked = 0, found = 0;
  for (const std::string& base : bases) {
    for (int version : versions) {
      for (unsigned long flags : {0ul, 1ul, 2ul}) {
        const auto* expected = manifest.Find(base, version, flags == 2);
        void* function = &asked;
        auto status = CUdriverProcAddressQueryResult(99);
        const CUresult result =
            cuGetProcAddress_v2(base.c_str(), &function, version, flags, &status);
        ++asked;
        if (expected == nullptr) {
          EXPECT_EQ(result, CUDA_ERROR_NOT_FOUND) << base << version;
          EXPECT_EQ(function, nullptr);
          EXPECT_EQ(status, CU_GET_PROC_ADDRESS_VERSION_NOT_SUFFICIENT) << base << version;
          continue;
        }
        ++found;
        EXPECT_EQ(result, CUDA_SUCCESS);
        EXPECT_EQ(status, CU_GET_PROC_ADDRESS_SUCCESS);
        EXPECT_EQ(function, dlsym(library, expected->symbol.c_str())) << base << " " << version;
      }
    }
  }
  EXPECT_GT(found, 30000);
  EXPECT_GT(asked, found);
  dlclose(library);
}

TEST(ProcAddress, RefusesNonsense) {
  void* function = nullptr;
  CUdriverProcAddressQueryResult status;
  EXPECT_EQ(cuGetProcAddress_v2("cuNothing", &function, 13000, 0, &status), CUDA_ERROR_NOT_FOUND);
  EXPECT_EQ(status, CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND);
  EXPECT_EQ(cuGetProcAddress("cuNothing", &function, 13000, 0), CUDA_ERROR_NOT_FOUND);
  EXPECT_EQ(cuGetProcAddress_v2(nullptr, &function, 13000, 0, &status), CUDA_ERROR_INVALID_VALUE);
  EXPECT_EQ(cuGetProcAddress_v2("cuInit", nullptr, 13000, 0, &status), CUDA_ERROR_INVALID_VALUE);
  EXPECT_EQ(cuGetProcAddress_v2("cuInit", &function, 13000, 8, &status), CUDA_ERROR_INVALID_VALUE);
  EXPECT_EQ(cuGetProcAddress_v2("cuInit", &function, 13000, 0, nullptr), CUDA_SUCCESS);
}

}  // namespace
}  // namespace simgpu
