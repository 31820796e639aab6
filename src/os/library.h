// A shared library opened at run time. Move-only; closes on destruction unless Keep() was called
// (GPU drivers do not survive dlclose).
#pragma once

#include <string>
#include <utility>

#include "base/result.h"

namespace tessera::os {

class Library {
 public:
  static Result<Library> Open(const std::string& name);
  Library(Library&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
  Library& operator=(Library&& other) noexcept {
    std::swap(handle_, other.handle_);
    return *this;
  }
  ~Library();
  void Keep() { keep_ = true; }
  // nullptr when the library lacks the symbol.
  void* Find(const char* name) const;
  template <typename Fn>
  Fn* Function(const char* name) const {
    return reinterpret_cast<Fn*>(Find(name));
  }

 private:
  explicit Library(void* handle) : handle_(handle) {}
  void* handle_ = nullptr;
  bool keep_ = false;
};

}  // namespace tessera::os
