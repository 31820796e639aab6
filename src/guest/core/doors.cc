#include "guest/core/doors.h"

#include <errno.h>

#include "guest/core/elf.h"
#include "guest/core/lock.h"
#include "guest/core/text.h"

namespace tessera::guest {

thread_local int depth __attribute__((tls_model("initial-exec"))) = 0;

namespace {

using DlopenFunction = void* (*)(const char*, int);
using DlsymFunction = void* (*)(void*, const char*);
using DlvsymFunction = void* (*)(void*, const char*, const char*);

// A driver library found once stays bound for the life of the process; it is pinned so that it cannot be unloaded
// under the pointers we keep.
struct Bound {
  uint32_t ready;
  Library library;
};
Bound bound[kLibraries];
Lock bind_lock;

bool NameIs(const Library& library, const char* stem) {
  const char* name = library.soname[0] != '\0' ? library.soname : BaseName(library.path);
  return StartsWith(name, stem);
}
bool IsCuda(const Library& library) { return NameIs(library, "libcuda.so"); }
bool IsNvml(const Library& library) { return NameIs(library, "libnvidia-ml.so"); }
bool IsLoader(const Library& library) {
  return NameIs(library, "libc.so") || NameIs(library, "libc-") || NameIs(library, "libdl") ||
         NameIs(library, "libc.musl") || StartsWith(BaseName(library.path), "ld-musl");
}
bool HasDlsym(const Library& library) {
  return IsLoader(library) && FindSymbol(library, "dlsym") != nullptr;
}

// The loader's own dlsym and friends. Found at first use; finding them twice finds the same.
void* LoaderFunction(const char* name) {
  Library library;
  return FindLibrary(HasDlsym, &library) ? FindSymbol(library, name) : nullptr;
}

void Pin(const Library& library) {
  constexpr int kLazyNoloadNodelete = 0x1 | 0x4 | 0x1000;
  auto open = reinterpret_cast<DlopenFunction>(LoaderFunction("dlopen"));
  if (open == nullptr || library.path[0] == '\0') return;
  const int saved = errno;
  DepthGuard guard;
  open(library.path, kLazyNoloadNodelete);
  errno = saved;
}

const Library* Bind(LibraryId id) {
  Bound* const entry = &bound[id];
  if (__atomic_load_n(&entry->ready, __ATOMIC_ACQUIRE) != 0) return &entry->library;
  Library found;
  if (!FindLibrary(id == kCudaLibrary ? IsCuda : IsNvml, &found)) return nullptr;
  Pin(found);
  LockHolder holder(&bind_lock);
  if (entry->ready == 0) {
    entry->library = found;
    __atomic_store_n(&entry->ready, 1u, __ATOMIC_RELEASE);
  }
  return &entry->library;
}

struct Choice {
  void* answer;      // what the caller gets, or null: jump to the loader's function
  const char* name;  // ... asking it for this name
};

// Asked for by the loader in our stead when a driver function is looked up globally while no driver is loaded: the
// caller gets null and a proper dlerror(), not our wrapper of nothing.
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
      auto lookup = reinterpret_cast<DlvsymFunction>(LoaderFunction("dlvsym"));
      if (lookup != nullptr) found = lookup(handle, name, version);
    } else {
      auto lookup = reinterpret_cast<DlsymFunction>(LoaderFunction("dlsym"));
      if (lookup != nullptr) found = lookup(handle, name);
    }
  }
  if (found == nullptr) return {nullptr, name};
  if (found == wrapper.wrapper) {
    // A handle of the whole program finds our own export first.
    if (ResolveReal(id, name) == nullptr) return {nullptr, kAbsent};
    return {found, name};
  }
  // Only the driver's own function is replaced; a program's stub of the same name is its own affair.
  Library owner;
  if (FindOwner(found, &owner) && (id == kCudaLibrary ? IsCuda(owner) : IsNvml(owner))) {
    return {wrapper.wrapper, name};
  }
  return {found, name};
}

}  // namespace

void* ResolveReal(LibraryId id, const char* name) {
  const Library* library = Bind(id);
  return library == nullptr ? nullptr : FindSymbol(*library, name);
}

bool RealLoaded(LibraryId id) { return Bind(id) != nullptr; }

extern "C" {

// The loader's functions, for the assembly's jump. Written once with the same value by whoever comes first.
[[gnu::visibility("hidden")]] void* tessera_real_dlsym = nullptr;
[[gnu::visibility("hidden")]] void* tessera_real_dlvsym = nullptr;

[[gnu::visibility("hidden")]] Choice tessera_choose_dlsym(void* handle, const char* name) {
  if (__atomic_load_n(&tessera_real_dlsym, __ATOMIC_ACQUIRE) == nullptr) {
    __atomic_store_n(&tessera_real_dlsym, LoaderFunction("dlsym"), __ATOMIC_RELEASE);
  }
  return Choose(handle, name, nullptr);
}

[[gnu::visibility("hidden")]] Choice tessera_choose_dlvsym(void* handle, const char* name,
                                                           const char* version) {
  if (__atomic_load_n(&tessera_real_dlvsym, __ATOMIC_ACQUIRE) == nullptr) {
    __atomic_store_n(&tessera_real_dlvsym, LoaderFunction("dlvsym"), __ATOMIC_RELEASE);
  }
  return Choose(handle, name, version);
}
}

}  // namespace tessera::guest
