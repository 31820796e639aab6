#include "simgpu/ptx/parser.h"

#include <algorithm>
#include <cstring>
#include <unordered_map>

#include "simgpu/ptx/lexer.h"

namespace simgpu::ptx {
namespace {

constexpr int kMaxNesting = 64;  // Braces, and brackets inside operands.

struct NamedSpecial {
  std::string_view name;
  Special special;
};
constexpr NamedSpecial kSpecials[] = {
    {"%tid.x", Special::kTidX},
    {"%tid.y", Special::kTidY},
    {"%tid.z", Special::kTidZ},
    {"%ntid.x", Special::kNtidX},
    {"%ntid.y", Special::kNtidY},
    {"%ntid.z", Special::kNtidZ},
    {"%ctaid.x", Special::kCtaidX},
    {"%ctaid.y", Special::kCtaidY},
    {"%ctaid.z", Special::kCtaidZ},
    {"%nctaid.x", Special::kNctaidX},
    {"%nctaid.y", Special::kNctaidY},
    {"%nctaid.z", Special::kNctaidZ},
    {"%tid.w", Special::kZero},
    {"%ctaid.w", Special::kZero},
    {"%laneid", Special::kLaneId},
    {"%warpid", Special::kWarpId},
    {"%nwarpid", Special::kNwarpId},
    {"%smid", Special::kSmId},
    {"%nsmid", Special::kNsmId},
    {"WARP_SZ", Special::kWarpSize},
    {"%gridid", Special::kGridId},
    {"%clock", Special::kClock},
    {"%clock_hi", Special::kClockHi},
    {"%clock64", Special::kClock64},
    {"%globaltimer", Special::kGlobalTimer},
    {"%globaltimer_lo", Special::kGlobalTimerLo},
    {"%globaltimer_hi", Special::kGlobalTimerHi},
    {"%lanemask_eq", Special::kLaneMaskEq},
    {"%lanemask_le", Special::kLaneMaskLe},
    {"%lanemask_lt", Special::kLaneMaskLt},
    {"%lanemask_ge", Special::kLaneMaskGe},
    {"%lanemask_gt", Special::kLaneMaskGt},
    {"%dynamic_smem_size", Special::kDynamicSmemSize},
    {"%total_smem_size", Special::kTotalSmemSize},
    {"%aggr_smem_size", Special::kTotalSmemSize},
    // Where the runtime library of grid groups finds its workspace: high half, low half.
    {"%envreg1", Special::kGridWorkspaceHigh},
    {"%envreg2", Special::kGridWorkspaceLow},
    // Every block is a cluster of its own.
    {"%clusterid.x", Special::kCtaidX},
    {"%clusterid.y", Special::kCtaidY},
    {"%clusterid.z", Special::kCtaidZ},
    {"%nclusterid.x", Special::kNctaidX},
    {"%nclusterid.y", Special::kNctaidY},
    {"%nclusterid.z", Special::kNctaidZ},
    {"%cluster_ctaid.x", Special::kZero},
    {"%cluster_ctaid.y", Special::kZero},
    {"%cluster_ctaid.z", Special::kZero},
    {"%cluster_nctaid.x", Special::kOne},
    {"%cluster_nctaid.y", Special::kOne},
    {"%cluster_nctaid.z", Special::kOne},
    {"%cluster_ctarank", Special::kZero},
    {"%cluster_nctarank", Special::kOne},
    {"%current_graph_exec", Special::kZero},
    {"%ntid.w", Special::kOne},
    {"%nctaid.w", Special::kOne},
};

// One name of a scope: a register or a variable.
struct Binding {
  bool is_register = false;
  int index = -1;
};
using Scope = std::unordered_map<std::string_view, Binding>;

// `.reg .b32 %r<100>` declares a family; names are matched by prefix and number instead of 100 map
// entries.
struct Family {
  std::string_view prefix;
  int first = 0;
  uint32_t count = 0;
};

class Parser {
 public:
  Parser(std::vector<Token> tokens, ModuleAst* module, ParseError* error)
      : tokens_(std::move(tokens)), module_(module), error_(error) {}

  bool Run() {
    scopes_.emplace_back();
    families_.emplace_back();
    while (Cur().kind != Tok::kEnd) {
      if (!TopLevel()) return false;
    }
    if (module_->version == 0) return Fail("a module starts with .version");
    for (const auto& [name, target] : aliases_) {
      const auto it = module_->function_index.find(target);
      if (it == module_->function_index.end())
        return Fail("alias '" + name + "' names '" + std::string(target) +
                    "', which is no function");
      module_->function_index[name] = it->second;
    }
    return true;
  }

