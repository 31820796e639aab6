// What opcode_test.cc and forms_test.cc, one program, tell each other.
#pragma once

#include <string>
#include <vector>

namespace simgpu::ptx {

// The statements of all rows with a known answer.
std::vector<std::string> OpcodeRowTexts();

}  // namespace simgpu::ptx
