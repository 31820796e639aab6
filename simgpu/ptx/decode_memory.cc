// Decoding of moves, loads, stores, atomics, asynchronous copies and their barriers.
#include "simgpu/ptx/decoder.h"

namespace simgpu::ptx {

// ---- moves, memory ----

bool Decoder::Mov(Modifiers& m) {
  const Type type = m.TakeType();
  if (!NothingLeft(m) || !Count(2)) return false;
  if (type == Type::kNone) return Unsupported("no type");
  if (Arg(0).kind == Operand::kVector || Arg(1).kind == Operand::kVector) return MovVector(type);
  Instr i = New();
  if (type == Type::kPred) {
    i.dst = Destination(Arg(0), RegClass::kPred);
    i.a = Source(Arg(1), RegClass::kPred);
    return Emit(i, PickPredicate(4));
  }
  const RegClass cls = ClassOf(type);
  i.dst = Destination(Arg(0), cls);
  if (Arg(1).kind == Operand::kSpecial && (cls == RegClass::k32 || cls == RegClass::k64)) {
    i.aux = static_cast<uint16_t>(Arg(1).special);
    return Emit(i, SpecialHandler(Arg(1).special, cls == RegClass::k64));
  }
  if (Arg(1).kind == Operand::kVariable && cls == RegClass::k64) {
    const Variable& variable = module_.variables[static_cast<size_t>(Arg(1).index)];
    if ((variable.space == Space::kLocal || variable.space == Space::kParam) &&
        variable.entry_offset < 0) {
      i.imm = static_cast<int64_t>(variable.frame_offset) + Arg(1).integer;
      i.aux = variable.space == Space::kParam ? 1 : 0;
      return Emit(i, LocalAddressHandler());
    }
  }
  i.a = Source(Arg(1), type);
  return Emit(i, PickInteger(Op::kMov, type));
}

bool Decoder::MovVector(Type type) {
  const bool pack = Arg(1).kind == Operand::kVector;
  const Operand& vector = pack ? Arg(1) : Arg(0);
  const int parts = static_cast<int>(vector.items.size());
  const uint32_t bytes = parts == 0 ? 0 : Bytes(type) / static_cast<uint32_t>(parts);
  if (bytes != 2 && bytes != 4) return Unsupported("parts of this width");
  Instr i = New();
  if (!VectorParts(vector, pack, parts, bytes == 2 ? RegClass::k16 : RegClass::k32, &i))
    return false;
  if (pack) {
    i.dst = Destination(Arg(0), ClassOf(type));
    return Emit(i, PackHandler(type, parts));
  }
  i.a = Source(Arg(1), ClassOf(type));
  return Emit(i, UnpackHandler(type, parts));
}

// A cluster is one block here, so what is shared by the cluster is shared by the block.
Space TakeSpace(Modifiers& m) {
  if (m.Take("global")) return Space::kGlobal;
  if (m.TakeOneOf({"shared", "shared::cta", "shared::cluster"}) >= 0) return Space::kShared;
  if (m.Take("local")) return Space::kLocal;
  if (m.Take("const")) return Space::kConst;
  if (m.TakeOneOf({"param", "param::entry", "param::func"}) >= 0) return Space::kParam;
  return Space::kGeneric;
}

uint32_t Decoder::AddressRegister(const Operand& operand, Space* space) {
  Instr address = New();
  if (!Address(operand, space, &address)) return kNoReg;
  if (!address.address32 && address.imm == 0) return address.a;
  Instr sum = New();
  sum.dst = Allocate(RegClass::k64);
  sum.a = address.a;
  sum.imm = address.imm;
  sum.address32 = address.address32;
  EmitHelper(sum, AddressHandler());
  return sum.dst;
}

bool Decoder::Load(Modifiers& m) {
  Space space = TakeSpace(m);
  m.TakeMemoryHints();
  const size_t policy = m.Take("L2::cache_hint") ? 1 : 0;
  const int count = m.Take("v2") ? 2 : m.Take("v4") ? 4 : 1;
  const Type type = m.TakeType();
  if (!NothingLeft(m) || !Count(2 + policy)) return false;
  if (type == Type::kNone || type == Type::kPred) return Unsupported("type");
  const Operand& first = count == 1                        ? Arg(0)
                         : Arg(0).kind == Operand::kVector ? Arg(0).items[0]
                                                           : Arg(0);
  // Registers may be wider than the memory type; a sink has none, so it takes the type's own width.
  RegClass cls = ClassOf(type);
  if (count > 1 && Arg(0).kind == Operand::kVector) {
    for (const Operand& item : Arg(0).items) {
      if (item.kind == Operand::kRegister)
        cls = ast_.registers[static_cast<size_t>(item.index)].cls;
    }
  } else if (first.kind == Operand::kRegister) {
    cls = ast_.registers[static_cast<size_t>(first.index)].cls;
  }
  Instr i = New();
  if (count == 1) {
    i.dst = Destination(Arg(0), cls);
  } else if (!VectorParts(Arg(0), false, count, cls, &i)) {
    return false;
  }
  if (failed_) return false;
  const Operand& address = Arg(1);
  if (space == Space::kParam && address.kind == Operand::kAddress &&
      address.items[0].kind == Operand::kVariable) {
    const Variable& variable = module_.variables[static_cast<size_t>(address.items[0].index)];
    if (variable.entry_offset >= 0) {
      const int64_t offset = variable.entry_offset + address.integer;
      const int64_t bytes = static_cast<int64_t>(Bytes(type)) * count;
      if (address.integer < 0 || address.integer + bytes > static_cast<int64_t>(variable.size)) {
        return Invalid("reads outside of parameter '" + variable.name + "'");
      }
      i.imm = offset;
      return Emit(i, LoadParamHandler(type, cls));
    }
  }
  if (!Address(address, &space, &i)) return false;
  return Emit(i, PickLoad(space, type, cls));
}

bool Decoder::Store(Modifiers& m) {
  Space space = TakeSpace(m);
  m.TakeMemoryHints();
  const size_t policy = m.Take("L2::cache_hint") ? 1 : 0;
  const int count = m.Take("v2") ? 2 : m.Take("v4") ? 4 : 1;
  const Type type = m.TakeType();
  if (!NothingLeft(m) || !Count(2 + policy)) return false;
  if (type == Type::kNone || type == Type::kPred) return Unsupported("type");
  RegClass cls = ClassOf(type);
  Instr i = New();
  if (count == 1) {
    if (Arg(1).kind == Operand::kRegister)
      cls = ast_.registers[static_cast<size_t>(Arg(1).index)].cls;
    i.b = Source(Arg(1), cls, IsFloat(type));
  } else {
    if (Arg(1).kind == Operand::kVector) {
      for (const Operand& item : Arg(1).items) {
        if (item.kind == Operand::kRegister)
          cls = ast_.registers[static_cast<size_t>(item.index)].cls;
      }
    }
    if (!VectorParts(Arg(1), true, count, cls, &i)) return false;
  }
  if (failed_ || !Address(Arg(0), &space, &i)) return false;
  return Emit(i, PickStore(space, type, cls));
}

bool Decoder::Cvta(Modifiers& m) {
  const bool to = m.Take("to");
  Space space = TakeSpace(m);
  const Type type = m.TakeType();
  if (!NothingLeft(m) || !Count(2)) return false;
  if (type != Type::kU64) return Unsupported("only .u64 addresses");
  if (space == Space::kGeneric) return Unsupported("state space");
  Instr i = New();
  i.dst = Destination(Arg(0), RegClass::k64);
  i.a = Source(Arg(1), RegClass::k64);
  // A device function's parameters live in local memory and their addresses already carry that
  // window.
  if (space == Space::kParam && !ast_.entry) return Emit(i, PickInteger(Op::kMov, Type::kB64));
  return Emit(i, CvtaHandler(space, to));
}

bool Decoder::Isspacep(Modifiers& m) {
  const Space space = TakeSpace(m);
  if (!NothingLeft(m) || !Count(2)) return false;
  if (space == Space::kGeneric) return Unsupported("state space");
  Instr i = New();
  RegClass cls;
  i.dst = Destination(Arg(0), RegClass::kPred);
  i.a = AnySource(Arg(1), RegClass::k64, &cls);
  if (cls == RegClass::k16) return Unsupported("width of the address register");
  i.aux = static_cast<uint16_t>(space);
  return Emit(i, IsspacepHandler(space, cls == RegClass::k32));
}

bool Decoder::AtomOrRed(Modifiers& m) {
  const bool red = m.opcode() == "red";
  Space space = TakeSpace(m);
  m.TakeMemoryHints();
  const size_t policy = m.Take("L2::cache_hint") ? 1 : 0;
  const bool no_flush = m.Take("noftz");
  const int op =
      m.TakeOneOf({"add", "min", "max", "exch", "cas", "and", "or", "xor", "inc", "dec"});
  const Type type = m.TakeType();
  if (!NothingLeft(m)) return false;
  if (op < 0) return Unsupported("operation");
  if (no_flush != (Bytes(type) != 8 && IsFloat(type) && type != Type::kF32))
    return Unsupported(no_flush ? "modifier .noftz" : "halves without .noftz");
  const bool cas = op == 4;
  if (!Count((red ? 2 : 3) + (cas ? 1 : 0) + policy)) return false;
  const size_t first = red ? 0 : 1;
  const RegClass cls = ClassOf(type);
  Instr i = New();
  if (!red && Arg(0).kind != Operand::kSink) i.dst = Destination(Arg(0), cls);
  if (failed_ || !Address(Arg(first), &space, &i)) return false;
  i.b = Source(Arg(first + 1), type);
  if (cas) i.c = Source(Arg(first + 2), type);
  return Emit(i, PickAtomic(space, static_cast<Atom>(op), type));
}

// ---- asynchronous copies ----

// Cache policies steer nothing here.
bool Decoder::CreatePolicy(Modifiers& m) {
  m.TakeOneOf({"fractional", "range"});
  m.Take("global");
  m.TakeMemoryHints();
  m.TakeMemoryHints();
  m.Take("L2::evict_unchanged");
  const Type type = m.TakeType();
  if (!NothingLeft(m) || !Count(1, 4)) return false;
  if (type != Type::kB64) return Unsupported("type");
  Instr i = New();
  i.dst = Destination(Arg(0), RegClass::k64);
  i.a = ConstantOffset(RegClass::k64, 0, -1);
  return Emit(i, PickInteger(Op::kMov, Type::kB64));
}

// Copies are done at once, which is one of the moments a card may choose; waiting finds them done.
bool Decoder::AsyncCopy(Modifiers& m) {
  if (!m.Take("async")) return Unsupported("");
  if (m.Take("bulk")) return BulkCopy(m);
  if (m.Take("commit_group") || m.Take("wait_all")) {
    return NothingLeft(m) && Count(0) && Emit(New(), FenceHandler());
  }
  if (m.Take("wait_group")) return NothingLeft(m) && Count(1) && Emit(New(), FenceHandler());
  if (m.Take("mbarrier")) {
    const bool no_increment = m.Take("noinc");
    Space space = TakeSpace(m);
    const Type type = m.TakeType();
    if (!m.Take("arrive") || !NothingLeft(m) || !Count(1)) return Unsupported("");
    if (type != Type::kB64) return Unsupported("type");
    // Without .noinc the arrival was added to the pending ones just before: nothing is left of it.
    if (!no_increment) return Emit(New(), FenceHandler());
    Instr i = New();
    if (!Address(Arg(0), &space, &i)) return false;
    i.b = ConstantOffset(RegClass::k32, 1, -1);
    return Emit(i, MbarrierHandler(Mbarrier::kArrive));
  }
  m.TakeMemoryHints();
  const size_t policy = m.Take("L2::cache_hint") ? 1 : 0;
  Space to = m.TakeOneOf({"shared", "shared::cta"}) >= 0 ? Space::kShared : Space::kGeneric;
  Space from = m.Take("global") ? Space::kGlobal : Space::kGeneric;
  if (!NothingLeft(m) || !Count(3, 4 + policy)) return false;
  if (to == Space::kGeneric || from == Space::kGeneric) return Unsupported("state space");
  const Operand& size = Arg(2);
  if (size.kind != Operand::kInteger ||
      (size.integer != 4 && size.integer != 8 && size.integer != 16)) {
    return Unsupported("a copy of another size than 4, 8 or 16 bytes");
  }
  Instr i = New(Kind::kMemory);
  i.c = AddressRegister(Arg(1), &from);
  if (failed_ || !Address(Arg(0), &to, &i)) return false;
  i.aux = static_cast<uint16_t>(size.integer);
  if (statement_->operands.size() - policy == 4) {
    const Operand& source_size = Arg(3);
    if (source_size.kind == Operand::kRegister &&
        ast_.registers[static_cast<size_t>(source_size.index)].cls == RegClass::kPred) {
      return Unsupported("ignore-src");
    }
    i.b = Source(source_size, RegClass::k32);
  }
  return Emit(i, AsyncCopyHandler());
}

// The linear forms. What names a tensor map is not supported.
bool Decoder::BulkCopy(Modifiers& m) {
  if (m.Take("commit_group")) return NothingLeft(m) && Count(0) && Emit(New(), FenceHandler());
  if (m.Take("wait_group")) {
    m.Take("read");
    return NothingLeft(m) && Count(1) && Emit(New(), FenceHandler());
  }
  const bool prefetch = m.Take("prefetch");
  const bool to_barrier = m.Take("mbarrier::complete_tx::bytes");
  const bool to_group = m.Take("bulk_group");
  const size_t policy = m.Take("L2::cache_hint") ? 1 : 0;
  const bool to_l2 = m.Take("L2");
  const int shared = m.TakeOneOf({"shared::cluster", "shared::cta"});
  const bool global = m.Take("global");
  if (!NothingLeft(m)) return false;
  if (prefetch) return to_l2 && global && Count(2 + policy) && Emit(New(), FenceHandler());
  if (shared < 0 || !global || to_barrier == to_group) return Unsupported("");
  if (!Count((to_barrier ? 4 : 3) + policy)) return false;
  // With a barrier the copy goes to shared memory, with a group to global memory.
  Space to = to_barrier ? Space::kShared : Space::kGlobal;
  Space from = to_barrier ? Space::kGlobal : Space::kShared;
  Instr i = New(Kind::kMemory);
  if (to_barrier) {
    Space barrier = Space::kShared;
    i.d = AddressRegister(Arg(3), &barrier);
  }
  i.c = AddressRegister(Arg(1), &from);
  if (failed_ || !Address(Arg(0), &to, &i)) return false;
  i.b = Source(Arg(2), RegClass::k32);
  return Emit(i, BulkCopyHandler());
}

bool Decoder::MemoryBarrier(Modifiers& m) {
  const int op = m.TakeOneOf({"init", "inval", "arrive", "arrive_drop", "expect_tx", "complete_tx",
                              "test_wait", "try_wait", "pending_count"});
  const bool with_expect = op == 2 || op == 3 ? m.Take("expect_tx") : false;
  const bool parity = m.Take("parity");
  m.Take("noComplete");
  Space space = TakeSpace(m);
  m.TakeMemoryHints();
  const Type type = m.TakeType();
  if (!NothingLeft(m)) return false;
  if (op < 0 || type != Type::kB64) return Unsupported("");
  Instr i = New();
  switch (op) {
    case 0:
      if (!Count(2) || !Address(Arg(0), &space, &i)) return false;
      i.b = Source(Arg(1), RegClass::k32);
      return Emit(i, MbarrierHandler(Mbarrier::kInit));
    case 1:
      if (!Count(1) || !Address(Arg(0), &space, &i)) return false;
      return Emit(i, MbarrierHandler(Mbarrier::kInvalidate));
    case 2:
    case 3: {
      if (!Count(1, 3)) return false;
      const bool state = Arg(0).kind != Operand::kAddress;
      const size_t at = state ? 1 : 0;
      if (statement_->operands.size() <= at) return Unsupported("");
      if (state && Arg(0).kind != Operand::kSink) i.dst = Destination(Arg(0), RegClass::k64);
      if (failed_ || !Address(Arg(at), &space, &i)) return false;
      const bool counted = statement_->operands.size() > at + 1;
      if (with_expect && !counted) return Unsupported("");
      i.b = counted ? Source(Arg(at + 1), RegClass::k32) : ConstantOffset(RegClass::k32, 1, -1);
      i.aux = op == 3 ? 1 : 0;
      return Emit(i, MbarrierHandler(with_expect ? Mbarrier::kArriveExpect : Mbarrier::kArrive));
    }
    case 4:
    case 5:
      if (!Count(2) || !Address(Arg(0), &space, &i)) return false;
      i.b = Source(Arg(1), RegClass::k32);
      return Emit(i, MbarrierHandler(op == 4 ? Mbarrier::kExpect : Mbarrier::kComplete));
    case 6:
    case 7:
      // try_wait's time limit is a hint; it gives way to other warps instead of sleeping.
      if (!Count(3, op == 7 ? 4 : 3)) return false;
      i.dst = Destination(Arg(0), RegClass::kPred);
      if (failed_ || !Address(Arg(1), &space, &i)) return false;
      i.b = Source(Arg(2), parity ? RegClass::k32 : RegClass::k64);
      return Emit(i, MbarrierHandler(parity ? Mbarrier::kWaitParity : Mbarrier::kWait));
    default:
      if (!Count(2)) return false;
      i.dst = Destination(Arg(0), RegClass::k32);
      i.a = Source(Arg(1), RegClass::k64);
      return Emit(i, MbarrierHandler(Mbarrier::kPending));
  }
}

}  // namespace simgpu::ptx
