#include "crypto/crypto.h"

#include <gtest/gtest.h>

#include <array>
#include <set>

namespace tessera::crypto {
namespace {

// FIPS 180-4 examples.
TEST(Sha256, KnownVectors) {
  EXPECT_EQ(Sha256Hex(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(Sha256Hex("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(Sha256Hex("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq"),
            "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
  EXPECT_EQ(Sha256Hex(std::string(1'000'000, 'a')),
            "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
  EXPECT_EQ(Sha256("abc").size(), 32u);
  EXPECT_EQ(Sha256Hex(std::string("a\0b", 3)).size(), 64u);
  EXPECT_NE(Sha256Hex(std::string("a\0b", 3)), Sha256Hex("a"));
}

TEST(Hex, RoundTripAndRefusals) {
  std::string all;
  for (int i = 0; i < 256; ++i) all += static_cast<char>(i);
  EXPECT_EQ(*HexDecode(HexEncode(all)), all);
  EXPECT_EQ(HexEncode("\x00\xffz"), "");  // a C string ends at NUL
  EXPECT_EQ(HexEncode(std::string_view("\x00\xffz", 3)), "00ff7a");
  EXPECT_EQ(*HexDecode("DEADbeef"), "\xde\xad\xbe\xef");
  EXPECT_FALSE(HexDecode("abc"));
  EXPECT_FALSE(HexDecode("0g"));
  EXPECT_FALSE(HexDecode("0 "));
}

TEST(Random, IsNotRepeatedAndUsesEveryBit) {
  std::set<std::string> seen;
  std::array<int, 256> counts{};
  for (int i = 0; i < 1000; ++i) {
    const std::string bytes = RandomBytes(32);
    ASSERT_EQ(bytes.size(), 32u);
    EXPECT_TRUE(seen.insert(bytes).second);
    for (const char c : bytes) ++counts[static_cast<unsigned char>(c)];
  }
  // 32,000 draws, 125 expected of each value; 40 is seven and a half standard deviations away.
  for (const int count : counts) EXPECT_GT(count, 40);
  EXPECT_EQ(RandomBytes(0), "");
}

TEST(RandomIdTest, IsSafeEverywhere) {
  std::set<std::string> seen;
  for (int i = 0; i < 1000; ++i) {
    const std::string id = RandomId("ins");
    EXPECT_EQ(id.size(), 24u);
    EXPECT_TRUE(id.starts_with("ins-"));
    EXPECT_EQ(id.find_first_not_of("0123456789abcdefghjkmnpqrstvwxyz", 4), std::string::npos);
    EXPECT_TRUE(seen.insert(id).second);
  }
}

TEST(ConstantTime, ComparesWhole) {
  EXPECT_TRUE(ConstantTimeEqual("", ""));
  EXPECT_TRUE(ConstantTimeEqual("abc", "abc"));
  EXPECT_FALSE(ConstantTimeEqual("abc", "abd"));
  EXPECT_FALSE(ConstantTimeEqual("abc", "ab"));
  EXPECT_FALSE(ConstantTimeEqual(std::string_view("a\0b", 3), std::string_view("a\0c", 3)));
}

TEST(ApiKeys, AreShownOnceAndFoundByHash) {
  const ApiKey key = NewApiKey();
  EXPECT_EQ(key.key.size(), 47u);
  EXPECT_TRUE(key.key.starts_with("tsk_"));
  EXPECT_EQ(key.hash, Sha256Hex(key.key));
  EXPECT_EQ(key.hint, "tsk_..." + key.key.substr(43));
  EXPECT_EQ(*ApiKeyHash(key.key), key.hash);
  EXPECT_NE(NewApiKey().key, key.key);
  for (const std::string& bad :
       {std::string(), std::string("tsk_"), key.key + "x", key.key.substr(1),
        "xyz_" + key.key.substr(4), key.key.substr(0, 46) + "!", std::string(1 << 20, 'a'),
        std::string(47, '\0')}) {
    const auto hash = ApiKeyHash(bad);
    ASSERT_FALSE(hash);
    EXPECT_EQ(hash.error().code(), Code::kUnauthenticated);
    EXPECT_TRUE(bad.empty() || bad == "tsk_" ||
                hash.error().message().find(bad) == std::string::npos);
  }
}

}  // namespace
}  // namespace tessera::crypto