 private:
  const Token& Cur() const { return tokens_[at_]; }
  const Token& Ahead(size_t n) const { return tokens_[std::min(at_ + n, tokens_.size() - 1)]; }
  void Next() {
    if (at_ + 1 < tokens_.size()) ++at_;
  }
  bool Fail(std::string message) {
    *error_ = {Cur().line, std::move(message)};
    return false;
  }
  bool Unexpected(const char* wanted) {
    if (Cur().kind == Tok::kEnd)
      return Fail(std::string("text ends where ") + wanted + " was expected");
    return Fail(std::string("expected ") + wanted + ", found '" + std::string(Cur().text) + "'");
  }
  bool Accept(char c) {
    if (!Cur().Is(c)) return false;
    Next();
    return true;
  }
  bool Accept(std::string_view word) {
    if (!Cur().Is(word)) return false;
    Next();
    return true;
  }
  bool Expect(char c) {
    if (Accept(c)) return true;
    const char wanted[] = {'\'', c, '\'', '\0'};
    return Unexpected(wanted);
  }
  bool Integer(int64_t* value) {
    *value = 0;
    const bool negative = Accept('-');
    if (Cur().kind != Tok::kInteger) return Unexpected("an integer");
    *value = static_cast<int64_t>(negative ? 0 - Cur().integer : Cur().integer);
    Next();
    return true;
  }

  // ---- module scope ----

  bool TopLevel() {
    const Token& token = Cur();
    if (token.Is(".version")) {
      Next();
      if (Cur().kind != Tok::kFloat64) return Unexpected("a version such as 8.3");
      int major = 0, minor = 0;
      bool dot = false;
      for (char c : Cur().text) {
        if (c == '.') {
          dot = true;
        } else if (c >= '0' && c <= '9') {
          int& part = dot ? minor : major;
          if (part > 999) return Fail("version out of range");
          part = part * 10 + (c - '0');
        }
      }
      module_->version = major * 10 + minor;
      Next();
      return true;
    }
    if (token.Is(".target")) {
      Next();
      do {
        if (Cur().kind != Tok::kWord) return Unexpected("a target such as sm_75");
        const std::string_view text = Cur().text;
        if (text.starts_with("sm_")) {
          int target = 0;
          for (char c : text.substr(3)) {
            if (c < '0' || c > '9' || target > 9999) break;
            target = target * 10 + (c - '0');
          }
          module_->target = target;
        }
        Next();
      } while (Accept(','));
      return true;
    }
    if (token.Is(".address_size")) {
      Next();
      int64_t bits = 0;
      if (!Integer(&bits)) return false;
      if (bits != 64) return Fail(".address_size must be 64");
      return true;
    }
    if (token.Is(".file")) {
      Next();
      while (Cur().kind == Tok::kInteger || Cur().kind == Tok::kString || Cur().Is(',')) Next();
      return true;
    }
    if (token.Is(".loc")) return SkipLoc();
    if (token.Is(".section") || token.Is("@@DWARF")) {
      while (Cur().kind != Tok::kEnd && !Cur().Is('{')) Next();
      return SkipBraces();
    }
    if (token.Is(".alias")) {
      Next();
      if (Cur().kind != Tok::kWord) return Unexpected("a function name");
      const std::string name(Cur().text);
      Next();
      if (!Accept(',')) return Unexpected("','");
      if (Cur().kind != Tok::kWord) return Unexpected("a function name");
      aliases_.emplace_back(name, Cur().text);
      Next();
      return Expect(';');
    }
    if (token.Is(".pragma")) {
      while (Cur().kind != Tok::kEnd && !Cur().Is(';')) Next();
      return Expect(';');
    }
    if (Accept(';')) return true;
    bool visible = false, external = false;
    while (true) {
      if (Accept(".visible") || Accept(".weak") || Accept(".common")) {
        visible = true;
      } else if (Accept(".extern")) {
        external = true;
      } else {
        break;
      }
    }
    if (Cur().Is(".entry") || Cur().Is(".func")) return Function(visible);
    if (IsSpace(Cur())) return VariableDeclaration(nullptr, visible, external);
    return Unexpected("a module-level directive");
  }

  bool SkipBraces() {
    if (!Expect('{')) return false;
    for (int depth = 1; depth > 0;) {
      if (Cur().kind == Tok::kEnd) return Unexpected("'}'");
      if (Cur().Is('{')) ++depth;
      if (Cur().Is('}')) --depth;
      Next();
    }
    return true;
  }

  // `.loc 1 2 3` and `.loc 1 2 3, function_name $L__info, inlined_at 1 2 3`: tied to its own source
  // line.
  bool SkipLoc() {
    const int line = Cur().line;
    Next();
    for (int i = 0; i < 3; ++i) {
      if (Cur().kind != Tok::kInteger) return Unexpected("three integers after .loc");
      Next();
    }
    while (Cur().line == line && Accept(',')) {
      while (Cur().line == line &&
             (Cur().kind == Tok::kWord || Cur().kind == Tok::kInteger || Cur().Is('+'))) {
        Next();
      }
    }
    return true;
  }

