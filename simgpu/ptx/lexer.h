// Turns PTX text into tokens. Columns and line breaks carry no meaning, so compressed images that
// lost their tabs parse.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "simgpu/ptx/ptx.h"

namespace simgpu::ptx {

enum class Tok : uint8_t {
  kWord,       // Identifier or opcode with its modifiers: "ld.global.u32", "%tid.x", "$L__BB0_1".
  kDirective,  // Starts with a dot: ".reg", ".b32".
  kInteger,
  kFloat32,  // 0f3F800000; bits in `integer`.
  kFloat64,  // 0d... or a decimal literal; bits in `integer`.
  kString,
  kPunct,  // One character, in `text`.
  kEnd,
};

struct Token {
  Tok kind = Tok::kEnd;
  int line = 0;
  std::string_view text;  // Into the source, which outlives the tokens.
  uint64_t integer = 0;
  bool Is(char c) const { return kind == Tok::kPunct && text[0] == c; }
  bool Is(std::string_view s) const {
    return (kind == Tok::kWord || kind == Tok::kDirective) && text == s;
  }
};

// The last token is always kEnd. False: `error` says where and why.
bool Tokenize(std::string_view source, std::vector<Token>* tokens, ParseError* error);

}  // namespace simgpu::ptx
