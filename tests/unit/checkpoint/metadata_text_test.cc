// What is said of what lies beside the weights. Real training checkpoints:
// tests/integration/test_torch_formats.py.

#include <gtest/gtest.h>

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "tests/unit/checkpoint/refusal.h"

namespace sconce {
namespace {

using pickle::Call;
using pickle::Dict;
using pickle::Get;
using pickle::Global;
using pickle::Int;
using pickle::List;
using pickle::None;
using pickle::OrderedDict;
using pickle::Put;
using pickle::Str;
using pickle::Tuple;

// The metadata of {"state_dict": {"w": ...}, "x": value}, by name.
std::map<std::string, std::string> MetadataOf(const std::string& value) {
  const Opened opened = OpenBytes(
      FileWith(Dict({{"state_dict", OrderedDict({{"w", Floats().Build()}})}, {"x", value}})));
  EXPECT_TRUE(opened.ok()) << opened.checkpoint.status();
  std::map<std::string, std::string> metadata;
  if (!opened.ok()) return metadata;
  for (const MetadataEntry& entry : opened->metadata()) metadata[entry.name] = entry.value;
  return metadata;
}

using Metadata = std::map<std::string, std::string>;

TEST(MetadataTextTest, ScalarsAndShortSequences) {
  EXPECT_EQ(MetadataOf(None()), (Metadata{{"x", "None"}}));
  EXPECT_EQ(MetadataOf(Str("a\x1b[31m")), (Metadata{{"x", "a\\x1b[31m"}}));
  EXPECT_EQ(MetadataOf(Tuple({Int(1), Str("b"), List({Int(2)})})),
            (Metadata{{"x", "(1, 'b', [2])"}}));
  EXPECT_EQ(MetadataOf(List(std::vector<std::string>(100, Int(7)))),
            (Metadata{{"x", "list of 100 items, the first 7"}}));
  EXPECT_EQ(MetadataOf(Global("torch", "float16")), (Metadata{{"x", "torch.float16"}}));
  EXPECT_EQ(MetadataOf(Call(Global("pathlib", "PosixPath"), Tuple({Str("/"), Str("a")}))),
            (Metadata{{"x", "pathlib.PosixPath('/', 'a')"}}));
}

TEST(MetadataTextTest, PathsLeadToWhatIsNested) {
  EXPECT_EQ(
      MetadataOf(
          Dict({{"param_groups", List({Dict({{"lr", Int(1)}, {"a.b", Int(2)}})})}, {"none", "}"}})),
      (Metadata{
          {"x.param_groups[0].lr", "1"}, {"x.param_groups[0]['a.b']", "2"}, {"x.none", "{}"}}));
  EXPECT_EQ(MetadataOf("}" + Int(-3) + Str("a") + "s" + Tuple({Int(1)}) + Str("b") + "s"),
            (Metadata{{"x[-3]", "a"}, {"x[a tuple]", "b"}}));
  EXPECT_EQ(MetadataOf(Global("argparse", "Namespace") + ")\x81" + Dict({{"lr", Int(1)}}) + "b"),
            (Metadata{{"x", "object of argparse.Namespace"}, {"x.lr", "1"}}));
}

TEST(MetadataTextTest, TensorsAreSummarised) {
  // Whether it could be read does not matter here.
  TensorPickle tensor = Floats();
  tensor.key = "there is no such key";
  tensor.shape = {3, -4};
  EXPECT_EQ(MetadataOf(tensor.Build()), (Metadata{{"x", "float32 tensor of shape [3, -4]"}}));
  EXPECT_EQ(MetadataOf(Call(Global("torch._utils", "_rebuild_tensor_v2"), ")")),
            (Metadata{{"x", "tensor"}}));
  std::vector<std::pair<std::string, std::string>> many;
  for (int i = 0; i < 20; ++i) many.emplace_back("t" + std::to_string(i), tensor.Build());
  EXPECT_EQ(MetadataOf(Dict({{"y", Dict(many)}})), (Metadata{{"x.y", "dict of 20 tensors"}}));
}

std::string NumpyType(const std::string& code, const std::string& order = "<") {
  return Call(Global("numpy", "dtype"),
              Tuple({Str(code), pickle::Bool(false), pickle::Bool(true)})) +
         Tuple({Int(3), Str(order), None()}) + "b";
}

TEST(MetadataTextTest, NumpyScalarsAreDecoded) {
  const auto scalar = [](const std::string& type, const std::string& bytes,
                         const std::string& module = "numpy.core.multiarray") {
    return Call(Global(module, "scalar"),
                Tuple({type, "C" + std::string(1, static_cast<char>(bytes.size())) + bytes}));
  };
  EXPECT_EQ(MetadataOf(scalar(NumpyType("f8"), LittleEndian(0.1))), (Metadata{{"x", "0.1"}}));
  EXPECT_EQ(MetadataOf(scalar(NumpyType("i4", ">"), "\1\2\3\4", "numpy._core.multiarray")),
            (Metadata{{"x", "16909060"}}));
  // A size that is not the type's, or one of no sense.
  EXPECT_EQ(MetadataOf(scalar(NumpyType("f8"), "abc")), (Metadata{{"x", "numpy float64"}}));
  EXPECT_EQ(MetadataOf(scalar(NumpyType("f999999999999"), "abc")),
            (Metadata{{"x", "numpy f999999999999"}}));
  // Bytes as protocol 2 has them.
  EXPECT_EQ(
      MetadataOf(Call(Global("numpy.core.multiarray", "scalar"),
                      Tuple({NumpyType("u1"), Call(Global("_codecs", "encode"),
                                                   Tuple({Str("\xC3\xBF"), Str("latin1")}))}))),
      (Metadata{{"x", "255"}}));
}

TEST(MetadataTextTest, WhatIsMalformedIsNoReasonToFail) {
  for (const std::string& value :
       {Call(Global("numpy.core.multiarray", "scalar"), ")"),
        Call(Global("numpy.core.multiarray", "scalar"), Tuple({Int(1), Int(2)})),
        Call(Global("numpy.core.multiarray", "_reconstruct"), ")") + Tuple({Int(1)}) + "b",
        Call(Global("numpy.core.multiarray", "_reconstruct"), ")") +
            Tuple({Int(1), Tuple({Int(INT64_MAX), Int(INT64_MAX)}), NumpyType("f8"),
                   pickle::Bool(false), Str("")}) +
            "b",
        NumpyType(""), Call(Call(Global("a", "b"), ")"), ")"), std::string("\x8a\x00", 2),
        Call(Global("torch._utils", "_rebuild_parameter"), Tuple({Int(1)})),
        Call(Global("torch._tensor", "_rebuild_from_type_v2"),
             Tuple({Int(1), Int(1), Int(1), Int(1)})),
        Tuple({Str("storage")}) + "Q"}) {
    MetadataOf(value);
  }
}

TEST(MetadataTextTest, CyclesAndBombsEnd) {
  EXPECT_EQ(MetadataOf("]" + Put(1) + Get(1) + "a").size(), 0u);
  EXPECT_EQ(MetadataOf("}" + Put(1) + Str("me") + Get(1) + "s").size(), 0u);
  // 40 levels of two references to the next.
  std::string bomb = List({Int(1)}) + Put(0) + "0";
  for (uint8_t i = 1; i < 40; ++i) {
    const auto below = static_cast<uint8_t>(i - 1);
    bomb += List({Get(below), Get(below)}) + Put(i) + "0";
  }
  EXPECT_LE(MetadataOf(bomb + Get(39)).size(), 600u);
  // Very deep, and very wide.
  EXPECT_EQ(MetadataOf(std::string(50'000, ']') + std::string(49'999, 'a')).size(), 0u);
  std::string wide = "}(";
  for (int i = 0; i < 100'000; ++i) wide += Int(i) + Int(i);
  EXPECT_LE(MetadataOf(wide + "u").size(), 600u);
}

// A key of many bytes that is referred to, not written again, for each of many entries: work that
// is done on all of it for each would take hours.
TEST(MetadataTextTest, LongStringsThatAreReferredToCostNothing) {
  const std::string text(4'000'000, 'k');
  std::string dict = "}(" + Str(text) + Put(1) + Get(1);
  std::string set = "](" + Get(1);
  std::string versions = "}(";
  for (int i = 0; i < 200'000; ++i) {
    dict += Get(1) + Get(1);
    set += Get(1);
    versions += Get(1) + "}";
  }
  EXPECT_LE(MetadataOf(dict + "u").size(), 600u);
  const std::string model =
      Global("nets", "Net") + ")\x81" +
      Dict({{"x", dict + "u"},
            {"_parameters", OrderedDict({{"w", Floats().Build()}})},
            {"_non_persistent_buffers_set", Call(Global("__builtin__", "set"), Tuple({set + "e"}))},
            {"_modules", "}"}}) +
      "b";
  EXPECT_TRUE(OpenBytes(FileWith(model)).ok());
  const std::string weights =
      Dict({{"first", dict + "u"}}) + "0" + OrderedDict({{"w", Floats().Build()}}, versions + "u");
  EXPECT_TRUE(OpenBytes(FileWith(weights)).ok());
  TensorPickle tensor = Floats();
  tensor.key = std::string(300, '1');
  ExpectRefused(FileWithEntry(tensor.Build()), {"a storage key of at most 256 bytes"});
}

TEST(MetadataTextTest, LightningIsNamed) {
  const Opened opened =
      OpenBytes(FileWith(Dict({{"state_dict", OrderedDict({{"w", Floats().Build()}})},
                               {"pytorch-lightning_version", Str("2.1\n")}})));
  ASSERT_TRUE(opened.ok()) << opened.checkpoint.status();
  EXPECT_EQ(opened->producer(), "PyTorch 2.7 or later, PyTorch Lightning 2.1\\n");
}

}  // namespace
}  // namespace sconce
