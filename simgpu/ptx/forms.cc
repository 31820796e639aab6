#include "simgpu/ptx/forms.h"

#include <algorithm>
#include <bit>
#include <cfenv>
#include <cmath>
#include <limits>
#include <tuple>

#include "simgpu/ptx/test_device.h"

namespace simgpu::ptx {
namespace {

using Wide = __int128;
struct IntegerType {
  const char* name;
  int bits;
  bool is_signed;
  char reg() const { return bits <= 16 ? 'h' : bits == 32 ? 'r' : 'd'; }
  Wide Value(uint64_t raw) const {
    const Wide v = static_cast<Wide>(bits == 64 ? raw : raw & ((uint64_t{1} << bits) - 1));
    return is_signed && (v >> (bits - 1)) != 0 ? v - (Wide{1} << bits) : v;
  }
  uint64_t Cut(Wide v) const { return Wrap(static_cast<uint64_t>(v)); }
  // Of a sum or product of words: what a register of this width keeps.
  uint64_t Wrap(uint64_t v) const { return bits == 64 ? v : v & ((uint64_t{1} << bits) - 1); }
  Wide Min() const { return is_signed ? -(Wide{1} << (bits - 1)) : 0; }
  Wide Max() const { return (Wide{1} << (is_signed ? bits - 1 : bits)) - 1; }
};

const IntegerType kIntegers[] = {{"u16", 16, false}, {"s16", 16, true},  {"u32", 32, false},
                                 {"s32", 32, true},  {"u64", 64, false}, {"s64", 64, true}};
const IntegerType kBitTypes[] = {{"b16", 16, false}, {"b32", 32, false}, {"b64", 64, false}};

std::string Reg(char cls, int n) { return std::string("%") + cls + std::to_string(n); }

class Forms {
 public:
  std::vector<Form> Make() {
    for (const IntegerType& t : kIntegers) Arithmetic(t);
    for (const IntegerType& t : kIntegers) Bits(t);
    for (const IntegerType& t : kBitTypes) Bits(t);
    Sized32();
    for (const IntegerType& t : kIntegers) Comparisons(t);
    for (const IntegerType& t : kBitTypes) Comparisons(t);
    Floats<float>("f32", 'r', 'f');
    Floats<double>("f64", 'd', 'g');
    Halves();
    IntegerConversions();
    FloatConversions();
    Selections();
    return std::move(forms_);
  }

 private:
  void Add(std::string text, char result, Reference reference, char operands = 'i') {
    forms_.push_back({std::move(text), result, std::move(reference), operands});
  }
  // op d, a, b with all operands of one class.
  void Two(const std::string& op, char cls, Reference reference, char operands = 'i') {
    Add(op + " " + Reg(cls, 9) + ", " + Reg(cls, 0) + ", " + Reg(cls, 1) + ";", cls,
        std::move(reference), operands);
  }
  void One(const std::string& op, char cls, Reference reference, char operands = 'i') {
    Add(op + " " + Reg(cls, 9) + ", " + Reg(cls, 0) + ";", cls, std::move(reference), operands);
  }
  void Three(const std::string& op, char cls, Reference reference, char operands = 'i') {
    Add(op + " " + Reg(cls, 9) + ", " + Reg(cls, 0) + ", " + Reg(cls, 1) + ", " + Reg(cls, 2) + ";",
        cls, std::move(reference), operands);
  }

  void Arithmetic(const IntegerType& t) {
    const std::string n = std::string(".") + t.name;
    const char r = t.reg();
    const auto v = [t](uint64_t raw) { return t.Value(raw); };
    const auto product = [v](uint64_t a, uint64_t b) { return v(a) * v(b); };
    // The high half of a 64-bit product needs more than 128 signed bits only for unsigned operands.
    const auto high = [t, v](uint64_t a, uint64_t b) -> uint64_t {
      if (t.bits < 64) return t.Cut((v(a) * v(b)) >> t.bits);
      if (t.is_signed) return static_cast<uint64_t>((v(a) * v(b)) >> 64);
      return static_cast<uint64_t>(static_cast<unsigned __int128>(a) * b >> 64);
    };
    Two("add" + n, r, [=](auto a, auto b, auto) { return t.Cut(v(a) + v(b)); });
    Two("sub" + n, r, [=](auto a, auto b, auto) { return t.Cut(v(a) - v(b)); });
    Two("mul.lo" + n, r, [=](auto a, auto b, auto) { return t.Wrap(a * b); });
    Two("mul.hi" + n, r, [=](auto a, auto b, auto) { return high(a, b); });
    Two("min" + n, r, [=](auto a, auto b, auto) { return t.Cut(std::min(v(a), v(b))); });
    Two("max" + n, r, [=](auto a, auto b, auto) { return t.Cut(std::max(v(a), v(b))); });
    Two("div" + n, r,
        [=](auto a, auto b, auto) { return v(b) == 0 ? t.Cut(-1) : t.Cut(v(a) / v(b)); });
    Two("rem" + n, r,
        [=](auto a, auto b, auto) { return v(b) == 0 ? t.Cut(v(a)) : t.Cut(v(a) % v(b)); });
    Three("mad.lo" + n, r, [=](auto a, auto b, auto c) { return t.Wrap(a * b + c); });
    Three("mad.hi" + n, r, [=](auto a, auto b, auto c) { return t.Wrap(high(a, b) + c); });
    Three("sad" + n, r, [=](auto a, auto b, auto c) {
      const Wide d = v(a) - v(b);
      return t.Cut(static_cast<Wide>(c) + (d < 0 ? -d : d));
    });
    if (t.is_signed) {
      One("neg" + n, r, [=](auto a, auto, auto) { return t.Cut(-v(a)); });
      One("abs" + n, r, [=](auto a, auto, auto) { return t.Cut(v(a) < 0 ? -v(a) : v(a)); });
    }
    if (t.bits <= 32) {
      const char to = t.bits == 16 ? 'r' : 'd';
      Add("mul.wide" + n + " " + Reg(to, 9) + ", " + Reg(r, 0) + ", " + Reg(r, 1) + ";", to,
          [=](auto a, auto b, auto) {
            const uint64_t p = static_cast<uint64_t>(product(a, b));
            return t.bits == 16 ? p & 0xffffffff : p;
          });
      Add("mad.wide" + n + " " + Reg(to, 9) + ", " + Reg(r, 0) + ", " + Reg(r, 1) + ", " +
              Reg(to, 2) + ";",
          to, [=](auto a, auto b, auto c) {
            const uint64_t p = static_cast<uint64_t>(product(a, b)) + c;
            return t.bits == 16 ? p & 0xffffffff : p;
          });
    }
    if (t.bits >= 32) {
      Add("bfe" + n + " " + Reg(r, 9) + ", " + Reg(r, 0) + ", %r1, %r2;", r,
          [=](auto a, auto b, auto c) {
            // Bit by bit, as the definition goes.
            const uint32_t pos = b & 255, len = c & 255, msb = static_cast<uint32_t>(t.bits) - 1;
            const bool sign =
                t.is_signed && len != 0 && (a >> std::min(pos + len - 1, msb) & 1) != 0;
            uint64_t out = 0;
            for (uint32_t i = 0; i <= msb; ++i) {
              const bool bit = i < len && pos + i <= msb ? (a >> (pos + i) & 1) != 0 : sign;
              out |= uint64_t{bit} << i;
            }
            return out;
          });
      for (const bool amount : {false, true}) {
        Add(std::string(amount ? "bfind.shiftamt" : "bfind") + n + " %r9, " + Reg(r, 0) + ";", 'r',
            [=](auto a, auto, auto) -> uint64_t {
              Wide x = v(a);
              if (x < 0) x = -1 - x;
              int msb = -1;
              while (x != 0) {
                ++msb;
                x >>= 1;
              }
              return msb < 0 ? 0xffffffff : static_cast<uint64_t>(amount ? t.bits - 1 - msb : msb);
            });
      }
      // Carries: the flag is made by the instruction in front.
      const std::string d9 = Reg(r, 9), d8 = Reg(r, 8), a = Reg(r, 0), b = Reg(r, 1), c = Reg(r, 2);
      const auto carry = [t](uint64_t x, uint64_t y) {
        return ((static_cast<unsigned __int128>(t.Wrap(x)) + t.Wrap(y)) >> t.bits) != 0;
      };
      const auto borrow = [t](uint64_t x, uint64_t y) { return t.Wrap(x) < t.Wrap(y); };
      Add("add.cc" + n + " " + d8 + ", " + a + ", " + b + "; addc" + n + " " + d9 + ", " + c +
              ", 7;",
          r, [=](auto x, auto y, auto z) { return t.Wrap(z + 7 + carry(x, y)); });
      Add("add.cc" + n + " " + d8 + ", " + a + ", " + b + "; addc.cc" + n + " " + d9 + ", " + c +
              ", 7;",
          r, [=](auto x, auto y, auto z) { return t.Wrap(z + 7 + carry(x, y)); });
      Add("sub.cc" + n + " " + d8 + ", " + a + ", " + b + "; subc" + n + " " + d9 + ", " + c +
              ", 7;",
          r, [=](auto x, auto y, auto z) { return t.Wrap(z - 7 - borrow(x, y)); });
      Add("sub.cc" + n + " " + d8 + ", " + a + ", " + b + "; subc.cc" + n + " " + d9 + ", " + c +
              ", 7;",
          r, [=](auto x, auto y, auto z) { return t.Wrap(z - 7 - borrow(x, y)); });
      for (const bool hi : {false, true}) {
        const std::string part = hi ? ".hi" : ".lo";
        const auto half = [=](uint64_t x, uint64_t y) { return hi ? high(x, y) : t.Wrap(x * y); };
        Add("mad" + part + ".cc" + n + " " + d8 + ", " + a + ", " + b + ", " + c + "; addc" + n +
                " " + d9 + ", " + d8 + ", 0;",
            r, [=](auto x, auto y, auto z) {
              const uint64_t p = half(x, y);
              return t.Wrap(p + z + carry(p, z));
            });
        for (const bool out : {false, true}) {
          Add("add.cc" + n + " " + d8 + ", " + a + ", " + b + "; madc" + part + (out ? ".cc" : "") +
                  n + " " + d9 + ", " + a + ", " + b + ", " + c + ";",
              r, [=](auto x, auto y, auto z) { return t.Wrap(half(x, y) + z + carry(x, y)); });
        }
      }
    }
  }

