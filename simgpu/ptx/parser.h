// Recursive descent over the tokens of one module.
#pragma once

#include <string_view>

#include "simgpu/ptx/ast.h"
#include "simgpu/ptx/ptx.h"

namespace simgpu::ptx {

// False: `error` says where and why. The result's string_views point into `source`.
bool ParseModule(std::string_view source, ModuleAst* module, ParseError* error);

// Answers Special::kNone when `name` ("%tid.x") is no special register we know.
Special FindSpecial(std::string_view name);

// The bytes of a fundamental type name without its dot ("u32" -> 4, "f16x2" -> 4, "pred" -> 0), or
// -1.
int TypeBytes(std::string_view type);

}  // namespace simgpu::ptx
