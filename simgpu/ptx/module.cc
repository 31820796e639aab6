// The public Module: parse, decode, link, and the questions the driver asks.
#include <algorithm>
#include <cstring>

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
    case Status::kInvalidPc:
      return 718;
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
    case Status::kInvalidPc:
      return "invalid program counter";
    case Status::kCancelled:
      return "cancelled";
  }
  return "unknown";
}

namespace {

constexpr uint32_t kMaxCallNesting = 4096;  // Functions that call each other in one chain.

// Walks the calls below `function`. Answers the deepest path's local bytes; marks recursion.
class Linker {
 public:
  // One for all kernels of a module; Run starts over.
  explicit Linker(const Module::Impl& module) : module_(module) {
    state_.resize(module.functions.size());
    depth_.resize(module.functions.size());
  }

  // Everything below the kernel's function: its calls, and when one goes through a pointer, also
  // what pointers of its code and of variables may hold. Answers the direct calls' local bytes.
  uint64_t Run(Kernel* kernel, const std::vector<int>& in_variables) {
    kernel_ = kernel;
    pointed_at_.clear();
    indirect_ = too_deep_ = false;
    const uint64_t local = Visit(kernel->function);
    direct_ = kernel->closure;
    if (indirect_) {
      kernel->recursive = true;
      pointed_at_.insert(pointed_at_.end(), in_variables.begin(), in_variables.end());
      for (size_t k = 0; k < pointed_at_.size(); ++k) Visit(pointed_at_[k]);
    }
    for (int index : kernel->closure) state_[static_cast<size_t>(index)] = 0;
    std::sort(direct_.begin(), direct_.end());
    std::sort(kernel->closure.begin(), kernel->closure.end());
    return local;
  }
  // The functions that run for certain if control gets there: a refusal of one refuses the kernel.
  bool Direct(int index) const { return std::binary_search(direct_.begin(), direct_.end(), index); }
  bool too_deep() const { return too_deep_; }

 private:
  uint64_t Visit(int index) {
    const size_t i = static_cast<size_t>(index);
    if (state_[i] == 1) {
      kernel_->recursive = true;
      return 0;
    }
    if (state_[i] == 2) return depth_[i];
    if (nesting_ >= kMaxCallNesting) {
      too_deep_ = true;
      return 0;
    }
    ++nesting_;
    state_[i] = 1;
    kernel_->closure.push_back(index);
    const Function& function = module_.functions[i];
    uint64_t deepest = 0;
    for (const CallSite& call : function.calls) {
      if (call.builtin != CallSite::kNoBuiltin) continue;
      if (call.function >= 0) {
        deepest = std::max(deepest, Visit(call.function));
      } else {
        indirect_ = true;
      }
    }
    for (int taken : function.address_taken) pointed_at_.push_back(taken);
    --nesting_;
    state_[i] = 2;
    depth_[i] =
        std::min<uint64_t>((function.frame_bytes + 15) / 16 * 16 + deepest, uint64_t{1} << 40);
    return depth_[i];
  }

  const Module::Impl& module_;
  Kernel* kernel_ = nullptr;
  std::vector<int> direct_;
  std::vector<int> pointed_at_;
  bool indirect_ = false;
  bool too_deep_ = false;
  uint32_t nesting_ = 0;
  std::vector<char> state_;
  std::vector<uint64_t> depth_;
};

void LinkKernel(Module::Impl* module, int function_index, const FunctionAst& ast,
                const std::vector<int>& in_variables, Linker* linker) {
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
  info.states_time = ast.states_time;
  info.time_param = ast.time_param;
  info.time_ns = ast.time_ns;
  std::copy(std::begin(ast.required_block), std::end(ast.required_block),
            std::begin(info.required_block));

  const uint64_t local = linker->Run(&kernel, in_variables);
  if (linker->too_deep())
    info.refusal = "the calls of '" + info.name + "' are nested deeper than kMaxCallNesting (" +
                   std::to_string(kMaxCallNesting) + ")";
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
    if (info.refusal.empty() && linker->Direct(index)) info.refusal = part.refusal;
    words = std::max(words, part.register_words);
    for (int used : part.used_variables) {
      const Variable& variable = module->ast.variables[static_cast<size_t>(used)];
      if (variable.space != Space::kShared) {
        if (info.refusal.empty() && variable.opaque) {
          info.refusal = "'" + variable.name +
                         "' is a texture, surface or sampler, which the interpreter does not have";
        } else if (info.refusal.empty() && variable.external) {
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

bool StatedTime(const KernelInfo& info, const void* params, size_t param_bytes, uint64_t* ns) {
  if (!info.states_time) return false;
  if (info.time_param < 0) {
    *ns = info.time_ns;
    return true;
  }
  const Param& param = info.params[static_cast<size_t>(info.time_param)];
  if (params == nullptr || param_bytes < size_t{param.offset} + param.size) return false;
  uint64_t value = 0;
  std::memcpy(&value, static_cast<const uint8_t*>(params) + param.offset, param.size);
  *ns = value;
  return true;
}

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
  }
  std::vector<int> in_variables;  // Functions whose addresses initialisers hold.
  for (const Variable& variable : impl->ast.variables) {
    for (const Relocation& relocation : variable.relocations) {
      const auto it = impl->ast.function_index.find(relocation.symbol);
      if (it != impl->ast.function_index.end()) in_variables.push_back(it->second);
    }
  }
  Linker linker(*impl);
  for (size_t i = 0; i < impl->functions.size(); ++i) {
    if (impl->functions[i].entry && impl->functions[i].defined) {
      LinkKernel(impl.get(), static_cast<int>(i), impl->ast.functions[i], in_variables, &linker);
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

namespace {

bool IsPresentVariable(const Variable& variable) {
  return variable.name == kPresentVariable && variable.size == 4 && !variable.external;
}

}  // namespace

bool Module::HasInitialiser(size_t index) const {
  const Variable& variable =
      impl_->ast.variables[static_cast<size_t>(impl_->ast.module_variables[index])];
  return !variable.init.empty() || IsPresentVariable(variable);
}

std::vector<uint8_t> Module::InitialImage(size_t index) const {
  const Variable& variable =
      impl_->ast.variables[static_cast<size_t>(impl_->ast.module_variables[index])];
  std::vector<uint8_t> image(variable.external ? 0 : variable.size);
  std::copy_n(variable.init.begin(), std::min(variable.init.size(), image.size()), image.begin());
  if (IsPresentVariable(variable)) image.assign({1, 0, 0, 0});
  for (const Relocation& relocation : variable.relocations) {
    const int target = FindGlobal(relocation.symbol);
    const auto function = impl_->ast.function_index.find(relocation.symbol);
    uint64_t address = 0;
    if (target >= 0) {
      address = impl_->addresses[static_cast<size_t>(
          impl_->ast.module_variables[static_cast<size_t>(target)])];
    } else if (function != impl_->ast.function_index.end()) {
      address = kFunctionWindow + static_cast<uint64_t>(function->second) * kFunctionStep;
    } else {
      continue;
    }
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