  void Bits(const IntegerType& t) {
    const std::string n = std::string(".") + t.name;
    const char r = t.reg();
    const auto cut = [t](uint64_t x) { return t.Wrap(x); };
    Two("and" + n, r, [=](auto a, auto b, auto) { return cut(a & b); });
    Two("or" + n, r, [=](auto a, auto b, auto) { return cut(a | b); });
    Two("xor" + n, r, [=](auto a, auto b, auto) { return cut(a ^ b); });
    One("not" + n, r, [=](auto a, auto, auto) { return cut(~a); });
    One("cnot" + n, r, [=](auto a, auto, auto) { return uint64_t{cut(a) == 0}; });
    One("mov" + n, r, [=](auto a, auto, auto) { return cut(a); });
    const std::string shift = " " + Reg(r, 9) + ", " + Reg(r, 0) + ", %r1;";
    const auto amount = [](uint64_t b) { return static_cast<uint32_t>(b); };
    Add("shl" + n + shift, r, [=](auto a, auto b, auto) {
      return amount(b) >= static_cast<uint32_t>(t.bits) ? uint64_t{0} : cut(a << amount(b));
    });
    Add("shr" + n + shift, r, [=](auto a, auto b, auto) {
      return t.Cut(t.Value(a) >> std::min<uint32_t>(amount(b), 100));
    });
    if (t.bits < 32) return;
    Add("popc" + n + " %r9, " + Reg(r, 0) + ";", 'r',
        [=](auto a, auto, auto) { return static_cast<uint64_t>(__builtin_popcountll(cut(a))); });
    Add("clz" + n + " %r9, " + Reg(r, 0) + ";", 'r', [=](auto a, auto, auto) {
      uint64_t zeros = 0;
      for (int bit = t.bits - 1; bit >= 0 && (cut(a) >> bit & 1) == 0; --bit) ++zeros;
      return zeros;
    });
    One("brev" + n, r, [=](auto a, auto, auto) {
      uint64_t out = 0;
      for (int bit = 0; bit < t.bits; ++bit) out |= (a >> bit & 1) << (t.bits - 1 - bit);
      return out;
    });
    Add("bfi" + n + " " + Reg(r, 9) + ", " + Reg(r, 0) + ", " + Reg(r, 1) + ", %r2, 9;", r,
        [=](auto a, auto b, auto c) {
          const uint32_t pos = c & 255;
          uint64_t out = cut(b);
          for (uint32_t i = 0; i < 9 && pos + i < static_cast<uint32_t>(t.bits); ++i) {
            out = (out & ~(uint64_t{1} << (pos + i))) | (a >> i & 1) << (pos + i);
          }
          return out;
        });
  }

