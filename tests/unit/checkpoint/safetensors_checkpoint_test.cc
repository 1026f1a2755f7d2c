// Safetensors files, sound and hostile.

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "tests/unit/checkpoint/refusal.h"

namespace sconce {
namespace {

using namespace std::string_literals;

std::string Entry(const std::string& dtype, const std::string& shape, const std::string& offsets) {
  return R"({"dtype":")" + dtype + R"(","shape":)" + shape + R"(,"data_offsets":)" + offsets + "}";
}

// A header with one entry "w".
std::string One(const std::string& entry) { return R"({"w":)" + entry + "}"; }

const std::string kData = Bytes<float>({1, 2, 3, 4});  // 16 bytes

void ExpectHeaderRefused(const std::string& header, std::initializer_list<std::string_view> words,
                         const std::string& data = kData) {
  ExpectRefused(SafetensorsFile(header, data), {"header: "});
  ExpectRefused(SafetensorsFile(header, data), words);
}

TEST(SafetensorsTest, TensorsAreListedInTheOrderOfTheirData) {
  const std::string header =
      R"({"__metadata__":{"format":"pt"},"b":)" + Entry("F32", "[1,3]", "[4,16]") + R"(,"a":)" +
      Entry("F32", "[]", "[0,4]") + R"(,"none":)" + Entry("I64", "[3,0]", "[16,16]") + "}   ";
  const Opened opened = OpenBytes(SafetensorsFile("\n " + header, kData));
  ASSERT_TRUE(opened.ok()) << opened.checkpoint.status();
  EXPECT_STREQ(opened->format(), "safetensors");
  ASSERT_EQ(opened->tensors().size(), 3u);
  EXPECT_EQ(opened->tensors()[0].name, "a");
  EXPECT_EQ(opened->tensors()[1].name, "b");
  EXPECT_EQ(opened->tensors()[1].strides, (std::vector<int64_t>{3, 1}));
  EXPECT_EQ(Read<float>(**opened.checkpoint, opened->tensors()[1]), (std::vector<float>{2, 3, 4}));
  EXPECT_EQ(opened->tensors()[2].size_bytes(), 0);
  EXPECT_FALSE(opened->has_module_versions());
  ASSERT_EQ(opened->metadata().size(), 1u);
  EXPECT_EQ(opened->metadata()[0].value, "pt");
}

TEST(SafetensorsTest, EveryDtypeIsKnown) {
  const struct {
    const char* name;
    const char* dtype;
    int size;
  } cases[] = {{"BOOL", "bool", 1},
               {"U8", "uint8", 1},
               {"I8", "int8", 1},
               {"F8_E5M2", "float8_e5m2", 1},
               {"F8_E4M3", "float8_e4m3fn", 1},
               {"F8_E8M0", "float8_e8m0fnu", 1},
               {"F8_E4M3FNUZ", "float8_e4m3fnuz", 1},
               {"F8_E5M2FNUZ", "float8_e5m2fnuz", 1},
               {"I16", "int16", 2},
               {"U16", "uint16", 2},
               {"F16", "float16", 2},
               {"BF16", "bfloat16", 2},
               {"I32", "int32", 4},
               {"U32", "uint32", 4},
               {"F32", "float32", 4},
               {"C64", "complex64", 8},
               {"F64", "float64", 8},
               {"I64", "int64", 8},
               {"U64", "uint64", 8}};
  for (const auto& expected : cases) {
    SCOPED_TRACE(expected.name);
    const std::string size = std::to_string(2 * expected.size);
    const Opened opened =
        OpenBytes(SafetensorsFile(One(Entry(expected.name, "[2]", "[0," + size + "]")),
                                  std::string(static_cast<size_t>(2 * expected.size), 'x')));
    ASSERT_TRUE(opened.ok()) << opened.checkpoint.status();
    EXPECT_EQ(DTypeName(opened->tensors()[0].dtype), expected.dtype);
  }
  // The file counts F4 values, PyTorch the bytes of two.
  const Opened opened = OpenBytes(SafetensorsFile(One(Entry("F4", "[3,4]", "[0,6]")), "abcdef"));
  ASSERT_TRUE(opened.ok()) << opened.checkpoint.status();
  EXPECT_EQ(opened->tensors()[0].shape, (std::vector<int64_t>{3, 2}));
}

TEST(SafetensorsTest, BadHeaderSizesAreRefused) {
  const std::string header = One(Entry("F32", "[4]", "[0,16]"));
  ExpectRefused(SafetensorsFile(header, kData, 100'000'001), {"at most 100000000", "100000001"});
  ExpectRefused(SafetensorsFile(header, kData, ~uint64_t{0}), {"18446744073709551615"});
  ExpectRefused(SafetensorsFile(header, kData, 5000), {"header inside", "5000", "truncated"});
  ExpectRefused(SafetensorsFile(header, kData, header.size() - 1), {"valid JSON"});
}

TEST(SafetensorsTest, EveryTruncationIsRefused) {
  const std::string whole = SafetensorsFile(One(Entry("F32", "[4]", "[0,16]")), kData);
  for (size_t size = 0; size < whole.size(); ++size) {
    EXPECT_FALSE(OpenBytes(whole.substr(0, size)).ok()) << size;
  }
}

TEST(SafetensorsTest, HolesOverlapsAndTailsAreRefused) {
  const auto two = [](const char* first, const char* second) {
    return R"({"a":)" + Entry("F32", "[1]", first) + R"(,"b":)" + Entry("F32", "[2]", second) + "}";
  };
  EXPECT_TRUE(OpenBytes(SafetensorsFile(two("[0,4]", "[4,12]"), kData.substr(0, 12))).ok());
  ExpectHeaderRefused(two("[0,4]", "[8,16]"), {"tensor 'b'", "from byte 4 on, got byte 8", "hole"});
  ExpectHeaderRefused(two("[4,8]", "[8,16]"), {"tensor 'a'", "from byte 0 on, got byte 4", "hole"});
  ExpectHeaderRefused(two("[0,4]", "[0,8]"), {"tensor 'b'", "overlaps"});
  ExpectHeaderRefused(two("[0,4]", "[4,12]"), {"fill the 16 bytes", "end at byte 12"});
  ExpectHeaderRefused(two("[0,4]", "[12,20]"), {"tensor 'b'", "inside the 16 bytes", "[12, 20]"});
  ExpectHeaderRefused(two("[4,0]", "[4,12]"), {"tensor 'a'", "in order", "[4, 0]"});
  ExpectHeaderRefused("{}", {"fill the 16 bytes"});
}

TEST(SafetensorsTest, WhatIsNoObjectIsRefused) {
  ExpectHeaderRefused("{", {"valid JSON"});
  ExpectHeaderRefused(R"({"w":})", {"valid JSON"});
  ExpectHeaderRefused("{} x", {"valid JSON"});
  ExpectHeaderRefused(R"({"w":[]})", {"describes 'w'", "an array"});
  ExpectHeaderRefused(R"({"w":null})", {"describes 'w'", "null"});
  ExpectHeaderRefused(R"({"w":3})", {"describes 'w'", "3"});
  ExpectHeaderRefused("{\"\xFF\":3}", {"valid JSON"});
}

TEST(SafetensorsTest, DuplicateKeysAreRefused) {
  const std::string entry = Entry("F32", "[4]", "[0,16]");
  ExpectHeaderRefused(R"({"w":)" + entry + R"(,"w":)" + entry + "}", {"once", "'w' twice"});
  ExpectHeaderRefused(R"({"w":)" + entry + R"(,"\u0077":)" + entry + "}", {"'w' twice"});
  ExpectHeaderRefused(One(R"({"dtype":"F32","dtype":"F32","shape":[4],"data_offsets":[0,16]})"),
                      {"tensor 'w'", "'dtype' twice"});
  ExpectHeaderRefused(R"({"__metadata__":{"a":"1","a":"2"},"w":)" + entry + "}", {"'a' twice"});
  ExpectHeaderRefused(R"({"__metadata__":{},"__metadata__":{},"w":)" + entry + "}",
                      {"'__metadata__' twice"});
}

TEST(SafetensorsTest, UnknownDtypesAreRefused) {
  ExpectHeaderRefused(One(Entry("F31", "[4]", "[0,16]")), {"tensor 'w'", "known dtype", "'F31'"});
  ExpectHeaderRefused(One(Entry("F6_E2M3", "[4]", "[0,3]")), {"tensor 'w'", "F6_E2M3"}, "abc");
  ExpectHeaderRefused(One(R"({"dtype":4,"shape":[4],"data_offsets":[0,16]})"),
                      {"tensor 'w'", "a string as 'dtype'", "4"});
}

TEST(SafetensorsTest, NumbersThatAreNoSizesAreRefused) {
  ExpectHeaderRefused(One(Entry("F32", "[4.0]", "[0,16]")), {"tensor 'w'", "'shape'", "4.0"});
  ExpectHeaderRefused(One(Entry("F32", "[4e0]", "[0,16]")), {"tensor 'w'", "'shape'", "4e0"});
  ExpectHeaderRefused(One(Entry("F32", "[-4]", "[0,16]")), {"tensor 'w'", "'shape'", "-4"});
  ExpectHeaderRefused(One(Entry("F32", "[4]", "[-0,16]")), {"tensor 'w'", "'data_offsets'"});
  ExpectHeaderRefused(One(Entry("F32", "[18446744073709551615]", "[0,16]")),
                      {"tensor 'w'", "'shape' within 63 bits"});
  ExpectHeaderRefused(One(Entry("F32", "[99999999999999999999999]", "[0,16]")),
                      {"tensor 'w'", "99999999999999999999999"});
  ExpectHeaderRefused(One(Entry("F32", "[1e999]", "[0,16]")), {"JSON"});
  ExpectHeaderRefused(One(Entry("F32", "[true]", "[0,16]")), {"tensor 'w'", "a bool"});
  ExpectHeaderRefused(One(Entry("F32", "4", "[0,16]")), {"tensor 'w'", "an array as 'shape'"});
  ExpectHeaderRefused(One(Entry("F32", "[9223372036854775807,9223372036854775807]", "[0,16]")),
                      {"tensor 'w'", "elements within 64 bits"});
  ExpectHeaderRefused(One(Entry("F32", "[4611686018427387904]", "[0,16]")),
                      {"tensor 'w'", "bytes within 64 bits"});
}

TEST(SafetensorsTest, SizesThatDoNotFitTheOffsetsAreRefused) {
  ExpectHeaderRefused(One(Entry("F32", "[3]", "[0,16]")),
                      {"tensor 'w'", "expected 12 bytes", "got 16"});
  ExpectHeaderRefused(One(Entry("F64", "[4]", "[0,16]")), {"tensor 'w'", "expected 32 bytes"});
}

TEST(SafetensorsTest, OddBitsAreRefused) {
  ExpectHeaderRefused(One(Entry("F4", "[3]", "[0,2]")), {"tensor 'w'", "even number of F4"}, "ab");
  ExpectHeaderRefused(One(Entry("F4", "[]", "[0,1]")), {"tensor 'w'", "even number of F4"}, "a");
}

TEST(SafetensorsTest, MetadataOtherThanStringsIsRefused) {
  for (const char* value : {"1", "null", "[]", "{}", "true", "-1", "1.5"}) {
    ExpectHeaderRefused(R"({"__metadata__":{"a":)"s + value + "}}", {"__metadata__ at 'a'"}, "");
  }
  ExpectHeaderRefused(R"({"__metadata__":"x"})", {"'__metadata__'", "a string"}, "");
}

TEST(SafetensorsTest, IncompleteEntriesAreRefused) {
  ExpectHeaderRefused(One(R"({"dtype":"F32","shape":[4]})"), {"tensor 'w'", "got 2 of them"});
  ExpectHeaderRefused(One(Entry("F32", "[4]", "[0]")), {"tensor 'w'", "two data_offsets, got 1"});
  ExpectHeaderRefused(One(Entry("F32", "[4]", "[0,16,16]")), {"tensor 'w'", "at most 2 numbers"});
  ExpectHeaderRefused(One(R"({"dtype":"F32","shape":[4],"data_offsets":[0,16],"x":1})"),
                      {"tensor 'w'", "got 'x'"});
}

TEST(SafetensorsTest, DeepJsonIsRefused) {
  constexpr size_t kDepth = 100'000;
  ExpectHeaderRefused(R"({"w":)" + std::string(kDepth, '['), {"describes 'w'", "an array"});
  ExpectHeaderRefused(One(Entry("F32", std::string(kDepth, '['), "[0,16]")),
                      {"tensor 'w'", "an array"});
  std::string objects;
  for (size_t i = 0; i < kDepth; ++i) objects += R"({"a":)";
  ExpectHeaderRefused(objects, {"tensor 'a'", "got 'a'"});
  ExpectHeaderRefused(One(Entry("F32", "[" + std::string(200, '1') + "]", "[0,16]")), {"header"});
  std::string shape = "[1";
  for (int i = 0; i < 64; ++i) shape += ",1";
  ExpectHeaderRefused(One(Entry("F32", shape + "]", "[0,4]")), {"at most 64 numbers in 'shape'"},
                      "abcd");
}

}  // namespace
}  // namespace sconce
