#include "server/reload/config_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <optional>
#include <string>
#include <vector>

#include "tests/support/temp_dir.h"

namespace sconce {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::StartsWith;

ModelConfig Parse(const std::string& text) {
  absl::StatusOr<ModelConfig> config = ParseModelConfig(text, "m");
  EXPECT_TRUE(config.ok()) << config.status();
  return config.ok() ? *config : ModelConfig();
}

TEST(ConfigFileTest, NothingMeansTheDefaults) {
  EXPECT_EQ(Parse(""), ModelConfig());
  EXPECT_EQ(Parse("# a comment\n"), ModelConfig());
}

TEST(ConfigFileTest, EveryFieldArrives) {
  const ModelConfig config = Parse(R"(
    name: "m"
    max_batch_size: 32
    input [ { name: "image" data_type: TYPE_FP32 dims: [ 3, -1, 224 ] } ]
    output { name: "scores" data_type: TYPE_BF16 dims: 10 }
    dynamic_batching {
      default_queue_policy { max_queue_size: 7 default_timeout_microseconds: 2500 }
    }
    instance_group [ { count: 2 kind: KIND_GPU gpus: [ 0, 3 ] } ]
    optimization { cuda { graphs: false } }
    precision: BF16
    channels_last: true
    device_memory_cap_bytes: 5000000000
    weights: "best.pth"
    strict: false
    architecture { name: "mlp" parameters { key: "activation" value: "gelu" } }
  )");
  ModelConfig expected;
  expected.max_batch_size = 32;
  expected.inputs = {{"image", DType::kFloat32, {3, -1, 224}}};
  expected.outputs = {{"scores", DType::kBFloat16, {10}}};
  expected.max_queue_size = 7;
  expected.default_timeout = std::chrono::microseconds(2500);
  expected.instances = {{2, InstanceGroup::Kind::kGpu, {0, 3}}};
  expected.execution.precision = Precision::kBf16;
  expected.execution.channels_last = true;
  expected.execution.graphs = false;
  expected.device_memory_cap_bytes = 5'000'000'000;
  expected.weights_file = "best.pth";
  expected.strict = false;
  expected.architecture = "mlp";
  expected.architecture_parameters = {{"activation", "gelu"}};
  EXPECT_EQ(config, expected);
}

TEST(ConfigFileTest, InstanceGroupsAreKeptAsTheyAreGiven) {
  using Kind = InstanceGroup::Kind;
  EXPECT_THAT(Parse("instance_group { count: 4 }").instances,
              ElementsAre(InstanceGroup{4, Kind::kAuto, {}}));
  EXPECT_THAT(Parse("instance_group { gpus: 1 }").instances,
              ElementsAre(InstanceGroup{1, Kind::kAuto, {1}}));
  EXPECT_THAT(
      Parse("instance_group [ { kind: KIND_GPU gpus: [0, 2] }, { kind: KIND_CPU count: 3 } ]")
          .instances,
      ElementsAre(InstanceGroup{1, Kind::kGpu, {0, 2}}, InstanceGroup{3, Kind::kCpu, {}}));
}

TEST(ConfigFileTest, EveryPrecisionHasAName) {
  EXPECT_EQ(Parse("precision: FP32").execution.precision, Precision::kFp32);
  EXPECT_EQ(Parse("precision: TF32").execution.precision, Precision::kTf32);
  EXPECT_EQ(Parse("precision: FP16").execution.precision, Precision::kFp16);
  EXPECT_EQ(Parse("precision: BF16").execution.precision, Precision::kBf16);
}

TEST(ConfigFileTest, NormalisationIsKeptByInput) {
  const ModelConfig config = Parse(R"(
    input { name: "mask" data_type: TYPE_FP32 dims: 4 }
    input {
      name: "image" data_type: TYPE_UINT8 dims: [ -1, 224, 2 ]
      normalize { layout: NHWC scale: [ 0.5, 0.25 ] bias: [ -1, 2 ] }
    }
  )");
  EXPECT_THAT(
      config.execution.normalise,
      ElementsAre(std::nullopt, Normalisation{ImageLayout::kNhwc, {0.5f, 0.25f}, {-1.0f, 2.0f}}));
  const ModelConfig planes = Parse(
      "input { name: \"x\" data_type: TYPE_UINT8 dims: [1, 8, 8] normalize { scale: 2 bias: 0 } }");
  EXPECT_THAT(planes.execution.normalise,
              ElementsAre(Normalisation{ImageLayout::kNchw, {2.0f}, {0.0f}}));
}

std::string Repeat(const std::string& text, int times) {
  std::string repeated;
  for (int i = 0; i < times; ++i) repeated += text;
  return repeated;
}

// An input with a `normalize` on the second line.
std::string Pixels(const std::string& type, const std::string& dims, const std::string& normalize) {
  return "input { name: \"x\" data_type: " + type + " dims: " + dims + "\nnormalize { " +
         normalize + " } }";
}

struct Mistake {
  std::string text;
  std::string where;
  std::string what;
};

TEST(ConfigFileTest, MistakesAreToldWithLineAndColumn) {
  // What the parser itself refuses is placed at the token behind it, the rest where the field
  // begins.
  const std::vector<Mistake> mistakes = {
      {"max_batch_size: 1\nplatform: \"x\"", "config.pbtxt:2:9: ", "\"platform\""},
      {"input { name: \"x\" data_type: TYPE_FP32 format: 1 }", "config.pbtxt:1:46: ", "\"format\""},
      {"max_batch_size: \"x\"", "config.pbtxt:1:17: ", "integer"},
      {"max_batch_size: 1 max_batch_size: 2", "config.pbtxt:1:33: ", "max_batch_size"},
      {"weights {", "config.pbtxt:1:9: ", ""},
      {"strict: maybe", "config.pbtxt:1:14: ", "strict"},
      {"\n  name: \"other\"", "config.pbtxt:2:3: ", "'m', got 'other'"},
      {"max_batch_size: 0", "config.pbtxt:1:1: ", "expected 1 to 65536, got 0"},
      {"max_batch_size: -5", "config.pbtxt:1:1: ", "got -5"},
      {"max_batch_size: 70000", "config.pbtxt:1:1: ", "got 70000"},
      {"max_batch_size: 99999999999", "config.pbtxt:1:17: ", ""},
      {"weights: \"\"", "config.pbtxt:1:1: ", "weights"},
      {"weights: \"../other/model.pth\"", "config.pbtxt:1:1: ", "'../other/model.pth'"},
      {"weights: \"1/model.pth\"", "config.pbtxt:1:1: ", "weights"},
      {"weights: \"..\"", "config.pbtxt:1:1: ", "weights"},
      {"weights: \"a\\000b\"", "config.pbtxt:1:1: ", "weights"},
      {"architecture { parameters { key: \"a\" value: \"b\" } }",
       "config.pbtxt:1:1: ", "architecture: expected a name"},
      {"architecture { name: \"a\" parameters { value: \"b\" } }", "config.pbtxt:1:26: ", "key"},
      {"input { data_type: TYPE_FP32 }", "config.pbtxt:1:1: ", "expected a name"},
      {"input { name: \"a\\nb\" data_type: TYPE_FP32 }", "config.pbtxt:1:9: ", "printable"},
      {"input { name: \"x\" }", "config.pbtxt:1:1: ", "'x', got none"},
      {"input { name: \"x\" data_type: TYPE_STRING }", "config.pbtxt:1:42: ", "TYPE_STRING"},
      {"input { name: \"x\" data_type: TYPE_FP32 }\ninput { name: \"x\" data_type: TYPE_FP32 }",
       "config.pbtxt:2:9: ", "twice"},
      {"input {\n name: \"x\" data_type: TYPE_FP32\n dims: 3\n dims: 0 }",
       "config.pbtxt:4:2: ", "got 0"},
      {"input {\n name: \"x\" data_type: TYPE_FP32\n dims: [3, -2] }",
       "config.pbtxt:3:2: ", "got -2"},
      {"output { name: \"x\" data_type: TYPE_FP32 dims: [1048576, 1048576, 2] }",
       "config.pbtxt:1:41: ", "elements"},
      {"output { name: \"x\" data_type: TYPE_FP32 dims: [1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1] }",
       "config.pbtxt:1:41: ", "at most 16"},
      {"instance_group { count: 0 }", "config.pbtxt:1:18: ", "got 0"},
      {"instance_group { kind: KIND_MODEL }", "config.pbtxt:1:35: ", "KIND_MODEL"},
      {"instance_group { kind: KIND_CPU gpus: 1 }", "config.pbtxt:1:33: ", "KIND_CPU"},
      {"instance_group { gpus: -1 }", "config.pbtxt:1:18: ", "got -1"},
      {"instance_group { gpus: [1, 1] }", "config.pbtxt:1:18: ", "twice"},
      {Repeat("instance_group {}\n", 17), "config.pbtxt:17:1: ", "expected at most 16, got 17"},
      {"instance_group {}\ninstance_group {\n count: 65 }", "config.pbtxt:3:2: ", "got 65"},
      {"precision: FP8", "config.pbtxt:1:15: ", "FP8"},
      {"optimization { cuda { graphs: false busy_wait_events: true } }",
       "config.pbtxt:1:53: ", "busy_wait_events"},
      {"device_memory_cap_bytes: 0", "config.pbtxt:1:1: ", "expected 1 to"},
      {"device_memory_cap_bytes: 9999999999999999999", "config.pbtxt:1:1: ", "got 9999"},
      {"device_memory_cap_bytes: -1", "config.pbtxt:1:26: ", ""},
      {Pixels("TYPE_FP32", "[3, 8, 8]", "scale: [1, 1, 1] bias: [0, 0, 0]"),
       "config.pbtxt:2:1: ", "expected data_type TYPE_UINT8, got TYPE_FP32"},
      {Pixels("TYPE_UINT8", "[3, 8]", "scale: [1, 1, 1] bias: [0, 0, 0]"),
       "config.pbtxt:2:1: ", "expected dims of an image, such as [3, 224, 224], got 2"},
      {Pixels("TYPE_UINT8", "[3, 8, 8]", ""), "config.pbtxt:2:1: ", "expected a scale, got none"},
      {Pixels("TYPE_UINT8", "[3, 8, 8]", "scale: [1, 1, 1] bias: [0, 0]"),
       "config.pbtxt:2:1: ", "got 2 and 3"},
      {Pixels("TYPE_UINT8", "[3, 8, 8]", "layout: NHWC scale: [1, 1, 1] bias: [0, 0, 0]"),
       "config.pbtxt:2:1: ", "got 3 for 8"},
      {Pixels("TYPE_UINT8", "[-1, 8, 8]", "scale: [1] bias: [0]"),
       "config.pbtxt:2:1: ", "got 1 for -1"},
      {Pixels("TYPE_UINT8", "[3, 8, 8]", "\n scale: [1, inf, 1] bias: [0, 0, 0]"),
       "config.pbtxt:3:2: ", "expected a finite number, got inf"},
      {Pixels("TYPE_UINT8", "[1, 8, 8]", "\n scale: 1\n bias: nan"),
       "config.pbtxt:4:2: ", "expected a finite number, got nan"},
      {Pixels("TYPE_UINT8", "[1, 8, 8]", "layout: CHW scale: 1 bias: 0"),
       "config.pbtxt:2:25: ", "CHW"},
      {"output { name: \"x\" data_type: TYPE_UINT8 dims: [1, 8, 8]\n normalize { scale: 1 bias: 0 "
       "} }",
       "config.pbtxt:2:2: ", "expected none on an output"},
      {"dynamic_batching { max_queue_delay_microseconds: 5 }",
       "config.pbtxt:1:48: ", "max_queue_delay_microseconds"},
      {"dynamic_batching {\n default_queue_policy { max_queue_size: 0 } }",
       "config.pbtxt:2:25: ", "got 0"},
      {"dynamic_batching {\n default_queue_policy {\n  default_timeout_microseconds: 86400000001 } "
       "}",
       "config.pbtxt:3:3: ", "86400000001"},
  };
  for (const Mistake& mistake : mistakes) {
    const absl::StatusOr<ModelConfig> config = ParseModelConfig(mistake.text, "m");
    ASSERT_FALSE(config.ok()) << mistake.text;
    EXPECT_EQ(config.status().code(), absl::StatusCode::kInvalidArgument) << mistake.text;
    const std::string message(config.status().message());
    EXPECT_THAT(message, StartsWith(mistake.where)) << mistake.text;
    EXPECT_THAT(message, HasSubstr(mistake.what)) << mistake.text;
  }
}

TEST(ConfigFileTest, UnprintableTextIsEscapedInMessages) {
  const absl::StatusOr<ModelConfig> config = ParseModelConfig("name: \"a\\033[31m\"", "m");
  ASSERT_FALSE(config.ok());
  EXPECT_EQ(config.status().message().find('\033'), absl::string_view::npos);
}

TEST(ConfigFileTest, WhatTheReadmeShowsIsAccepted) {
  std::ifstream readme(SCONCE_README);
  std::string line, block;
  bool in_section = false, in_block = false;
  int blocks = 0;
  while (std::getline(readme, line)) {
    if (line.starts_with("## ")) in_section = line == "## Model configuration";
    if (!in_section) continue;
    if (!line.starts_with("```")) {
      if (in_block) block += line + "\n";
      continue;
    }
    in_block = !in_block;
    if (in_block) continue;
    const absl::StatusOr<ModelConfig> config = ParseModelConfig(block, "m");
    EXPECT_TRUE(config.ok()) << config.status() << "\n" << block;
    block.clear();
    ++blocks;
  }
  EXPECT_GE(blocks, 3);
}

TEST(ConfigFileTest, DeepNestingIsAnError) {
  std::string text;
  for (int i = 0; i < 100'000; ++i) text += "architecture {";
  EXPECT_FALSE(ParseModelConfig(text, "m").ok());
}

TEST(ConfigFileTest, FileIsReadForTheModelOfItsFolder) {
  TempDir dir;
  dir.Write("resnet/config.pbtxt", "name: \"resnet\" max_batch_size: 5");
  const absl::StatusOr<ModelConfig> config = ReadModelConfig(dir.Path("resnet/config.pbtxt"));
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->max_batch_size, 5);
  EXPECT_FALSE(ReadModelConfig(dir.Path("resnet/none.pbtxt")).ok());
}

TEST(ConfigFileTest, FileThatIsTooLargeIsNotRead) {
  TempDir dir;
  dir.Write("m/config.pbtxt", std::string((1 << 20) + 1, '#'));
  const absl::StatusOr<ModelConfig> config = ReadModelConfig(dir.Path("m/config.pbtxt"));
  EXPECT_THAT(std::string(config.status().message()), HasSubstr("at most 1048576 bytes"));
}

}  // namespace
}  // namespace sconce