  void Sized32() {
    const IntegerType s32{"s32", 32, true};
    const auto saturate = [s32](Wide v) {
      return s32.Cut(std::min(std::max(v, s32.Min()), s32.Max()));
    };
    Two("add.sat.s32", 'r',
        [=](auto a, auto b, auto) { return saturate(s32.Value(a) + s32.Value(b)); });
    Two("sub.sat.s32", 'r',
        [=](auto a, auto b, auto) { return saturate(s32.Value(a) - s32.Value(b)); });
    for (const bool is_signed : {false, true}) {
      const std::string n = is_signed ? ".s32" : ".u32";
      const IntegerType part{"", 24, is_signed};
      const auto product = [part](uint64_t a, uint64_t b) { return part.Value(a) * part.Value(b); };
      Two("mul24.lo" + n, 'r', [=](auto a, auto b, auto) { return s32.Cut(product(a, b)); });
      Two("mul24.hi" + n, 'r', [=](auto a, auto b, auto) { return s32.Cut(product(a, b) >> 16); });
      Three("mad24.lo" + n, 'r',
            [=](auto a, auto b, auto c) { return s32.Cut(product(a, b) + static_cast<Wide>(c)); });
      Three("mad24.hi" + n, 'r', [=](auto a, auto b, auto c) {
        return s32.Cut((product(a, b) >> 16) + static_cast<Wide>(c));
      });
      for (const bool wrap : {false, true}) {
        const auto bounded = [wrap](uint64_t x) {
          const uint32_t v = static_cast<uint32_t>(x);
          return wrap ? v & 31 : std::min(v, 32u);
        };
        const std::string mode = wrap ? ".wrap" : ".clamp";
        Two("szext" + mode + n, 'r', [=](auto a, auto b, auto) {
          const uint32_t bits = bounded(b);
          if (bits == 0) return uint64_t{0};
          return s32.Cut(IntegerType{"", static_cast<int>(bits), is_signed}.Value(a));
        });
        const auto mask = [=](uint64_t a, uint64_t b) {
          return s32.Cut(((Wide{1} << bounded(b)) - 1) << bounded(a));
        };
        Two("bmsk" + mode + n, 'r', [=](auto a, auto b, auto) { return mask(a, b); });
        if (!is_signed)
          Two("bmsk" + mode + ".b32", 'r', [=](auto a, auto b, auto) { return mask(a, b); });
      }
      for (const bool b_signed : {false, true}) {
        const std::string types = n + (b_signed ? ".s32" : ".u32");
        const auto dot = [=](uint64_t a, uint64_t b, uint64_t c, int parts, int width, int first) {
          Wide sum = static_cast<Wide>(c);
          for (int k = 0; k < parts; ++k) {
            sum += IntegerType{"", width, is_signed}.Value(a >> (width * k)) *
                   IntegerType{"", 8, b_signed}.Value(b >> (8 * (k + first)));
          }
          return s32.Cut(sum);
        };
        Three("dp4a" + types, 'r', [=](auto a, auto b, auto c) { return dot(a, b, c, 4, 8, 0); });
        Three("dp2a.lo" + types, 'r',
              [=](auto a, auto b, auto c) { return dot(a, b, c, 2, 16, 0); });
        Three("dp2a.hi" + types, 'r',
              [=](auto a, auto b, auto c) { return dot(a, b, c, 2, 16, 2); });
        Video(is_signed, b_signed);
      }
    }
  }

  void Video(bool a_signed, bool b_signed) {
    const std::string types =
        std::string(a_signed ? ".s32" : ".u32") + (b_signed ? ".s32" : ".u32");
    struct Operation {
      const char* name;
      Wide (*f)(Wide, Wide);
    };
    static const Operation kOperations[] = {
        {"vadd", [](Wide a, Wide b) { return a + b; }},
        {"vsub", [](Wide a, Wide b) { return a - b; }},
        {"vavrg", [](Wide a, Wide b) { return (a + b + (a + b >= 0 ? 1 : 0)) >> 1; }},
        {"vabsdiff", [](Wide a, Wide b) { return a < b ? b - a : a - b; }},
        {"vmin", [](Wide a, Wide b) { return std::min(a, b); }},
        {"vmax", [](Wide a, Wide b) { return std::max(a, b); }},
    };
    for (const int parts : {2, 4}) {
      const int bits = 32 / parts;
      const auto apply = [=](Wide (*f)(Wide, Wide), uint64_t a, uint64_t b, uint64_t c, bool sum,
                             const IntegerType* clamp) {
        uint64_t packed = 0;
        Wide total = static_cast<Wide>(c);
        for (int k = 0; k < parts; ++k) {
          // NOLINTBEGIN(clang-analyzer-core.BitwiseShift): at most 24
          Wide v = f(IntegerType{"", bits, a_signed}.Value(a >> (bits * k)),
                     IntegerType{"", bits, b_signed}.Value(b >> (bits * k)));
          // NOLINTEND(clang-analyzer-core.BitwiseShift)
          if (clamp != nullptr) v = std::min(std::max(v, clamp->Min()), clamp->Max());
          total += v;
          packed |= IntegerType{"", bits, false}.Cut(v) << (bits * k);
        }
        return sum ? IntegerType{"", 32, false}.Cut(total) : packed;
      };
      for (const Operation& operation : kOperations) {
        for (const bool d_signed : {false, true}) {
          const std::string n =
              operation.name + std::to_string(parts) + (d_signed ? ".s32" : ".u32") + types;
          const auto f = operation.f;
          Three(n, 'r', [=](auto a, auto b, auto c) { return apply(f, a, b, c, false, nullptr); });
          Three(n + ".add", 'r',
                [=](auto a, auto b, auto c) { return apply(f, a, b, c, true, nullptr); });
          const IntegerType part{"", bits, d_signed};
          Three(n + ".sat", 'r',
                [=](auto a, auto b, auto c) { return apply(f, a, b, c, false, &part); });
        }
      }
      static const std::pair<const char*, Wide (*)(Wide, Wide)> kSets[] = {
          {".eq", [](Wide a, Wide b) { return Wide{a == b}; }},
          {".ne", [](Wide a, Wide b) { return Wide{a != b}; }},
          {".lt", [](Wide a, Wide b) { return Wide{a < b}; }},
          {".le", [](Wide a, Wide b) { return Wide{a <= b}; }},
          {".gt", [](Wide a, Wide b) { return Wide{a > b}; }},
          {".ge", [](Wide a, Wide b) { return Wide{a >= b}; }}};
      for (const auto& [compare, f] : kSets) {
        const auto g = f;
        Three("vset" + std::to_string(parts) + types + compare, 'r',
              [=](auto a, auto b, auto c) { return apply(g, a, b, c, false, nullptr); });
      }
    }
  }

  template <class V>
  static bool Compared(const std::string& how, V a, V b) {
    const bool nan = a != a || b != b;
    if (how == "num") return !nan;
    if (how == "nan") return nan;
    if (nan) return how.size() == 3;  // ltu and the like; equ, neu.
    const std::string base = how.substr(0, 2);
    if (base == "eq") return a == b;
    if (base == "ne") return a != b;
    if (base == "lt" || base == "lo") return a < b;
    if (base == "le" || base == "ls") return a <= b;
    if (base == "gt" || base == "hi") return a > b;
    return a >= b;
  }

  // setp and set with a reference that compares the operands of this class.
  void Compare(const std::string& how, const std::string& type, char cls, char operands,
               std::function<bool(uint64_t, uint64_t)> compare) {
    const std::string ab = Reg(cls, 0) + ", " + Reg(cls, 1) + ";";
    Add(
        "setp." + how + "." + type + " %p9, " + ab, 'p',
        [=](auto a, auto b, auto) { return uint64_t{compare(a, b)}; }, operands);
    if (how == "lt") {
      const std::string abp = Reg(cls, 0) + ", " + Reg(cls, 1) + ", %p0;";
      const auto combined = [&](const char* name, auto combine) {
        Add(
            std::string("setp.lt.") + name + "." + type + " %p9, " + abp, 'p',
            [=](auto a, auto b, auto) { return uint64_t{combine(compare(a, b), (a & 1) != 0)}; },
            operands);
      };
      combined("and", [](bool x, bool p) { return x && p; });
      combined("or", [](bool x, bool p) { return x || p; });
      combined("xor", [](bool x, bool p) { return x != p; });
    }
    struct Destination {
      const char* name;
      char cls;
      uint64_t yes;
    };
    std::vector<Destination> destinations = {
        {"u32", 'r', 0xffffffff}, {"s32", 'r', 0xffffffff}, {"f32", 'r', 0x3f800000}};
    if (type == "f16" || type == "bf16") {
      destinations.push_back({"u16", 'h', 0xffff});
      destinations.push_back({"s16", 'h', 0xffff});
      if (type == "f16") destinations.push_back({"f16", 'h', 0x3c00});
      if (type == "bf16") destinations.push_back({"bf16", 'h', 0x3f80});
    }
    for (const Destination& d : destinations) {
      const uint64_t yes = d.yes;
      Add(
          "set." + how + "." + d.name + "." + type + " " + Reg(d.cls, 9) + ", " + ab, d.cls,
          [=](auto a, auto b, auto) { return compare(a, b) ? yes : uint64_t{0}; }, operands);
    }
  }

