#include "http/json.h"

#include <gtest/gtest.h>

#include "base/rng.h"

namespace tessera::http {
namespace {

std::string FieldOf(const Error& error) { return error.field(); }

TEST(JsonReader, ReadsWhatWasAskedFor) {
  auto body = JsonObject::Parse(
      R"({"name":"a","count":3,"on":true,"memory":"4GiB","raw":1024,"compute":"33.3%","p":250,)"
      R"("argv":["x","y"],"env":{"A":"1","B":"2"},"shares":[{"memory":5},{"memory":6}],"none":null})");
  ASSERT_TRUE(body) << body.error().ToString();
  EXPECT_EQ(*body->String("name"), "a");
  EXPECT_EQ(*body->Int("count", 1, 3), 3);
  EXPECT_EQ(*body->Bool("on"), true);
  EXPECT_EQ(*body->Bytes("memory"), 4 * kGiB);
  EXPECT_EQ(*body->Bytes("raw"), 1024u);
  EXPECT_EQ(body->Permille("compute")->value, 333u);
  EXPECT_EQ(body->Permille("p")->value, 250u);
  EXPECT_EQ(*body->Strings("argv", 2), (std::vector<std::string>{"x", "y"}));
  EXPECT_EQ(body->OptionalStringMap("env", 2)->at("B"), "2");
  auto shares = body->Array("shares", 2);
  ASSERT_TRUE(shares);
  auto second = (*shares)[1].Object();
  ASSERT_TRUE(second);
  EXPECT_EQ(*second->Bytes("memory"), 6u);
  EXPECT_EQ(second->FieldPath("memory"), "shares[1].memory");
  EXPECT_TRUE(second->Finish());
  EXPECT_FALSE(body->Finish());
  EXPECT_EQ(*body->OptionalInt("none", 1, 2, 7), 7);
  EXPECT_EQ(*body->OptionalString("absent", "d"), "d");
  EXPECT_EQ(*body->OptionalBool("absent2", true), true);
  EXPECT_TRUE(body->OptionalArray("absent3", 1)->empty());
  EXPECT_TRUE(body->Finish()) << body->Finish().error().ToString();
}

TEST(JsonReader, ValuesOutliveTheObjectTheyCameFrom) {
  std::vector<JsonValue> values;
  {
    auto body = JsonObject::Parse(R"({"list":["kept"]})");
    values = *body->Array("list", 1);
  }
  EXPECT_EQ(*values[0].String(), "kept");
}

struct Bad {
  const char* text;
  const char* field;
  const char* part;
};

class JsonRefusals : public testing::TestWithParam<Bad> {};

// Reads {"name": string(8), "count": 1..9, "shares": [{"memory": bytes}] (2), "on": bool,
// "compute"?}.
Status ReadSample(std::string_view text) {
  TRY(JsonObject body, JsonObject::Parse(text, {.bytes_max = 4096, .depth_max = 4}));
  TRY_STATUS([&]() -> Status {
    TRY([[maybe_unused]] const auto name, body.String("name", 8));
    TRY([[maybe_unused]] const auto count, body.Int("count", 1, 9));
    TRY([[maybe_unused]] const auto on, body.OptionalBool("on", false));
    TRY([[maybe_unused]] const auto compute, body.OptionalPermille("compute", Permille{1000}));
    TRY(const auto shares, body.OptionalArray("shares", 2));
    for (const JsonValue& item : shares) {
      TRY(JsonObject share, item.Object());
      TRY([[maybe_unused]] const auto memory, share.Bytes("memory"));
      TRY_STATUS(share.Finish());
    }
    return body.Finish();
  }());
  return {};
}

TEST_P(JsonRefusals, NameTheFieldAndWhatWasExpected) {
  const Status status = ReadSample(GetParam().text);
  ASSERT_FALSE(status) << GetParam().text;
  EXPECT_EQ(status.error().code(), Code::kInvalidArgument);
  EXPECT_EQ(FieldOf(status.error()), GetParam().field) << status.error().ToString();
  EXPECT_NE(status.error().message().find(GetParam().part), std::string::npos)
      << status.error().ToString();
}

INSTANTIATE_TEST_SUITE_P(
    All, JsonRefusals,
    testing::Values(
        Bad{"", "body", "got nothing"}, Bad{"  ", "body", "got nothing"},
        Bad{"[]", "body", "expected an object, got an array"}, Bad{"3", "body", "a whole number"},
        Bad{"{", "body", "expected JSON"}, Bad{"{\"name\":\"a\"", "body", "expected JSON"},
        Bad{"{} {}", "body", "byte"}, Bad{"{\"name\":nope}", "body", "byte"},
        Bad{"{\"a\":01}", "body", "byte"}, Bad{"{/*c*/}", "body", "byte"},
        Bad{"{\"a\":1,}", "body", "byte"}, Bad{"{\"a\":NaN}", "body", "byte"},
        Bad{"{\"a\":\"\xff\"}", "body", "expected JSON"},
        Bad{"{\"a\":[[[[[]]]]]}", "body", "depth_max (4)"},
        Bad{R"({"name":"a","name":"b"})", "name", "given twice"},
        Bad{R"({"shares":[{},{"x":{"y":1,"y":2}}]})", "shares[1].x.y", "given twice"},
        Bad{R"({"count":1})", "name", "required"},
        Bad{R"({"name":null,"count":1})", "name", "expected a string, got null"},
        Bad{R"({"name":1,"count":1})", "name", "expected a string"},
        Bad{R"({"name":"123456789","count":1})", "name", "at most 8 bytes"},
        Bad{R"({"name":"a\u0000b","count":1})", "name", "NUL"},
        Bad{R"({"name":"a","count":0})", "count", "from 1 to 9, got 0"},
        Bad{R"({"name":"a","count":-1})", "count", "got -1"},
        Bad{R"({"name":"a","count":10})", "count", "got 10"},
        Bad{R"({"name":"a","count":1.0})", "count", "got 1.0"},
        Bad{R"({"name":"a","count":1e0})", "count", "got 1e0"},
        Bad{R"({"name":"a","count":"1"})", "count", "got a string"},
        Bad{R"({"name":"a","count":18446744073709551616})", "count", "got 18446744073709551616"},
        Bad{R"({"name":"a","count":9223372036854775808})", "count", "got 9223372036854775808"},
        Bad{R"({"name":"a","count":1,"on":"yes"})", "on", "true or false"},
        Bad{R"({"name":"a","count":1,"compute":0})", "compute", "1 to 1000"},
        Bad{R"({"name":"a","count":1,"compute":1001})", "compute", "1 to 1000"},
        Bad{R"({"name":"a","count":1,"compute":"150%"})", "compute", ""},
        Bad{R"({"name":"a","count":1,"shares":{}})", "shares", "expected an array"},
        Bad{R"({"name":"a","count":1,"shares":[{"memory":1},{"memory":1},{"memory":1}]})", "shares",
            "at most 2"},
        Bad{R"({"name":"a","count":1,"shares":[{"memory":1},5]})", "shares[1]", "an object"},
        Bad{R"({"name":"a","count":1,"shares":[{"memory":-1}]})", "shares[0].memory", "got -1"},
        Bad{R"({"name":"a","count":1,"shares":[{"memory":"4GB"}]})", "shares[0].memory", "GiB"},
        Bad{R"({"name":"a","count":1,"shares":[{"memory":"16000000TiB"}]})", "shares[0].memory",
            ""},
        Bad{R"({"name":"a","count":1,"shares":[{"memory":true}]})", "shares[0].memory", "4GiB"},
        Bad{R"({"name":"a","count":1,"shares":[{"memory":1,"extra":2}]})", "shares[0].extra",
            "expected one of: memory"},
        Bad{R"({"name":"a","count":1,"nmae":"b"})", "nmae", "unknown field"}));

TEST(JsonReader, BoundsAreNamed) {
  const std::string text = "{\"name\":\"" + std::string(5000, 'x') + "\"}";
  const auto long_body = JsonObject::Parse(text, {.bytes_max = 4096});
  ASSERT_FALSE(long_body);
  EXPECT_NE(long_body.error().message().find("bytes_max (4096)"), std::string::npos);
  const auto many = JsonValue::Parse("[1,2,3,4]", "body", {.values_max = 4});
  ASSERT_FALSE(many);
  EXPECT_NE(many.error().message().find("values_max (4)"), std::string::npos);
  EXPECT_TRUE(JsonValue::Parse("[1,2,3]", "body", {.values_max = 4}));
}

TEST(JsonWriter, WritesValidJsonWhateverTheBytes) {
  JsonWriter json;
  json.BeginObject().Field("a", 1).Field("b", "x\"\\\n\x01").Field("c", true);
  json.Key("d")
      .BeginArray()
      .Value(-5)
      .Value(std::uint64_t{18446744073709551615u})
      .Null()
      .EndArray();
  json.Key("e").BeginObject().EndObject().Key("f").BeginArray().EndArray();
  json.Field("g", std::string("\xff\xc0\x80\xed\xa0\x80\xe2\x82", 8));
  json.EndObject();
  EXPECT_EQ(
      json.Take(),
      R"({"a":1,"b":"x\"\\\n\u0001","c":true,"d":[-5,18446744073709551615,null],"e":{},"f":[],"g":")"
      "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf"
      "\xbd\"}");
}

TEST(JsonProperty, WhatIsWrittenIsReadBack) {
  Rng rng(7);
  for (int round = 0; round < 2000; ++round) {
    std::string text;
    const auto length = rng.Below(40);
    for (std::uint64_t i = 0; i < length; ++i) {
      // ASCII with every control character but NUL, and two multi-byte characters.
      const auto pick = rng.Below(130);
      if (pick < 127) {
        text += static_cast<char>(pick + 1);
      } else {
        text += pick == 128 ? "\xc3\xa9" : "\xf0\x9f\x8e\x88";
      }
    }
    const auto number = static_cast<std::int64_t>(rng.Next());
    JsonWriter json;
    json.BeginObject().Field(text + "k", text).Field("n", number).EndObject();
    auto body = JsonObject::Parse(json.Take());
    ASSERT_TRUE(body) << body.error().ToString();
    EXPECT_EQ(*body->String(text + "k"), text);
    EXPECT_EQ(*body->Int("n", INT64_MIN, INT64_MAX), number);
    EXPECT_TRUE(body->Finish());
  }
}

// Any damage to a good document is either refused with a field or read as the sample's types allow;
// never a crash.
TEST(JsonProperty, DamagedDocumentsAreRefusedWithAField) {
  const std::string good =
      R"({"name":"abc","count":5,"on":true,"compute":"12.5%","shares":[{"memory":"4GiB"},{"memory":7}]})";
  ASSERT_TRUE(ReadSample(good));
  Rng rng(11);
  int refused = 0;
  constexpr int kRounds = 30000;
  for (int round = 0; round < kRounds; ++round) {
    std::string text = good;
    const auto edits = rng.Between(1, 4);
    for (std::uint64_t i = 0; i < edits && !text.empty(); ++i) {
      const std::size_t at = rng.Below(text.size());
      switch (rng.Below(4)) {
        case 0:
          text.erase(at, rng.Between(1, 5));
          break;
        case 1:
          text.insert(at, 1, static_cast<char>(rng.Below(256)));
          break;
        case 2:
          text[at] = static_cast<char>(rng.Below(256));
          break;
        default:
          text.insert(at, text.substr(rng.Below(text.size()), rng.Below(12)));
          break;
      }
    }
    const Status status = ReadSample(text);
    if (status) continue;
    ++refused;
    ASSERT_EQ(status.error().code(), Code::kInvalidArgument) << text;
    ASSERT_FALSE(status.error().field().empty()) << status.error().ToString();
  }
  EXPECT_GT(refused, kRounds / 2);
}

}  // namespace
}  // namespace tessera::http