  static bool IsSpace(const Token& token) {
    return token.Is(".global") || token.Is(".const") || token.Is(".shared") || token.Is(".local") ||
           token.Is(".param") || token.Is(".tex");
  }

  // ---- names ----

  const Binding* Find(std::string_view name, Binding* storage) const {
    for (size_t i = scopes_.size(); i-- > 0;) {
      const auto it = scopes_[i].find(name);
      if (it != scopes_[i].end()) return &it->second;
      for (const Family& family : families_[i]) {
        if (name.size() <= family.prefix.size() || !name.starts_with(family.prefix)) continue;
        const std::string_view digits = name.substr(family.prefix.size());
        if (digits.size() > 7 || (digits.size() > 1 && digits[0] == '0')) continue;
        uint32_t number = 0;
        bool all = true;
        for (char c : digits) {
          all = all && c >= '0' && c <= '9';
          number = number * 10 + static_cast<uint32_t>(c - '0');
        }
        if (!all || number >= family.count) continue;
        *storage = {true, family.first + static_cast<int>(number)};
        return storage;
      }
    }
    return nullptr;
  }

  bool Bind(std::string_view name, Binding binding) {
    if (!scopes_.back().emplace(name, binding).second) {
      return Fail("'" + std::string(name) + "' is declared twice in one scope");
    }
    return true;
  }

  // ---- variables ----

  struct TypeAndAlign {
    std::string_view type;
    uint32_t align = 0;
    uint32_t vector = 1;
    bool managed = false;
    bool opaque = false;
  };

  bool ParseTypeAndAlign(TypeAndAlign* out) {
    while (Cur().kind == Tok::kDirective) {
      if (Accept(".align")) {
        int64_t value = 0;
        if (!Integer(&value)) return false;
        if (value < 1 || value > 1024 * 1024 || (value & (value - 1)) != 0)
          return Fail("bad .align");
        out->align = static_cast<uint32_t>(value);
      } else if (Accept(".v2")) {
        out->vector = 2;
      } else if (Accept(".v4")) {
        out->vector = 4;
      } else if (Accept(".attribute")) {
        if (!Expect('(')) return false;
        while (!Cur().Is(')')) {
          if (Cur().kind == Tok::kEnd) return Unexpected("')'");
          if (Cur().Is(".managed")) out->managed = true;
          Next();
        }
        Next();
      } else if (Cur().Is(".texref") || Cur().Is(".surfref") || Cur().Is(".samplerref")) {
        Next();
        out->type = "b64";
        out->opaque = true;
      } else if (Accept(".ptr")) {
        // What follows describes the pointee, not the parameter.
        while (Cur().Is(".global") || Cur().Is(".const") || Cur().Is(".shared") ||
               Cur().Is(".local"))
          Next();
        int64_t pointee = 0;
        if (Accept(".align") && !Integer(&pointee)) return false;
      } else if (TypeBytes(Cur().text.substr(1)) >= 0) {
        if (out->type.empty()) out->type = Cur().text.substr(1);
        Next();
      } else {
        return Unexpected("a type");
      }
    }
    if (out->type.empty()) return Unexpected("a type such as .b32");
    return true;
  }

  // One declarator after its type: name, dimensions, initialiser.
  bool Declarator(const TypeAndAlign& type, Space space, bool initialisers, Variable* variable) {
    if (Cur().kind != Tok::kWord) return Unexpected("a variable name");
    variable->name = std::string(Cur().text);
    variable->space = space;
    Next();
    const uint64_t element = static_cast<uint64_t>(std::max(TypeBytes(type.type), 1));
    variable->element_bytes = static_cast<int>(element);
    variable->align =
        std::max(type.align, static_cast<uint32_t>(element) * (type.align ? 1 : type.vector));
    uint64_t count = type.vector;
    while (Accept('[')) {
      if (Accept(']')) {
        variable->unsized = true;
        continue;
      }
      int64_t dimension = 0;
      if (!Integer(&dimension) || !Expect(']')) return false;
      if (dimension < 0) return Fail("negative array dimension");
      const uint64_t d = static_cast<uint64_t>(dimension);
      if (d != 0 && count > kMaxVariableBytes / element / d) {
        return Fail("variable '" + variable->name + "' exceeds kMaxVariableBytes");
      }
      count *= d;
    }
    variable->size = variable->unsized ? 0 : count * element;
    variable->managed = type.managed;
    variable->opaque = type.opaque;
    if (Cur().Is('=')) {
      if (!initialisers) return Fail("no initialiser is allowed here");
      Next();
      if (type.opaque) return SkipBraces();  // How a sampler filters.
      variable->init.reserve(64);
      uint64_t offset = 0;
      if (!Initialiser(type, element, variable, &offset, 0)) return false;
      if (variable->unsized) {
        variable->size = offset;
      } else if (offset > variable->size) {
        return Fail("initialiser of '" + variable->name + "' is longer than the variable");
      }
    }
    return true;
  }