  void Comparisons(const IntegerType& t) {
    std::vector<const char*> names = {"eq", "ne"};
    if (t.name[0] != 'b') names.insert(names.end(), {"lt", "le", "gt", "ge"});
    if (t.name[0] == 'u') names.insert(names.end(), {"lo", "ls", "hi", "hs"});
    for (const char* name : names) {
      const std::string how = name;
      Compare(how, t.name, t.reg(), 'i',
              [=](uint64_t a, uint64_t b) { return Compared(how, t.Value(a), t.Value(b)); });
    }
  }

  static const std::vector<std::string>& FloatComparisons() {
    static const std::vector<std::string> kNames = {
        "eq", "ne", "lt", "le", "gt", "ge", "equ", "neu", "ltu", "leu", "gtu", "geu", "num", "nan"};
    return kNames;
  }

  template <class T>
  static T Of(uint64_t raw) {
    if constexpr (sizeof(T) == 4) {
      return std::bit_cast<float>(static_cast<uint32_t>(raw));
    } else {
      return std::bit_cast<double>(raw);
    }
  }
  // The bits of a result: single NaNs are one number, and flushing keeps the sign.
  template <class T>
  static uint64_t BitsOf(T v, bool flush = false) {
    if constexpr (sizeof(T) == 4) {
      if (v != v) return 0x7fffffff;
      if (flush && std::fabs(v) < std::numeric_limits<float>::min()) v = std::copysign(0.0f, v);
      return std::bit_cast<uint32_t>(v);
    } else {
      return v != v ? 0 : std::bit_cast<uint64_t>(v);  // Which NaN is not compared in double.
    }
  }
  template <class T>
  static T Flushed(T v) {
    return std::fabs(v) < std::numeric_limits<float>::min() ? std::copysign(T{0}, v) : v;
  }

  template <class T>
  void Floats(const std::string& type, char r, char edges) {
    const auto two = [&](const std::string& op, auto f) {
      Two(
          op + "." + type, r,
          [=](auto a, auto b, auto) { return BitsOf<T>(f(Of<T>(a), Of<T>(b))); }, edges);
    };
    const auto flushing = [&](const std::string& op, auto f) {
      Two(
          op + ".ftz." + type, r,
          [=](auto a, auto b, auto) {
            return BitsOf<T>(f(Flushed(Of<T>(a)), Flushed(Of<T>(b))), true);
          },
          edges);
    };
    const auto add = [](T a, T b) { return a + b; };
    const auto sub = [](T a, T b) { return a - b; };
    const auto mul = [](T a, T b) { return a * b; };
    const auto div = [](T a, T b) { return a / b; };
    for (const std::string& round : {std::string(), std::string(".rn")}) {
      two("add" + round, add);
      two("sub" + round, sub);
      two("mul" + round, mul);
    }
    two("div.rn", div);
    const auto least = [](T a, T b) {
      if (a != a || b != b) return a != a ? b : a;
      return a < b || (a == b && std::signbit(a)) ? a : b;
    };
    const auto most = [](T a, T b) {
      if (a != a || b != b) return a != a ? b : a;
      return a > b || (a == b && !std::signbit(a)) ? a : b;
    };
    two("min", least);
    two("max", most);
    const T nan = std::numeric_limits<T>::quiet_NaN();
    if (type == "f32")
      two("min.NaN", [=](T a, T b) { return a != a || b != b ? nan : least(a, b); });
    if (type == "f32")
      two("max.NaN", [=](T a, T b) { return a != a || b != b ? nan : most(a, b); });
    if (type == "f32") {
      flushing("div.rn", div);
      const auto clamp = [](T v) { return v > 0 ? (v < 1 ? v : T{1}) : T{0}; };
      const std::pair<const char*, T (*)(T, T)> operations[] = {
          {"add", [](T a, T b) { return a + b; }},
          {"sub", [](T a, T b) { return a - b; }},
          {"mul", [](T a, T b) { return a * b; }}};
      for (const auto& [name, operation] : operations) {
        const auto f = operation;
        for (const char* round : {"", ".rn"}) {
          const std::string op = std::string(name) + round;
          flushing(op, f);
          two(op + ".sat", [=](T a, T b) { return clamp(f(a, b)); });
          Two(
              op + ".ftz.sat." + type, r,
              [=](auto a, auto b, auto) {
                return BitsOf<T>(clamp(Flushed(f(Flushed(Of<T>(a)), Flushed(Of<T>(b))))), true);
              },
              edges);
        }
      }
      for (const char* op : {"fma.rn", "mad.rn"}) {
        const auto fused = [=, this](const char* flags, bool flush, bool saturate) {
          Three(
              std::string(op) + flags + "." + type, r,
              [=](auto a, auto b, auto c) {
                T x = Of<T>(a), y = Of<T>(b), z = Of<T>(c);
                if (flush) x = Flushed(x), y = Flushed(y), z = Flushed(z);
                T v = std::fma(x, y, z);
                if (flush) v = Flushed(v);
                return BitsOf<T>(saturate ? clamp(v) : v, flush);
              },
              edges);
        };
        fused(".ftz", true, false);
        fused(".sat", false, true);
        fused(".ftz.sat", true, true);
      }
      One(
          "neg.ftz." + type, r,
          [](auto a, auto, auto) {
            const uint64_t bits = std::bit_cast<uint32_t>(float(Flushed(Of<T>(a))));
            return bits ^ 0x80000000;
          },
          edges);
      flushing("min", least);
      flushing("max", most);
      const auto signed_by_both = [](T v, T a, T b) {
        return std::copysign(v, std::signbit(a) != std::signbit(b) ? T{-1} : T{1});
      };
      const auto least_xor = [=](T a, T b) {
        return signed_by_both(least(std::fabs(a), std::fabs(b)), a, b);
      };
      const auto most_xor = [=](T a, T b) {
        return signed_by_both(most(std::fabs(a), std::fabs(b)), a, b);
      };
      two("min.xorsign.abs", least_xor);
      two("max.xorsign.abs", most_xor);
      flushing("min.xorsign.abs", least_xor);
      flushing("max.xorsign.abs", most_xor);
      flushing("min.NaN", [=](T a, T b) { return a != a || b != b ? nan : least(a, b); });
      flushing("max.NaN", [=](T a, T b) { return a != a || b != b ? nan : most(a, b); });
    } else {
      One(
          "rcp.approx.ftz." + type, r,
          [](auto a, auto, auto) { return BitsOf<T>(T{1} / Of<T>(a)); }, edges);
    }
    for (const char* op : {"fma", "mad"}) {
      Three(
          std::string(op) + ".rn." + type, r,
          [](auto a, auto b, auto c) { return BitsOf<T>(std::fma(Of<T>(a), Of<T>(b), Of<T>(c))); },
          edges);
    }
    for (const auto& [name, host] :
         {std::pair("rz", FE_TOWARDZERO), {"rm", FE_DOWNWARD}, {"rp", FE_UPWARD}}) {
      const std::string tail = std::string(".") + name + "." + type;
      const int way = host;
      const auto directed = [way](auto f, T a, T b, T c) {
        std::fesetround(way);
        volatile T x = a, y = b, z = c;
        volatile T out = f(x, y, z);
        std::fesetround(FE_TONEAREST);
        return BitsOf<T>(out);
      };
      Two(
          "add" + tail, r,
          [=](auto a, auto b, auto) {
            return directed([](T x, T y, T) { return x + y; }, Of<T>(a), Of<T>(b), T{});
          },
          edges);
      Two(
          "sub" + tail, r,
          [=](auto a, auto b, auto) {
            return directed([](T x, T y, T) { return x - y; }, Of<T>(a), Of<T>(b), T{});
          },
          edges);
      Two(
          "mul" + tail, r,
          [=](auto a, auto b, auto) {
            return directed([](T x, T y, T) { return x * y; }, Of<T>(a), Of<T>(b), T{});
          },
          edges);
      Two(
          "div" + tail, r,
          [=](auto a, auto b, auto) {
            return directed([](T x, T y, T) { return x / y; }, Of<T>(a), Of<T>(b), T{});
          },
          edges);
      One(
          "sqrt" + tail, r,
          [=](auto a, auto, auto) {
            return directed([](T x, T, T) { return std::sqrt(x); }, Of<T>(a), T{}, T{});
          },
          edges);
      One(
          "rcp" + tail, r,
          [=](auto a, auto, auto) {
            return directed([](T x, T, T) { return T{1} / x; }, Of<T>(a), T{}, T{});
          },
          edges);
      for (const char* op : {"fma", "mad"}) {
        Three(
            op + tail, r,
            [=](auto a, auto b, auto c) {
              return directed([](T x, T y, T z) { return std::fma(x, y, z); }, Of<T>(a), Of<T>(b),
                              Of<T>(c));
            },
            edges);
      }
    }
    One(
        "sqrt.rn." + type, r, [](auto a, auto, auto) { return BitsOf<T>(std::sqrt(Of<T>(a))); },
        edges);
    One("rcp.rn." + type, r, [](auto a, auto, auto) { return BitsOf<T>(T{1} / Of<T>(a)); }, edges);
    Two(
        "copysign." + type, r,
        [](auto a, auto b, auto) {
          const uint64_t sign = uint64_t{1} << (8 * sizeof(T) - 1);
          const uint64_t all = sign | (sign - 1);
          return ((b & all) & ~sign) | (a & sign);
        },
        edges);
    One("neg." + type, r, [](auto a, auto, auto) {
      const uint64_t sign = uint64_t{1} << (8 * sizeof(T) - 1);
      return (a & (sign | (sign - 1))) ^ sign;
    });
    One("abs." + type, r,
        [](auto a, auto, auto) { return a & ((uint64_t{1} << (8 * sizeof(T) - 1)) - 1); });
    One("mov." + type, r, [](auto a, auto, auto) { return sizeof(T) == 4 ? a & 0xffffffff : a; });
    static const std::pair<const char*, bool (*)(T)> kTests[] = {
        {"finite", [](T v) { return std::isfinite(v); }},
        {"infinite", [](T v) { return std::isinf(v); }},
        {"number", [](T v) { return v == v; }},
        {"notanumber", [](T v) { return v != v; }},
        {"normal", [](T v) { return std::isnormal(v); }},
        {"subnormal", [](T v) { return std::fpclassify(v) == FP_SUBNORMAL; }}};
    for (const auto& [name, test] : kTests) {
      const auto f = test;
      Add(
          std::string("testp.") + name + "." + type + " %p9, " + Reg(r, 0) + ";", 'p',
          [=](auto a, auto, auto) { return uint64_t{f(Of<T>(a))}; }, edges);
    }
    for (const std::string& how : FloatComparisons()) {
      Compare(how, type, r, edges,
              [=](uint64_t a, uint64_t b) { return Compared(how, Of<T>(a), Of<T>(b)); });
    }
  }

