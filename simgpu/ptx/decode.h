// Turns the parsed statements of one function into handlers and register offsets.
#pragma once

#include "simgpu/ptx/code.h"

namespace simgpu::ptx {

// False: `error` is set, the text names what it never declared. What is merely not supported
// becomes Function::refusal.
bool DecodeFunction(const ModuleAst& module, const FunctionAst& ast, Function* out,
                    ParseError* error);

}  // namespace simgpu::ptx