  bool Initialiser(const TypeAndAlign& type, uint64_t element, Variable* variable, uint64_t* offset,
                   int depth) {
    if (depth > kMaxNesting) return Fail("initialiser is nested too deeply");
    if (Accept('{')) {
      if (Accept('}')) return true;
      do {
        if (!Initialiser(type, element, variable, offset, depth + 1)) return false;
      } while (Accept(','));
      return Expect('}');
    }
    if (!variable->unsized && *offset + element > variable->size) {
      return Fail("initialiser of '" + variable->name + "' is longer than the variable");
    }
    uint64_t bits = 0;
    if (Cur().kind == Tok::kWord) {
      if (!AddressInitialiser(element, 0, variable, *offset)) return false;
    } else if (Cur().kind == Tok::kInteger && Ahead(1).Is('(')) {
      // `0xFF00(symbol)`: the byte of the address that the mask selects.
      const uint64_t mask = Cur().integer;
      if (mask == 0) return Fail("empty address mask");
      Next();
      Next();
      if (!AddressInitialiser(element, static_cast<uint32_t>(__builtin_ctzll(mask)), variable,
                              *offset))
        return false;
      if (!Expect(')')) return false;
    } else {
      const bool negative = Accept('-');
      const Token& token = Cur();
      const bool is_float = type.type[0] == 'f';
      if (token.kind == Tok::kInteger) {
        bits = negative ? 0 - token.integer : token.integer;
        if (is_float && element == 4) {
          const float f = static_cast<float>(static_cast<int64_t>(bits));
          uint32_t b;
          std::memcpy(&b, &f, 4);
          bits = b;
        } else if (is_float && element == 8) {
          const double d = static_cast<double>(static_cast<int64_t>(bits));
          std::memcpy(&bits, &d, 8);
        }
      } else if (token.kind == Tok::kFloat32 || token.kind == Tok::kFloat64) {
        bits = token.integer;
        if (token.kind == Tok::kFloat64 && element == 4) {
          double d;
          std::memcpy(&d, &bits, 8);
          const float f = static_cast<float>(d);
          uint32_t b;
          std::memcpy(&b, &f, 4);
          bits = b;
        }
        if (negative) bits ^= uint64_t{1} << (element * 8 - 1);
      } else {
        return Unexpected("a constant");
      }
      Next();
    }
    variable->init.resize(*offset + element);
    for (uint64_t i = 0; i < element; ++i) {
      variable->init[*offset + i] = static_cast<uint8_t>(i < 8 ? bits >> (8 * i) : 0);
    }
    *offset += element;
    return true;
  }

  // `symbol`, `symbol+4`, `generic(symbol)+4`.
  bool AddressInitialiser(uint64_t element, uint32_t shift, Variable* variable, uint64_t offset) {
    Relocation relocation;
    relocation.offset = offset;
    relocation.bytes = static_cast<uint32_t>(std::min<uint64_t>(element, 8));
    relocation.shift = shift;
    const bool generic = Cur().Is("generic");
    if (generic) {
      Next();
      if (!Expect('(')) return false;
    }
    if (Cur().kind != Tok::kWord) return Unexpected("a variable name");
    relocation.symbol = std::string(Cur().text);
    Next();
    if (generic && !Expect(')')) return false;
    if (Cur().Is('+') || Cur().Is('-')) {
      const bool negative = Cur().Is('-');
      Next();
      int64_t value = 0;
      if (!Integer(&value)) return false;
      relocation.addend = negative ? static_cast<int64_t>(0 - static_cast<uint64_t>(value)) : value;
    }
    variable->relocations.push_back(std::move(relocation));
    return true;
  }

