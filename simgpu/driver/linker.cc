// cuLink*: several PTX texts become one image that cuModuleLoadData takes (ptx/link.h does the
// work).
//
// Inputs may be PTX, fat binaries with PTX, and images that a linker made before; machine code,
// object files and libraries of it cannot be interpreted.
#include <string.h>

#include <fstream>
#include <iterator>

#include "simgpu/driver/driver.h"
#include "simgpu/driver/fatbin.h"
#include "simgpu/driver/jit.h"
#include "simgpu/ptx/link.h"
#include "simgpu/ptx/ptx.h"

namespace simgpu {
namespace {

constexpr size_t kLinkInputsMax = 4096;  // of one linker

enum InputType : unsigned int { kCubin, kPtx, kFatBinary, kObject, kArchive, kNvvm, kInputTypes };

struct Linker : Object {
  Linker() : Object(Kind::kLinker) {}
  Context* context = nullptr;
  unsigned int sm = 0;
  JitLog log;
  std::vector<std::pair<std::string, std::string>> inputs;  // name, text
  std::string image;  // of cuLinkComplete; programs hold a pointer into it
};

CUresult Refuse(Linker* linker, CUresult code, const std::string& why) {
  WriteLog("link error: " + why, linker->log.error, linker->log.error_size,
           linker->log.error_size_slot);
  if (linker->log.error == nullptr) Say("link error: " + why);
  return code;
}

// Mutex held.
CUresult Add(Linker* linker, unsigned int type, const void* data, size_t size, const char* name) {
  const std::string label =
      name != nullptr && *name != 0 ? name : "input " + std::to_string(linker->inputs.size() + 1);
  if (linker->inputs.size() >= kLinkInputsMax) {
    return Refuse(linker, CUDA_ERROR_OUT_OF_MEMORY,
                  "more than kLinkInputsMax = " + std::to_string(kLinkInputsMax) + " inputs");
  }
  if (size > ptx::kMaxSourceBytes) {
    return Refuse(
        linker, CUDA_ERROR_INVALID_IMAGE,
        "'" + label + "' is longer than kMaxSourceBytes = " + std::to_string(ptx::kMaxSourceBytes));
  }
  if (type == kObject || type == kArchive || type == kNvvm) {
    return Refuse(linker, CUDA_ERROR_NOT_SUPPORTED,
                  "'" + label + "' is no PTX, and only PTX can be linked here");
  }
  // A copy with a NUL behind it, so that a text's end is found; containers say their own size.
  std::string bytes(static_cast<const char*>(data), size);
  std::string text, why;
  if (type == kPtx) {
    text.assign(bytes.data(), strnlen(bytes.data(), bytes.size()));
  } else if (CUresult bad = PtxOf(bytes.data(), bytes.size(), linker->sm, &text, &why)) {
    return Refuse(linker, bad, "'" + label + "': " + why);
  }
  ptx::ParseError error;
  if (ptx::Module::Parse(text, &error) == nullptr) {
    return Refuse(linker, CUDA_ERROR_INVALID_PTX,
                  "ptx error in '" + label + "': " + error.ToString());
  }
  linker->inputs.emplace_back(label, std::move(text));
  return CUDA_SUCCESS;
}

}  // namespace
}  // namespace simgpu

namespace tessera::abi {
using namespace simgpu;  // NOLINT

extern "C" {

CUresult cuLinkCreate_v2(unsigned int count, CUjit_option* options, void** values,
                         CUlinkState* out) {
  SIMGPU_CURRENT(driver, context);
  if (out == nullptr) return CUDA_ERROR_INVALID_VALUE;
  auto linker = std::make_unique<Linker>();
  if (CUresult bad = ReadOptions(count, options, values, &linker->log)) return bad;
  const Profile& profile = CardOf(*driver, context->device).profile;
  linker->context = context;
  linker->sm = profile.capability_major * 10 + profile.capability_minor;
  std::lock_guard guard(driver->mutex);
  driver->live.insert(linker.get());
  *out = reinterpret_cast<CUlinkState>(linker.release());
  return CUDA_SUCCESS;
}

CUresult cuLinkAddData_v2(CUlinkState handle, CUjitInputType type, void* data, size_t size,
                          const char* name, unsigned int count, CUjit_option* options,
                          void** values) {
  SIMGPU_CURRENT(driver, context);
  JitLog ignored;  // An input's options steer its compilation, which does not happen.
  if (CUresult bad = ReadOptions(count, options, values, &ignored)) return bad;
  if (data == nullptr || size == 0 || static_cast<unsigned int>(type) >= kInputTypes)
    return CUDA_ERROR_INVALID_VALUE;
  std::lock_guard guard(driver->mutex);
  auto* linker = Live<Linker>(*driver, handle, Kind::kLinker);
  if (linker == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  return Add(linker, static_cast<unsigned int>(type), data, size, name);
}

CUresult cuLinkAddFile_v2(CUlinkState handle, CUjitInputType type, const char* path,
                          unsigned int count, CUjit_option* options, void** values) {
  SIMGPU_CURRENT(driver, context);
  JitLog ignored;
  if (CUresult bad = ReadOptions(count, options, values, &ignored)) return bad;
  if (path == nullptr || static_cast<unsigned int>(type) >= kInputTypes)
    return CUDA_ERROR_INVALID_VALUE;
  std::ifstream in(path, std::ios::binary);
  if (!in) return CUDA_ERROR_FILE_NOT_FOUND;
  std::string bytes((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
  std::lock_guard guard(driver->mutex);
  auto* linker = Live<Linker>(*driver, handle, Kind::kLinker);
  if (linker == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  return Add(linker, static_cast<unsigned int>(type), bytes.data(), bytes.size(), path);
}

CUresult cuLinkComplete(CUlinkState handle, void** image, size_t* size) {
  SIMGPU_CURRENT(driver, context);
  if (image == nullptr) return CUDA_ERROR_INVALID_VALUE;
  std::lock_guard guard(driver->mutex);
  auto* linker = Live<Linker>(*driver, handle, Kind::kLinker);
  if (linker == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  std::vector<ptx::LinkInput> inputs;
  for (const auto& [name, text] : linker->inputs) inputs.push_back({name, text});
  std::string merged, why;
  if (!ptx::Link(inputs, &merged, &why)) return Refuse(linker, CUDA_ERROR_INVALID_PTX, why);
  linker->image = LinkedImage(merged);
  WriteLog("", linker->log.error, linker->log.error_size, linker->log.error_size_slot);
  WriteLog("linked " + std::to_string(inputs.size()) + " inputs", linker->log.info,
           linker->log.info_size, linker->log.info_size_slot);
  *image = linker->image.data();
  if (size != nullptr) *size = linker->image.size();
  return CUDA_SUCCESS;
}

CUresult cuLinkDestroy(CUlinkState handle) {
  SIMGPU_DRIVER(driver);
  std::lock_guard guard(driver->mutex);
  auto* linker = Live<Linker>(*driver, handle, Kind::kLinker);
  if (linker == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  driver->live.erase(linker);
  delete linker;
  return CUDA_SUCCESS;
}

SIMGPU_ALIAS(cuLinkCreate_v2, cuLinkCreate);
SIMGPU_ALIAS(cuLinkAddData_v2, cuLinkAddData);
SIMGPU_ALIAS(cuLinkAddFile_v2, cuLinkAddFile);

}  // extern "C"
}  // namespace tessera::abi
