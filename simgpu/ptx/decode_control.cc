// Decoding of branches, calls, barriers and the operations across lanes.
#include "simgpu/ptx/decoder.h"

namespace simgpu::ptx {

// ---- control ----

bool Decoder::Label(std::string_view name, uint32_t* statement) {
  for (int scope = statement_->scope; scope >= 0;
       scope = ast_.scope_parent[static_cast<size_t>(scope)]) {
    const auto it = ast_.labels.find({scope, name});
    if (it != ast_.labels.end()) {
      *statement = it->second;
      return true;
    }
  }
  return Invalid("label '" + std::string(name) + "' is not declared");
}

bool Decoder::Branch(Modifiers& m) {
  m.Take("uni");
  if (!NothingLeft(m) || !Count(1)) return false;
  Instr i = New(Kind::kBranch);
  if (Arg(0).kind != Operand::kName) return Invalid("a label is expected");
  if (!Label(Arg(0).name, &i.target)) return false;
  return Emit(i, nullptr);
}

bool Decoder::BranchTable(Modifiers& m) {
  m.Take("uni");
  m.Take("idx");
  if (!NothingLeft(m) || !Count(2)) return false;
  const std::vector<std::string_view>* table = nullptr;
  for (int scope = statement_->scope; scope >= 0 && table == nullptr;
       scope = ast_.scope_parent[static_cast<size_t>(scope)]) {
    const auto it = ast_.branch_tables.find({scope, Arg(1).name});
    if (it != ast_.branch_tables.end()) table = &it->second;
  }
  if (table == nullptr)
    return Invalid("branch targets '" + std::string(Arg(1).name) + "' are not declared");
  std::vector<uint32_t> targets;
  for (std::string_view name : *table) {
    uint32_t target;
    if (!Label(name, &target)) return false;
    targets.push_back(target);
  }
  Instr i = New(Kind::kBranchTable);
  i.a = Source(Arg(0), RegClass::k32);
  i.target = static_cast<uint32_t>(out_.tables.size());
  out_.tables.push_back(std::move(targets));
  return Emit(i, nullptr);
}

bool Decoder::ResolveCopies(const Operand& list, const std::vector<int>& formal, bool results,
                            std::vector<CallSite::Copy>* copies) {
  if (list.items.size() != formal.size()) {
    return Unsupported("call passes " + std::to_string(list.items.size()) +
                       " values, the function has " + std::to_string(formal.size()));
  }
  for (size_t k = 0; k < formal.size(); ++k) {
    const Operand& item = list.items[k];
    if (item.kind == Operand::kSink && results) continue;
    if (item.kind != Operand::kVariable)
      return Unsupported("call operands must be .param variables");
    const Variable& mine = module_.variables[static_cast<size_t>(item.index)];
    const Variable& theirs = module_.variables[static_cast<size_t>(formal[k])];
    if (mine.space != Space::kParam || mine.entry_offset >= 0)
      return Unsupported("call operands must be .param variables");
    const uint32_t bytes = static_cast<uint32_t>(std::min(mine.size, theirs.size));
    copies->push_back(results ? CallSite::Copy{theirs.frame_offset, mine.frame_offset, bytes}
                              : CallSite::Copy{mine.frame_offset, theirs.frame_offset, bytes});
  }
  return true;
}

bool Decoder::Call(Modifiers& m) {
  m.Take("uni");
  if (!NothingLeft(m) || !Count(1, 4)) return false;
  size_t at = 0;
  static const Operand kEmpty;
  const Operand* results = &kEmpty;
  const Operand* arguments = &kEmpty;
  if (Arg(0).kind == Operand::kList) results = &Arg(at++);
  if (at >= statement_->operands.size()) return Invalid("a function name is expected");
  const Operand& name = Arg(at++);
  if (name.kind == Operand::kRegister) return IndirectCall(*results, name, at);
  if (name.kind != Operand::kName) return Invalid("a function name is expected");
  const auto it = module_.function_index.find(name.name);
  if (it == module_.function_index.end())
    return Invalid("function '" + std::string(name.name) + "' is not declared");
  if (at < statement_->operands.size()) {
    arguments = &Arg(at++);
    if (arguments->kind != Operand::kList) return Unsupported("call operands");
  }
  if (at < statement_->operands.size()) return Unsupported("call operands");
  const FunctionAst& callee = module_.functions[static_cast<size_t>(it->second)];
  if (callee.register_params) return Unsupported("functions with .reg parameters");
  if (callee.entry) return Unsupported("a call of a kernel");
  CallSite site;
  if (!ResolveCopies(*results, callee.returns, true, &site.results) ||
      !ResolveCopies(*arguments, callee.params, false, &site.arguments)) {
    return false;
  }
  if (!callee.defined) {
    if (callee.name == "vprintf" && site.arguments.size() == 2) {
      site.builtin = CallSite::kPrintf;
    } else if (callee.name == "__assertfail" && site.arguments.size() == 5) {
      site.builtin = CallSite::kAssert;
    } else if (callee.name == "malloc" && site.arguments.size() == 1) {
      site.builtin = CallSite::kMalloc;
    } else if (callee.name == "free" && site.arguments.size() == 1) {
      site.builtin = CallSite::kFree;
    } else if (callee.name == "cudaGraphSetConditional" && site.arguments.size() == 2) {
      site.builtin = CallSite::kSetConditional;
    } else {
      return Unsupported("function '" + callee.name + "' is not defined in this module");
    }
    const auto whole = [](const CallSite::Copy& copy, uint32_t bytes) {
      return copy.bytes == bytes;
    };
    const auto arguments_are = [&](std::initializer_list<uint32_t> bytes) {
      size_t k = 0;
      for (uint32_t want : bytes) {
        if (!whole(site.arguments[k++], want)) return false;
      }
      return true;
    };
    const auto result_is = [&](uint32_t bytes) {
      return site.results.empty() || whole(site.results[0], bytes);
    };
    const bool sizes = site.builtin == CallSite::kPrintf   ? arguments_are({8, 8}) && result_is(4)
                       : site.builtin == CallSite::kMalloc ? arguments_are({8}) && result_is(8)
                       : site.builtin == CallSite::kFree   ? arguments_are({8})
                       : site.builtin == CallSite::kSetConditional
                           ? arguments_are({8, 4}) && site.results.empty()
                           : arguments_are({8, 8, 4, 8});
    if (!sizes) return Unsupported("parameter sizes of '" + callee.name + "'");
  }
  site.function = it->second;
  Instr i = New(Kind::kCall);
  i.target = static_cast<uint32_t>(out_.calls.size());
  i.site = out_.sites++;
  out_.calls.push_back(std::move(site));
  return Emit(i, nullptr);
}

// call (results), %rd, (arguments), prototype; the prototype says nothing that the callee does not.
bool Decoder::IndirectCall(const Operand& results, const Operand& target, size_t at) {
  static const Operand kEmpty;
  const Operand* arguments = &kEmpty;
  if (at < statement_->operands.size() && Arg(at).kind == Operand::kList) arguments = &Arg(at++);
  if (at + 1 != statement_->operands.size() || Arg(at).kind != Operand::kName)
    return Unsupported("call operands");
  const auto variables = [&](const Operand& list, bool sinks, std::vector<int>* out) {
    for (const Operand& item : list.items) {
      if (item.kind == Operand::kSink && sinks) {
        out->push_back(-1);
        continue;
      }
      const bool variable = item.kind == Operand::kVariable;
      const Variable* mine =
          variable ? &module_.variables[static_cast<size_t>(item.index)] : nullptr;
      if (mine == nullptr || mine->space != Space::kParam || mine->entry_offset >= 0)
        return Unsupported("call operands must be .param variables");
      out->push_back(item.index);
    }
    return true;
  };
  CallSite site;
  if (!variables(results, true, &site.result_variables) ||
      !variables(*arguments, false, &site.argument_variables)) {
    return false;
  }
  Instr i = New(Kind::kCall);
  i.a = Source(target, RegClass::k64);
  i.target = static_cast<uint32_t>(out_.calls.size());
  i.site = out_.sites++;
  out_.calls.push_back(std::move(site));
  return Emit(i, nullptr);
}

bool Decoder::Ret(Modifiers& m) {
  m.Take("uni");
  if (!NothingLeft(m) || !Count(0)) return false;
  return Emit(New(Kind::kRet), nullptr);
}

bool Decoder::Exit(Modifiers& m) {
  if (!NothingLeft(m) || !Count(0)) return false;
  return Emit(New(Kind::kExit), nullptr);
}

bool Decoder::Trap(Modifiers& m) {
  if (!NothingLeft(m) || !Count(0)) return false;
  return Emit(New(Kind::kTrap), nullptr);
}

bool Decoder::Nothing(Modifiers&) {
  Instr i = New();
  return Emit(i, FenceHandler());
}

bool Decoder::Nanosleep(Modifiers& m) {
  m.TakeType();
  if (!NothingLeft(m) || !Count(1)) return false;
  Instr i = New(Kind::kYield);
  i.a = Source(Arg(0), RegClass::k32);
  return Emit(i, nullptr);
}

bool Decoder::Fence(Modifiers& m) {
  while (m.TakeOneOf({"proxy", "alias", "async", "async.global", "global", "shared::cta", "cta",
                      "cluster", "gpu", "gl", "sys", "sc", "acq_rel", "acquire", "release",
                      "mbarrier_init", "sync_restrict", "shared::cluster"}) >= 0) {
  }
  return NothingLeft(m) && Count(0) && Emit(New(), FenceHandler());
}

bool Decoder::Bar(Modifiers& m) {
  m.Take("cta");
  if (m.Take("warp")) {
    if (!m.Take("sync") || !NothingLeft(m) || !Count(1)) return Unsupported("");
    Instr i = New(Kind::kWarpSync);
    i.a = Source(Arg(0), RegClass::k32);
    return Emit(i, nullptr);
  }
  m.Take("aligned");
  Instr i = New(Kind::kBarrier);
  size_t at = 0;
  size_t end = statement_->operands.size();
  if (m.Take("sync")) {
    if (!Count(1, 2)) return false;
  } else if (m.Take("arrive")) {
    if (!Count(2)) return false;
    i.aux = 1;
  } else if (m.Take("red")) {
    const int op = m.TakeOneOf({"popc", "and", "or"});
    const Type type = m.TakeType();
    if (op < 0 || type != (op == 0 ? Type::kU32 : Type::kPred)) return Unsupported("reduction");
    if (!Count(3, 4)) return false;
    i.dst = Destination(Arg(0), op == 0 ? RegClass::k32 : RegClass::kPred);
    Operand p = Arg(--end);
    i.aux = static_cast<uint16_t>((op + 1) << 1 | (p.negated ? 8 : 0));
    p.negated = false;
    i.c = Source(p, RegClass::kPred);
    at = 1;
  } else {
    return Unsupported("barrier form");
  }
  if (!NothingLeft(m) || failed_) return false;
  i.a = Source(Arg(at), RegClass::k32);
  if (at + 1 < end) i.b = Source(Arg(at + 1), RegClass::k32);
  return Emit(i, nullptr);
}

// ---- across lanes ----

bool Decoder::Shfl(Modifiers& m) {
  const bool sync = m.Take("sync");
  const int mode = m.TakeOneOf({"up", "down", "bfly", "idx"});
  const Type type = m.TakeType();
  if (!NothingLeft(m)) return false;
  if (!sync || mode < 0 || Bytes(type) != 4)
    return Unsupported("only shfl.sync.{up,down,bfly,idx}.b32");
  if (!Count(5)) return false;
  Instr i = New(Kind::kWarpSync);
  const uint32_t predicate = Pair(Arg(0), RegClass::kPred);
  Operand d = Arg(0);
  d.pair = -1;
  i.dst = Destination(d, RegClass::k32);
  i.b = Source(Arg(1), RegClass::k32);
  i.c = Source(Arg(2), RegClass::k32);
  i.d = Source(Arg(3), RegClass::k32);
  i.a = Source(Arg(4), RegClass::k32);
  i.extra = static_cast<uint32_t>(out_.extra.size());
  out_.extra.push_back(predicate);
  return Emit(i, ShflHandler(mode));
}

bool Decoder::Vote(Modifiers& m) {
  const bool sync = m.Take("sync");
  const int mode = m.TakeOneOf({"all", "any", "uni", "ballot"});
  const Type type = m.TakeType();
  if (!NothingLeft(m)) return false;
  if (!sync || mode < 0 || type != (mode == 3 ? Type::kB32 : Type::kPred))
    return Unsupported("only vote.sync");
  if (!Count(3)) return false;
  Instr i = New(Kind::kWarpSync);
  i.dst = Destination(Arg(0), mode == 3 ? RegClass::k32 : RegClass::kPred);
  Operand p = Arg(1);
  i.aux = p.negated ? 1 : 0;
  p.negated = false;
  i.b = Source(p, RegClass::kPred);
  i.a = Source(Arg(2), RegClass::k32);
  return Emit(i, VoteHandler(mode));
}

bool Decoder::Match(Modifiers& m) {
  const bool all = m.Take("all");
  if (!all && !m.Take("any")) return Unsupported("");
  const bool sync = m.Take("sync");
  const Type type = m.TakeType();
  if (!NothingLeft(m)) return false;
  if (!sync || (Bytes(type) != 4 && Bytes(type) != 8))
    return Unsupported("only match.sync of 32 and 64 bits");
  if (!Count(3)) return false;
  Instr i = New(Kind::kWarpSync);
  const uint32_t predicate = all ? Pair(Arg(0), RegClass::kPred) : kNoReg;
  Operand d = Arg(0);
  if (all) d.pair = -1;
  i.dst = Destination(d, RegClass::k32);
  i.b = Source(Arg(1), ClassOf(type));
  i.a = Source(Arg(2), RegClass::k32);
  i.extra = static_cast<uint32_t>(out_.extra.size());
  out_.extra.push_back(predicate);
  return Emit(i, all ? MatchAllHandler(type) : MatchAnyHandler(type));
}

bool Decoder::Redux(Modifiers& m) {
  const bool sync = m.Take("sync");
  const int op = m.TakeOneOf({"add", "min", "max", "and", "or", "xor"});
  const Type type = m.TakeType();
  if (!NothingLeft(m)) return false;
  if (!sync || op < 0 || !Count(3)) return Unsupported("");
  static constexpr Atom kOps[] = {Atom::kAdd, Atom::kMin, Atom::kMax,
                                  Atom::kAnd, Atom::kOr,  Atom::kXor};
  const Handler handler = ReduxHandler(kOps[op], type);
  if (handler == nullptr) return Unsupported("type");
  Instr i = New(Kind::kWarpSync);
  i.dst = Destination(Arg(0), RegClass::k32);
  i.b = Source(Arg(1), RegClass::k32);
  i.a = Source(Arg(2), RegClass::k32);
  return Emit(i, handler);
}

bool Decoder::Activemask(Modifiers& m) {
  const Type type = m.TakeType();
  if (!NothingLeft(m) || !Count(1)) return false;
  if (type != Type::kB32) return Unsupported("type");
  Instr i = New();
  i.dst = Destination(Arg(0), RegClass::k32);
  return Emit(i, ActivemaskHandler());
}

bool Decoder::Elect(Modifiers& m) {
  if (!m.Take("sync") || !NothingLeft(m) || !Count(2)) return Unsupported("");
  Instr i = New(Kind::kWarpSync);
  const uint32_t predicate = Pair(Arg(0), RegClass::kPred);
  Operand d = Arg(0);
  d.pair = -1;
  i.dst = Destination(d, RegClass::k32);
  i.a = Source(Arg(1), RegClass::k32);
  i.extra = static_cast<uint32_t>(out_.extra.size());
  out_.extra.push_back(predicate);
  return Emit(i, ElectHandler());
}

}  // namespace simgpu::ptx