  bool VariableDeclaration(FunctionAst* function, bool visible, bool external) {
    const std::string_view word = Cur().text;
    Space space = Space::kGlobal;
    if (word == ".const") space = Space::kConst;
    if (word == ".shared") space = Space::kShared;
    if (word == ".local") space = Space::kLocal;
    if (word == ".param") space = Space::kParam;
    Next();
    if (Cur().kind == Tok::kDirective && Cur().text.starts_with("::")) Next();
    TypeAndAlign type;
    if (!ParseTypeAndAlign(&type)) return false;
    if (word == ".tex") type.opaque = true;
    do {
      Variable variable;
      const bool initialisers = space == Space::kGlobal || space == Space::kConst;
      const std::string_view name = Cur().text;
      if (!Declarator(type, space, initialisers, &variable)) return false;
      variable.visible = visible || external;
      variable.external = external;
      if ((space == Space::kLocal || space == Space::kParam) && function == nullptr) {
        return Fail("'" + variable.name +
                    "': .local and .param variables belong inside a function");
      }
      if (space == Space::kLocal || space == Space::kParam) {
        if (!PlaceInFrame(function, &variable)) return false;
      }
      // An `.extern` line may come before or after the definition; one name stays one variable.
      Binding known_storage;
      const Binding* known = function == nullptr ? Find(name, &known_storage) : nullptr;
      if (known != nullptr && !known->is_register) {
        Variable& old = module_->variables[static_cast<size_t>(known->index)];
        if (old.space != space)
          return Fail("'" + variable.name + "' is declared twice with different spaces");
        if (old.external && !external) {
          old = std::move(variable);
        } else if (!external && !old.external) {
          return Fail("'" + variable.name + "' is declared twice in one scope");
        }
        continue;
      }
      const int index = static_cast<int>(module_->variables.size());
      if (!Bind(name, {false, index})) return false;
      if (space == Space::kGlobal || space == Space::kConst)
        module_->module_variables.push_back(index);
      module_->variables.push_back(std::move(variable));
    } while (Accept(','));
    return Expect(';');
  }

  bool PlaceInFrame(FunctionAst* function, Variable* variable) {
    const uint64_t align = variable->align;
    const uint64_t offset = (function->frame_bytes + align - 1) / align * align;
    if (align > 4096 || offset + variable->size > kMaxLocalBytesPerThread) {
      return Fail("local variables of '" + function->name + "' exceed kMaxLocalBytesPerThread");
    }
    variable->frame_offset = static_cast<uint32_t>(offset);
    function->frame_bytes = static_cast<uint32_t>(offset + variable->size);
    return true;
  }

  // ---- functions ----

  bool ParamList(FunctionAst* function, std::vector<int>* list) {
    if (!Expect('(')) return false;
    if (Accept(')')) return true;
    uint64_t offset = 0;
    do {
      const bool is_register = Cur().Is(".reg");
      if (!is_register && !Cur().Is(".param")) return Unexpected("'.param'");
      if (is_register) function->register_params = true;
      Next();
      TypeAndAlign type;
      if (!ParseTypeAndAlign(&type)) return false;
      Variable variable;
      const std::string_view name = Cur().text;
      if (!Declarator(type, Space::kParam, false, &variable)) return false;
      if (function->entry) {
        offset = (offset + variable.align - 1) / variable.align * variable.align;
        if (offset + variable.size > kMaxParamBytes)
          return Fail("parameters exceed kMaxParamBytes");
        variable.entry_offset = static_cast<int>(offset);
        offset += variable.size;
      } else if (!PlaceInFrame(function, &variable)) {
        return false;
      }
      const int index = static_cast<int>(module_->variables.size());
      if (!Bind(name, {false, index})) return false;
      list->push_back(index);
      module_->variables.push_back(std::move(variable));
    } while (Accept(','));
    return Expect(')');
  }

  bool Function(bool visible) {
    FunctionAst function;
    function.entry = Cur().Is(".entry");
    function.visible = visible;
    function.line = Cur().line;
    function.scope_parent.push_back(-1);
    Next();
    scopes_.emplace_back();
    families_.emplace_back();
    while (Accept(".attribute")) {
      while (Cur().kind != Tok::kEnd && !Accept(')')) Next();
    }
    if (!function.entry && Cur().Is('(') && !ParamList(&function, &function.returns)) return false;
    if (Cur().kind != Tok::kWord) return Unexpected("a function name");
    function.name = std::string(Cur().text);
    Next();
    if (Cur().Is('(') && !ParamList(&function, &function.params)) return false;
    if (!PerformanceDirectives(&function)) return false;
    if (Accept(';')) {
      // A declaration.
    } else {
      if (!Expect('{')) return false;
      function.defined = true;
      scope_ids_.assign(1, 0);
      if (!Body(&function)) return false;
    }
    scopes_.pop_back();
    families_.pop_back();
    const auto [it, fresh] = module_->function_index.try_emplace(
        function.name, static_cast<int>(module_->functions.size()));
    if (fresh) {
      module_->functions.push_back(std::move(function));
    } else {
      FunctionAst& old = module_->functions[static_cast<size_t>(it->second)];
      if (old.defined && function.defined)
        return Fail("function '" + function.name + "' is defined twice");
      if (function.defined) old = std::move(function);
    }
    return true;
  }

