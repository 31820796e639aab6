#include "os/library.h"

#include <dlfcn.h>

namespace tessera::os {

Result<Library> Library::Open(const std::string& name) {
  void* const handle = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) {
    const char* const reason = dlerror();
    return Error(Code::kNotFound, "dlopen " + name + ": " + (reason ? reason : "unknown reason"));
  }
  return Library(handle);
}

Library::~Library() {
  if (handle_ != nullptr && !keep_) dlclose(handle_);
}

void* Library::Find(const char* name) const {
  return handle_ == nullptr ? nullptr : dlsym(handle_, name);
}

}  // namespace tessera::os
