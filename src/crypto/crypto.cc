#include "crypto/crypto.h"

#include <sodium.h>

#include "base/check.h"

namespace tessera::crypto {
namespace {

constexpr std::size_t kApiKeyCharacters = 43;  // 62^43 > 2^256
constexpr std::size_t kIdCharacters = 20;
constexpr std::string_view kBase62 =
    "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
constexpr std::string_view kBase32 = "0123456789abcdefghjkmnpqrstvwxyz";

void Initialise() {
  // Idempotent and thread-safe; negative means the kernel has no generator, and nothing here could
  // go on.
  static const bool ready = sodium_init() >= 0;
  CHECK(ready);
}

const unsigned char* Bytes(std::string_view text) {
  return reinterpret_cast<const unsigned char*>(text.data());
}

std::string RandomText(std::string_view alphabet, std::size_t count) {
  Initialise();
  std::string text;
  for (std::size_t i = 0; i < count; ++i) {
    text += alphabet[randombytes_uniform(static_cast<std::uint32_t>(alphabet.size()))];
  }
  return text;
}

}  // namespace

std::string RandomBytes(std::size_t count) {
  Initialise();
  std::string bytes(count, '\0');
  randombytes_buf(bytes.data(), bytes.size());
  return bytes;
}

std::string RandomId(std::string_view prefix) {
  return std::string(prefix) + "-" + RandomText(kBase32, kIdCharacters);
}

std::string HexEncode(std::string_view bytes) {
  static constexpr char kHex[] = "0123456789abcdef";
  std::string hex;
  hex.reserve(bytes.size() * 2);
  for (const char c : bytes) {
    const auto u = static_cast<unsigned char>(c);
    hex += kHex[u >> 4];
    hex += kHex[u & 15];
  }
  return hex;
}

Result<std::string> HexDecode(std::string_view hex) {
  const auto value = [](char c) {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return -1;
  };
  if (hex.size() % 2 != 0) {
    return Error(Code::kInvalidArgument, "expected an even number of hexadecimal digits");
  }
  std::string bytes;
  bytes.reserve(hex.size() / 2);
  for (std::size_t i = 0; i < hex.size(); i += 2) {
    const int high = value(hex[i]);
    const int low = value(hex[i + 1]);
    if (high < 0 || low < 0) return Error(Code::kInvalidArgument, "expected hexadecimal digits");
    bytes += static_cast<char>(high * 16 + low);
  }
  return bytes;
}

std::string Sha256(std::string_view bytes) {
  std::string digest(crypto_hash_sha256_BYTES, '\0');
  crypto_hash_sha256(reinterpret_cast<unsigned char*>(digest.data()), Bytes(bytes), bytes.size());
  return digest;
}

std::string Sha256Hex(std::string_view bytes) { return HexEncode(Sha256(bytes)); }

bool ConstantTimeEqual(std::string_view a, std::string_view b) {
  return a.size() == b.size() && sodium_memcmp(a.data(), b.data(), a.size()) == 0;
}

ApiKey NewApiKey() {
  ApiKey key;
  key.key = std::string(kApiKeyPrefix) + RandomText(kBase62, kApiKeyCharacters);
  key.hash = Sha256Hex(key.key);
  key.hint = std::string(kApiKeyPrefix) + "..." + key.key.substr(key.key.size() - 4);
  return key;
}

Result<std::string> ApiKeyHash(std::string_view presented) {
  const bool well_formed =
      presented.size() == kApiKeyPrefix.size() + kApiKeyCharacters &&
      presented.starts_with(kApiKeyPrefix) &&
      presented.find_first_not_of(kBase62, kApiKeyPrefix.size()) == std::string_view::npos;
  if (!well_formed) {
    return Error(Code::kUnauthenticated, "expected an API key: " + std::string(kApiKeyPrefix) +
                                             " and " + std::to_string(kApiKeyCharacters) +
                                             " letters and digits");
  }
  return Sha256Hex(presented);
}

}  // namespace tessera::crypto
