#include "config/config.h"

#include <gtest/gtest.h>

#include "base/rng.h"

namespace tessera::config {
namespace {

constexpr std::string_view kGood = R"(# a comment
socket: /run/t.sock
workers: 4
contained: true
node:
  spare_memory: 2GiB
  share: 33.3%
  cards: [a, b]
skus:
  - name: third
    price: "0.25"
  - name: half
)";

Status ReadAll(std::string_view text) {
  TRY(ConfigMap file, ConfigMap::Parse(text, "t.yaml"));
  TRY([[maybe_unused]] auto socket, file.String("socket"));
  TRY([[maybe_unused]] auto workers, file.OptionalInt("workers", 1, 64, 2));
  TRY([[maybe_unused]] auto contained, file.OptionalBool("contained", false));
  TRY(ConfigMap node, file.OptionalMap("node"));
  TRY([[maybe_unused]] auto spare, node.OptionalBytes("spare_memory", 0));
  TRY([[maybe_unused]] auto share, node.OptionalPermille("share", {1000}));
  TRY([[maybe_unused]] auto cards, node.OptionalStrings("cards"));
  TRY_STATUS(node.Finish());
  TRY(std::vector<ConfigMap> skus, file.OptionalMaps("skus"));
  for (ConfigMap& sku : skus) {
    TRY([[maybe_unused]] auto name, sku.String("name"));
    TRY([[maybe_unused]] auto price, sku.OptionalMoney("price", Money{}));
    TRY_STATUS(sku.Finish());
  }
  return file.Finish();
}

TEST(Config, ReadsTypedValues) {
  auto file = ConfigMap::Parse(kGood, "t.yaml");
  ASSERT_TRUE(file) << file.error().ToString();
  EXPECT_EQ(*file->String("socket"), "/run/t.sock");
  EXPECT_EQ(*file->OptionalInt("workers", 1, 64, 2), 4);
  EXPECT_EQ(*file->OptionalInt("absent", 1, 64, 2), 2);
  EXPECT_TRUE(*file->OptionalBool("contained", false));
  auto node = file->OptionalMap("node");
  ASSERT_TRUE(node);
  EXPECT_EQ(*node->OptionalBytes("spare_memory", 0), 2 * kGiB);
  EXPECT_EQ(node->OptionalPermille("share", {1})->value, 333u);
  EXPECT_EQ(*node->OptionalStrings("cards"), (std::vector<std::string>{"a", "b"}));
  EXPECT_TRUE(node->Finish());
  auto skus = file->OptionalMaps("skus");
  ASSERT_TRUE(skus);
  EXPECT_EQ(*(*skus)[0].OptionalMoney("price", Money{}), Money{250'000});
  EXPECT_EQ(*(*skus)[1].OptionalMoney("price", Money{7}), Money{7});
  EXPECT_TRUE(file->Finish()) << file->Finish().error().ToString();
  EXPECT_TRUE(ReadAll(kGood));
}

TEST(Config, AnEmptyFileIsAnEmptyMap) {
  for (const std::string_view text : {"", "# nothing\n", "---\n", "{}"}) {
    auto file = ConfigMap::Parse(text, "t.yaml");
    ASSERT_TRUE(file) << text;
    EXPECT_TRUE(file->Finish());
    EXPECT_TRUE(file->OptionalMap("node")->Finish());
  }
}

struct Bad {
  const char* text;
  const char* field;
  const char* part;
};

class ConfigRefusals : public testing::TestWithParam<Bad> {};

TEST_P(ConfigRefusals, NameFieldAndLine) {
  const Status status = ReadAll(GetParam().text);
  ASSERT_FALSE(status) << GetParam().text;
  EXPECT_EQ(status.error().code(), Code::kInvalidArgument);
  EXPECT_EQ(status.error().field(), GetParam().field) << status.error().ToString();
  EXPECT_NE(status.error().message().find(GetParam().part), std::string::npos)
      << status.error().ToString();
}

INSTANTIATE_TEST_SUITE_P(
    All, ConfigRefusals,
    testing::Values(
        Bad{"workers: 3\n", "socket", "t.yaml:1: required"},
        Bad{"socket: a\nworker: 3\n", "worker", "t.yaml:2: unknown key; expected one of: socket"},
        Bad{"socket: a\nworkers: 0\n", "workers", "t.yaml:2: "},
        Bad{"socket: a\nworkers: -1\n", "workers", "t.yaml:2: "},
        Bad{"socket: a\nworkers: 99999999999999999999\n", "workers", "t.yaml:2: "},
        Bad{"socket: a\nworkers: 3x\n", "workers", "t.yaml:2: "},
        Bad{"socket: a\nworkers: [3]\n", "workers",
            "t.yaml:2: expected a single value, got a list"},
        Bad{"socket: a\n\ncontained: yes\n", "contained", "t.yaml:3: expected true or false"},
        Bad{"socket: a\nsocket: b\n", "socket", "t.yaml:2: expected each key once"},
        Bad{"socket: a\nnode:\n  spare_memory: 2GB\n", "node.spare_memory", "t.yaml:3: "},
        Bad{"socket: a\nnode:\n  share: 200%\n", "node.share", "t.yaml:3: "},
        Bad{"socket: a\nnode:\n  extra: 1\n", "node.extra", "t.yaml:3: unknown key"},
        Bad{"socket: a\nnode: 5\n", "node", "t.yaml:2: expected a map"},
        Bad{"socket: a\nskus: {}\n", "skus", "t.yaml:2: expected a list"},
        Bad{"socket: a\nskus:\n- name: x\n- 5\n", "skus[1]", "t.yaml:4: expected a map"},
        Bad{"socket: a\nskus:\n- name: x\n  prize: 5\n", "skus[0].prize", "t.yaml:4: unknown key"},
        Bad{"socket: a\nskus:\n- name: x\n  price: -1x\n", "skus[0].price", "t.yaml:4: "},
        Bad{"socket: a\n---\nsocket: b\n", "file", "expected one document"},
        Bad{"- a\n", "file", "t.yaml:1: expected a map, got a list"},
        Bad{"text\n", "file", "expected a map"},
        Bad{"a: b: c\n", "file", "t.yaml:1: expected YAML"},
        Bad{"a: [1\n", "file", "expected YAML"}, Bad{"a: b]: [\n", "file", "expected YAML"},
        Bad{"# c\n, b]\nx: y\n", "file", "expected one document"},
        Bad{"[1]: 2\n", "file", "plain text as a key"},
        Bad{"socket: *nobody\n", "file", "expected YAML"},
        Bad{"socket: &x a\n", "socket", "expected no anchors"},
        Bad{"? {a: b}\n: c\n", "file", "plain text as a key"}));

TEST(Config, BoundsAreNamed) {
  EXPECT_NE(ConfigMap::Parse(std::string(kFileBytesMax + 1, '#'), "t")
                .error()
                .message()
                .find("file_bytes_max"),
            std::string::npos);
  std::string deep = "a: ";
  for (int i = 0; i < 20; ++i) deep += '[';
  for (int i = 0; i < 20; ++i) deep += ']';
  EXPECT_NE(ConfigMap::Parse(deep, "t").error().message().find("depth_max"), std::string::npos);
  std::string many = "a: [";
  for (std::size_t i = 0; i < kValuesMax; ++i) many += "1,";
  EXPECT_NE(ConfigMap::Parse(many + "]", "t").error().message().find("values_max"),
            std::string::npos);
}

TEST(ConfigProperty, DamagedFilesNeverCrash) {
  Rng rng(19);
  int refused = 0;
  for (int round = 0; round < 3000; ++round) {
    std::string text(kGood);
    for (std::uint64_t edits = rng.Between(1, 4); edits > 0; --edits) {
      const std::size_t at = rng.Below(text.size());
      if (rng.Chance(500)) {
        text[at] = static_cast<char>(rng.Below(256));
      } else {
        text.insert(at, text.substr(rng.Below(text.size()), rng.Below(9)));
      }
    }
    const Status status = ReadAll(text);
    if (status) continue;
    ++refused;
    ASSERT_FALSE(status.error().field().empty()) << status.error().ToString();
    ASSERT_NE(status.error().message().find("t.yaml"), std::string::npos)
        << status.error().ToString();
  }
  EXPECT_GT(refused, 1000);
}

}  // namespace
}  // namespace tessera::config
