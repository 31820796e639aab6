// A plain CUDA program that knows nothing of Tessera and takes memory of a card in one way, named
// by its argument, until it is refused: for doors_test.cc. "door list" prints the ways to take a
// card's memory, "door host" those to pin the machine's.
//
// Speaks by lines: after taking "STEPS CODE", after giving everything back "CODE", each once a line
// was read; CODE is the driver's last answer.
#include <dlfcn.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <type_traits>
#include <vector>

#include "abi/cuda.h"
#include "abi/cuda_graph.h"
#include "abi/cuda_memory.h"
#include "guest/testdata/calls.h"

using namespace tessera::abi;

namespace {

constexpr size_t kMiB = size_t{1} << 20;
constexpr size_t kUnit = 16 * kMiB;
constexpr unsigned kOutOfMemory = 2, kInvalidDevice = 101, kNotSupported = 801;
constexpr int kStepsMax = 64;  // more than any slice of the test holds

const char* g_program = nullptr;
CUcontext g_context = nullptr;

// What gives back what was taken, newest first.
std::vector<std::function<void()>> g_undo;
template <typename Undo>
void Later(const Undo& undo) {
  g_undo.emplace_back(undo);
}

// Remembers to free what a call made, if it made it. By reference: the call is an argument too, and
// may come after the others.
unsigned Keep(unsigned code, const char* free, const CUdeviceptr& made) {
  if (code != 0) return code;
  const CUdeviceptr pointer = made;
  Later([=] { Cuda(free, pointer); });
  return code;
}
template <typename Handle>
unsigned KeepHandle(unsigned code, const char* free, const Handle& made) {
  if (code != 0) return code;
  const Handle handle = made;
  Later([=] { Cuda(free, handle); });
  return code;
}

// Plain memory ------------------------------------------------------------------------------------

unsigned Alloc(const char* name, size_t bytes) {
  CUdeviceptr pointer = 0;
  const unsigned code = Cuda(name, &pointer, bytes);
  return Keep(code, "cuMemFree_v2", pointer);
}
unsigned Plain() { return Alloc("cuMemAlloc_v2", kUnit); }
unsigned Small() {
  for (size_t taken = 0; taken < kUnit; taken += 64 << 10) {
    if (unsigned code = Alloc("cuMemAlloc_v2", 64 << 10)) return code;
  }
  return 0;
}
unsigned AByteOver() {
  for (size_t taken = 0; taken < kUnit; taken += 4 * kMiB) {
    if (unsigned code = Alloc("cuMemAlloc_v2", 2 * kMiB + 1)) return code;
  }
  return 0;
}
unsigned OldAlloc() { return Alloc("cuMemAlloc", kUnit); }
// The driver's own lookup, as the runtime does it.
unsigned Looked(const char* lookup, int version, unsigned long long flags, bool stream) {
  void* function = nullptr;
  unsigned found = 0;
  const char* name = stream ? "cuMemAllocAsync" : "cuMemAlloc";
  unsigned code = std::strcmp(lookup, "cuGetProcAddress") == 0
                      ? Cuda(lookup, name, &function, version, flags)
                      : Cuda(lookup, name, &function, version, flags, &found);
  if (code != 0 || function == nullptr) return 9998;
  CUdeviceptr pointer = 0;
  code = stream ? reinterpret_cast<unsigned (*)(CUdeviceptr*, size_t, CUstream)>(function)(
                      &pointer, kUnit, nullptr)
                : reinterpret_cast<unsigned (*)(CUdeviceptr*, size_t)>(function)(&pointer, kUnit);
  return Keep(code, "cuMemFree_v2", pointer);
}
unsigned ByLookup() { return Looked("cuGetProcAddress", 12000, 0, false); }
unsigned ByLookup2() { return Looked("cuGetProcAddress_v2", 13000, 0, false); }
unsigned ByLookupPerThread() { return Looked("cuGetProcAddress_v2", 12000, 2, true); }
unsigned ByVersionedName() {
  CUdeviceptr pointer = 0;
  auto* const function = reinterpret_cast<unsigned (*)(CUdeviceptr*, size_t)>(
      dlvsym(g_cuda, "cuMemAlloc_v2", "libcuda.so.1"));
  if (function == nullptr) return Plain();
  return Keep(function(&pointer, kUnit), "cuMemFree_v2", pointer);
}
unsigned Pitch(size_t width, size_t height) {
  CUdeviceptr pointer = 0;
  size_t pitch = 0;
  const unsigned code = Cuda("cuMemAllocPitch_v2", &pointer, &pitch, width, height, 4u);
  return Keep(code, "cuMemFree_v2", pointer);
}
unsigned WidePitch() { return Pitch(4096, kUnit / 4096); }
unsigned NarrowPitch() { return Pitch(8, kUnit / 512); }
unsigned Managed() {
  CUdeviceptr pointer = 0;
  const unsigned code = Cuda("cuMemAllocManaged", &pointer, kUnit, 1u);
  return Keep(code, "cuMemFree_v2", pointer);
}
// Freed by a stream that is busy: the memory is held until the stream gets there.
unsigned FreedInStream() {
  static CUstream stream = nullptr;
  if (stream == nullptr)
    KeepHandle(Cuda("cuStreamCreate", &stream, 1u), "cuStreamDestroy_v2", stream);
  CUdeviceptr pointer = 0;
  if (unsigned code = Cuda("cuMemAlloc_v2", &pointer, kUnit)) return code;
  Cuda("cuLaunchHostFunc", stream, +[](void*) { usleep(2000); }, static_cast<void*>(nullptr));
  // Where the driver does not free it in the stream, it is kept.
  if (Cuda("cuMemFreeAsync", pointer, stream) != 0) return Keep(0, "cuMemFree_v2", pointer);
  return Alloc("cuMemAlloc_v2", kUnit);
}

// Pools -------------------------------------------------------------------------------------------

CUmemoryPool NewPool(int exportable = 0) {
  CUmemPoolProps props = {};
  props.allocType = CU_MEM_ALLOCATION_TYPE_PINNED;
  props.location = {CU_MEM_LOCATION_TYPE_DEVICE, 0};
  props.handleTypes = static_cast<CUmemAllocationHandleType>(exportable);
  CUmemoryPool pool = nullptr;
  KeepHandle(Cuda("cuMemPoolCreate", &pool, &props), "cuMemPoolDestroy", pool);
  return pool;
}
CUmemoryPool Pool() {
  static CUmemoryPool pool = NewPool();
  return pool;
}
CUmemoryPool DefaultPool() {
  CUmemoryPool pool = nullptr;
  Cuda("cuDeviceGetDefaultMemPool", &pool, 0);
  return pool;
}
void Threshold(CUmemoryPool pool) {
  cuuint64_t all = ~cuuint64_t{0};
  Cuda("cuMemPoolSetAttribute", pool, 4u, static_cast<void*>(&all));
  Later([pool] {
    cuuint64_t nothing = 0;
    Cuda("cuMemPoolSetAttribute", pool, 4u, static_cast<void*>(&nothing));
    Cuda("cuMemPoolTrimTo", pool, size_t{0});
  });
}
unsigned Async(const char* name) {
  CUdeviceptr pointer = 0;
  const unsigned code = Cuda(name, &pointer, kUnit, static_cast<CUstream>(nullptr));
  if (code == 0) Later([=] { Cuda("cuMemFreeAsync", pointer, static_cast<CUstream>(nullptr)); });
  return code;
}
unsigned AsyncDefault() { return Async("cuMemAllocAsync"); }
unsigned AsyncPerThread() { return Async("cuMemAllocAsync_ptsz"); }
unsigned AsyncFreedPlainly() {
  CUdeviceptr pointer = 0;
  const unsigned code = Cuda("cuMemAllocAsync", &pointer, kUnit, static_cast<CUstream>(nullptr));
  return Keep(code, "cuMemFree_v2", pointer);
}
unsigned AsyncSmall() {
  for (size_t taken = 0; taken < kUnit; taken += 128 << 10) {
    CUdeviceptr pointer = 0;
    const unsigned code =
        Cuda("cuMemAllocAsync", &pointer, size_t{128 << 10}, static_cast<CUstream>(nullptr));
    if (Keep(code, "cuMemFree_v2", pointer) != 0) return code;
  }
  return 0;
}
unsigned From(CUmemoryPool pool, const char* name = "cuMemAllocFromPoolAsync") {
  CUdeviceptr pointer = 0;
  const unsigned code = Cuda(name, &pointer, kUnit, pool, static_cast<CUstream>(nullptr));
  if (code == 0) Later([=] { Cuda("cuMemFreeAsync", pointer, static_cast<CUstream>(nullptr)); });
  return code;
}
unsigned FromPool() { return From(Pool()); }
unsigned FromPoolPerThread() { return From(Pool(), "cuMemAllocFromPoolAsync_ptsz"); }
unsigned FromManyPools() { return From(NewPool()); }
// The pool is destroyed while its memory is in use, and lives on unseen.
unsigned FromDestroyedPool() {
  CUmemPoolProps props = {};
  props.allocType = CU_MEM_ALLOCATION_TYPE_PINNED;
  props.location = {CU_MEM_LOCATION_TYPE_DEVICE, 0};
  CUmemoryPool pool = nullptr;
  if (unsigned code = Cuda("cuMemPoolCreate", &pool, &props)) return code;
  const unsigned code = From(pool);
  Cuda("cuMemPoolDestroy", pool);
  return code;
}
unsigned CurrentPool() {
  if (g_undo.empty()) {
    CUmemoryPool pool = Pool();
    Cuda("cuDeviceSetMemPool", 0, pool);
  }
  return AsyncDefault();
}
unsigned CurrentPoolByLocation() {
  if (g_undo.empty()) {
    CUmemLocation location = {CU_MEM_LOCATION_TYPE_DEVICE, 0};
    Cuda("cuMemSetMemPool", &location, 1u, Pool());
  }
  return AsyncDefault();
}
// Freed and kept by the pool: above a threshold, or until somebody waits. Then taken elsewhere.
unsigned KeptByThreshold() {
  if (g_undo.empty()) Threshold(DefaultPool());
  CUdeviceptr pointer = 0;
  const size_t bytes = 5 * kUnit;
  if (Cuda("cuMemAllocAsync", &pointer, bytes, static_cast<CUstream>(nullptr)) == 0) {
    Cuda("cuMemFreeAsync", pointer, static_cast<CUstream>(nullptr));
    Cuda("cuCtxSynchronize");
  }
  return Plain();
}
unsigned KeptUntilAWait() {
  CUdeviceptr pointer = 0;
  const size_t bytes = 5 * kUnit;
  if (Cuda("cuMemAllocAsync", &pointer, bytes, static_cast<CUstream>(nullptr)) == 0) {
    Cuda("cuMemFreeAsync", pointer, static_cast<CUstream>(nullptr));
  }
  return Plain();
}
unsigned KeptInPieces() {
  if (g_undo.empty()) Threshold(DefaultPool());
  CUdeviceptr pieces[8] = {};
  for (CUdeviceptr& piece : pieces) {
    Cuda("cuMemAllocAsync", &piece, 2 * kMiB, static_cast<CUstream>(nullptr));
  }
  // Every second one stays, so that what is freed is of no use for anything larger.
  for (size_t i = 0; i < 8; ++i) {
    if (pieces[i] == 0) return kOutOfMemory;
    if (i % 2 == 0) {
      Cuda("cuMemFreeAsync", pieces[i], static_cast<CUstream>(nullptr));
    } else {
      Keep(0, "cuMemFree_v2", pieces[i]);
    }
  }
  return AsyncDefault();
}
unsigned ExportablePool() {
  static CUmemoryPool pool = NewPool(CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR);
  return From(pool);
}
// Exported and imported again by the same process: paid once, and no way round.
unsigned ImportedPool() {
  static CUmemoryPool pool = NewPool(CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR), imported = [] {
    int fd = -1;
    CUmemoryPool again = nullptr;
    Cuda("cuMemPoolExportToShareableHandle", static_cast<void*>(&fd), pool, 1u, 0ull);
    const unsigned code = Cuda("cuMemPoolImportFromShareableHandle", &again,
                               reinterpret_cast<void*>(static_cast<intptr_t>(fd)), 1u, 0ull);
    KeepHandle(code, "cuMemPoolDestroy", again);
    close(fd);
    return again;
  }();
  CUdeviceptr pointer = 0, other = 0;
  const unsigned code =
      Cuda("cuMemAllocFromPoolAsync", &pointer, kUnit, pool, static_cast<CUstream>(nullptr));
  if (code != 0) return code;
  Cuda("cuCtxSynchronize");
  CUmemPoolPtrExportData data = {};
  Keep(0, "cuMemFree_v2", pointer);
  if (Cuda("cuMemPoolExportPointer", &data, pointer) == 0 &&
      Cuda("cuMemPoolImportPointer", &other, imported, &data) == 0) {
    Keep(0, "cuMemFree_v2", other);
  }
  return 0;
}

// Four threads at once, each with a stream of its own and small pieces, some of them freed again.
unsigned FourThreads(const char* alloc, const char* free) {
  static CUstream streams[4] = {};
  std::vector<std::thread> threads;
  std::mutex mutex;
  unsigned worst = 0;
  for (CUstream& stream : streams) {
    if (stream != nullptr) continue;
    KeepHandle(Cuda("cuStreamCreate", &stream, 1u), "cuStreamDestroy_v2", stream);
  }
  for (CUstream stream : streams) {
    threads.emplace_back([&, stream] {
      Cuda("cuCtxSetCurrent", g_context);
      for (int i = 0; i < 8; ++i) {
        CUdeviceptr pointer = 0;
        const size_t bytes = (i + 1) * 300'000;
        const unsigned code = std::strcmp(alloc, "cuMemAllocAsync") == 0
                                  ? Cuda(alloc, &pointer, bytes, stream)
                                  : Cuda(alloc, &pointer, bytes);
        std::lock_guard<std::mutex> lock(mutex);
        if (code != 0) {
          worst = code;
        } else if (i % 3 == 2) {
          Cuda("cuMemFreeAsync", pointer, stream);
        } else {
          Keep(0, free, pointer);
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  return worst;
}
unsigned PlainThreads() { return FourThreads("cuMemAlloc_v2", "cuMemFree_v2"); }
unsigned AsyncThreads() { return FourThreads("cuMemAllocAsync", "cuMemFree_v2"); }

// Virtual memory ----------------------------------------------------------------------------------

CUmemAllocationProp Physical(bool exportable) {
  CUmemAllocationProp prop = {};
  prop.type = CU_MEM_ALLOCATION_TYPE_PINNED;
  prop.location = {CU_MEM_LOCATION_TYPE_DEVICE, 0};
  if (exportable) prop.requestedHandleTypes = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;
  return prop;
}
unsigned Create(CUmemGenericAllocationHandle* handle, bool exportable) {
  const CUmemAllocationProp prop = Physical(exportable);
  return Cuda("cuMemCreate", handle, kUnit, &prop, 0ull);
}
CUdeviceptr Map(CUmemGenericAllocationHandle handle, unsigned* code) {
  CUdeviceptr address = 0;
  *code = Cuda("cuMemAddressReserve", &address, kUnit, size_t{0}, CUdeviceptr{0}, 0ull);
  if (*code != 0) return 0;
  *code = Cuda("cuMemMap", address, kUnit, size_t{0}, handle, 0ull);
  if (*code == 0) Later([=] { Cuda("cuMemUnmap", address, kUnit); });
  return address;
}
unsigned Handles() {
  CUmemGenericAllocationHandle handle = 0;
  const unsigned code = Create(&handle, false);
  return KeepHandle(code, "cuMemRelease", handle);
}
unsigned ExportableHandles() {
  CUmemGenericAllocationHandle handle = 0;
  const unsigned code = Create(&handle, true);
  return KeepHandle(code, "cuMemRelease", handle);
}
// The usual practice: the handle goes right after mapping, the memory stays.
unsigned MappedAndReleased() {
  CUmemGenericAllocationHandle handle = 0;
  unsigned code = Create(&handle, false);
  if (code != 0) return code;
  Map(handle, &code);
  Cuda("cuMemRelease", handle);
  return code;
}
unsigned Retained() {
  CUmemGenericAllocationHandle handle = 0, again = 0;
  unsigned code = Create(&handle, false);
  if (code != 0) return code;
  const CUdeviceptr address = Map(handle, &code);
  // NOLINTNEXTLINE(performance-no-int-to-ptr): the driver takes it as a pointer
  Cuda("cuMemRetainAllocationHandle", &again, reinterpret_cast<void*>(address));
  Cuda("cuMemRelease", handle);
  Cuda("cuMemUnmap", address, kUnit);
  return KeepHandle(code, "cuMemRelease", again);
}
unsigned ExportedAndImported() {
  CUmemGenericAllocationHandle handle = 0, again = 0;
  unsigned code = Create(&handle, true);
  if (code != 0) return code;
  int fd = -1;
  code = Cuda("cuMemExportToShareableHandle", static_cast<void*>(&fd), handle, 1u, 0ull);
  if (code == 0) {
    code = Cuda("cuMemImportFromShareableHandle", &again,
                reinterpret_cast<void*>(static_cast<intptr_t>(fd)), 1u);
    close(fd);
  }
  Cuda("cuMemRelease", handle);
  return KeepHandle(code, "cuMemRelease", again);
}

// A second process of the slice, which makes memory and lets go of it.
int g_helper = -1;
pid_t g_helper_pid = 0;
void StartHelper(const char* kind) {
  int ends[2];
  if (g_helper >= 0 || socketpair(AF_UNIX, SOCK_SEQPACKET, 0, ends) != 0) return;
  g_helper_pid = fork();
  if (g_helper_pid == 0) {
    dup2(ends[1], 3);
    for (int fd = 4; fd < 64; ++fd) close(fd);
    execl(g_program, "door", "helper", kind, static_cast<char*>(nullptr));
    _exit(127);
  }
  close(ends[1]);
  g_helper = ends[0];
  Later([] {
    close(g_helper);
    waitpid(g_helper_pid, nullptr, 0);
  });
}
// One message of the helper: an answer, 64 bytes, a descriptor if there is one.
struct Message {
  unsigned code;
  unsigned char bytes[64];
};
void Tell(int to, const Message& message, int fd) {
  iovec data = {const_cast<Message*>(&message), sizeof(message)};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr header = {};
  header.msg_iov = &data;
  header.msg_iovlen = 1;
  if (fd >= 0) {
    header.msg_control = control;
    header.msg_controllen = sizeof(control);
    cmsghdr* rights = CMSG_FIRSTHDR(&header);
    rights->cmsg_level = SOL_SOCKET;
    rights->cmsg_type = SCM_RIGHTS;
    rights->cmsg_len = CMSG_LEN(sizeof(int));
    std::memcpy(CMSG_DATA(rights), &fd, sizeof(fd));
  }
  sendmsg(to, &header, MSG_NOSIGNAL);
}
Message Hear(int from, int* fd) {
  Message message = {7777, {}};
  iovec data = {&message, sizeof(message)};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr header = {};
  header.msg_iov = &data;
  header.msg_iovlen = 1;
  header.msg_control = control;
  header.msg_controllen = sizeof(control);
  if (recvmsg(from, &header, 0) <= 0) return message;
  cmsghdr* rights = CMSG_FIRSTHDR(&header);
  *fd = -1;
  if (rights != nullptr) std::memcpy(fd, CMSG_DATA(rights), sizeof(*fd));
  return message;
}
Message AskHelper(char command, int* fd) {
  send(g_helper, &command, 1, MSG_NOSIGNAL);
  return Hear(g_helper, fd);
}
// Made by another process, mapped here, and let go of there.
unsigned ImportedFromAnother(bool kept) {
  StartHelper("physical");
  int fd = -1;
  const Message made = AskHelper('m', &fd);
  if (made.code != 0) return made.code;
  CUmemGenericAllocationHandle handle = 0;
  unsigned code = Cuda("cuMemImportFromShareableHandle", &handle,
                       reinterpret_cast<void*>(static_cast<intptr_t>(fd)), 1u);
  close(fd);
  if (code == 0) Map(handle, &code);
  if (handle != 0) Cuda("cuMemRelease", handle);
  int none = -1;
  if (!kept) AskHelper('r', &none);
  return code;
}
unsigned ImportedAndLetGo() { return ImportedFromAnother(false); }
unsigned ImportedAndKept() { return ImportedFromAnother(true); }
// Made and kept by another process, opened here.
unsigned OpenedFromAnother() {
  StartHelper("ipc");
  int fd = -1;
  const Message made = AskHelper('m', &fd);
  if (made.code != 0) return made.code;
  CUipcMemHandle handle = {};
  std::memcpy(&handle, made.bytes, sizeof(handle));
  CUdeviceptr pointer = 0;
  const unsigned code = Cuda("cuIpcOpenMemHandle_v2", &pointer, handle, 1u);
  return Keep(code, "cuIpcCloseMemHandle", pointer);
}

// Arrays ------------------------------------------------------------------------------------------

unsigned Array2(size_t width, size_t height, CUarray_format format, unsigned channels) {
  const CUDA_ARRAY_DESCRIPTOR wanted = {width, height, format, channels};
  CUarray array = nullptr;
  const unsigned code = Cuda("cuArrayCreate_v2", &array, &wanted);
  return KeepHandle(code, "cuArrayDestroy", array);
}
unsigned Array() { return Array2(2048, 2048, CU_AD_FORMAT_FLOAT, 1); }
unsigned NarrowArray() {
  for (int i = 0; i < 8; ++i) {
    if (unsigned code = Array2(1, 32768, CU_AD_FORMAT_UNSIGNED_INT8, 1)) return code;
  }
  return 0;
}
unsigned PlanarArray() {
  return Array2(4096, 2048, static_cast<CUarray_format>(CU_AD_FORMAT_NV12), 3);
}
unsigned Array3(size_t width, size_t height, size_t depth, unsigned flags) {
  const CUDA_ARRAY3D_DESCRIPTOR wanted = {width, height, depth, CU_AD_FORMAT_FLOAT, 1, flags};
  CUarray array = nullptr;
  const unsigned code = Cuda("cuArray3DCreate_v2", &array, &wanted);
  return KeepHandle(code, "cuArrayDestroy", array);
}
unsigned Volume() { return Array3(256, 256, 64, 0); }
unsigned Layers() {
  for (int i = 0; i < 16; ++i) {
    if (unsigned code = Array3(3, 3, 2000, CUDA_ARRAY3D_LAYERED)) return code;
  }
  return 0;
}
unsigned Cube() { return Array3(1024, 1024, 6, CUDA_ARRAY3D_CUBEMAP); }
unsigned Mip(size_t width, size_t height, size_t depth, unsigned flags) {
  const CUDA_ARRAY3D_DESCRIPTOR wanted = {width, height, depth, CU_AD_FORMAT_FLOAT, 1, flags};
  CUmipmappedArray array = nullptr;
  const unsigned code = Cuda("cuMipmappedArrayCreate", &array, &wanted, 16u);
  return KeepHandle(code, "cuMipmappedArrayDestroy", array);
}
unsigned Mipmap() { return Mip(2048, 1024, 0, 0); }
unsigned SmallMipmap() { return Mip(8, 8, 2000, CUDA_ARRAY3D_LAYERED); }
unsigned OldArray() {
  CUarray array = nullptr;
  char descriptor[64] = {};
  const unsigned code = Cuda("cuArrayCreate", &array, static_cast<void*>(descriptor));
  return KeepHandle(code, "cuArrayDestroy", array);
}
unsigned OldArray3D() {
  CUarray array = nullptr;
  char descriptor[64] = {};
  const unsigned code = Cuda("cuArray3DCreate", &array, static_cast<void*>(descriptor));
  return KeepHandle(code, "cuArrayDestroy", array);
}

// Contexts ----------------------------------------------------------------------------------------

unsigned Context(const std::function<unsigned(CUcontext*)>& make) {
  CUcontext context = nullptr;
  const unsigned code = make(&context);
  if (code == 0) Cuda("cuCtxPopCurrent_v2", &context);
  return KeepHandle(code, "cuCtxDestroy_v2", context);
}
unsigned Context2() {
  return Context([](CUcontext* made) { return Cuda("cuCtxCreate_v2", made, 0u, 0); });
}
unsigned Context3() {
  return Context([](CUcontext* made) {
    return Cuda("cuCtxCreate_v3", made, static_cast<void*>(nullptr), 0, 0u, 0);
  });
}
unsigned Context4() {
  return Context([](CUcontext* made) {
    return Cuda("cuCtxCreate_v4", made, static_cast<void*>(nullptr), 0u, 0);
  });
}
unsigned OtherCard() {
  CUcontext context = nullptr;
  return Cuda("cuDevicePrimaryCtxRetain", &context, 1);
}
unsigned GreenContext() {
  void* context = nullptr;
  return Cuda("cuGreenCtxCreate", &context, static_cast<void*>(nullptr), 0, 1u);
}
unsigned GlContext() {
  CUcontext context = nullptr;
  return Cuda("cuGLCtxCreate_v2", &context, 0u, 0);
}

// Code --------------------------------------------------------------------------------------------

constexpr char kGlobals[] = R"(
.version 7.0
.target sm_75
.address_size 64
.visible .global .align 4 .b8 table[16777216];
.visible .entry nothing() { ret; }
)";
constexpr char kHeap[] = R"(
.version 7.0
.target sm_75
.address_size 64
.extern .func (.param .b64 result) malloc (.param .b64 size);
.visible .entry take() {
  .reg .b64 %d<2>;
  .param .b64 size;
  .param .b64 result;
  mov.u64 %d0, 65536;
  st.param.b64 [size], %d0;
  call.uni (result), malloc, (size);
  ret;
}
)";
unsigned Module() {
  CUmodule module = nullptr;
  const unsigned code = Cuda("cuModuleLoadData", &module, static_cast<const void*>(kGlobals));
  return KeepHandle(code, "cuModuleUnload", module);
}
unsigned ModuleWithOptions() {
  CUmodule module = nullptr;
  const unsigned code = Cuda("cuModuleLoadDataEx", &module, static_cast<const void*>(kGlobals), 0u,
                             static_cast<void*>(nullptr), static_cast<void**>(nullptr));
  return KeepHandle(code, "cuModuleUnload", module);
}
std::string CodeFile() {
  static const std::string path = [] {
    char name[] = "/tmp/tessera-door-XXXXXX";
    const int fd = mkstemp(name);
    if (fd < 0 || write(fd, kGlobals, sizeof(kGlobals) - 1) < 0) std::abort();
    close(fd);
    const std::string made = name;
    Later([made] { unlink(made.c_str()); });
    return made;
  }();
  return path;
}
unsigned ModuleFile() {
  CUmodule module = nullptr;
  const unsigned code = Cuda("cuModuleLoad", &module, CodeFile().c_str());
  return KeepHandle(code, "cuModuleUnload", module);
}
unsigned Library(const char* call, const void* code_or_path) {
  CUlibrary library = nullptr;
  void* const none = nullptr;
  const unsigned code = Cuda(call, &library, code_or_path, none, none, 0u, none, none, 0u);
  // Loaded for a context when something of it is asked for.
  CUmodule module = nullptr;
  CUdeviceptr table = 0;
  size_t bytes = 0;
  unsigned used = code;
  static int calls = 0;
  if (code == 0 && ++calls % 2 == 0) used = Cuda("cuLibraryGetModule", &module, library);
  if (code == 0 && calls % 2 == 1) {
    used = Cuda("cuLibraryGetGlobal", &table, &bytes, library, "table");
  }
  KeepHandle(code, "cuLibraryUnload", library);
  return used;
}
unsigned LibraryData() { return Library("cuLibraryLoadData", kGlobals); }
unsigned LibraryFile() { return Library("cuLibraryLoadFromFile", CodeFile().c_str()); }
// The heap of in-kernel malloc, made larger step by step and then taken by a kernel.
unsigned Heap() {
  static size_t size = 0;
  static CUfunction take = nullptr;
  static int steps = 0;
  if (take == nullptr) {
    CUmodule module = nullptr;
    if (unsigned code = Cuda("cuModuleLoadData", &module, static_cast<const void*>(kHeap))) {
      return code;
    }
    if (unsigned code = Cuda("cuModuleGetFunction", &take, module, "take")) return code;
  }
  size += kUnit;
  const unsigned code = Cuda("cuCtxSetLimit", 2u, size);
  if (code != 0 || ++steps == kStepsMax) {
    void* const none = nullptr;
    Cuda("cuLaunchKernel", take, 1u, 1u, 1u, 1u, 1u, 1u, 0u, none, none, none);
    Cuda("cuCtxSynchronize");
  }
  return code;
}

// Graphs ------------------------------------------------------------------------------------------

CUgraph NewGraph() {
  CUgraph graph = nullptr;
  KeepHandle(Cuda("cuGraphCreate", &graph, 0u), "cuGraphDestroy", graph);
  return graph;
}
CUDA_MEM_ALLOC_NODE_PARAMS NodeMemory() {
  CUDA_MEM_ALLOC_NODE_PARAMS params = {};
  params.poolProps.allocType = CU_MEM_ALLOCATION_TYPE_PINNED;
  params.poolProps.location = {CU_MEM_LOCATION_TYPE_DEVICE, 0};
  params.bytesize = kUnit;
  return params;
}
unsigned Run(CUgraph graph, const char* how, CUdeviceptr allocated) {
  CUgraphExec exec = nullptr;
  CUDA_GRAPH_INSTANTIATE_PARAMS params = {};
  unsigned code;
  if (std::strcmp(how, "cuGraphInstantiate_v2") == 0) {
    code = Cuda(how, &exec, graph, static_cast<void*>(nullptr), static_cast<char*>(nullptr),
                size_t{0});
  } else if (std::strcmp(how, "cuGraphInstantiateWithParams") == 0) {
    code = Cuda(how, &exec, graph, &params);
  } else {
    code = Cuda(how, &exec, graph, 0ull);
  }
  if (code != 0) return code;
  Later([exec] { Cuda("cuGraphExecDestroy", exec); });
  code = Cuda("cuGraphLaunch", exec, static_cast<CUstream>(nullptr));
  if (code == 0 && allocated != 0) Keep(0, "cuMemFree_v2", allocated);
  Cuda("cuCtxSynchronize");
  return code;
}
unsigned AllocNode(const char* how) {
  CUgraph graph = NewGraph();
  CUgraphNode node = nullptr;
  CUDA_MEM_ALLOC_NODE_PARAMS memory = NodeMemory();
  if (unsigned code = Cuda("cuGraphAddMemAllocNode", &node, graph,
                           static_cast<const CUgraphNode*>(nullptr), size_t{0}, &memory)) {
    return code;
  }
  return Run(graph, how, memory.dptr);
}
unsigned GraphNode() { return AllocNode("cuGraphInstantiateWithFlags"); }
unsigned GraphNode2() { return AllocNode("cuGraphInstantiate_v2"); }
unsigned GraphNodeParams() { return AllocNode("cuGraphInstantiateWithParams"); }
unsigned GenericNode(bool edges) {
  CUgraph graph = NewGraph();
  CUgraphNode node = nullptr;
  CUgraphNodeParams params;
  std::memset(static_cast<void*>(&params), 0, sizeof(params));
  params.type = static_cast<CUgraphNodeType>(10);
  params.alloc = NodeMemory();
  const CUgraphNode* const none = nullptr;
  const unsigned code = edges ? Cuda("cuGraphAddNode_v2", &node, graph, none,
                                     static_cast<const void*>(nullptr), size_t{0}, &params)
                              : Cuda("cuGraphAddNode", &node, graph, none, size_t{0}, &params);
  if (code != 0) return code;
  return Run(graph, "cuGraphInstantiateWithFlags", params.alloc.dptr);
}
unsigned GraphGenericNode() { return GenericNode(false); }
unsigned GraphGenericNode2() { return GenericNode(true); }
unsigned Captured() {
  static CUstream stream = nullptr;
  if (stream == nullptr)
    KeepHandle(Cuda("cuStreamCreate", &stream, 1u), "cuStreamDestroy_v2", stream);
  CUgraph graph = nullptr;
  CUdeviceptr pointer = 0;
  if (unsigned code = Cuda("cuStreamBeginCapture_v2", stream, 2u)) return code;
  const unsigned code = Cuda("cuMemAllocAsync", &pointer, kUnit, stream);
  Cuda("cuStreamEndCapture", stream, &graph);
  if (graph != nullptr) Later([graph] { Cuda("cuGraphDestroy", graph); });
  return code != 0 ? code : Run(graph, "cuGraphInstantiateWithFlags", pointer);
}
// Allocated and freed within the graph: kept for graphs when the graph is gone.
unsigned LeftByGraph() {
  CUgraph graph = NewGraph();
  CUgraphNode node = nullptr, free = nullptr;
  CUDA_MEM_ALLOC_NODE_PARAMS memory = NodeMemory();
  memory.bytesize = 5 * kUnit;
  const CUgraphNode* const none = nullptr;
  CUgraphExec exec = nullptr;
  unsigned code = Cuda("cuGraphAddMemAllocNode", &node, graph, none, size_t{0}, &memory);
  if (code == 0) {
    code = Cuda("cuGraphAddMemFreeNode", &free, graph, static_cast<const CUgraphNode*>(&node),
                size_t{1}, memory.dptr);
  }
  if (code == 0) code = Cuda("cuGraphInstantiateWithFlags", &exec, graph, 0ull);
  if (code == 0) {
    Cuda("cuGraphLaunch", exec, static_cast<CUstream>(nullptr));
    Cuda("cuCtxSynchronize");
    Cuda("cuGraphExecDestroy", exec);
  }
  return Plain();
}

// The body of a conditional node may not hold memory nodes: nobody asks graphs for their bodies, so
// a driver that took them would let this through.
unsigned AllocatedInABody() {
  CUgraph graph = NewGraph();
  CUgraphConditionalHandle handle = 0;
  unsigned code = Cuda("cuGraphConditionalHandleCreate", &handle, graph, g_context, 1u, 1u);
  CUgraphNodeParams params;
  std::memset(static_cast<void*>(&params), 0, sizeof(params));
  params.type = CU_GRAPH_NODE_TYPE_CONDITIONAL;
  params.conditional.handle = handle;
  params.conditional.type = CU_GRAPH_COND_TYPE_IF;
  params.conditional.size = 1;
  const CUgraphNode* const none = nullptr;
  CUgraphNode node = nullptr;
  CUDA_MEM_ALLOC_NODE_PARAMS memory = NodeMemory();
  if (code == 0) code = Cuda("cuGraphAddNode", &node, graph, none, size_t{0}, &params);
  if (code == 0) {
    code = Cuda("cuGraphAddMemAllocNode", &node, params.conditional.phGraph_out[0], none, size_t{0},
                &memory);
  }
  return code != 0 ? code : Run(graph, "cuGraphInstantiateWithFlags", 0);
}

// External memory ---------------------------------------------------------------------------------

// What Vulkan's export of an allocation would give.
int Exported() {
  const int fd = static_cast<int>(syscall(SYS_memfd_create, "exported", 0u));
  if (fd < 0 || ftruncate(fd, kUnit) != 0) std::abort();
  return fd;
}
unsigned Import(CUexternalMemory* memory, int fd) {
  CUDA_EXTERNAL_MEMORY_HANDLE_DESC given = {};
  given.type = CU_EXTERNAL_MEMORY_HANDLE_TYPE_OPAQUE_FD;
  given.handle.fd = fd;
  given.size = kUnit;
  const unsigned code = Cuda("cuImportExternalMemory", memory, &given);
  if (code != 0) close(fd);
  return code;
}
unsigned External() {
  CUexternalMemory memory = nullptr;
  const unsigned code = Import(&memory, Exported());
  return KeepHandle(code, "cuDestroyExternalMemory", memory);
}
unsigned MapExternal(CUexternalMemory memory, size_t offset, size_t bytes) {
  CUDA_EXTERNAL_MEMORY_BUFFER_DESC given = {};
  given.offset = offset;
  given.size = bytes;
  CUdeviceptr pointer = 0;
  const unsigned code = Cuda("cuExternalMemoryGetMappedBuffer", &pointer, memory, &given);
  return Keep(code, "cuMemFree_v2", pointer);
}
// Mapped in two pieces, and the handle gone before them: they are what holds the memory.
unsigned ExternalBuffers() {
  CUexternalMemory memory = nullptr;
  unsigned code = Import(&memory, Exported());
  if (code != 0) return code;
  code = MapExternal(memory, 0, kUnit / 2);
  if (code == 0) code = MapExternal(memory, kUnit / 2, kUnit / 2);
  Cuda("cuDestroyExternalMemory", memory);
  return code;
}
unsigned ExternalArray() {
  CUexternalMemory memory = nullptr;
  unsigned code = Import(&memory, Exported());
  if (code != 0) return code;
  CUDA_EXTERNAL_MEMORY_MIPMAPPED_ARRAY_DESC given = {};
  given.arrayDesc = {1024, 1024, 0, CU_AD_FORMAT_FLOAT, 1, 0};
  given.numLevels = 3;
  CUmipmappedArray mipmap = nullptr;
  code = Cuda("cuExternalMemoryGetMappedMipmappedArray", &mipmap, memory, &given);
  Cuda("cuDestroyExternalMemory", memory);
  return KeepHandle(code, "cuMipmappedArrayDestroy", mipmap);
}
// Made by another process with cuMemCreate, imported here, and let go of there.
unsigned ExternalFromAnother(bool kept) {
  StartHelper("physical");
  int fd = -1;
  const Message made = AskHelper('m', &fd);
  if (made.code != 0) return made.code;
  CUexternalMemory memory = nullptr;
  const unsigned code = Import(&memory, fd);
  int none = -1;
  if (!kept) AskHelper('r', &none);
  return KeepHandle(code, "cuDestroyExternalMemory", memory);
}
unsigned ExternalOfAnother() { return ExternalFromAnother(false); }
unsigned ExternalKeptByBoth() { return ExternalFromAnother(true); }
// An array is charged by the driver's figure, here while memory is imported that the driver counts
// for another process: what that one pays must not look like room, which would stay when the import
// is gone.
unsigned ArrayBesideExternal() {
  static bool first = true;
  if (!first) return Plain();
  first = false;
  StartHelper("physical");
  int fd = -1;
  const Message made = AskHelper('m', &fd);
  if (made.code != 0) return made.code;
  CUexternalMemory memory = nullptr;
  unsigned code = Import(&memory, fd);
  if (code == 0) code = Array();
  Cuda("cuDestroyExternalMemory", memory);
  return code;
}

// Multicast ---------------------------------------------------------------------------------------

// A team of one device.
unsigned NewMulticast(CUmemGenericAllocationHandle* multicast) {
  CUmulticastObjectProp prop = {};
  prop.numDevices = 1;
  prop.size = kUnit;
  unsigned code = Cuda("cuMulticastCreate", multicast, &prop);
  if (code == 0) code = Cuda("cuMulticastAddDevice", *multicast, 0);
  return code;
}
// The object alone takes nothing, nor does mapping it: what is bound is charged, once.
unsigned MulticastMapped() {
  CUmemGenericAllocationHandle multicast = 0, memory = 0;
  unsigned code = Create(&memory, false);
  if (code != 0) return code;
  KeepHandle(0, "cuMemRelease", memory);
  code = NewMulticast(&multicast);
  if (code == 0) {
    KeepHandle(0, "cuMemRelease", multicast);
    code = Cuda("cuMulticastBindMem", multicast, size_t{0}, memory, size_t{0}, kUnit, 0ull);
  }
  if (code == 0) Map(multicast, &code);
  return code;
}
// Bound memory whose handle is gone is held by the object, which goes without unbinding it.
unsigned MulticastMemory() {
  CUmemGenericAllocationHandle multicast = 0, memory = 0;
  unsigned code = Create(&memory, false);
  if (code != 0) return code;
  code = NewMulticast(&multicast);
  if (code == 0) {
    code = Cuda("cuMulticastBindMem", multicast, size_t{0}, memory, size_t{0}, kUnit, 0ull);
  }
  Cuda("cuMemRelease", memory);
  return KeepHandle(code, "cuMemRelease", multicast);
}
// The same by address, and unbound before the object goes.
unsigned MulticastAddress() {
  CUmemGenericAllocationHandle multicast = 0, memory = 0;
  unsigned code = Create(&memory, false);
  if (code != 0) return code;
  CUdeviceptr address = 0;
  code = Cuda("cuMemAddressReserve", &address, kUnit, size_t{0}, CUdeviceptr{0}, 0ull);
  if (code == 0) code = Cuda("cuMemMap", address, kUnit, size_t{0}, memory, 0ull);
  if (code == 0) code = NewMulticast(&multicast);
  if (code == 0) code = Cuda("cuMulticastBindAddr", multicast, size_t{0}, address, kUnit, 0ull);
  Cuda("cuMemUnmap", address, kUnit);
  Cuda("cuMemRelease", memory);
  if (code != 0) return code;
  Later([multicast] {
    Cuda("cuMulticastUnbind", multicast, 0, size_t{0}, kUnit);
    Cuda("cuMemRelease", multicast);
  });
  return 0;
}

// Refused in one line, because what they take cannot be counted
// ------------------------------------

template <typename... Arguments>
unsigned Refused(const char* name, Arguments... arguments) {
  static_assert((std::is_scalar_v<Arguments> && ...));
  return Cuda(name, arguments...);
}
char g_out[4096];
char g_in[4096];
#define REFUSED(function, name, ...) \
  unsigned function() { return Refused(name, __VA_ARGS__); }
void* const kOut = g_out;
void* const kIn = g_in;
REFUSED(SparseMap, "cuMemMapArrayAsync", kIn, 1u, static_cast<void*>(nullptr))
REFUSED(GraphicsMap, "cuGraphicsMapResources", 1u, kIn, static_cast<void*>(nullptr))
REFUSED(GlBuffer, "cuGraphicsGLRegisterBuffer", kOut, 1u, 0u)
REFUSED(OldPitch, "cuMemAllocPitch", kOut, kOut, 1024u, 1024u, 4u)
REFUSED(OldGl, "cuCtxFromGreenCtx", kOut, kIn)
unsigned ManagedPool() {
  CUmemPoolProps props = {};
  props.allocType = CU_MEM_ALLOCATION_TYPE_MANAGED;
  props.location = {CU_MEM_LOCATION_TYPE_DEVICE, 0};
  CUmemoryPool pool = nullptr;
  return Cuda("cuMemPoolCreate", &pool, &props);
}

// Page-locked memory of the machine
// ------------------------------------------------------------------------------------------------

template <typename... Flags>
unsigned HostAlloc(const char* name, Flags... flags) {
  void* pointer = nullptr;
  const unsigned code = Cuda(name, &pointer, kUnit, flags...);
  return KeepHandle(code, "cuMemFreeHost", pointer);
}
unsigned HostAlloc2() { return HostAlloc("cuMemHostAlloc", 0u); }
unsigned HostPortable() { return HostAlloc("cuMemHostAlloc", 1u); }
unsigned AllocHost() { return HostAlloc("cuMemAllocHost_v2"); }
unsigned HostRegistered(const char* name, size_t offset) {
  char* const memory =
      static_cast<char*>(aligned_alloc(4096, kUnit + (offset == 0 ? 0 : size_t{4096})));
  if (memory == nullptr) return 9997;
  char* const from = memory + offset;
  const unsigned code = Cuda(name, static_cast<void*>(from), kUnit, 0u);
  if (code != 0) {
    std::free(memory);
    return code;
  }
  Later([=] {
    Cuda("cuMemHostUnregister", static_cast<void*>(from));
    std::free(memory);
  });
  return 0;
}
unsigned Registered() { return HostRegistered("cuMemHostRegister_v2", 0); }
unsigned RegisteredOld() { return HostRegistered("cuMemHostRegister", 0); }
// Its first and last page are locked as a whole.
unsigned RegisteredAcrossPages() { return HostRegistered("cuMemHostRegister_v2", 100); }
// What the driver refuses leaves nothing behind, and one that ends with its context neither.
unsigned RegisteredTwice() {
  static char* memory = static_cast<char*>(aligned_alloc(4096, kUnit));
  static bool first = true;
  if (first) {
    first = false;
    if (unsigned code = Cuda("cuMemHostRegister_v2", static_cast<void*>(memory), kUnit, 0u)) {
      return code;
    }
    Later([] { Cuda("cuMemHostUnregister", static_cast<void*>(memory)); });
    for (int i = 0; i < 40; ++i) {
      if (Cuda("cuMemHostRegister_v2", static_cast<void*>(memory), kUnit, 0u) == 0) return 9996;
    }
    return 0;
  }
  return AllocHost();
}
unsigned EndedWithItsContext() {
  for (int i = 0; i < 10; ++i) {
    CUcontext context = nullptr;
    if (unsigned code = Cuda("cuCtxCreate_v2", &context, 0u, 0)) return code;
    void* pointer = nullptr;
    const unsigned code = Cuda("cuMemAllocHost_v2", &pointer, kUnit);
    Cuda("cuCtxDestroy_v2", context);
    Cuda("cuCtxSetCurrent", g_context);
    if (code != 0) return code;
  }
  return AllocHost();
}

struct Door {
  const char* name;
  unsigned (*take)();
  unsigned refusal;
};
constexpr Door kDoors[] = {
    {"cuMemAlloc", Plain, kOutOfMemory},
    {"cuMemAlloc/small", Small, kOutOfMemory},
    {"cuMemAlloc/a_byte_over_a_granule", AByteOver, kOutOfMemory},
    {"cuMemAlloc/by_cuGetProcAddress", ByLookup, kOutOfMemory},
    {"cuMemAlloc/by_cuGetProcAddress_v2", ByLookup2, kOutOfMemory},
    {"cuMemAlloc/by_dlvsym", ByVersionedName, kOutOfMemory},
    {"cuMemAlloc/of_cuda_2", OldAlloc, kNotSupported},
    {"cuMemAlloc/freed_in_a_busy_stream", FreedInStream, kOutOfMemory},
    {"cuMemAllocPitch", WidePitch, kOutOfMemory},
    {"cuMemAllocPitch/narrow", NarrowPitch, kOutOfMemory},
    {"cuMemAllocPitch/of_cuda_2", OldPitch, kNotSupported},
    {"cuMemAllocManaged", Managed, kOutOfMemory},
    {"cuMemAllocAsync", AsyncDefault, kOutOfMemory},
    {"cuMemAllocAsync/per_thread", AsyncPerThread, kOutOfMemory},
    {"cuMemAllocAsync/per_thread_by_lookup", ByLookupPerThread, kOutOfMemory},
    {"cuMemAlloc/four_threads", PlainThreads, kOutOfMemory},
    {"cuMemAllocAsync/four_threads", AsyncThreads, kOutOfMemory},
    {"cuMemAllocAsync/small", AsyncSmall, kOutOfMemory},
    {"cuMemAllocAsync/freed_by_cuMemFree", AsyncFreedPlainly, kOutOfMemory},
    {"cuMemAllocAsync/kept_by_the_threshold", KeptByThreshold, kOutOfMemory},
    {"cuMemAllocAsync/kept_until_a_wait", KeptUntilAWait, kOutOfMemory},
    {"cuMemAllocAsync/kept_in_pieces", KeptInPieces, kOutOfMemory},
    {"cuMemAllocFromPoolAsync", FromPool, kOutOfMemory},
    {"cuMemAllocFromPoolAsync/per_thread", FromPoolPerThread, kOutOfMemory},
    {"cuMemAllocFromPoolAsync/many_pools", FromManyPools, kOutOfMemory},
    {"cuMemAllocFromPoolAsync/destroyed_pool", FromDestroyedPool, kOutOfMemory},
    {"cuMemAllocFromPoolAsync/exportable_pool", ExportablePool, kOutOfMemory},
    {"cuMemPoolImportPointer", ImportedPool, kOutOfMemory},
    {"cuMemPoolCreate/managed", ManagedPool, kNotSupported},
    {"cuDeviceSetMemPool", CurrentPool, kOutOfMemory},
    {"cuMemSetMemPool", CurrentPoolByLocation, kOutOfMemory},
    {"cuMemCreate", Handles, kOutOfMemory},
    {"cuMemCreate/exportable", ExportableHandles, kOutOfMemory},
    {"cuMemMap/handle_released", MappedAndReleased, kOutOfMemory},
    {"cuMemRetainAllocationHandle", Retained, kOutOfMemory},
    {"cuMemImportFromShareableHandle", ExportedAndImported, kOutOfMemory},
    {"cuMemImportFromShareableHandle/of_another_process", ImportedAndLetGo, kOutOfMemory},
    {"cuMemImportFromShareableHandle/kept_by_both", ImportedAndKept, kOutOfMemory},
    {"cuIpcOpenMemHandle/of_another_process", OpenedFromAnother, kOutOfMemory},
    {"cuArrayCreate", Array, kOutOfMemory},
    {"cuArrayCreate/narrow", NarrowArray, kOutOfMemory},
    {"cuArrayCreate/planar", PlanarArray, kOutOfMemory},
    {"cuArrayCreate/of_cuda_2", OldArray, kNotSupported},
    {"cuArray3DCreate", Volume, kOutOfMemory},
    {"cuArray3DCreate/layers", Layers, kOutOfMemory},
    {"cuArray3DCreate/cube", Cube, kOutOfMemory},
    {"cuArray3DCreate/of_cuda_2", OldArray3D, kNotSupported},
    {"cuMipmappedArrayCreate", Mipmap, kOutOfMemory},
    {"cuMipmappedArrayCreate/small_levels", SmallMipmap, kOutOfMemory},
    {"cuCtxCreate_v2", Context2, kOutOfMemory},
    {"cuCtxCreate_v3", Context3, kOutOfMemory},
    {"cuCtxCreate_v4", Context4, kOutOfMemory},
    {"cuDevicePrimaryCtxRetain/card_of_another", OtherCard, kInvalidDevice},
    {"cuGreenCtxCreate", GreenContext, kNotSupported},
    {"cuCtxFromGreenCtx", OldGl, kNotSupported},
    {"cuGLCtxCreate", GlContext, kNotSupported},
    {"cuCtxSetLimit/heap", Heap, kOutOfMemory},
    {"cuModuleLoadData", Module, kOutOfMemory},
    {"cuModuleLoadDataEx", ModuleWithOptions, kOutOfMemory},
    {"cuModuleLoad", ModuleFile, kOutOfMemory},
    {"cuLibraryLoadData", LibraryData, kOutOfMemory},
    {"cuLibraryLoadFromFile", LibraryFile, kOutOfMemory},
    {"cuGraphAddMemAllocNode/cuGraphInstantiateWithFlags", GraphNode, kOutOfMemory},
    {"cuGraphAddMemAllocNode/cuGraphInstantiate_v2", GraphNode2, kOutOfMemory},
    {"cuGraphAddMemAllocNode/cuGraphInstantiateWithParams", GraphNodeParams, kOutOfMemory},
    {"cuGraphAddNode", GraphGenericNode, kOutOfMemory},
    {"cuGraphAddNode_v2", GraphGenericNode2, kOutOfMemory},
    {"cuMemAllocAsync/captured", Captured, kOutOfMemory},
    {"cuGraphExecDestroy/memory_left", LeftByGraph, kOutOfMemory},
    {"cuGraphAddNode/allocation_in_a_conditional_body", AllocatedInABody, kNotSupported},
    {"cuMulticastCreate", MulticastMapped, kOutOfMemory},
    {"cuMulticastBindMem/handle_released", MulticastMemory, kOutOfMemory},
    {"cuMulticastBindAddr/unmapped_and_released", MulticastAddress, kOutOfMemory},
    {"cuImportExternalMemory", External, kOutOfMemory},
    {"cuImportExternalMemory/of_another_process", ExternalOfAnother, kOutOfMemory},
    {"cuImportExternalMemory/kept_by_both", ExternalKeptByBoth, kOutOfMemory},
    {"cuArrayCreate/beside_external_memory", ArrayBesideExternal, kOutOfMemory},
    {"cuExternalMemoryGetMappedBuffer/handle_destroyed", ExternalBuffers, kOutOfMemory},
    {"cuExternalMemoryGetMappedMipmappedArray", ExternalArray, kOutOfMemory},
    {"cuMemMapArrayAsync", SparseMap, kNotSupported},
    {"cuGraphicsMapResources", GraphicsMap, kNotSupported},
    {"cuGraphicsGLRegisterBuffer", GlBuffer, kNotSupported},
};

constexpr Door kHostDoors[] = {
    {"cuMemHostAlloc", HostAlloc2, kOutOfMemory},
    {"cuMemHostAlloc/portable", HostPortable, kOutOfMemory},
    {"cuMemAllocHost_v2", AllocHost, kOutOfMemory},
    {"cuMemHostRegister_v2", Registered, kOutOfMemory},
    {"cuMemHostRegister", RegisteredOld, kOutOfMemory},
    {"cuMemHostRegister_v2/across_pages", RegisteredAcrossPages, kOutOfMemory},
    {"cuMemHostRegister_v2/twice", RegisteredTwice, kOutOfMemory},
    {"cuMemAllocHost_v2/ended_with_its_context", EndedWithItsContext, kOutOfMemory},
};

unsigned Start() {
  if (unsigned code = Cuda("cuInit", 0u)) return code;
  if (unsigned code = Cuda("cuDevicePrimaryCtxRetain", &g_context, 0)) return code;
  return Cuda("cuCtxSetCurrent", g_context);
}

int Helper(const std::string& kind) {
  constexpr int kParent = 3;
  unsigned started = Start();
  std::vector<CUmemGenericAllocationHandle> handles;
  char command = 0;
  while (recv(kParent, &command, 1, 0) == 1) {
    Message message = {started, {}};
    int fd = -1;
    if (command == 'm' && started == 0 && kind == "physical") {
      CUmemGenericAllocationHandle handle = 0;
      message.code = Create(&handle, true);
      if (message.code == 0) {
        Cuda("cuMemExportToShareableHandle", static_cast<void*>(&fd), handle, 1u, 0ull);
        handles.push_back(handle);
      }
    } else if (command == 'm' && started == 0) {
      CUdeviceptr pointer = 0;
      CUipcMemHandle handle = {};
      message.code = Cuda("cuMemAlloc_v2", &pointer, kUnit);
      if (message.code == 0) message.code = Cuda("cuIpcGetMemHandle", &handle, pointer);
      std::memcpy(message.bytes, &handle, sizeof(handle));
    } else if (command == 'r') {
      for (CUmemGenericAllocationHandle handle : handles) Cuda("cuMemRelease", handle);
      handles.clear();
    }
    Tell(kParent, message, fd);
    if (fd >= 0) close(fd);
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  const std::string name = argc > 1 ? argv[1] : "";
  if (name == "list") {
    for (const Door& door : kDoors) std::printf("%s %u\n", door.name, door.refusal);
    return 0;
  }
  if (name == "host") {
    for (const Door& door : kHostDoors) std::printf("%s %u\n", door.name, door.refusal);
    return 0;
  }
  g_program = argv[0][0] == '/' ? argv[0] : "/proc/self/exe";
  std::setvbuf(stdout, nullptr, _IOLBF, 0);
  OpenCuda();
  if (name == "helper" && argc > 2) return Helper(argv[2]);
  std::vector<Door> doors(std::begin(kDoors), std::end(kDoors));
  doors.insert(doors.end(), std::begin(kHostDoors), std::end(kHostDoors));
  for (const Door& door : doors) {
    if (name != door.name) continue;
    unsigned code = Start();
    int steps = 0;
    while (code == 0 && steps < kStepsMax) {
      code = door.take();
      if (code == 0) ++steps;
    }
    std::printf("%d %u\n", steps, code);
    char line[16];
    if (std::fgets(line, sizeof(line), stdin) == nullptr) return 1;
    while (!g_undo.empty()) {
      const std::function<void()> undo = g_undo.back();
      g_undo.pop_back();
      undo();
    }
    Cuda("cuCtxSynchronize");
    Cuda("cuDeviceGraphMemTrim", 0);
    code = Cuda("cuDevicePrimaryCtxRelease_v2", 0);
    std::printf("%u\n", code);
    return std::fgets(line, sizeof(line), stdin) == nullptr ? 1 : 0;
  }
  std::fprintf(stderr, "door: no door \"%s\"\n", name.c_str());
  return 2;
}
