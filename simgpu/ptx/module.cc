// The public Module: parse, decode, link, and the questions the driver asks.
#include <algorithm>

#include "simgpu/ptx/code.h"
#include "simgpu/ptx/decode.h"
#include "simgpu/ptx/parser.h"
#include "simgpu/ptx/ptx.h"

namespace simgpu::ptx {

std::string ParseError::ToString() const { return "line " + std::to_string(line) + ": " + message; }

int ToCudaError(Status status) {
  switch (status) {
    case Status::kOk:
      return 0;
    case Status::kInvalidValue:
      return 1;
    case Status::kUnsupported:
      return 801;
    case Status::kIllegalAddress:
      return 700;
    case Status::kLaunchTimeout:
      return 702;
    case Status::kAssert:
      return 710;
    case Status::kMisalignedAddress:
      return 716;
    case Status::kLaunchFailed:
    case Status::kCancelled:
      return 719;
  }
  return 719;
}

const char* StatusName(Status status) {
  switch (status) {
    case Status::kOk:
      return "ok";
    case Status::kInvalidValue:
      return "invalid value";
    case Status::kUnsupported:
      return "not supported";
    case Status::kIllegalAddress:
      return "illegal address";
    case Status::kLaunchTimeout:
      return "launch timeout";
    case Status::kAssert:
      return "assert";
    case Status::kMisalignedAddress:
      return "misaligned address";
    case Status::kLaunchFailed:
      return "launch failed";
    case Status::kCancelled:
      return "cancelled";
  }
  return "unknown";
}

namespace {

// Walks the calls below `function`. Answers the deepest path's local bytes; marks recursion.
class Linker {
 public:
  Linker(const Module::Impl& module, Kernel* kernel) : module_(module), kernel_(*kernel) {
    state_.resize(module.functions.size());
    depth_.resize(module.functions.size());
  }

  uint64_t Visit(int index) {
    const size_t i = static_cast<size_t>(index);
    if (state_[i] == 1) {
      kernel_.recursive = true;
      return 0;
    }
    if (state_[i] == 2) return depth_[i];
    state_[i] = 1;
    kernel_.closure.push_back(index);
    const Function& function = module_.functions[i];
    uint64_t deepest = 0;
    for (const CallSite& call : function.calls) {
      if (call.builtin == CallSite::kNoBuiltin) deepest = std::max(deepest, Visit(call.function));
    }
    state_[i] = 2;
    depth_[i] =
        std::min<uint64_t>((function.frame_bytes + 15) / 16 * 16 + deepest, uint64_t{1} << 40);
    return depth_[i];
  }