  // ---- halves: every value of the format is known, so rounding is a search for the nearest ----

  struct Small {
    const char* name;
    int mantissa, exponent;
    double Value(uint64_t raw) const {
      const int bias = (1 << (exponent - 1)) - 1;
      const uint64_t field = raw >> mantissa & ((1u << exponent) - 1);
      const double fraction = static_cast<double>(raw & ((1u << mantissa) - 1));
      const double sign = (raw & 0x8000) != 0 ? -1 : 1;
      if (field == (1u << exponent) - 1)
        return fraction != 0 ? std::nan("") : sign * std::numeric_limits<double>::infinity();
      if (field == 0) return sign * std::ldexp(fraction, 1 - bias - mantissa);
      return sign *
             std::ldexp(fraction + (1 << mantissa), static_cast<int>(field) - bias - mantissa);
    }
    // As the mode says: the neighbour on the side it wants, when the nearest is on the other.
    uint64_t Rounded(long double v, const std::string& mode) const {
      const uint64_t nearest = Nearest(v);
      if (mode == "rn" || v != v || std::isinf(v)) return nearest;
      const long double found = static_cast<long double>(Value(nearest));
      const bool negative = std::signbit(v);
      const bool outwards = mode == "rp" ? !negative : mode == "rm" ? negative : false;
      const long double magnitude = std::fabs(v), have = std::fabs(found);
      if (outwards && have < magnitude) return nearest + 1;
      if (!outwards && have > magnitude) return nearest - 1;
      return nearest;
    }
    // To nearest even. An even number of representable steps in between is the last bit of `raw`.
    uint64_t Nearest(long double v) const {
      if (v != v) return 0x7fff;
      const uint64_t sign = std::signbit(v) ? 0x8000 : 0;
      const long double magnitude = std::fabs(v);
      uint64_t low = 0, high = static_cast<uint64_t>((1 << exponent) - 1) << mantissa;
      const uint64_t infinity = high;
      const auto at = [&](uint64_t raw) {
        // Beyond the largest number stands where the next would be.
        if (raw == infinity)
          return 2 * static_cast<long double>(Value(infinity - 1)) -
                 static_cast<long double>(Value(infinity - 2));
        return static_cast<long double>(Value(raw));
      };
      if (magnitude >= at(infinity)) return sign | infinity;
      while (high - low > 1) {
        const uint64_t middle = (low + high) / 2;
        (at(middle) <= magnitude ? low : high) = middle;
      }
      const long double below = magnitude - at(low), above = at(high) - magnitude;
      return sign | (below < above || (below == above && low % 2 == 0) ? low : high);
    }
  };

