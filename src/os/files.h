// File access behind an interface, so that "the n-th write fails, for all n" can be tested.
// Thread-safe.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace tessera::os {

class Files {
 public:
  virtual ~Files() = default;
  // The whole file; kNotFound when it does not exist.
  virtual Result<std::string> Read(const std::string& path) = 0;
  // Replaces the file so that after a crash it holds either the old or the new bytes: temporary
  // file, fsync, rename, fsync of the folder.
  virtual Status WriteAtomically(const std::string& path, std::string_view bytes) = 0;
  // Writes into an existing special file (cgroup, sysfs) with one write(2).
  virtual Status Poke(const std::string& path, std::string_view bytes) = 0;
  virtual Status MakeDirs(const std::string& path, unsigned mode) = 0;
  // Removes a file or an empty folder; a missing one is not an error.
  virtual Status Remove(const std::string& path) = 0;
  // Names in a folder, sorted, without "." and "..".
  virtual Result<std::vector<std::string>> List(const std::string& path) = 0;
  virtual bool Exists(const std::string& path) = 0;
};

Files& PosixFiles();

// Passes through to another Files and fails the n-th mutating call (0-based) with kInternal; counts
// calls.
class FaultyFiles : public Files {
 public:
  FaultyFiles(Files& under, int fail_at) : under_(under), fail_at_(fail_at) {}
  Result<std::string> Read(const std::string& path) override { return under_.Read(path); }
  Status WriteAtomically(const std::string& path, std::string_view bytes) override;
  Status Poke(const std::string& path, std::string_view bytes) override;
  Status MakeDirs(const std::string& path, unsigned mode) override;
  Status Remove(const std::string& path) override;
  Result<std::vector<std::string>> List(const std::string& path) override {
    return under_.List(path);
  }
  bool Exists(const std::string& path) override { return under_.Exists(path); }
  int calls() const { return calls_; }

 private:
  bool Fails() { return calls_++ == fail_at_; }
  Files& under_;
  int fail_at_;
  int calls_ = 0;
};

}  // namespace tessera::os
