// A driver that does nothing, as fast as a driver can: for measuring what the guest adds to a call.
//
// Every entry point of the manifest is exported. Those not written here are generated and answer
// success at once. Addresses only ever rise; free and launch are counted; free memory is a counter.
// No lock, no syscall, no check of arguments beyond what a correct program needs. Not for running
// programs.
#include <string.h>

#include <algorithm>
#include <atomic>
#include <iterator>

#include "abi/cuda.h"

namespace tessera::abi {
#include "simgpu/cuda_declarations.inc"

namespace {

constexpr unsigned long kMemory = 80ul << 30;
constexpr CUdeviceptr kFirstAddress = 0x7000'0000'0000;

std::atomic<CUdeviceptr> g_next{kFirstAddress};
std::atomic<unsigned long> g_allocated{0};
std::atomic<unsigned long> g_frees{0};
std::atomic<unsigned long> g_launches{0};
thread_local CUcontext t_current = nullptr;

// Handles nobody looks into: any address of ours that is not null.
char g_context, g_module, g_function, g_stream, g_event, g_library, g_kernel, g_pool, g_graph;

template <typename T>
T Handle(char* thing) {
  return reinterpret_cast<T>(thing);
}

struct Proc {
  const char* base;
  int version;
  bool per_thread;
  void* function;
};

const Proc kProcs[] = {
#define TESSERA_PROC(base, version, per_thread, symbol) \
  {#base, version, per_thread, reinterpret_cast<void*>(&symbol)},
#include "simgpu/cuda_table.inc"
#undef TESSERA_PROC
};

}  // namespace

extern "C" {

CUresult cuDriverGetVersion(int* version) {
  *version = kCudaVersion;
  return CUDA_SUCCESS;
}
CUresult cuDeviceGetCount(int* count) {
  *count = 1;
  return CUDA_SUCCESS;
}
CUresult cuDeviceGet(CUdevice* device, int ordinal) {
  if (ordinal != 0) return CUDA_ERROR_INVALID_DEVICE;
  *device = 0;
  return CUDA_SUCCESS;
}
CUresult cuDeviceGetName(char* name, int length, CUdevice) {
  strncpy(name, "simgpu null", length > 0 ? length : 0);
  return CUDA_SUCCESS;
}
CUresult cuDeviceGetUuid_v2(CUuuid* uuid, CUdevice) {
  memcpy(uuid->bytes, "simgpu-null-card", 16);
  return CUDA_SUCCESS;
}
CUresult cuDeviceGetUuid(CUuuid* uuid, CUdevice device) { return cuDeviceGetUuid_v2(uuid, device); }
CUresult cuDeviceTotalMem_v2(size_t* bytes, CUdevice) {
  *bytes = kMemory;
  return CUDA_SUCCESS;
}
CUresult cuDeviceGetAttribute(int* value, CUdevice_attribute attribute, CUdevice) {
  *value = attribute == CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR ? 8
           : attribute == CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT   ? 108
           : attribute == CU_DEVICE_ATTRIBUTE_WARP_SIZE              ? 32
           : attribute == CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK  ? 1024
                                                                     : 0;
  return CUDA_SUCCESS;
}
CUresult cuDevicePrimaryCtxRetain(CUcontext* context, CUdevice) {
  *context = Handle<CUcontext>(&g_context);
  return CUDA_SUCCESS;
}
CUresult cuDevicePrimaryCtxGetState(CUdevice, unsigned int* flags, int* active) {
  *flags = 0;
  *active = 1;
  return CUDA_SUCCESS;
}
CUresult cuCtxCreate_v2(CUcontext* context, unsigned int, CUdevice) {
  *context = t_current = Handle<CUcontext>(&g_context);
  return CUDA_SUCCESS;
}
CUresult cuCtxCreate_v3(CUcontext* context, CUexecAffinityParam*, int, unsigned int flags,
                        CUdevice device) {
  return cuCtxCreate_v2(context, flags, device);
}
CUresult cuCtxCreate_v4(CUcontext* context, CUctxCreateParams*, unsigned int flags,
                        CUdevice device) {
  return cuCtxCreate_v2(context, flags, device);
}
CUresult cuCtxSetCurrent(CUcontext context) {
  t_current = context;
  return CUDA_SUCCESS;
}
CUresult cuCtxPushCurrent_v2(CUcontext context) { return cuCtxSetCurrent(context); }
CUresult cuCtxGetCurrent(CUcontext* context) {
  *context = t_current;
  return CUDA_SUCCESS;
}
CUresult cuCtxPopCurrent_v2(CUcontext* context) {
  if (context != nullptr) *context = t_current;
  t_current = nullptr;
  return CUDA_SUCCESS;
}
CUresult cuCtxGetDevice(CUdevice* device) {
  *device = 0;
  return CUDA_SUCCESS;
}
CUresult cuCtxGetDevice_v2(CUdevice* device, CUcontext) { return cuCtxGetDevice(device); }
CUresult cuCtxGetApiVersion(CUcontext, unsigned int* version) {
  *version = 3020;
  return CUDA_SUCCESS;
}

CUresult cuMemAlloc_v2(CUdeviceptr* address, size_t bytes) {
  const size_t whole = (bytes + 511) & ~size_t{511};
  *address = g_next.fetch_add(whole, std::memory_order_relaxed);
  g_allocated.fetch_add(whole, std::memory_order_relaxed);
  return CUDA_SUCCESS;
}
CUresult cuMemFree_v2(CUdeviceptr) {
  g_frees.fetch_add(1, std::memory_order_relaxed);
  return CUDA_SUCCESS;
}
CUresult cuMemAllocAsync(CUdeviceptr* address, size_t bytes, CUstream) {
  return cuMemAlloc_v2(address, bytes);
}
CUresult cuMemAllocAsync_ptsz(CUdeviceptr* address, size_t bytes, CUstream) {
  return cuMemAlloc_v2(address, bytes);
}
CUresult cuMemFreeAsync(CUdeviceptr address, CUstream) { return cuMemFree_v2(address); }
CUresult cuMemFreeAsync_ptsz(CUdeviceptr address, CUstream) { return cuMemFree_v2(address); }
CUresult cuMemAllocManaged(CUdeviceptr* address, size_t bytes, unsigned int) {
  return cuMemAlloc_v2(address, bytes);
}
CUresult cuMemAllocPitch_v2(CUdeviceptr* address, size_t* pitch, size_t width, size_t height,
                            unsigned int) {
  *pitch = (width + 511) & ~size_t{511};
  return cuMemAlloc_v2(address, *pitch * height);
}
// What was ever allocated counts, wrapped to the card's size: a figure that moves, without a lock.
CUresult cuMemGetInfo_v2(size_t* free, size_t* total) {
  *free = kMemory - g_allocated.load(std::memory_order_relaxed) % kMemory;
  *total = kMemory;
  return CUDA_SUCCESS;
}

CUresult cuLaunchKernel(CUfunction, unsigned int, unsigned int, unsigned int, unsigned int,
                        unsigned int, unsigned int, unsigned int, CUstream, void**, void**) {
  g_launches.fetch_add(1, std::memory_order_relaxed);
  return CUDA_SUCCESS;
}
CUresult cuLaunchKernel_ptsz(CUfunction, unsigned int, unsigned int, unsigned int, unsigned int,
                             unsigned int, unsigned int, unsigned int, CUstream, void**, void**) {
  g_launches.fetch_add(1, std::memory_order_relaxed);
  return CUDA_SUCCESS;
}
CUresult cuLaunchKernelEx(const CUlaunchConfig*, CUfunction, void**, void**) {
  g_launches.fetch_add(1, std::memory_order_relaxed);
  return CUDA_SUCCESS;
}
CUresult cuLaunchKernelEx_ptsz(const CUlaunchConfig*, CUfunction, void**, void**) {
  g_launches.fetch_add(1, std::memory_order_relaxed);
  return CUDA_SUCCESS;
}

CUresult cuModuleLoad(CUmodule* module, const char*) {
  *module = Handle<CUmodule>(&g_module);
  return CUDA_SUCCESS;
}
CUresult cuModuleLoadData(CUmodule* module, const void*) {
  *module = Handle<CUmodule>(&g_module);
  return CUDA_SUCCESS;
}
CUresult cuModuleLoadDataEx(CUmodule* module, const void*, unsigned int, CUjit_option*, void**) {
  *module = Handle<CUmodule>(&g_module);
  return CUDA_SUCCESS;
}
CUresult cuModuleLoadFatBinary(CUmodule* module, const void*) {
  *module = Handle<CUmodule>(&g_module);
  return CUDA_SUCCESS;
}
CUresult cuModuleGetFunction(CUfunction* function, CUmodule, const char*) {
  *function = Handle<CUfunction>(&g_function);
  return CUDA_SUCCESS;
}
CUresult cuModuleGetGlobal_v2(CUdeviceptr* address, size_t* bytes, CUmodule, const char*) {
  if (address != nullptr) *address = kFirstAddress;
  if (bytes != nullptr) *bytes = 4;
  return CUDA_SUCCESS;
}
CUresult cuLibraryLoadData(CUlibrary* library, const void*, CUjit_option*, void**, unsigned int,
                           CUlibraryOption*, void**, unsigned int) {
  *library = Handle<CUlibrary>(&g_library);
  return CUDA_SUCCESS;
}
CUresult cuLibraryGetKernel(CUkernel* kernel, CUlibrary, const char*) {
  *kernel = Handle<CUkernel>(&g_kernel);
  return CUDA_SUCCESS;
}
CUresult cuKernelGetFunction(CUfunction* function, CUkernel) {
  *function = Handle<CUfunction>(&g_function);
  return CUDA_SUCCESS;
}
CUresult cuStreamCreate(CUstream* stream, unsigned int) {
  *stream = Handle<CUstream>(&g_stream);
  return CUDA_SUCCESS;
}
CUresult cuStreamCreateWithPriority(CUstream* stream, unsigned int, int) {
  *stream = Handle<CUstream>(&g_stream);
  return CUDA_SUCCESS;
}
// The one thing this driver does: who waits for such a word would wait for good.
CUresult cuMemHostGetDevicePointer_v2(CUdeviceptr* address, void* pointer, unsigned int) {
  *address = reinterpret_cast<CUdeviceptr>(pointer);
  return CUDA_SUCCESS;
}
CUresult cuStreamWriteValue32_v2(CUstream, CUdeviceptr address, cuuint32_t value, unsigned int) {
  __atomic_store_n(reinterpret_cast<cuuint32_t*>(address), value, __ATOMIC_RELEASE);
  return CUDA_SUCCESS;
}
CUresult cuStreamIsCapturing(CUstream, CUstreamCaptureStatus* status) {
  *status = CU_STREAM_CAPTURE_STATUS_NONE;
  return CUDA_SUCCESS;
}
CUresult cuStreamIsCapturing_ptsz(CUstream stream, CUstreamCaptureStatus* status) {
  return cuStreamIsCapturing(stream, status);
}
CUresult cuEventCreate(CUevent* event, unsigned int) {
  *event = Handle<CUevent>(&g_event);
  return CUDA_SUCCESS;
}
CUresult cuEventElapsedTime_v2(float* milliseconds, CUevent, CUevent) {
  *milliseconds = 0;
  return CUDA_SUCCESS;
}
CUresult cuEventElapsedTime(float* milliseconds, CUevent start, CUevent end) {
  return cuEventElapsedTime_v2(milliseconds, start, end);
}
CUresult cuDeviceGetDefaultMemPool(CUmemoryPool* pool, CUdevice) {
  *pool = Handle<CUmemoryPool>(&g_pool);
  return CUDA_SUCCESS;
}
CUresult cuGraphCreate(CUgraph* graph, unsigned int) {
  *graph = Handle<CUgraph>(&g_graph);
  return CUDA_SUCCESS;
}
CUresult cuGraphInstantiateWithFlags(CUgraphExec* graph, CUgraph, unsigned long long) {
  *graph = Handle<CUgraphExec>(&g_graph);
  return CUDA_SUCCESS;
}
CUresult cuGetErrorName(CUresult error, const char** name) {
  *name = error == CUDA_SUCCESS ? "CUDA_SUCCESS" : "CUDA_ERROR_UNKNOWN";
  return CUDA_SUCCESS;
}
CUresult cuGetErrorString(CUresult error, const char** text) { return cuGetErrorName(error, text); }

CUresult cuGetExportTable(const void** table, const CUuuid*) {
  *table = nullptr;
  return CUDA_ERROR_NOT_SUPPORTED;
}

CUresult cuGetProcAddress_v2(const char* name, void** function, int version, cuuint64_t flags,
                             CUdriverProcAddressQueryResult* status) {
  const Proc* at = std::lower_bound(
      std::begin(kProcs), std::end(kProcs), name,
      [](const Proc& proc, const char* key) { return strcmp(proc.base, key) < 0; });
  const Proc* legacy = nullptr;
  const Proc* flagged = nullptr;
  for (; at != std::end(kProcs) && strcmp(at->base, name) == 0; ++at) {
    if (at->version <= version) (at->per_thread ? flagged : legacy) = at;
  }
  const bool per_thread = (flags & CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM) != 0;
  const Proc* found = per_thread && flagged != nullptr ? flagged : legacy;
  *function = found != nullptr ? found->function : nullptr;
  if (status != nullptr) {
    *status = found != nullptr ? CU_GET_PROC_ADDRESS_SUCCESS : CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND;
  }
  return found != nullptr ? CUDA_SUCCESS : CUDA_ERROR_NOT_FOUND;
}
CUresult cuGetProcAddress(const char* name, void** function, int version, cuuint64_t flags) {
  return cuGetProcAddress_v2(name, function, version, flags, nullptr);
}

// How many frees and launches arrived: lets a measurement prove that the calls were made.
void simgpu_null_counts(unsigned long* frees, unsigned long* launches) {
  *frees = g_frees.load();
  *launches = g_launches.load();
}

}  // extern "C"
}  // namespace tessera::abi
