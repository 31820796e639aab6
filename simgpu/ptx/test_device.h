// A device memory for tests: a few allocations at made-up addresses, and shorthands for loading and
// launching.
#pragma once

#include <gtest/gtest.h>

#include <bit>
#include <cstring>
#include <deque>
#include <map>
#include <string>
#include <vector>

#include "simgpu/ptx/ptx.h"

namespace simgpu::ptx {

class TestDevice : public Memory {
 public:
  // The bytes stay at one host address for the device's life. Allocations never touch, so running
  // over an end faults.
  uint64_t Allocate(size_t bytes) {
    const uint64_t address = next_;
    next_ += (bytes + 0xffff) / 0x10000 * 0x10000 + 0x10000;
    blocks_[address].resize((bytes + 7) / 8);
    sizes_[address] = bytes;
    return address;
  }
  template <class T>
  uint64_t Upload(const std::vector<T>& values) {
    const uint64_t address = Allocate(values.size() * sizeof(T));
    std::memcpy(blocks_[address].data(), values.data(), values.size() * sizeof(T));
    return address;
  }
  template <class T>
  std::vector<T> Download(uint64_t address, size_t count) {
    std::vector<T> values(count);
    EXPECT_LE(count * sizeof(T), sizes_[address]);
    std::memcpy(values.data(), blocks_[address].data(), count * sizeof(T));
    return values;
  }
  bool Resolve(uint64_t address, MemoryRange* range) override {
    auto it = blocks_.upper_bound(address);
    if (it == blocks_.begin()) return false;
    --it;
    if (address - it->first >= sizes_[it->first]) return false;
    *range = {it->first, sizes_[it->first], reinterpret_cast<uint8_t*>(it->second.data()),
              it->first != read_only};
    return true;
  }
  uint64_t read_only = 0;

 private:
  uint64_t next_ = 0x7f0000000000;
  std::map<uint64_t, std::vector<uint64_t>> blocks_;
  std::map<uint64_t, size_t> sizes_;
};

// Packs kernel arguments at their natural alignment.
class Arguments {
 public:
  template <class T>
  Arguments& Add(T value) {
    bytes_.resize((bytes_.size() + sizeof(T) - 1) / sizeof(T) * sizeof(T) + sizeof(T));
    std::memcpy(bytes_.data() + bytes_.size() - sizeof(T), &value, sizeof(T));
    return *this;
  }
  const std::vector<uint8_t>& bytes() const { return bytes_; }

 private:
  std::vector<uint8_t> bytes_;
};

inline std::unique_ptr<Module> Load(const std::string& text) {
  ParseError error;
  std::unique_ptr<Module> module = Module::Parse(text, &error);
  EXPECT_NE(module, nullptr) << error.ToString();
  return module;
}

// Gives every global of the module memory and its initial bytes.
inline void Place(Module* module, TestDevice* device) {
  std::vector<uint64_t> addresses;
  for (size_t i = 0; i < module->globals().size(); ++i) {
    addresses.push_back(device->Allocate(module->globals()[i].size + 1));
    module->SetGlobalAddress(i, addresses.back());
  }
  for (size_t i = 0; i < addresses.size(); ++i) {
    const std::vector<uint8_t> image = module->InitialImage(i);
    MemoryRange range;
    ASSERT_TRUE(device->Resolve(addresses[i], &range));
    std::memcpy(range.host, image.data(), image.size());
  }
}

struct Shape {
  uint32_t grid = 1;
  uint32_t block = 32;
  uint32_t shared = 0;
  uint32_t workers = 1;
  uint64_t budget = 100'000'000;
  bool cooperative = false;
};

inline LaunchResult RunOn(const Module& module, TestDevice* device, const std::string& kernel,
                          const Arguments& arguments, Shape shape = {},
                          std::string* printed = nullptr) {
  LaunchConfig config;
  config.grid[0] = shape.grid;
  config.block[0] = shape.block;
  config.dynamic_shared_bytes = shape.shared;
  config.workers = shape.workers;
  config.cooperative = shape.cooperative;
  config.instruction_budget = shape.budget;
  config.params = arguments.bytes().data();
  config.param_bytes = arguments.bytes().size();
  config.memory = device;
  if (printed != nullptr) {
    config.print = [printed](std::string_view text) { printed->append(text); };
  }
  return module.Launch(kernel, config);
}

inline const std::string kHeader = ".version 8.3\n.target sm_80\n.address_size 64\n";

inline uint64_t F(float value) { return std::bit_cast<uint32_t>(value); }
inline uint64_t D(double value) { return std::bit_cast<uint64_t>(value); }

}  // namespace simgpu::ptx
