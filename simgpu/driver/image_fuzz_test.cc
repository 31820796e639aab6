// Damaged module images: unpacking them must end, in bounds, whatever they say. Deterministic, and
// longer with TESSERA_SOAK, a number of inputs.
#include <gtest/gtest.h>
#include <stdlib.h>
#include <string.h>

#include <iostream>
#include <memory>
#include <random>
#include <vector>

#include "simgpu/driver/fatbin.h"
#include "simgpu/driver/fatbin_test_support.h"

namespace simgpu {
namespace {

using namespace tessera::abi;  // NOLINT

constexpr char kText[] =
    ".version 7.0\n.target sm_75\n.address_size 64\n.visible .entry k() { ret; }\n";

// The text as LZ4 may hold it: literals, and a match that repeats the last eight bytes.
std::string Lz4() {
  const std::string text = kText;
  std::string out;
  out.push_back(static_cast<char>(0xf0));
  out.push_back(static_cast<char>(text.size() - 15));
  out += text;
  out += std::string("\x08\x00", 2);
  out.push_back('\x50');
  out += "\n\n\n\n\n";
  return out;
}
uint64_t Lz4Size() { return strlen(kText) + 4 + 5; }

// A zstd frame of one raw block.
std::string Zstd() {
  const std::string text = kText;
  std::string out("\x28\xb5\x2f\xfd\x20", 5);
  out.push_back(static_cast<char>(text.size()));
  const auto header = static_cast<uint32_t>(text.size() << 3 | 1);
  for (int k = 0; k < 3; ++k) out.push_back(static_cast<char>(header >> (8 * k)));
  return out + text;
}

TEST(ImageFuzz, DamagedImagesAreRefusedOrGiveText) {
  const char* soak = getenv("TESSERA_SOAK");
  const uint64_t rounds = soak != nullptr ? strtoull(soak, nullptr, 10) : 20'000;
  const std::vector<std::string> images = {
      Container({Part(1, 75, 0, kText, 0)}),
      Container({Part(1, 80, 0x2000, Lz4(), Lz4Size())}),
      Container({Part(1, 80, 0x8000, Zstd(), strlen(kText))}),
      Container({Part(1, 50, 0, kText, 0), Part(1, 75, 0x2000, Lz4(), Lz4Size()),
                 Part(1, 90, 0, kText, 0)}),
      LinkedImage(kText),
      std::string("\x7f"
                  "ELF\x02\x01\x01",
                  7) +
          std::string(57, '\0'),
      kText,
  };
  for (size_t k = 0; k < images.size(); ++k) {
    std::string text, why;
    const CUresult result = PtxOf(images[k].data(), images[k].size(), 80, &text, &why);
    ASSERT_EQ(result, k == 5 ? CUDA_ERROR_NO_BINARY_FOR_GPU : CUDA_SUCCESS) << k << ": " << why;
    if (k != 5) {
      EXPECT_EQ(text.compare(0, strlen(kText), kText), 0) << k;
    }
  }
  std::mt19937_64 random(20261125);
  const auto below = [&](uint64_t bound) { return random() % bound; };
  uint64_t fine = 0, refused = 0;
  for (uint64_t round = 0; round < rounds; ++round) {
    std::string image = images[below(images.size())];
    for (uint64_t edits = 1 + below(3); edits > 0; --edits) {
      const size_t at = below(image.size());
      switch (below(5)) {
        case 0:
          image[at] = static_cast<char>(below(256));
          break;
        case 1:
          image.resize(at + 1);
          break;
        case 2: {  // A field of a header takes an extreme value.
          const uint64_t values[] = {0, 1, 63, 64, 0x7fffffff, 0xffffffff, ~0ull, 1ull << 40};
          Put<uint64_t>(&image, at / 8 * 8, values[below(8)]);
          break;
        }
        case 3:
          image.insert(at, image.substr(below(image.size()), below(40)));
          break;
        default:
          image.erase(at, 1 + below(20));
          if (image.empty()) image = "x";
          break;
      }
    }
    // A block of exactly its size, so that the address sanitizer sees every byte beyond.
    const std::unique_ptr<char[]> exact(new char[image.size()]);
    memcpy(exact.get(), image.data(), image.size());
    std::string text, why;
    const CUresult result = PtxOf(exact.get(), image.size(), 80, &text, &why);
    (result == CUDA_SUCCESS ? fine : refused) += 1;
    ASSERT_EQ(result == CUDA_SUCCESS, why.empty()) << why;
    ASSERT_LE(text.capacity(), size_t{257} << 20);
  }
  std::cout << "inputs " << rounds << ", of them still images " << fine << std::endl;
  EXPECT_GT(fine, rounds / 50);
  EXPECT_GT(refused, rounds / 50);
}

}  // namespace
}  // namespace simgpu