 private:
  const Module::Impl& module_;
  Kernel& kernel_;
  std::vector<char> state_;
  std::vector<uint64_t> depth_;
};

void LinkKernel(Module::Impl* module, int function_index, const FunctionAst& ast) {
  const Function& function = module->functions[static_cast<size_t>(function_index)];
  Kernel kernel;
  KernelInfo info;
  kernel.function = function_index;
  info.name = function.name;
  for (int index : function.params) {
    const Variable& variable = module->ast.variables[static_cast<size_t>(index)];
    info.params.push_back({static_cast<uint32_t>(variable.entry_offset),
                           static_cast<uint32_t>(variable.size), variable.align});
    info.param_bytes = std::max(info.param_bytes, static_cast<uint32_t>(variable.entry_offset) +
                                                      static_cast<uint32_t>(variable.size));
  }
  if (ast.max_threads != 0) info.max_threads = ast.max_threads;
  std::copy(std::begin(ast.required_block), std::end(ast.required_block),
            std::begin(info.required_block));

  const uint64_t local = Linker(*module, &kernel).Visit(function_index);
  if (local > kMaxLocalBytesPerThread)
    info.refusal = "local memory of '" + info.name + "' exceeds kMaxLocalBytesPerThread";
  kernel.local_bytes = info.local_bytes =
      static_cast<uint32_t>(std::min<uint64_t>(local, kMaxLocalBytesPerThread));

  uint64_t shared = 0;
  uint32_t dynamic_align = 16;
  std::vector<int> dynamic;
  uint32_t words = 0;
  for (int index : kernel.closure) {
    const Function& part = module->functions[static_cast<size_t>(index)];
    if (info.refusal.empty()) info.refusal = part.refusal;
    words = std::max(words, part.register_words);
    for (int used : part.used_variables) {
      const Variable& variable = module->ast.variables[static_cast<size_t>(used)];
      if (variable.space != Space::kShared) {
        if (variable.external && info.refusal.empty()) {
          info.refusal = "variable '" + variable.name + "' is not defined in this module";
        }
        continue;
      }
      if (kernel.shared_offsets.contains(used)) continue;
      if (variable.external || variable.unsized) {
        dynamic.push_back(used);
        dynamic_align = std::max(dynamic_align, variable.align);
        kernel.shared_offsets[used] = 0;
        continue;
      }
      shared = (shared + variable.align - 1) / variable.align * variable.align;
      kernel.shared_offsets[used] = static_cast<uint32_t>(shared);
      shared += variable.size;
      if (shared > kMaxSharedBytes && info.refusal.empty()) {
        info.refusal = "static shared memory of '" + info.name + "' exceeds kMaxSharedBytes";
      }
      shared = std::min<uint64_t>(shared, kMaxSharedBytes);
    }
  }
  // Every dynamic array starts where the static ones end.
  if (!dynamic.empty()) {
    shared = (shared + dynamic_align - 1) / dynamic_align * dynamic_align;
    for (int index : dynamic) kernel.shared_offsets[index] = static_cast<uint32_t>(shared);
    info.uses_dynamic_shared = true;
  }
  info.static_shared_bytes = kernel.static_shared_bytes = static_cast<uint32_t>(shared);
  info.registers = std::clamp<uint32_t>(words, 16, 255);
  module->kernel_code.push_back(std::move(kernel));
  module->kernels.push_back(std::move(info));
}

}  // namespace

Module::Module(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Module::~Module() = default;

std::unique_ptr<Module> Module::Parse(std::string_view text, ParseError* error) {
  *error = {};
  while (!text.empty() && text.back() == '\0') text.remove_suffix(1);
  auto impl = std::make_unique<Impl>();
  if (!ParseModule(text, &impl->ast, error)) return nullptr;
  impl->functions.resize(impl->ast.functions.size());
  for (size_t i = 0; i < impl->functions.size(); ++i) {
    Function& function = impl->functions[i];
    if (!DecodeFunction(impl->ast, impl->ast.functions[i], &function, error)) return nullptr;
    function.first_site = impl->sites;
    for (Instr& instr : function.code) instr.site += impl->sites;
    impl->sites += function.sites;
  }
  for (size_t i = 0; i < impl->functions.size(); ++i) {
    if (impl->functions[i].entry && impl->functions[i].defined) {
      LinkKernel(impl.get(), static_cast<int>(i), impl->ast.functions[i]);
    }
  }
  for (int index : impl->ast.module_variables) {
    const Variable& variable = impl->ast.variables[static_cast<size_t>(index)];
    impl->globals.push_back(
        {variable.name,
         variable.space == Space::kConst ? GlobalSpace::kConst : GlobalSpace::kGlobal,
         variable.external ? 0 : variable.size, variable.align, variable.visible, variable.external,
         variable.managed});
  }
  impl->addresses.assign(impl->ast.variables.size(), 0);
  // The statements point into the text, which may go away now.
  for (FunctionAst& function : impl->ast.functions) {
    function.statements = {};
    function.labels = {};
    function.branch_tables = {};
  }
  return std::unique_ptr<Module>(new Module(std::move(impl)));
}

int Module::version() const { return impl_->ast.version; }
int Module::target() const { return impl_->ast.target; }
const std::vector<Global>& Module::globals() const { return impl_->globals; }
const std::vector<KernelInfo>& Module::kernels() const { return impl_->kernels; }

const KernelInfo* Module::FindKernel(std::string_view name) const {
  for (const KernelInfo& kernel : impl_->kernels) {
    if (kernel.name == name) return &kernel;
  }
  return nullptr;
}

int Module::FindGlobal(std::string_view name) const {
  for (size_t i = 0; i < impl_->globals.size(); ++i) {
    if (impl_->globals[i].name == name) return static_cast<int>(i);
  }
  return -1;
}

void Module::SetGlobalAddress(size_t index, uint64_t device_address) {
  impl_->addresses[static_cast<size_t>(impl_->ast.module_variables[index])] = device_address;
}

bool Module::HasInitialiser(size_t index) const {
  return !impl_->ast.variables[static_cast<size_t>(impl_->ast.module_variables[index])]
              .init.empty();
}

std::vector<uint8_t> Module::InitialImage(size_t index) const {
  const Variable& variable =
      impl_->ast.variables[static_cast<size_t>(impl_->ast.module_variables[index])];
  std::vector<uint8_t> image(variable.external ? 0 : variable.size);
  std::copy_n(variable.init.begin(), std::min(variable.init.size(), image.size()), image.begin());
  for (const Relocation& relocation : variable.relocations) {
    const int target = FindGlobal(relocation.symbol);
    if (target < 0)
      continue;  // A function's address: only indirect calls use it, and those are refused.
    const uint64_t address = impl_->addresses[static_cast<size_t>(
        impl_->ast.module_variables[static_cast<size_t>(target)])];
    const uint64_t value = (address + static_cast<uint64_t>(relocation.addend)) >> relocation.shift;
    for (uint32_t b = 0; b < relocation.bytes && relocation.offset + b < image.size(); ++b) {
      image[relocation.offset + b] = static_cast<uint8_t>(value >> (8 * b));
    }
  }
  return image;
}

LaunchResult Module::Launch(std::string_view kernel, const LaunchConfig& config) const {
  for (size_t i = 0; i < impl_->kernels.size(); ++i) {
    if (impl_->kernels[i].name == kernel) return RunKernel(*impl_, i, config);
  }
  LaunchResult result;
  result.status = Status::kInvalidValue;
  result.message = "kernel '" + std::string(kernel) + "' is not in this module";
  return result;
}

}  // namespace simgpu::ptx
