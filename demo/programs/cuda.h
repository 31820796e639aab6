// The part of the public CUDA driver API that the demo programs call, looked up in libcuda.so.1 at
// run time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <string>

namespace demo {

using Result = int;  // CUresult
using DevicePointer = unsigned long long;
using Context = void*;
using Module = void*;
using Function = void*;

struct Driver {
  Result (*Init)(unsigned flags);
  Result (*DeviceGet)(int* device, int ordinal);
  Result (*DeviceGetName)(char* name, int length, int device);
  Result (*CtxCreate)(Context* context, unsigned flags, int device);
  Result (*CtxDestroy)(Context context);
  Result (*CtxSynchronize)();
  Result (*MemGetInfo)(size_t* free, size_t* total);
  Result (*MemAlloc)(DevicePointer* pointer, size_t bytes);
  Result (*MemFree)(DevicePointer pointer);
  Result (*MemcpyHtoD)(DevicePointer to, const void* from, size_t bytes);
  Result (*MemcpyDtoH)(void* to, DevicePointer from, size_t bytes);
  Result (*ModuleLoadData)(Module* module, const void* image);
  Result (*ModuleGetFunction)(Function* function, Module module, const char* name);
  Result (*LaunchKernel)(Function function, unsigned grid_x, unsigned grid_y, unsigned grid_z,
                         unsigned block_x, unsigned block_y, unsigned block_z,
                         unsigned shared_bytes, void* stream, void** params, void** extra);
};

// One context on the first visible device with the demo kernels loaded. Prints `error=...` lines to
// standard output and ends the program with status 2 when the driver says no. Not thread-safe.
class Session {
 public:
  explicit Session(const char* program);
  ~Session();
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  const Driver& driver() const { return driver_; }
  const std::string& device() const { return device_; }  // Blanks become underscores.

  // Ends the program when `result` is not 0.
  void Check(Result result, const char* call) const;
  Function Kernel(const char* name) const;
  void Launch(Function function, unsigned grid_x, unsigned grid_y, unsigned block_x,
              unsigned block_y, void** params) const;

 private:
  const char* program_;
  Driver driver_{};
  std::string device_;
  Context context_ = nullptr;
  Module module_ = nullptr;
};

// The value of `--name N` among the arguments, or `fallback`. Ends the program with a message on
// anything that is not a whole number in [low, high].
uint64_t NumberOption(int argc, char** argv, const char* name, uint64_t fallback, uint64_t low,
                      uint64_t high);
// Ends the program when an argument is neither one of `names` nor the value of one.
void CheckOptions(int argc, char** argv, std::initializer_list<const char*> names);

}  // namespace demo
