#include "simgpu/driver/fatbin.h"

#include <gtest/gtest.h>
#include <string.h>

#include <vector>

#include "simgpu/driver/fatbin_test_support.h"

namespace simgpu {
namespace {

using namespace tessera::abi;  // NOLINT

struct Answer {
  CUresult result;
  std::string text;
  std::string why;
};

Answer Ask(const void* image, unsigned int sm = 80) {
  Answer answer;
  answer.result = PtxOf(image, sm, &answer.text, &answer.why);
  return answer;
}

TEST(Fatbin, TextIsTakenAsItIs) {
  Answer answer = Ask(".version 8.0\n");
  EXPECT_EQ(answer.result, CUDA_SUCCESS);
  EXPECT_EQ(answer.text, ".version 8.0\n");
  EXPECT_EQ(Ask("").text, "");
}

TEST(Fatbin, MachineCodeIsRefused) {
  EXPECT_EQ(Ask("\x7f"
                "ELF and so on")
                .result,
            CUDA_ERROR_NO_BINARY_FOR_GPU);
  EXPECT_EQ(Ask(Container({Part(2, 80, 0, "elf", 0)}).data()).result, CUDA_ERROR_NO_BINARY_FOR_GPU);
}

TEST(Fatbin, TakesTheNewestTargetTheDeviceKnows) {
  const std::string image = Container({Part(1, 75, 0, "seventy-five", 0), Part(2, 80, 0, "elf", 0),
                                       Part(1, 80, 0, "eighty", 0), Part(1, 90, 0, "ninety", 0)});
  EXPECT_EQ(Ask(image.data(), 75).text, "seventy-five");
  EXPECT_EQ(Ask(image.data(), 86).text, "eighty");
  EXPECT_EQ(Ask(image.data(), 120).text, "ninety");
  EXPECT_EQ(Ask(image.data(), 70).result, CUDA_ERROR_NO_BINARY_FOR_GPU);
}

TEST(Fatbin, FollowsTheWrapper) {
  const std::string image = Container({Part(1, 75, 0, "inside", 0)});
  std::string wrapper(24, '\0');
  Put<uint32_t>(&wrapper, 0, 0x466243b1);
  Put<uint32_t>(&wrapper, 4, 1);
  Put<const char*>(&wrapper, 8, image.data());
  EXPECT_EQ(Ask(wrapper.data()).text, "inside");
  Put<const char*>(&wrapper, 8, "nothing of the sort");
  EXPECT_EQ(Ask(wrapper.data()).result, CUDA_ERROR_INVALID_IMAGE);
}

TEST(Fatbin, DecodesLz4) {
  // "abcabcabcabcabcabc-end" by hand: literals "abc", a match of 15 three back, literals "-end".
  std::string block;
  block += '\x3b';  // 3 literals, match 11 + 4
  block += "abc";
  block += '\x03';
  block += '\x00';
  block += '\x40';  // 4 literals, the end
  block += "-end";
  const std::string expected = "abcabcabcabcabcabc-end";
  std::string out;
  auto data = reinterpret_cast<const uint8_t*>(block.data());
  ASSERT_TRUE(DecodeLz4(data, block.size(), expected.size(), &out));
  EXPECT_EQ(out, expected);
  EXPECT_FALSE(DecodeLz4(data, block.size(), expected.size() - 1, &out));
  EXPECT_FALSE(DecodeLz4(data, block.size(), expected.size() + 1, &out));
  for (size_t cut = 0; cut < block.size(); ++cut) {
    EXPECT_FALSE(DecodeLz4(data, cut, expected.size(), &out)) << cut;
  }
  EXPECT_EQ(Ask(Container({Part(1, 75, 0x2000, block, expected.size())}).data()).text, expected);
}

TEST(Fatbin, DecodesZstd) {
  // A frame with one raw block: magic, single segment with a one-byte size, block header, bytes.
  const std::string text = "zstd text";
  std::string frame("\x28\xb5\x2f\xfd\x20", 5);
  frame += static_cast<char>(text.size());
  const uint32_t block = static_cast<uint32_t>(text.size()) << 3 | 1;
  frame += static_cast<char>(block & 255);
  frame += static_cast<char>(block >> 8 & 255);
  frame += static_cast<char>(block >> 16 & 255);
  frame += text;
  Answer answer = Ask(Container({Part(1, 75, 0x8000, frame, text.size())}).data());
  EXPECT_EQ(answer.text, text) << answer.why;
  frame[0] = 'x';
  EXPECT_EQ(Ask(Container({Part(1, 75, 0x8000, frame, text.size())}).data()).result,
            CUDA_ERROR_INVALID_IMAGE);
}

TEST(Fatbin, RefusesSizesThatContradict) {
  std::string image = Container({Part(1, 75, 0, "text", 0)});
  Put<uint64_t>(&image, 16 + 8, 1 << 20);
  EXPECT_EQ(Ask(image.data()).result, CUDA_ERROR_INVALID_IMAGE);
  image = Container({Part(1, 75, 0, "text", 0)});
  Put<uint32_t>(&image, 16 + 4, 8);
  EXPECT_EQ(Ask(image.data()).result, CUDA_ERROR_INVALID_IMAGE);
  image = Container({Part(1, 75, 0x2000, "text", uint64_t{1} << 40)});
  EXPECT_EQ(Ask(image.data()).result, CUDA_ERROR_INVALID_IMAGE);
}

}  // namespace
}  // namespace simgpu
