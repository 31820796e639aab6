// Every form of an arithmetic opcode against a reference written down here, over operands at the
// edges; and the proof that none is missing: each form is varied in its types, and what the decoder
// then accepts must be in the list.
#include <cmath>
#include <set>

#include "simgpu/ptx/decode.h"
#include "simgpu/ptx/forms.h"
#include "simgpu/ptx/opcode_rows.h"
#include "simgpu/ptx/test_device.h"

namespace simgpu::ptx {
namespace {

std::vector<uint64_t> Edges(char kind) {
  const auto half_pairs = [](std::vector<uint64_t> halves) {
    std::vector<uint64_t> words;
    for (size_t k = 0; k < halves.size(); ++k)
      words.push_back(halves[k] | halves[(3 * k + 2) % halves.size()] << 16);
    return words;
  };
  const std::vector<uint64_t> f16 = {0x0000, 0x8000, 0x3c00, 0xbc01, 0x7bff, 0x7c00,
                                     0x7e00, 0x0001, 0x83ff, 0x3555, 0xc500, 0x1400};
  const std::vector<uint64_t> bf16 = {0x0000, 0x8000, 0x3f80, 0xbf81, 0x7f7f, 0xff80,
                                      0x7fc0, 0x0001, 0x8080, 0x3eab, 0xc0a1, 0x2380};
  switch (kind) {
    case 'f':
      return {F(0),          F(-0.0f),      F(1),       F(-1.5f),        F(3.4e38f),
              F(-HUGE_VALF), 0x7fc00000,    0x00000001, 0x807fffff,      F(0.333333343f),
              F(-7.5f),      F(65519.996f), F(1e-5f),   F(2147483648.0f)};
    case 'g':
      return {D(0),      D(-0.0),    D(1),         D(-1.5),    D(1.7e308), D(-HUGE_VAL),
              D(NAN),    1,          D(-2.3e-308), D(1.0 / 3), D(-7.5),    D(1 + 0x1p-24 + 0x1p-50),
              D(9.3e18), D(-65504.5)};
    case 'h':
      return f16;
    case 'b':
      return bf16;
    case 'H':
      return half_pairs(f16);
    case 'B':
      return half_pairs(bf16);
    default:
      return {0,
              1,
              2,
              31,
              0x7fff,
              0x8000,
              0xffffffff,
              0x80000000,
              0x123456789abcdef0,
              0x8000000000000000,
              0x7fffffffffffffff,
              ~0ull};
  }
}

std::string FormText(const Form& form) {
  std::string text = kHeader + R"(.visible .entry k(.param .u64 in, .param .u64 out)
{
  .reg .pred %p<16>; .reg .b16 %h<16>; .reg .b32 %r<16>; .reg .b64 %d<16>;
  ld.param.u64 %d14, [in];
  ld.param.u64 %d15, [out];
  mov.u32 %r14, %tid.x;
  mad.lo.s32 %r14, %ctaid.x, %ntid.x, %r14;
  mul.wide.u32 %d13, %r14, 8; add.u64 %d15, %d15, %d13;
  mul.wide.u32 %d13, %r14, 24; add.u64 %d14, %d14, %d13;
  ld.global.u64 %d0, [%d14]; ld.global.u64 %d1, [%d14+8]; ld.global.u64 %d2, [%d14+16];
  cvt.u32.u64 %r0, %d0; cvt.u32.u64 %r1, %d1; cvt.u32.u64 %r2, %d2;
  cvt.u16.u64 %h0, %d0; cvt.u16.u64 %h1, %d1; cvt.u16.u64 %h2, %d2;
  and.b32 %r15, %r0, 1;
  setp.eq.u32 %p0, %r15, 1;
  )" + form.text + "\n";
  text += form.result == 'd'   ? "  mov.b64 %d8, %d9;\n"
          : form.result == 'r' ? "  cvt.u64.u32 %d8, %r9;\n"
          : form.result == 'h' ? "  cvt.u64.u16 %d8, %h9;\n"
                               : "  selp.u64 %d8, 1, 0, %p9;\n";
  return text + "  st.global.u64 [%d15], %d8;\n  ret;\n}\n";
}

TEST(Forms, EveryFormAtTheEdges) {
  const std::vector<Form> forms = MakeForms();
  size_t answers = 0;
  for (const Form& form : forms) {
    ParseError error;
    const auto module = Module::Parse(FormText(form), &error);
    ASSERT_NE(module, nullptr) << form.text << ": " << error.ToString();
    ASSERT_EQ(module->kernels()[0].refusal, "") << form.text;
    const std::vector<uint64_t> edges = Edges(form.operands);
    std::vector<uint64_t> in;
    for (size_t a = 0; a < edges.size(); ++a) {
      for (size_t b = 0; b < edges.size(); ++b) {
        in.insert(in.end(), {edges[a], edges[b], edges[(a * 5 + b * 3 + 1) % edges.size()]});
      }
    }
    const uint32_t lanes = static_cast<uint32_t>(edges.size() * edges.size());
    TestDevice device;
    const uint64_t from = device.Upload(in), to = device.Allocate(size_t{lanes} * 8);
    const LaunchResult result =
        RunOn(*module, &device, "k", Arguments().Add(from).Add(to), {.block = lanes});
    ASSERT_EQ(result.status, Status::kOk) << form.text << ": " << result.message;
    const auto out = device.Download<uint64_t>(to, lanes);
    const bool is_double = form.text.find(".f64 %d9") != std::string::npos ||
                           (form.result == 'd' && form.text.find(".f64.") != std::string::npos);
    for (uint32_t k = 0; k < lanes; ++k) {
      const uint64_t expected = form.reference(in[3 * k], in[3 * k + 1], in[3 * k + 2]);
      uint64_t found = out[k];
      // The reference answers 0 for a NaN of double precision, whichever it is.
      if (is_double && expected == 0 && std::isnan(std::bit_cast<double>(found))) found = 0;
      ASSERT_EQ(found, expected) << form.text << std::hex << " of 0x" << in[3 * k] << ", 0x"
                                 << in[3 * k + 1] << ", 0x" << in[3 * k + 2] << ": found 0x"
                                 << found << ", expected 0x" << expected;
      ++answers;
    }
  }
  EXPECT_GT(forms.size(), 1000u);
  EXPECT_GT(answers, 100'000u);
}

std::string OpcodeOf(const std::string& statement) {
  const size_t start = statement.find_first_not_of(" \n");
  if (start == std::string::npos) return "";
  return statement.substr(start, statement.find_first_of(" \n", start) - start);
}

std::vector<std::string> Statements(const std::string& text) {
  std::vector<std::string> parts;
  size_t start = 0;
  for (size_t at; (at = text.find(';', start)) != std::string::npos; start = at + 1)
    parts.push_back(text.substr(start, at - start));
  return parts;
}

// Each statement with a known answer is varied: one type for another, registers to match. A variant
// that the decoder accepts is a form, and must have an answer of its own.
TEST(Forms, NoneThatIsAcceptedLacksAnAnswer) {
  std::set<std::string> statements, known;
  for (const std::string& text : OpcodeRowTexts()) {
    for (const std::string& part : Statements(text)) statements.insert(part);
  }
  for (const Form& form : MakeForms()) {
    for (const std::string& part : Statements(form.text)) statements.insert(part);
  }
  std::set<std::string> opcodes;
  for (const std::string& part : statements) {
    known.insert(OpcodeOf(part));
    opcodes.insert(OpcodeOf(part).substr(0, OpcodeOf(part).find('.')));
  }
  static const std::pair<const char*, char> kTypes[] = {
      {"b8", 'h'},  {"u8", 'h'},   {"s8", 'h'},    {"b16", 'h'},    {"u16", 'h'}, {"s16", 'h'},
      {"b32", 'r'}, {"u32", 'r'},  {"s32", 'r'},   {"b64", 'd'},    {"u64", 'd'}, {"s64", 'd'},
      {"f16", 'h'}, {"bf16", 'h'}, {"f16x2", 'r'}, {"bf16x2", 'r'}, {"f32", 'r'}, {"f64", 'd'}};
  std::set<std::string> tried;
  std::string text = kHeader;
  std::vector<std::string> names;
  for (const std::string& statement : statements) {
    const std::string opcode = OpcodeOf(statement);
    const std::string operands = statement.substr(statement.find(opcode) + opcode.size());
    for (size_t dot = opcode.find('.'); dot != std::string::npos; dot = opcode.find('.', dot + 1)) {
      const size_t end = std::min(opcode.find('.', dot + 1), opcode.size());
      const std::string part = opcode.substr(dot + 1, end - dot - 1);
      const auto old = std::find_if(std::begin(kTypes), std::end(kTypes),
                                    [&](const auto& type) { return part == type.first; });
      if (old == std::end(kTypes)) continue;
      for (const auto& [type, cls] : kTypes) {
        std::string variant = opcode;
        variant.replace(dot + 1, part.size(), type);
        if (known.contains(variant)) continue;
        // Every operand keeps its class or takes the new one.
        std::vector<size_t> places;
        for (size_t at = operands.find('%'); at != std::string::npos;
             at = operands.find('%', at + 1)) {
          if (operands[at + 1] != 'p') places.push_back(at + 1);
        }
        for (uint32_t choice = 0; choice < 1u << std::min<size_t>(places.size(), 5); ++choice) {
          std::string changed = operands;
          for (size_t k = 0; k < places.size(); ++k) {
            if ((choice >> k & 1) != 0) changed[places[k]] = cls;
          }
          if (!tried.insert(variant + changed).second) continue;
          const std::string name = "k" + std::to_string(names.size());
          names.push_back(variant + changed);
          text +=
              ".visible .entry " + name +
              "()\n{\n.reg .pred %p<16>; .reg .b16 %h<16>; .reg .b32 %r<16>; .reg .b64 %d<16>;\n" +
              variant + changed + ";\nret;\n}\n";
        }
      }
    }
  }
  ASSERT_GT(names.size(), 1000u);
  const auto module = Load(text);
  ASSERT_NE(module, nullptr);
  std::set<std::string> missing;
  for (size_t k = 0; k < names.size(); ++k) {
    if (module->kernels()[k].refusal.empty()) missing.insert(OpcodeOf(names[k]));
  }
  for (const std::string& opcode : missing) {
    ADD_FAILURE() << "accepted without a known answer: " << opcode;
  }
}

// What neither table here holds is exercised by name elsewhere; a new opcode has to be put
// somewhere.
TEST(Forms, EveryOpcodeOfTheTableIsKnownToATest) {
  std::set<std::string, std::less<>> known = {
      // execution_test.cc, launch_test.cc, ../kernels/coverage_test.cc: memory, control, warps.
      "ld",
      "ldu",
      "st",
      "cvta",
      "isspacep",
      "atom",
      "red",
      "bra",
      "brx",
      "call",
      "ret",
      "exit",
      "trap",
      "brkpt",
      "bar",
      "barrier",
      "membar",
      "fence",
      "griddepcontrol",
      "prefetch",
      "prefetchu",
      "discard",
      "applypriority",
      "pmevent",
      "createpolicy",
      "cp",
      "mbarrier",
      "nanosleep",
      "shfl",
      "vote",
      "match",
      "redux",
      "activemask",
      "elect"};
  for (const std::string& text : OpcodeRowTexts()) {
    for (const std::string& part : Statements(text))
      known.insert(OpcodeOf(part).substr(0, OpcodeOf(part).find('.')));
  }
  for (const Form& form : MakeForms()) {
    for (const std::string& part : Statements(form.text))
      known.insert(OpcodeOf(part).substr(0, OpcodeOf(part).find('.')));
  }
  for (std::string_view opcode : Opcodes()) {
    EXPECT_TRUE(known.contains(opcode)) << opcode << " is in the decoder's table and in no test";
  }
}

}  // namespace
}  // namespace simgpu::ptx