  bool PerformanceDirectives(FunctionAst* function) {
    while (Cur().kind == Tok::kDirective) {
      const std::string_view name = Cur().text;
      Next();
      int64_t values[3] = {1, 1, 1};
      int count = 0;
      while (Cur().kind == Tok::kInteger) {
        int64_t value = 0;
        if (!Integer(&value)) return false;
        if (count < 3) values[count] = value;
        ++count;
        if (!Accept(',')) break;
      }
      if (name == ".maxntid" || name == ".reqntid") {
        uint64_t product = 1;
        for (int64_t value : values) {
          if (value < 1 || value > kMaxThreadsPerBlock) return Fail("bad " + std::string(name));
          product *= static_cast<uint64_t>(value);
        }
        if (product > kMaxThreadsPerBlock) return Fail("bad " + std::string(name));
        function->max_threads = static_cast<uint32_t>(product);
        if (name == ".reqntid") {
          for (int i = 0; i < 3; ++i)
            function->required_block[i] = static_cast<uint32_t>(values[i]);
        }
      } else if (name == ".pragma") {
        while (Cur().kind == Tok::kString || Cur().Is(',')) Next();
        Accept(';');
      } else if (name != ".minnctapersm" && name != ".maxnctapersm" && name != ".maxnreg" &&
                 name != ".noreturn" && name != ".unique" && name != ".abi_preserve" &&
                 name != ".abi_preserve_control" && name != ".blocksareclusters" &&
                 name != ".explicitcluster" && name != ".reqnctapercluster" &&
                 name != ".maxclusterrank") {
        return Fail("unknown function directive '" + std::string(name) + "'");
      }
    }
    return true;
  }

  bool Body(FunctionAst* function) {
    while (true) {
      const Token& token = Cur();
      if (token.kind == Tok::kEnd) return Unexpected("'}'");
      if (token.Is('{')) {
        if (scope_ids_.size() > kMaxNesting) return Fail("scopes are nested too deeply");
        Next();
        function->scope_parent.push_back(scope_ids_.back());
        scope_ids_.push_back(static_cast<int>(function->scope_parent.size()) - 1);
        scopes_.emplace_back();
        families_.emplace_back();
        continue;
      }
      if (token.Is('}')) {
        Next();
        scope_ids_.pop_back();
        if (scope_ids_.empty()) return true;
        scopes_.pop_back();
        families_.pop_back();
        continue;
      }
      if (Accept(';')) continue;
      if (token.kind == Tok::kDirective) {
        if (!BodyDirective(function)) return false;
        continue;
      }
      if (token.kind == Tok::kWord && Ahead(1).Is(':')) {
        if (!Label(function)) return false;
        continue;
      }
      if (!Instruction(function)) return false;
    }
  }

  bool Label(FunctionAst* function) {
    const std::string_view name = Cur().text;
    const std::pair key{scope_ids_.back(), name};
    Next();
    Next();
    if (Cur().Is(".branchtargets")) {
      Next();
      std::vector<std::string_view> targets;
      do {
        if (Cur().kind != Tok::kWord) return Unexpected("a label");
        targets.push_back(Cur().text);
        Next();
      } while (Accept(','));
      function->branch_tables[key] = std::move(targets);
      return Expect(';');
    }
    if (Cur().Is(".callprototype") || Cur().Is(".calltargets")) {
      while (Cur().kind != Tok::kEnd && !Cur().Is(';')) Next();
      return Expect(';');
    }
    if (!function->labels.try_emplace(key, static_cast<uint32_t>(function->statements.size()))
             .second) {
      return Fail("label '" + std::string(name) + "' is declared twice in one scope");
    }
    return true;
  }

  bool BodyDirective(FunctionAst* function) {
    if (Cur().Is(".loc")) return SkipLoc();
    if (Accept(".pragma")) {
      while (Cur().kind != Tok::kEnd && !Cur().Is(';')) {
        if (Cur().kind == Tok::kString && !Pragma(function)) return false;
        Next();
      }
      return Expect(';');
    }
    if (Cur().Is(".reg")) return RegisterDeclaration(function);
    if (IsSpace(Cur())) return VariableDeclaration(function, false, false);
    if (Cur().Is(".extern")) {
      Next();
      if (!IsSpace(Cur())) return Unexpected("a variable");
      return VariableDeclaration(function, false, true);
    }
    if (Cur().Is(".file")) return TopLevel();
    return Fail("unknown directive '" + std::string(Cur().text) + "'");
  }

