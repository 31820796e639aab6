#include "manifest.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <set>

namespace tessera::manifest {
namespace {

std::string RealText() {
  const char* path = std::getenv("TESSERA_CUDA_MANIFEST");
  std::ifstream in(path != nullptr ? path : "", std::ios::binary);
  return std::string((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
}

const Manifest& Real() {
  static const auto* manifest = [] {
    auto* made = new Manifest;
    std::string error;
    EXPECT_TRUE(Parse("cuda.manifest", RealText(), made, &error)) << error;
    return made;
  }();
  return *manifest;
}

constexpr char kTypes[] = "types CUresult CUdeviceptr\n";

std::string ErrorOf(const std::string& lines) {
  Manifest manifest;
  std::string error;
  EXPECT_FALSE(Parse("m", kTypes + lines, &manifest, &error)) << lines;
  return error;
}

TEST(Manifest, ReadsSignature) {
  Manifest manifest;
  std::string error;
  ASSERT_TRUE(Parse("m",
                    std::string(kTypes) +
                        "# a comment\n\n"
                        "cuA cuA 2000 - pass CUresult ()\n"
                        "cuA cuA_v2 3020 - account CUresult (const void **list, unsigned int n)\n"
                        "cuA cuA_v2_ptds 7000 ptds account CUresult (CUdeviceptr *p)\n",
                    &manifest, &error))
      << error;
  ASSERT_EQ(manifest.entries.size(), 3u);
  EXPECT_TRUE(manifest.entries[0].parameters.empty());
  const Entry& second = manifest.entries[1];
  EXPECT_EQ(second.line, 5);
  ASSERT_EQ(second.parameters.size(), 2u);
  EXPECT_EQ(second.parameters[0].type, "const void **");
  EXPECT_EQ(second.parameters[0].name, "list");
  EXPECT_EQ(second.parameters[1].type, "unsigned int");
  EXPECT_EQ(EmitEntries(manifest, {"account"}),
            "// Made by tessera-manifest; change the manifest instead.\n"
            "TESSERA_ENTRY(cuA_v2, cuA, 3020, none, account, CUresult, "
            "(const void **list, unsigned int n), (list, n))\n"
            "TESSERA_ENTRY(cuA_v2_ptds, cuA, 7000, ptds, account, CUresult, (CUdeviceptr *p), "
            "(p))\n");
}

TEST(Manifest, RefusesWithLineNumber) {
  const std::string good = "cuA cuA 2000 - pass CUresult ()\n";
  struct Case {
    std::string lines;
    std::string error;
  } cases[] = {
      {good + good, "m:3: symbol cuA stands already in line 2"},
      {"cuA cuA 2000 - pass CUresult (CUstream s)\n",
       "m:2: unknown type \"CUstream\" (name it on a types line and in the abi header)"},
      {"cuA cuA 2000 - pass CUerror ()\n", "m:2: unknown type \"CUerror\""},
      {"cuA cuA 2000 - wrap CUresult ()\n", "m:2: unknown treatment \"wrap\""},
      {"cuA cuA 2000 ptdz pass CUresult ()\n", "m:2: flag \"ptdz\": expected -, ptds or ptsz"},
      {"cuA cuA 2.0 - pass CUresult ()\n",
       "m:2: version \"2.0\": expected 1000 * major + 10 * minor, or a suffix's number"},
      {"cuA cuA 120 - pass CUresult ()\n",
       "m:2: version \"120\": expected 1000 * major + 10 * minor, or a suffix's number"},
      {good + "cuA cuA_v2 2000 - pass CUresult ()\n",
       "m:3: version 2000 of cuA does not rise above 2000"},
      {good + "cuA cuA_v3 3000 - pass CUresult ()\n",
       "m:3: symbol cuA_v3 breaks the suffix rule: expected cuA_v2"},
      {good + "cuA cuA_v2_ptsz 7000 ptsz pass CUresult ()\n",
       "m:3: symbol cuA_v2_ptsz breaks the suffix rule: expected cuA_ptsz"},
      {good + "cuB cuB 2000 - pass CUresult ()\ncuA cuA_v2 3000 - pass CUresult ()\n",
       "m:4: the lines of cuA must stand together (first: line 2)"},
      {"cuA cuA 2000 - pass CUresult (int)\n",
       "m:2: expected \"type name\" for a parameter, not \"int\""},
      {"cuA cuA 2000 - pass CUresult (int a, int a)\n", "m:2: two parameters are called \"a\""},
      {"cuA cuA 2000 - pass CUresult (void a)\n",
       "m:2: parameter \"a\" is void; no parameters are written ()"},
      {"cuA cuA 2000 - pass CUresult\n",
       "m:2: expected the parameters in parentheses at the end of the line"},
      {"types CUresult\n", "m:2: type \"CUresult\" named twice"},
      {"", "m:1: no entry in this file"},
  };
  for (const Case& one : cases) EXPECT_EQ(ErrorOf(one.lines), one.error);
}

TEST(Manifest, VersionsMayBeSuffixes) {
  Manifest manifest;
  std::string error;
  const std::string lines =
      "types nvmlReturn_t\n"
      "nvmlErrorString nvmlErrorString 1 - pass const char * (nvmlReturn_t result)\n"
      "nvmlInit nvmlInit_v2 2 - virtualise nvmlReturn_t ()\n";
  ASSERT_TRUE(Parse("m", lines, &manifest, &error)) << error;
  EXPECT_EQ(manifest.entries[0].return_type, "const char *");
  EXPECT_EQ(manifest.Find("nvmlInit", 2, false)->symbol, "nvmlInit_v2");
  EXPECT_FALSE(Parse("m", "types T\nnvmlX nvmlX_v2 3 - pass T ()\n", &manifest, &error));
  EXPECT_EQ(error, "m:2: symbol nvmlX_v2 breaks the suffix rule: expected nvmlX_v3");
}

TEST(CudaManifest, HoldsTheWholeDriver) {
  const Manifest& real = Real();
  EXPECT_EQ(real.entries.size(), 673u);
  std::set<std::string> bases;
  for (const Entry& entry : real.entries) bases.insert(entry.base);
  EXPECT_EQ(bases.size(), 479u);
  std::string symbols = EmitSymbols(real);
  EXPECT_EQ(std::count(symbols.begin(), symbols.end(), '\n'), 673);
}

TEST(CudaManifest, HandsOutTheHighestVersionNotAboveTheAskedOne) {
  struct Case {
    const char* base;
    int version;
    bool per_thread;
    const char* symbol;
  } cases[] = {
      {"cuMemAlloc", 3020, false, "cuMemAlloc_v2"},
      {"cuMemAlloc", 13000, false, "cuMemAlloc_v2"},
      {"cuMemAlloc", 3010, false, "cuMemAlloc"},
      {"cuMemAlloc", 1000, false, nullptr},
      {"cuMemAlloc", 13000, true, "cuMemAlloc_v2"},
      {"cuMemcpyHtoD", 7000, true, "cuMemcpyHtoD_v2_ptds"},
      {"cuMemcpyHtoD", 6050, true, "cuMemcpyHtoD_v2"},
      {"cuLaunchKernel", 4000, false, "cuLaunchKernel"},
      {"cuLaunchKernel", 7000, true, "cuLaunchKernel_ptsz"},
      {"cuGetProcAddress", 11030, false, "cuGetProcAddress"},
      {"cuGetProcAddress", 12000, false, "cuGetProcAddress_v2"},
      {"cuCtxCreate", 13000, false, "cuCtxCreate_v4"},
      {"cuStreamGetCaptureInfo", 12030, true, "cuStreamGetCaptureInfo_v3_ptsz"},
      {"cuCtxGetDevice", 12080, false, "cuCtxGetDevice"},
      {"cuCtxGetDevice", 13000, false, "cuCtxGetDevice_v2"},
      {"cuNothing", 13000, false, nullptr},
  };
  for (const Case& one : cases) {
    const Entry* entry = Real().Find(one.base, one.version, one.per_thread);
    ASSERT_EQ(entry != nullptr, one.symbol != nullptr) << one.base << " " << one.version;
    if (entry != nullptr) {
      EXPECT_EQ(entry->symbol, one.symbol) << one.version;
    }
  }
}

// What must never slip to "pass": a call that takes memory or submits work unseen.
TEST(CudaManifest, TreatmentsCoverTheFamilies) {
  for (const Entry& entry : Real().entries) {
    const std::string& base = entry.base;
    bool runs_on_the_host = base == "cuLaunchHostFunc";
    if (base.starts_with("cuLaunch") && !runs_on_the_host) {
      EXPECT_EQ(entry.treatment, "gate") << entry.symbol;
    }
    if (base.starts_with("cuMemcpy") || base.starts_with("cuMemset")) {
      EXPECT_EQ(entry.treatment, "gate") << entry.symbol;
    }
    if (base.starts_with("cuMemAlloc")) {
      EXPECT_TRUE(entry.treatment == "account" || entry.treatment == "deny") << entry.symbol;
    }
    if (base.starts_with("cuModuleLoad") || base.starts_with("cuLibraryLoad")) {
      EXPECT_EQ(entry.treatment, "account") << entry.symbol;
    }
  }
}

TEST(Emit, TableIsSortedAndComplete) {
  std::string table = EmitTable(Real());
  EXPECT_EQ(std::count(table.begin(), table.end(), '\n'), 674);
  EXPECT_NE(table.find("TESSERA_PROC(cuMemAlloc, 3020, false, cuMemAlloc_v2)\n"),
            std::string::npos);
  EXPECT_NE(table.find("TESSERA_PROC(cuMemcpyHtoD, 7000, true, cuMemcpyHtoD_v2_ptds)\n"),
            std::string::npos);
}

TEST(Emit, StubsAndScriptNameEverySymbol) {
  std::string stubs = EmitStubs(Real(), StubKind::kUnsupported);
  std::string null = EmitStubs(Real(), StubKind::kSuccess);
  std::string script = EmitVersionScript(Real(), {"simgpu_extra"});
  for (const Entry& entry : Real().entries) {
    EXPECT_NE(stubs.find("\"" + entry.symbol + "\""), std::string::npos);
    EXPECT_NE(null.find(" " + entry.symbol + "("), std::string::npos);
    EXPECT_NE(script.find("    " + entry.symbol + ";\n"), std::string::npos);
  }
  EXPECT_NE(script.find("    simgpu_extra;\n"), std::string::npos);
}

TEST(Emit, FrontDescribesEveryEntry) {
  const std::string rename = EmitRename(Real()), front = EmitFront(Real());
  for (const Entry& entry : Real().entries) {
    EXPECT_NE(rename.find("#define " + entry.symbol + " simgpu_" + entry.symbol + "\n"),
              std::string::npos);
  }
  EXPECT_EQ(std::count(front.begin(), front.end(), '\n'), 674);
  EXPECT_NE(
      front.find(", cuMemAlloc_v2, cuMemAlloc, CUresult, (CUdeviceptr *dptr, size_t bytesize), "
                 "(dptr, bytesize), (TESSERA_PARAMETER(CUdeviceptr *, dptr) "
                 "TESSERA_PARAMETER(size_t, bytesize)), (TESSERA_VALUE(dptr) "
                 "TESSERA_VALUE(bytesize)))\n"),
      std::string::npos);
}

// A header of a toolkit that is newer than the manifest.
TEST(Manifest, NamesWhatAHeaderHasAndItHasNot) {
  Manifest manifest;
  std::string error;
  ASSERT_TRUE(Parse("m",
                    std::string(kTypes) + "cuA cuA 2000 - pass CUresult ()\n"
                                          "cuA cuA_v2 3020 - pass CUresult ()\n"
                                          "cuA cuA_v2_ptds 7000 ptds pass CUresult ()\n",
                    &manifest, &error))
      << error;
  EXPECT_TRUE(Unclassified(manifest,
                           "#define cuA __CUDA_API_PTDS(cuA_v2)\n"
                           "/* see cuOld() */ // and CUDAAPI cuOlder()\n"
                           "CUresult CUDAAPI cuA(int *p);\n"
                           "typedef CUresult (CUDAAPI *PFN_cuA_v7000_ptds)(int *p);\n"
                           "static inline CUresult cuA_v2_ptsz(int *p) { return cuA(p); }\n"
                           "#define cuA __CUDA_API_PTSZ(cuA_v2)\n"
                           "typedef void (CUDA_CB *CUhostFn)(void *);\n")
                  .empty());
  EXPECT_EQ(Unclassified(manifest,
                         "#define cuB cuB_v3\n"
                         "CUresult CUDAAPI\n    cuNew(int *p);\n"
                         "typedef CUresult (CUDAAPI *PFN_cuA_v13000)(int *p);\n"
                         "typedef CUresult (CUDAAPI *PFN_cuA_v3020_ptsz)(int *p);\n"
                         "nvmlReturn_t DECLDIR nvmlNew(int *p);\n"),
            (std::vector<std::string>{"cuA 13000", "cuA 3020 ptsz", "cuB_v3", "cuNew", "nvmlNew"}));
}

}  // namespace
}  // namespace tessera::manifest