  void Halves() {
    static const Small kFormats[] = {{"f16", 10, 5}, {"bf16", 7, 8}};
    for (const Small& s : kFormats) {
      const char edges = s.exponent == 5 ? 'h' : 'b';
      const auto plain = [this, s, edges](const std::string& op, int arity, auto f) {
        const auto one = [=](uint64_t a, uint64_t b, uint64_t c) -> uint64_t {
          return f(a & 0xffff, b & 0xffff, c & 0xffff);
        };
        const auto both = [=](uint64_t a, uint64_t b, uint64_t c) {
          return one(a, b, c) | one(a >> 16, b >> 16, c >> 16) << 16;
        };
        const std::string single = op + "." + s.name, packed = single + "x2";
        const char pair_edges = edges == 'h' ? 'H' : 'B';
        if (arity == 1) {
          One(single, 'h', one, edges);
          One(packed, 'r', both, pair_edges);
        } else if (arity == 2) {
          Two(single, 'h', one, edges);
          Two(packed, 'r', both, pair_edges);
        } else {
          Three(single, 'h', one, edges);
          Three(packed, 'r', both, pair_edges);
        }
      };
      // And of f16 what flushing, and saturating where there is arithmetic, make of it.
      const auto pairs = [&plain, s](const std::string& op, int arity, auto f,
                                     bool saturates = false) {
        plain(op, arity, f);
        if (s.exponent != 5) return;
        const auto flush = [](uint64_t h) { return (h & 0x7c00) == 0 ? h & 0x8000 : h; };
        plain(op + ".ftz", arity, [=](uint64_t a, uint64_t b, uint64_t c) {
          return flush(f(flush(a), flush(b), flush(c)));
        });
        if (!saturates) return;
        const auto clamp = [s](uint64_t h) -> uint64_t {
          const double value = s.Value(h);
          return value > 0 ? (value < 1 ? h : 0x3c00) : 0;
        };
        plain(op + ".sat", arity,
              [=](uint64_t a, uint64_t b, uint64_t c) { return clamp(f(a, b, c)); });
        plain(op + ".ftz.sat", arity, [=](uint64_t a, uint64_t b, uint64_t c) {
          return flush(clamp(flush(f(flush(a), flush(b), flush(c)))));
        });
      };
      const auto v = [s](uint64_t raw) { return static_cast<long double>(s.Value(raw)); };
      const auto near = [s](long double x) { return s.Nearest(x); };
      // Sums and products of halves are exact in long double, or nearly and never at a middle.
      for (const char* round : {"", ".rn"}) {
        const std::string r = round;
        pairs("add" + r, 2, [=](auto a, auto b, auto) { return near(v(a) + v(b)); }, true);
        pairs("sub" + r, 2, [=](auto a, auto b, auto) { return near(v(a) - v(b)); }, true);
        pairs("mul" + r, 2, [=](auto a, auto b, auto) { return near(v(a) * v(b)); }, true);
      }
      const auto fused = [=](uint64_t a, uint64_t b, uint64_t c) {
        // What the sum loses decides between the neighbours when it lies on their middle.
        const long double p = v(a) * v(b), sum = p + v(c);
        if (std::isfinite(sum)) {
          const long double part = sum - p, lost = (p - (sum - part)) + (v(c) - part);
          if (lost != 0) return near(std::nextafter(sum, lost > 0 ? HUGE_VALL : -HUGE_VALL));
        }
        return near(sum);
      };
      pairs("fma.rn", 3, fused, true);
      pairs("mad.rn", 3, fused, true);
      pairs("fma.rn.relu", 3, [=](auto a, auto b, auto c) {
        const uint64_t raw = fused(a, b, c);
        return v(raw) <= 0 ? uint64_t{0} : raw;
      });
      const auto least = [=](uint64_t a, uint64_t b) {
        if (v(a) != v(a) || v(b) != v(b))
          return v(a) == v(a) ? a : v(b) == v(b) ? b : uint64_t{0x7fff};
        return v(a) < v(b) || (v(a) == v(b) && (a & 0x8000) != 0) ? a : b;
      };
      const auto most = [=](uint64_t a, uint64_t b) {
        if (v(a) != v(a) || v(b) != v(b))
          return v(a) == v(a) ? a : v(b) == v(b) ? b : uint64_t{0x7fff};
        return v(a) > v(b) || (v(a) == v(b) && (a & 0x8000) == 0) ? a : b;
      };
      const auto any_nan = [=](uint64_t a, uint64_t b) { return v(a) != v(a) || v(b) != v(b); };
      pairs("min", 2, [=](auto a, auto b, auto) { return least(a, b); });
      pairs("max", 2, [=](auto a, auto b, auto) { return most(a, b); });
      pairs("min.NaN", 2,
            [=](auto a, auto b, auto) { return any_nan(a, b) ? uint64_t{0x7fff} : least(a, b); });
      pairs("max.NaN", 2,
            [=](auto a, auto b, auto) { return any_nan(a, b) ? uint64_t{0x7fff} : most(a, b); });
      const auto magnitude = [=](uint64_t a, uint64_t b, auto f) -> uint64_t {
        const uint64_t raw = f(a & 0x7fff, b & 0x7fff);
        return v(raw) != v(raw) ? 0x7fff : raw | ((a ^ b) & 0x8000);
      };
      pairs("min.xorsign.abs", 2, [=](auto a, auto b, auto) { return magnitude(a, b, least); });
      pairs("max.xorsign.abs", 2, [=](auto a, auto b, auto) { return magnitude(a, b, most); });
      plain("ex2.approx", 1, [=](auto a, auto, auto) { return near(std::exp2(v(a))); });
      plain("tanh.approx", 1, [=](auto a, auto, auto) { return near(std::tanh(v(a))); });
      if (s.exponent == 8) {
        plain("ex2.approx.ftz", 1, [=](auto a, auto, auto) {
          const auto flush = [](uint64_t h) { return (h & 0x7f80) == 0 ? h & 0x8000 : h; };
          return flush(near(std::exp2(v(flush(a)))));
        });
      }
      pairs("neg", 1, [](auto a, auto, auto) { return a ^ 0x8000; });
      pairs("abs", 1, [](auto a, auto, auto) { return a & 0x7fff; });
      One(std::string("mov.") + s.name, 'h', [](auto a, auto, auto) { return a & 0xffff; }, edges);
      for (const std::string& how : FloatComparisons()) {
        Compare(how, s.name, 'h', edges, [=](uint64_t a, uint64_t b) {
          return Compared(how, v(a & 0xffff), v(b & 0xffff));
        });
        const std::string packed = std::string(s.name) + "x2";
        const uint64_t one = s.exponent == 5 ? 0x3c00 : 0x3f80;
        for (const auto& [name, yes] :
             {std::pair<std::string, uint64_t>(packed, one), {"u32", 0xffff}, {"s32", 0xffff}}) {
          const uint64_t set = yes;
          Add(
              "set." + how + "." + name + "." + packed + " %r9, %r0, %r1;", 'r',
              [=](auto a, auto b, auto) {
                return (Compared(how, v(a & 0xffff), v(b & 0xffff)) ? set : 0) |
                       (Compared(how, v(a >> 16 & 0xffff), v(b >> 16 & 0xffff)) ? set << 16 : 0);
              },
              edges == 'h' ? 'H' : 'B');
        }
        if (how == "lt") {
          for (const char* name : {"and", "or", "xor"}) {
            const std::string combine = name;
            Add(
                "setp.lt." + combine + "." + packed + " %p8|%p9, %r0, %r1, %p0;", 'p',
                [=](auto a, auto b, auto) {
                  const bool x = v(a >> 16 & 0xffff) < v(b >> 16 & 0xffff), p = (a & 1) != 0;
                  return uint64_t{combine == "and" ? x && p : combine == "or" ? x || p : x != p};
                },
                edges == 'h' ? 'H' : 'B');
          }
        }
        if (s.exponent == 5 && how == "gt") {
          const auto flush = [](uint64_t h) { return (h & 0x7c00) == 0 ? h & 0x8000 : h; };
          Add(
              "setp.gt.ftz.f16 %p9, %h0, %h1;", 'p',
              [=](auto a, auto b, auto) {
                return uint64_t{v(flush(a & 0xffff)) > v(flush(b & 0xffff))};
              },
              'h');
          Add(
              "setp.gt.ftz.f16x2 %p8|%p9, %r0, %r1;", 'p',
              [=](auto a, auto b, auto) {
                return uint64_t{v(flush(a >> 16 & 0xffff)) > v(flush(b >> 16 & 0xffff))};
              },
              'H');
        }
        Add(
            "setp." + how + "." + packed + " %p8|%p9, %r0, %r1;", 'p',
            [=](auto a, auto b, auto) {
              return uint64_t{Compared(how, v(a >> 16 & 0xffff), v(b >> 16 & 0xffff))};
            },
            edges == 'h' ? 'H' : 'B');
      }
    }
  }

