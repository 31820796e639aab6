#include "guest/core/doors.h"

#include <errno.h>

#include "guest/core/elf.h"
#include "guest/core/lock.h"
#include "guest/core/text.h"

namespace tessera::guest {

__attribute__((weak)) const char* RealPath(LibraryId) { return nullptr; }

constinit thread_local int depth __attribute__((tls_model("initial-exec"))) = 0;

namespace {

using DlopenFunction = void* (*)(const char*, int);
using DlsymFunction = void* (*)(void*, const char*);
using DlvsymFunction = void* (*)(void*, const char*, const char*);
struct AddressInfo {
  const char* path;
  void* base;
  const char* symbol;
  void* symbol_address;
};
using DladdrFunction = int (*)(const void*, AddressInfo*);

// A driver library found once stays bound, and loaded, for the life of the process.
struct Bound {
  uint32_t ready;
  Library library;
};
Bound bound[kLibraries];
Lock bind_lock;
// Functions every version of the library has and we do not export.
constexpr const char* kProbes[kLibraries] = {"cuDriverGetVersion", "nvmlSystemGetDriverVersion"};
constexpr const char* kStems[kLibraries] = {"libcuda.so", "libnvidia-ml.so"};

// The loader's own functions, written once with the same values by whoever comes first.
DlopenFunction real_dlopen = nullptr;
DladdrFunction real_dladdr = nullptr;

bool IsLoader(const Library& library) {
  const char* file = BaseName(library.path);
  const char* name = library.soname[0] != '\0' ? library.soname : file;
  return StartsWith(name, "libc.so") || StartsWith(name, "libc-") || StartsWith(name, "libdl") ||
         StartsWith(name, "libc.musl") || StartsWith(file, "ld-musl");
}
bool HasDlsym(const Library& library) {
  return IsLoader(library) && FindSymbol(library, "dlsym") != nullptr;
}

}  // namespace

extern "C" {
// For the assembly's jump. In old libcs these live in a libdl the program may not have: then nobody
// asks for them.
[[gnu::visibility("hidden")]] void* tessera_real_dlsym = nullptr;
[[gnu::visibility("hidden")]] void* tessera_real_dlvsym = nullptr;
}

namespace {

template <typename Function>
void Publish(Function* where, const Library& library, const char* name) {
  __atomic_store_n(where, reinterpret_cast<Function>(FindSymbol(library, name)), __ATOMIC_RELEASE);
}

void FindLoader() {
  Library library;
  if (__atomic_load_n(&tessera_real_dlsym, __ATOMIC_ACQUIRE) != nullptr ||
      !FindLibrary(HasDlsym, &library)) {
    return;
  }
  Publish(&real_dlopen, library, "dlopen");
  Publish(&real_dladdr, library, "dladdr");
  Publish(&tessera_real_dlvsym, library, "dlvsym");
  Publish(&tessera_real_dlsym, library, "dlsym");
}

// The one thing done when a process is loaded, a few microseconds: later it could not be done
// safely, because the walk over the loaded objects takes a lock that a child forked by another
// thread may inherit held.
[[gnu::constructor]] void Prepare() { FindLoader(); }

bool IsStem(const char* path, LibraryId id) { return StartsWith(BaseName(path), kStems[id]); }

// The driver library, known by a function of it (`hint`) or by one of its functions we do not
// export being found by everybody. Asks the loader for symbols only: searching for a file would
// touch state of the loader that a child forked by another thread may inherit half changed.
const Library* Bind(LibraryId id, void* hint) {
  Bound* const entry = &bound[id];
  if (__atomic_load_n(&entry->ready, __ATOMIC_ACQUIRE) != 0) return &entry->library;
  FindLoader();
  auto* const open = __atomic_load_n(&real_dlopen, __ATOMIC_ACQUIRE);
  auto* const dladdr = __atomic_load_n(&real_dladdr, __ATOMIC_ACQUIRE);
  auto* const lookup = reinterpret_cast<DlsymFunction>(tessera_real_dlsym);
  if (open == nullptr || dladdr == nullptr || lookup == nullptr) return nullptr;
  const int saved = errno;
  void* handle = nullptr;
  {
    DepthGuard guard;
    AddressInfo info = {};
    const char* const path = RealPath(id);
    void* const function = path != nullptr   ? nullptr
                           : hint != nullptr ? hint
                                             : lookup(nullptr, kProbes[id]);
    constexpr int kNow = 0x2;
    if (path != nullptr) handle = open(path, kNow);
    if (function != nullptr && dladdr(function, &info) != 0 && info.path != nullptr &&
        IsStem(info.path, id)) {
      // Never to be unloaded under the pointers we keep.
      constexpr int kLazyNoloadNodelete = 0x1 | 0x4 | 0x1000;
      handle = open(info.path, kLazyNoloadNodelete);
    }
  }
  errno = saved;
  Library found;
  if (handle == nullptr || !ReadHandle(handle, &found)) return nullptr;
  LockHolder holder(&bind_lock);
  if (entry->ready == 0) {
    entry->library = found;
    __atomic_store_n(&entry->ready, 1u, __ATOMIC_RELEASE);
  }
  return &entry->library;
}

// Whether a function is a driver library's: the bound one, or another copy of it.
bool IsDriver(LibraryId id, void* function) {
  const auto at = reinterpret_cast<uint64_t>(function);
  const Library* library = Bind(id, function);
  if (library != nullptr && at >= library->low && at < library->high) return true;
  AddressInfo info = {};
  auto* const dladdr = __atomic_load_n(&real_dladdr, __ATOMIC_ACQUIRE);
  return dladdr != nullptr && dladdr(function, &info) != 0 && info.path != nullptr &&
         IsStem(info.path, id);
}

struct Choice {
  void* answer;      // what the caller gets, or null: jump to the loader's function
  const char* name;  // ... asking it for this name
};

// Asked for by the loader in our stead when a driver function is looked up globally while no driver
// is loaded: the caller gets null and a proper dlerror(), not our wrapper of nothing.
constexpr char kAbsent[] = "(function of a driver library that is not loaded)";

Choice Choose(void* handle, const char* name, const char* version) {
  if (name == nullptr || depth > 0) return {nullptr, name};
  Wrapper wrapper = {};
  const bool ours = name[0] == 'c' && name[1] == 'u'   ? FindCudaWrapper(name, &wrapper)
                    : name[0] == 'n' && name[1] == 'v' ? FindNvmlWrapper(name, &wrapper)
                                                       : false;
  if (!ours) return {nullptr, name};
  const auto id = static_cast<LibraryId>(wrapper.library);
  void* const kDefault = nullptr;
  void* const kNext = reinterpret_cast<void*>(-1l);
  if (handle == kDefault || handle == kNext) {
    if (ResolveReal(id, name) == nullptr) return {nullptr, kAbsent};
    return {wrapper.wrapper, name};
  }
  void* found = nullptr;
  {
    DepthGuard guard;
    if (version != nullptr) {
      auto lookup = reinterpret_cast<DlvsymFunction>(tessera_real_dlvsym);
      if (lookup != nullptr) found = lookup(handle, name, version);
    } else {
      auto lookup = reinterpret_cast<DlsymFunction>(tessera_real_dlsym);
      if (lookup != nullptr) found = lookup(handle, name);
    }
  }
  if (found == nullptr) return {nullptr, name};
  if (found == wrapper.wrapper) {
    // A handle of the whole program finds our own export first.
    if (ResolveReal(id, name) == nullptr) return {nullptr, kAbsent};
    return {found, name};
  }
  // Only the driver's own function is replaced; a program's stub of the same name is its own
  // affair.
  return {IsDriver(id, found) ? wrapper.wrapper : found, name};
}

}  // namespace

void* ResolveReal(LibraryId id, const char* name) {
  const Library* library = Bind(id, nullptr);
  return library == nullptr ? nullptr : FindSymbol(*library, name);
}

bool RealLoaded(LibraryId id) { return Bind(id, nullptr) != nullptr; }

bool LoadReal(LibraryId id) {
  if (RealLoaded(id)) return true;
  auto* const open = __atomic_load_n(&real_dlopen, __ATOMIC_ACQUIRE);
  auto* const lookup = reinterpret_cast<DlsymFunction>(tessera_real_dlsym);
  if (open == nullptr || lookup == nullptr) return false;
  const int saved = errno;
  void* probe = nullptr;
  {
    DepthGuard guard;
    constexpr const char* kNames[kLibraries] = {"libcuda.so.1", "libnvidia-ml.so.1"};
    constexpr int kLazy = 1;
    void* const handle = open(kNames[id], kLazy);
    if (handle != nullptr) probe = lookup(handle, kProbes[id]);
  }
  errno = saved;
  return probe != nullptr && Bind(id, probe) != nullptr;
}

extern "C" {

[[gnu::visibility("hidden")]] Choice tessera_choose_dlsym(void* handle, const char* name) {
  FindLoader();
  return Choose(handle, name, nullptr);
}

[[gnu::visibility("hidden")]] Choice tessera_choose_dlvsym(void* handle, const char* name,
                                                           const char* version) {
  FindLoader();
  return Choose(handle, name, version);
}
}

}  // namespace tessera::guest
