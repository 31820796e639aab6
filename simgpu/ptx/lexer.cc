#include "simgpu/ptx/lexer.h"

#include <bit>
#include <cstdlib>
#include <cstring>

namespace simgpu::ptx {
namespace {

bool IsIdentStart(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || c == '$' || c == '%';
}
bool IsDigit(char c) { return c >= '0' && c <= '9'; }
bool IsIdent(char c) { return IsIdentStart(c) || IsDigit(c); }

int HexValue(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

class Lexer {
 public:
  Lexer(std::string_view source, std::vector<Token>* tokens, ParseError* error)
      : source_(source), tokens_(tokens), error_(error) {}

  bool Run() {
    while (true) {
      if (!SkipBlank()) return false;
      if (at_ >= source_.size()) {
        tokens_->push_back({Tok::kEnd, line_, {}, 0});
        return true;
      }
      const char c = source_[at_];
      bool ok = true;
      if (IsIdentStart(c)) {
        Word(Tok::kWord);
      } else if (c == '.' && at_ + 1 < source_.size() && IsIdentStart(source_[at_ + 1])) {
        Word(Tok::kDirective);
      } else if (IsDigit(c)) {
        ok = Number();
      } else if (c == '"') {
        ok = String();
      } else if (std::strchr("{}[](),;:=|!+-<>@&*/~^?%.", c) != nullptr && c != '\0') {
        tokens_->push_back({Tok::kPunct, line_, source_.substr(at_, 1), 0});
        ++at_;
      } else {
        return Fail("unexpected character 0x" + Hex(static_cast<unsigned char>(c)));
      }
      if (!ok) return false;
    }
  }

 private:
  static std::string Hex(unsigned char c) {
    const char* digits = "0123456789abcdef";
    return {digits[c >> 4], digits[c & 15]};
  }

  bool Fail(std::string message) {
    *error_ = {line_, std::move(message)};
    return false;
  }

  char Peek(size_t ahead) const {
    return at_ + ahead < source_.size() ? source_[at_ + ahead] : '\0';
  }

  bool SkipBlank() {
    while (at_ < source_.size()) {
      const char c = source_[at_];
      if (c == '\n') {
        ++line_;
        ++at_;
      } else if (c == ' ' || c == '\t' || c == '\r' || c == '\f' || c == '\v') {
        ++at_;
      } else if (c == '/' && Peek(1) == '/') {
        while (at_ < source_.size() && source_[at_] != '\n') ++at_;
      } else if (c == '/' && Peek(1) == '*') {
        const int start = line_;
        at_ += 2;
        while (at_ < source_.size() && !(source_[at_] == '*' && Peek(1) == '/')) {
          if (source_[at_] == '\n') ++line_;
          ++at_;
        }
        if (at_ >= source_.size()) {
          line_ = start;
          return Fail("comment is not closed");
        }
        at_ += 2;
      } else {
        break;
      }
    }
    return true;
  }

  // A word runs over ".mod" and "::mod" parts, so an opcode with its modifiers is one token.
  void Word(Tok kind) {
    const size_t start = at_;
    ++at_;
    while (at_ < source_.size()) {
      const char c = source_[at_];
      if (IsIdent(c) && c != '%') {
        ++at_;
      } else if (kind == Tok::kWord && c == '.' && (IsIdent(Peek(1)) && Peek(1) != '%')) {
        ++at_;
      } else if (c == ':' && Peek(1) == ':' && IsIdent(Peek(2)) && Peek(2) != '%') {
        at_ += 2;
      } else {
        break;
      }
    }
    tokens_->push_back({kind, line_, source_.substr(start, at_ - start), 0});
  }

  bool HexDigits(size_t count, uint64_t* value) {
    *value = 0;
    for (size_t i = 0; i < count; ++i) {
      const int digit = HexValue(Peek(0));
      if (digit < 0)
        return Fail("floating point literal needs " + std::to_string(count) + " hex digits");
      *value = *value << 4 | static_cast<uint64_t>(digit);
      ++at_;
    }
    return true;
  }

  bool Number() {
    const size_t start = at_;
    Token token{Tok::kInteger, line_, {}, 0};
    const char next = Peek(1);
    if (source_[at_] == '0' && (next == 'f' || next == 'F' || next == 'd' || next == 'D')) {
      const bool single = next == 'f' || next == 'F';
      at_ += 2;
      if (!HexDigits(single ? 8 : 16, &token.integer)) return false;
      token.kind = single ? Tok::kFloat32 : Tok::kFloat64;
    } else if (IsDecimalFloat()) {
      char buffer[64];
      size_t length = 0;
      while (at_ < source_.size()) {
        const char c = source_[at_];
        const bool sign = (c == '+' || c == '-') && length > 0 &&
                          (buffer[length - 1] == 'e' || buffer[length - 1] == 'E');
        if (!IsDigit(c) && c != '.' && c != 'e' && c != 'E' && !sign) break;
        if (length + 1 >= sizeof buffer) return Fail("number is too long");
        buffer[length++] = c;
        ++at_;
      }
      buffer[length] = '\0';
      token.kind = Tok::kFloat64;
      token.integer = std::bit_cast<uint64_t>(std::strtod(buffer, nullptr));
    } else if (!Integer(&token.integer)) {
      return false;
    }
    token.text = source_.substr(start, at_ - start);
    if (IsIdent(Peek(0)))
      return Fail("malformed number '" + std::string(token.text) + Peek(0) + "'");
    tokens_->push_back(token);
    return true;
  }

  bool IsDecimalFloat() const {
    size_t i = 0;
    while (IsDigit(Peek(i))) ++i;
    if (Peek(i) == '.' && IsDigit(Peek(i + 1))) return true;
    const char e = Peek(i);
    return (e == 'e' || e == 'E') &&
           (IsDigit(Peek(i + 1)) ||
            ((Peek(i + 1) == '-' || Peek(i + 1) == '+') && IsDigit(Peek(i + 2))));
  }

  bool Integer(uint64_t* value) {
    uint64_t base = 10;
    if (Peek(0) == '0') {
      const char kind = Peek(1);
      if (kind == 'x' || kind == 'X') {
        base = 16;
        at_ += 2;
      } else if (kind == 'b' || kind == 'B') {
        base = 2;
        at_ += 2;
      } else {
        base = 8;
      }
    }
    size_t digits = 0;
    *value = 0;
    for (int digit; (digit = HexValue(Peek(0))) >= 0 && static_cast<uint64_t>(digit) < base;
         ++at_, ++digits) {
      if (*value > (UINT64_MAX - static_cast<uint64_t>(digit)) / base)
        return Fail("integer exceeds 64 bits");
      *value = *value * base + static_cast<uint64_t>(digit);
    }
    if (digits == 0) return Fail("malformed integer");
    if (Peek(0) == 'U' || Peek(0) == 'u') ++at_;
    return true;
  }

  bool String() {
    const size_t start = ++at_;
    while (at_ < source_.size() && source_[at_] != '"' && source_[at_] != '\n') {
      at_ += source_[at_] == '\\' && Peek(1) != '\n' ? 2 : 1;
    }
    if (at_ >= source_.size() || source_[at_] != '"') return Fail("string is not closed");
    tokens_->push_back({Tok::kString, line_, source_.substr(start, at_ - start), 0});
    ++at_;
    return true;
  }

  std::string_view source_;
  std::vector<Token>* tokens_;
  ParseError* error_;
  size_t at_ = 0;
  int line_ = 1;
};

}  // namespace

bool Tokenize(std::string_view source, std::vector<Token>* tokens, ParseError* error) {
  tokens->clear();
  tokens->reserve(source.size() / 4);
  return Lexer(source, tokens, error).Run();
}

}  // namespace simgpu::ptx
