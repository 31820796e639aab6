// Randomness and hashes behind one small surface. Pure functions and the kernel's generator;
// thread-safe.
//
// API keys are 256-bit random tokens, so one plain SHA-256 is enough to store them: there is
// nothing to guess that a slow hash would protect. A password would need one (argon2id).
#pragma once

#include <string>
#include <string_view>

#include "base/result.h"

namespace tessera::crypto {

// Unpredictable bytes from the kernel.
std::string RandomBytes(std::size_t count);
// `prefix` + "-" + 20 random characters of 0-9a-z without i, l, o, u: 100 bits, safe in paths and
// host names.
std::string RandomId(std::string_view prefix);

std::string HexEncode(std::string_view bytes);
// Lower-case or upper-case digits; anything else is kInvalidArgument.
Result<std::string> HexDecode(std::string_view hex);

// 32 raw bytes.
std::string Sha256(std::string_view bytes);
std::string Sha256Hex(std::string_view bytes);

// Takes the same time wherever the two differ; texts of different length differ at once.
bool ConstantTimeEqual(std::string_view a, std::string_view b);

// An API key: shown once, never stored.
struct ApiKey {
  std::string key;   // prefix + 43 characters of base 62, 256 bits
  std::string hash;  // what is stored: SHA-256 of the whole key in hex
  std::string hint;  // prefix + "..." + the last four characters, for lists
};
inline constexpr std::string_view kApiKeyPrefix = "tsk_";
ApiKey NewApiKey();
// The hash to look a presented key up by; kUnauthenticated when it cannot be a key at all. Never
// echoes the key.
Result<std::string> ApiKeyHash(std::string_view presented);

}  // namespace tessera::crypto