  // ---- conversions ----

  void IntegerConversions() {
    static const IntegerType kTypes[] = {{"u8", 8, false},   {"s8", 8, true},    {"u16", 16, false},
                                         {"s16", 16, true},  {"u32", 32, false}, {"s32", 32, true},
                                         {"u64", 64, false}, {"s64", 64, true}};
    for (const IntegerType& from : kTypes) {
      const std::string source = ", " + Reg(from.reg(), 0) + ";";
      for (const IntegerType& to : kTypes) {
        for (const bool saturates : {false, true}) {
          // A register wider than the type gets the value extended as the type says.
          Add(std::string(saturates ? "cvt.sat." : "cvt.") + to.name + "." + from.name + " " +
                  Reg(to.reg(), 9) + source,
              to.reg(), [=](auto a, auto, auto) {
                Wide v = from.Value(a);
                if (saturates) v = std::min(std::max(v, to.Min()), to.Max());
                v = to.Value(to.Cut(v));
                return to.bits == 8 ? static_cast<uint64_t>(v) & 0xffff : to.Cut(v);
              });
        }
      }
      for (const char* round : {"rn", "rz", "rm", "rp"}) {
        const std::string mode = round;
        Add("cvt." + mode + ".f32." + from.name + " %r9" + source, 'r',
            [=](auto a, auto, auto) { return BitsOf(Rounded<float>(from.Value(a), mode)); });
        Add("cvt." + mode + ".f64." + from.name + " %d9" + source, 'd',
            [=](auto a, auto, auto) { return BitsOf(Rounded<double>(from.Value(a), mode)); });
      }
      for (const char* round : {"rn", "rz", "rm", "rp"}) {
        const std::string mode = round;
        for (const Small& s : {Small{"f16", 10, 5}, Small{"bf16", 7, 8}}) {
          Add("cvt." + mode + "." + s.name + "." + from.name + " %h9" + source, 'h',
              [=](auto a, auto, auto) {
                return s.Rounded(static_cast<long double>(from.Value(a)), mode);
              });
        }
        // Saturation of what is whole leaves 0 and 1.
        for (const auto& [to, cls, one] :
             {std::tuple<const char*, char, uint64_t>("f32", 'r', F(1)),
              {"f64", 'd', D(1)},
              {"f16", 'h', 0x3c00}}) {
          const uint64_t yes = one;
          Add("cvt." + mode + ".sat." + to + "." + from.name + " " + Reg(cls, 9) + source, cls,
              [=](auto a, auto, auto) { return from.Value(a) > 0 ? yes : uint64_t{0}; });
        }
      }
    }
  }

  // The neighbour in T that the mode asks for; long double holds every 64-bit integer and every
  // double.
  template <class T>
  static T Rounded(Wide value, const std::string& mode) {
    return RoundedFrom<T>(static_cast<long double>(value), mode);
  }
  template <class T>
  static T RoundedFrom(long double exact, const std::string& mode) {
    const T nearest = static_cast<T>(exact);
    if (mode == "rn" || exact != exact || std::isinf(exact)) return nearest;
    const long double v = nearest;
    const T inf = std::numeric_limits<T>::infinity();
    const bool towards_zero = mode == "rz";
    const bool down = mode == "rm" || (towards_zero && exact > 0);
    if (down && v > exact) return std::nextafter(nearest, -inf);
    if (!down && v < exact) return std::nextafter(nearest, inf);
    return nearest;
  }

