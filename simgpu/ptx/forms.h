// Every form of an arithmetic opcode with a reference of its own; checked by forms_test.cc.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace simgpu::ptx {

using Reference = std::function<uint64_t(uint64_t a, uint64_t b, uint64_t c)>;

// Inputs are in %d0..%d2, cut to size in %r0..%r2 and %h0..%h2; the result is in %d9, %r9, %h9 or
// %p9.
struct Form {
  std::string text;
  char result;
  Reference reference;
  char operands = 'i';  // Which edges: integers, or floats of a format.
};

std::vector<Form> MakeForms();

}  // namespace simgpu::ptx
