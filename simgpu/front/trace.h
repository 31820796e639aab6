// The call trace: one line a call,
//
//   SEQUENCE tTHREAD NAME(parameter=value, ...) = RESULT
//
// written when the call returns and numbered when it began. Values are normalised so that two runs,
// also on two drivers, can be compared: handles, addresses and ids are numbered in the order in
// which they appear (context#1, mem#2+0x100), host pointers are "host", measured times "~",
// structures "{..}" but for a few whose members matter, and what a call wrote through a pointer
// stands behind "&". Lines that begin with "#" say which process wrote what follows.
//
// Made once, before anything is written, and leaked. Thread-safe.
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <unordered_map>

#include "simgpu/front/front.h"

namespace simgpu::front {

// Of each sort; what appears later is printed without a number.
inline constexpr size_t kTraceNamesMax = size_t{1} << 20;

class Trace {
 public:
  // Opens FILE for appending ("-": the standard error; null or empty: no trace). "%p" in the name
  // is replaced by the process's id. A file that cannot be opened is said once and not traced to.
  static void Open(const char* file);
  static Trace* Get() { return trace_.load(std::memory_order_acquire); }

  explicit Trace(int fd) : fd_(fd) {}

  uint64_t Begin() { return sequence_.fetch_add(1, std::memory_order_relaxed) + 1; }
  void Write(uint64_t sequence, const Site& site, const uint64_t* values,
             tessera::abi::CUresult result, bool refused);
  // The line without sequence and thread. For Write and tests.
  std::string Line(const Site& site, const uint64_t* values, tessera::abi::CUresult result,
                   bool refused);

 private:
  struct Range {
    uint64_t size = 0;
    std::string name;
  };

  void NameProcess() const;
  std::string Value(const Site& site, int index, const uint64_t* values, bool success);
  std::string Scalar(const Parameter& parameter, uint64_t value, bool fresh);
  std::string Written(const Site& site, int index, const uint64_t* values);
  std::string Handle(const char* type, uint64_t value, bool fresh);
  std::string Address(uint64_t value);
  std::string NewAddress(uint64_t value, uint64_t size, const char* sort, bool fresh);
  uint64_t SizeOfAllocation(const Site& site, const uint64_t* values) const;
  void Forget(const Site& site, const uint64_t* values);

  static std::atomic<Trace*> trace_;

  const int fd_;
  std::atomic<uint64_t> sequence_{0};
  std::mutex mutex_;
  std::unordered_map<std::string, std::unordered_map<uint64_t, uint64_t>> handles_;
  std::unordered_map<std::string, uint64_t> counts_;
  std::map<uint64_t, Range> ranges_;
};

}  // namespace simgpu::front