  void FloatConversions() {
    struct Source {
      const char* name;
      char cls, edges;
      long double (*value)(uint64_t);
    };
    static const Source kSources[] = {
        {"f32", 'r', 'f', [](uint64_t a) { return static_cast<long double>(Of<float>(a)); }},
        {"f64", 'd', 'g', [](uint64_t a) { return static_cast<long double>(Of<double>(a)); }},
        {"f16", 'h', 'h',
         [](uint64_t a) { return static_cast<long double>(Small{"", 10, 5}.Value(a & 0xffff)); }},
        {"bf16", 'h', 'b',
         [](uint64_t a) { return static_cast<long double>(Small{"", 7, 8}.Value(a & 0xffff)); }}};
    static const IntegerType kTypes[] = {{"u8", 8, false},   {"s8", 8, true},    {"u16", 16, false},
                                         {"s16", 16, true},  {"u32", 32, false}, {"s32", 32, true},
                                         {"u64", 64, false}, {"s64", 64, true}};
    static const std::pair<const char*, long double (*)(long double)> kIntegral[] = {
        {"rni", [](long double v) { return std::nearbyint(v); }},
        {"rzi", [](long double v) { return std::trunc(v); }},
        {"rmi", [](long double v) { return std::floor(v); }},
        {"rpi", [](long double v) { return std::ceil(v); }}};
    for (const Source& from : kSources) {
      const std::string source = std::string(".") + from.name;
      const std::string operand = ", " + Reg(from.cls, 0) + ";";
      const auto value = from.value;
      for (const auto& [mode, whole] : kIntegral) {
        const auto round = whole;
        for (const IntegerType& to : kTypes) {
          const auto reference = [=](uint64_t a, uint64_t, uint64_t) -> uint64_t {
            const long double v = value(a);
            if (v != v) return to.bits == 64 ? uint64_t{1} << 63 : 0;
            const long double r = round(v);
            if (r <= static_cast<long double>(to.Min()))
              return to.bits == 8 ? static_cast<uint64_t>(to.Min()) & 0xffff : to.Cut(to.Min());
            if (r >= static_cast<long double>(to.Max())) return to.Cut(to.Max());
            const Wide w = static_cast<Wide>(r);
            return to.bits == 8 ? static_cast<uint64_t>(w) & 0xffff : to.Cut(w);
          };
          if (from.edges == 'f') {
            Add(
                std::string("cvt.") + mode + ".ftz." + to.name + source + " " + Reg(to.reg(), 9) +
                    operand,
                to.reg(),
                [=](auto a, auto b, auto c) {
                  return reference(std::bit_cast<uint32_t>(Flushed(Of<float>(a))), b, c);
                },
                'f');
          }
          for (const char* clamp : {"", ".sat"}) {  // Which such conversions do anyway.
            Add(std::string("cvt.") + mode + clamp + "." + to.name + source + " " +
                    Reg(to.reg(), 9) + operand,
                to.reg(), reference, from.edges);
          }
        }
        // To a whole number of the same format, and clamped to 0 and 1.
        const auto clamped = [](long double x) { return x > 0 ? (x < 1 ? x : 1.0L) : 0.0L; };
        const std::string saturating = std::string("cvt.") + mode + ".sat";
        if (from.cls == 'r') {
          Add(
              std::string("cvt.") + mode + ".ftz.f32.f32 %r9" + operand, 'r',
              [=](auto a, auto, auto) {
                return BitsOf(static_cast<float>(round(Flushed(Of<float>(a)))), true);
              },
              'f');
          Add(
              saturating + source + source + " %r9" + operand, 'r',
              [=](auto a, auto, auto) {
                return BitsOf(static_cast<float>(clamped(round(value(a)))));
              },
              'f');
        } else if (from.cls == 'd') {
          Add(
              saturating + source + source + " %d9" + operand, 'd',
              [=](auto a, auto, auto) {
                return BitsOf(static_cast<double>(clamped(round(value(a)))));
              },
              'g');
        } else if (from.edges == 'h') {
          Add(
              saturating + ".f16.f16 %h9" + operand, 'h',
              [=](auto a, auto, auto) {
                return Small{"", 10, 5}.Nearest(clamped(round(value(a))));
              },
              'h');
        }
        if (from.cls != 'h') {
          Add(
              std::string("cvt.") + mode + source + source + " " + Reg(from.cls, 9) + operand,
              from.cls,
              [=](auto a, auto, auto) {
                return from.cls == 'r' ? BitsOf(static_cast<float>(round(value(a))))
                                       : BitsOf(static_cast<double>(round(value(a))));
              },
              from.edges);
        } else if (from.edges == 'h') {
          Add(
              std::string("cvt.") + mode + ".f16.f16 %h9" + operand, 'h',
              [=](auto a, auto, auto) { return Small{"", 10, 5}.Nearest(round(value(a))); }, 'h');
        }
      }
      // Between formats: as it is into one that holds it, else by a mode.
      struct Target {
        const char* name;
        char cls;
        int rank;
      };
      const int rank = from.cls == 'd' ? 2 : from.cls == 'r' ? 1 : 0;
      for (const Target& to :
           {Target{"f64", 'd', 2}, {"f32", 'r', 1}, {"f16", 'h', 0}, {"bf16", 'h', 0}}) {
        const bool same = std::string(to.name) == from.name;
        const bool exact = same || to.rank > rank;
        const auto convert = [=](long double v, const std::string& m) -> uint64_t {
          if (to.rank == 2) return BitsOf(static_cast<double>(v));
          if (to.rank == 1) return BitsOf(RoundedFrom<float>(v, m));
          return (to.name[0] == 'f' ? Small{"", 10, 5} : Small{"", 7, 8}).Rounded(v, m);
        };
        for (const char* mode : {"rn", "rz", "rm", "rp"}) {
          const std::string m = mode, prefix = exact ? "cvt" : "cvt." + m;
          const std::string tail =
              std::string(".") + to.name + source + " " + Reg(to.cls, 9) + operand;
          if (exact && m != "rn") continue;
          Add(
              prefix + tail, to.cls, [=](auto a, auto, auto) { return convert(value(a), m); },
              from.edges);
          if (std::string(to.name) != "bf16") {
            Add(
                prefix + ".sat" + tail, to.cls,
                [=](auto a, auto, auto) {
                  const long double v = value(a);
                  return convert(v > 0 ? (v < 1 ? v : 1.0L) : 0.0L, m);
                },
                from.edges);
          }
          if (from.cls == 'r' && to.rank == 0) {
            Add(
                prefix + ".relu" + tail, 'h',
                [=](auto a, auto, auto) {
                  return value(a) <= 0 ? uint64_t{0} : convert(value(a), m);
                },
                'f');
            if (m == "rn" || m == "rz") {
              Add(
                  prefix + "." + to.name + "x2.f32 %r9, %r0, %r1;", 'r',
                  [=](auto a, auto b, auto) {
                    return convert(value(a), m) << 16 | convert(value(b), m);
                  },
                  'f');
            }
          }
          // Flushing needs a float on one side.
          if (from.cls == 'r' || to.rank == 1) {
            Add(
                prefix + ".ftz" + tail, to.cls,
                [=](auto a, auto, auto) {
                  long double v = value(a);
                  if (from.cls == 'r') v = Flushed(Of<float>(a));
                  const uint64_t raw = convert(v, m);
                  return to.rank == 1 ? BitsOf(Of<float>(raw), true) : raw;
                },
                from.edges);
          }
        }
      }
    }
    One(
        "cvt.rn.tf32.f32", 'r',
        [](auto a, auto, auto) {
          const float v = Of<float>(a);
          if (v != v) return uint64_t{0x7fffffff};
          // The format's steps are 2^13 of a float's.
          const uint64_t bits = a & 0x7fffffff, low = bits & ~uint64_t{0x1fff},
                         rest = bits & 0x1fff;
          const bool up =
              bits < 0x7f800000 && (rest > 0x1000 || (rest == 0x1000 && (low >> 13 & 1) != 0));
          return (a & 0x80000000) | (low + (up ? 0x2000 : 0));
        },
        'f');
    for (const IntegerType& t : {IntegerType{"u8", 8, false}, IntegerType{"s8", 8, true},
                                 IntegerType{"u16", 16, false}, IntegerType{"s16", 16, true}}) {
      const auto part = [t](uint64_t raw) {
        const Wide v = IntegerType{"", 32, true}.Value(raw);
        return t.Cut(std::min(std::max(v, t.Min()), t.Max()));
      };
      if (t.bits == 16) {
        Two(std::string("cvt.pack.sat.") + t.name + ".s32", 'r',
            [=](auto a, auto b, auto) { return part(a) << 16 | part(b); });
      } else {
        Three(std::string("cvt.pack.sat.") + t.name + ".s32.b32", 'r', [=](auto a, auto b, auto c) {
          return (c << 16 & 0xffff0000) | part(a) << 8 | part(b);
        });
      }
    }
  }

  void Selections() {
    struct Type {
      const char* name;
      char cls;
    };
    static const Type kTypes[] = {{"b16", 'h'},  {"u16", 'h'},   {"s16", 'h'},   {"b32", 'r'},
                                  {"u32", 'r'},  {"s32", 'r'},   {"f32", 'r'},   {"b64", 'd'},
                                  {"u64", 'd'},  {"s64", 'd'},   {"f64", 'd'},   {"f16", 'h'},
                                  {"bf16", 'h'}, {"f16x2", 'r'}, {"bf16x2", 'r'}};
    for (const Type& t : kTypes) {
      const uint64_t mask = t.cls == 'h' ? 0xffff : t.cls == 'r' ? 0xffffffff : ~0ull;
      const std::string operands = Reg(t.cls, 9) + ", " + Reg(t.cls, 1) + ", " + Reg(t.cls, 2);
      Add(std::string("selp.") + t.name + " " + operands + ", %p0;", t.cls,
          [=](auto a, auto b, auto c) { return ((a & 1) != 0 ? b : c) & mask; });
      Add(std::string("slct.") + t.name + ".s32 " + operands + ", %r0;", t.cls,
          [=](auto a, auto b, auto c) {
            return (static_cast<int32_t>(static_cast<uint32_t>(a)) >= 0 ? b : c) & mask;
          });
      Add(
          std::string("slct.") + t.name + ".f32 " + operands + ", %r0;", t.cls,
          [=](auto a, auto b, auto c) { return (Of<float>(a) >= 0 ? b : c) & mask; }, 'f');
      Add(std::string("mov.") + t.name + " " + Reg(t.cls, 9) + ", " + Reg(t.cls, 1) + ";", t.cls,
          [=](auto, auto b, auto) { return b & mask; });
    }
  }

  std::vector<Form> forms_;
};

}  // namespace

std::vector<Form> MakeForms() { return Forms().Make(); }

}  // namespace simgpu::ptx
