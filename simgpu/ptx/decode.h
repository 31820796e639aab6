// Turns the parsed statements of one function into handlers and register offsets.
#pragma once

#include <string_view>
#include <vector>

#include "simgpu/ptx/code.h"

namespace simgpu::ptx {

// False: `error` is set, the text names what it never declared. What is merely not supported
// becomes Function::refusal.
bool DecodeFunction(const ModuleAst& module, const FunctionAst& ast, Function* out,
                    ParseError* error);

// Every opcode the decoder's table holds, in no order. For tests.
std::vector<std::string_view> Opcodes();

}  // namespace simgpu::ptx