  // The one pragma that is ours: "simgpu.time_ns 500000" or "simgpu.time_ns param1".
  bool Pragma(FunctionAst* function) {
    constexpr std::string_view kName = "simgpu.time_ns ";
    std::string_view text = Cur().text;
    if (!text.starts_with(kName)) return true;
    text.remove_prefix(kName.size());
    const bool param = text.starts_with("param");
    if (param) text.remove_prefix(5);
    if (text.empty() || text.size() > 18 ||
        text.find_first_not_of("0123456789") != std::string_view::npos) {
      return Fail("pragma simgpu.time_ns takes nanoseconds or paramN, found '" +
                  std::string(Cur().text.substr(kName.size())) + "'");
    }
    if (!function->entry) return Fail("pragma simgpu.time_ns belongs in a kernel");
    if (function->states_time) return Fail("pragma simgpu.time_ns is given twice");
    uint64_t value = 0;
    for (char c : text) value = value * 10 + static_cast<uint64_t>(c - '0');
    function->states_time = true;
    if (!param) {
      function->time_ns = value;
      return true;
    }
    const Variable* variable =
        value < function->params.size()
            ? &module_->variables[static_cast<size_t>(function->params[value])]
            : nullptr;
    if (variable == nullptr || (variable->size != 4 && variable->size != 8)) {
      return Fail("pragma simgpu.time_ns: param" + std::string(text) +
                  " is no parameter of 4 or 8 bytes");
    }
    function->time_param = static_cast<int>(value);
    return true;
  }

  bool RegisterDeclaration(FunctionAst* function) {
    Next();
    TypeAndAlign type;
    if (!ParseTypeAndAlign(&type)) return false;
    if (type.vector != 1) return Fail("vector registers are not part of this interpreter");
    Register reg;
    switch (TypeBytes(type.type)) {
      case 0:
        reg.cls = RegClass::kPred;
        break;
      case 1:
      case 2:
        reg.cls = RegClass::k16;
        break;
      case 4:
        reg.cls = RegClass::k32;
        break;
      case 8:
        reg.cls = RegClass::k64;
        break;
      default:
        reg.cls = RegClass::k128;
        break;
    }
    do {
      if (Cur().kind != Tok::kWord) return Unexpected("a register name");
      const std::string_view name = Cur().text;
      Next();
      uint32_t count = 1;
      const int first = static_cast<int>(function->registers.size());
      if (Accept('<')) {
        int64_t value = 0;
        if (!Integer(&value) || !Expect('>')) return false;
        if (value < 0 || value > kMaxRegistersPerFunction)
          return Fail("registers exceed kMaxRegistersPerFunction");
        count = static_cast<uint32_t>(value);
        families_.back().push_back({name, first, count});
      } else if (!Bind(name, {true, first})) {
        return false;
      }
      if (function->registers.size() + count > kMaxRegistersPerFunction) {
        return Fail("registers exceed kMaxRegistersPerFunction");
      }
      function->registers.insert(function->registers.end(), count, reg);
    } while (Accept(','));
    return Expect(';');
  }

  // ---- instructions ----

  bool Instruction(FunctionAst* function) {
    Statement statement;
    statement.line = Cur().line;
    statement.scope = scope_ids_.back();
    if (Accept('@')) {
      statement.guard_negated = Accept('!');
      Binding storage;
      const Binding* binding = Cur().kind == Tok::kWord ? Find(Cur().text, &storage) : nullptr;
      if (binding == nullptr || !binding->is_register ||
          function->registers[static_cast<size_t>(binding->index)].cls != RegClass::kPred) {
        return Unexpected("a declared predicate after '@'");
      }
      statement.guard = binding->index;
      Next();
    }
    if (Cur().kind != Tok::kWord) return Unexpected("an instruction");
    statement.text = Cur().text;
    Next();
    if (function->statements.size() >= kMaxInstructionsPerFunction) {
      return Fail("function exceeds kMaxInstructionsPerFunction");
    }
    if (!Cur().Is(';')) {
      do {
        Operand operand;
        if (!ParseOperand(&operand, 0)) return false;
        statement.operands.push_back(std::move(operand));
      } while (Accept(','));
    }
    if (!Expect(';')) return false;
    function->statements.push_back(std::move(statement));
    return true;
  }

  bool ParseOperand(Operand* operand, int depth) {
    if (depth > kMaxNesting) return Fail("operand is nested too deeply");
    if (Accept('{')) {
      operand->kind = Operand::kVector;
      do {
        if (!ParseOperand(&operand->items.emplace_back(), depth + 1)) return false;
      } while (Accept(','));
      return Expect('}');
    }
    if (Accept('(')) {
      operand->kind = Operand::kList;
      if (Accept(')')) return true;
      do {
        if (!ParseOperand(&operand->items.emplace_back(), depth + 1)) return false;
      } while (Accept(','));
      return Expect(')');
    }
    if (Accept('[')) {
      operand->kind = Operand::kAddress;
      // Texture operands hold a list; the decoder only knows opcodes with a single base.
      do {
        if (!ParseOperand(&operand->items.emplace_back(), depth + 1)) return false;
      } while (Accept(','));
      Operand& base = operand->items[0];
      operand->integer = base.kind == Operand::kInteger ? 0 : base.integer;
      return Expect(']');
    }
    if (Accept('!')) {
      operand->negated = true;
    }
    bool negative = false;
    while (Cur().Is('-') || Cur().Is('+')) {
      negative ^= Cur().Is('-');
      Next();
    }
    const Token& token = Cur();
    if (token.kind == Tok::kInteger) {
      operand->kind = Operand::kInteger;
      operand->integer = static_cast<int64_t>(negative ? 0 - token.integer : token.integer);
      Next();
      return true;
    }
    if (token.kind == Tok::kFloat32 || token.kind == Tok::kFloat64) {
      const bool single = token.kind == Tok::kFloat32;
      operand->kind = single ? Operand::kFloat32 : Operand::kFloat64;
      const uint64_t sign = negative ? (single ? uint64_t{1} << 31 : uint64_t{1} << 63) : 0;
      operand->integer = static_cast<int64_t>(token.integer ^ sign);
      Next();
      return true;
    }
    if (token.kind != Tok::kWord || negative) return Unexpected("an operand");
    if (!Name(operand)) return false;
    if (Accept('|')) {
      if (Cur().Is("_")) {
        operand->pair = -2;
      } else {
        Binding storage;
        const Binding* binding = Cur().kind == Tok::kWord ? Find(Cur().text, &storage) : nullptr;
        if (binding == nullptr || !binding->is_register)
          return Unexpected("a declared register after '|'");
        operand->pair = binding->index;
      }
      Next();
    }
    // `symbol+8`, `%rd1+-4`, `%rd1-4`.
    if (Cur().Is('+') || (Cur().Is('-') && Ahead(1).kind == Tok::kInteger)) {
      const bool minus = Cur().Is('-');
      Next();
      int64_t value = 0;
      if (!Integer(&value)) return false;
      operand->integer = minus ? static_cast<int64_t>(0 - static_cast<uint64_t>(value)) : value;
    }
    return true;
  }

  bool Name(Operand* operand) {
    const std::string_view text = Cur().text;
    operand->name = text;
    Binding storage;
    if (text == "_") {
      operand->kind = Operand::kSink;
    } else if (const Binding* binding = Find(text, &storage)) {
      operand->kind = binding->is_register ? Operand::kRegister : Operand::kVariable;
      operand->index = binding->index;
    } else if (const Special special = FindSpecial(text); special != Special::kNone) {
      operand->kind = Operand::kSpecial;
      operand->special = special;
    } else {
      operand->kind = Operand::kName;
    }
    Next();
    return true;
  }

  std::vector<Token> tokens_;
  ModuleAst* module_;
  ParseError* error_;
  size_t at_ = 0;
  std::vector<Scope> scopes_;                  // Module, function, inline scopes.
  std::vector<std::vector<Family>> families_;  // Beside scopes_.
  std::vector<int> scope_ids_;                 // The open scopes of the current function.
  std::vector<std::pair<std::string, std::string_view>> aliases_;
};

}  // namespace

Special FindSpecial(std::string_view name) {
  for (const NamedSpecial& entry : kSpecials) {
    if (entry.name == name) return entry.special;
  }
  // The other environment registers belong to the driver and hold nothing here.
  if (name.starts_with("%envreg") && name.size() > 7 && name.size() <= 9 &&
      name.find_first_not_of("0123456789", 7) == std::string_view::npos) {
    return Special::kZero;
  }
  return Special::kNone;
}

int TypeBytes(std::string_view type) {
  if (type == "pred") return 0;
  if (type == "f16" || type == "bf16") return 2;
  if (type == "f16x2" || type == "bf16x2" || type == "tf32") return 4;
  if (type.size() < 2 || type.size() > 4 || std::strchr("busf", type[0]) == nullptr) return -1;
  const std::string_view bits = type.substr(1);
  if (bits == "8" && type[0] != 'f') return 1;
  if (bits == "16") return 2;
  if (bits == "32") return 4;
  if (bits == "64") return 8;
  if (bits == "128" && type[0] == 'b') return 16;
  return -1;
}

bool ParseModule(std::string_view source, ModuleAst* module, ParseError* error) {
  if (source.size() > kMaxSourceBytes) {
    *error = {0, "text exceeds kMaxSourceBytes"};
    return false;
  }
  std::vector<Token> tokens;
  if (!Tokenize(source, &tokens, error)) return false;
  return Parser(std::move(tokens), module, error).Run();
}

}  // namespace simgpu::ptx
