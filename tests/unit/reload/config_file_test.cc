#include "server/reload/config_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "tests/support/temp_dir.h"
#include "tests/unit/reload/parse_config.h"

namespace sconce {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::StartsWith;

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
    fold_batch_norm: true
    device_memory_cap_bytes: 5000000000
    weights: "best.pth"
    strict: false
    architecture { name: "mlp" parameters { key: "activation" value: "gelu" } }
    version_policy { latest { num_versions: 3 } }
    swap { mode: BESIDE retain_versions: 2 promotion: MANUAL }
    proof {
      allow_non_finite_weights: true
      golden { absolute: 0.5 relative: 0 }
      agreement { requests: 30 absolute: 0.25 relative: 0.125 }
    }
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
  expected.execution.fold_batch_norm = true;
  expected.execution.graphs = false;
  expected.device_memory_cap_bytes = 5'000'000'000;
  expected.weights_file = "best.pth";
  expected.strict = false;
  expected.architecture = "mlp";
  expected.architecture_parameters = {{"activation", "gelu"}};
  expected.version_policy.latest = 3;
  expected.retained_versions = 2;
  expected.manual_promotion = true;
  expected.proof = {true, {0.5, 0}, 30, {0.25, 0.125}};
  EXPECT_EQ(config, expected);
}

TEST(ConfigFileTest, VersionPolicies) {
  using Kind = VersionPolicy::Kind;
  EXPECT_EQ(Parse("version_policy { latest {} }").version_policy, VersionPolicy());
  EXPECT_EQ(Parse("version_policy { all {} }").version_policy.kind, Kind::kAll);
  const VersionPolicy specific =
      Parse("version_policy { specific { versions: [7, 9007199254740992, 3] } }").version_policy;
  EXPECT_EQ(specific.kind, Kind::kSpecific);
  EXPECT_THAT(specific.specific, ElementsAre(3, 7, 9007199254740992));
}

TEST(ConfigFileTest, SwapModes) {
  EXPECT_EQ(Parse("swap {}"), ModelConfig());
  EXPECT_EQ(Parse("swap { mode: BESIDE }").swap, SwapMode::kBeside);
  EXPECT_EQ(Parse("swap { mode: IN_PLACE_IF_NEEDED retain_versions: 1 }").swap,
            SwapMode::kInPlaceIfNeeded);
  EXPECT_EQ(Parse("swap { mode: IN_PLACE retain_versions: 0 }").swap, SwapMode::kInPlace);
  EXPECT_EQ(Parse("swap { mode: IN_PLACE } version_policy { specific { versions: 4 } }").swap,
            SwapMode::kInPlace);
}

TEST(ConfigFileTest, CanaryAndAgreementThatAreGivenHaveDefaults) {
  EXPECT_EQ(Parse("swap { canary {} }").canary,
            (CanaryConfig{0.1, std::chrono::seconds(60), 0, 2}));
  EXPECT_EQ(
      Parse("swap { canary { share: 0.5 seconds: 1.5 max_error_share: 1 max_latency_ratio: 1 } }")
          .canary,
      (CanaryConfig{0.5, std::chrono::milliseconds(1500), 1, 1}));
  EXPECT_EQ(Parse("proof {}"), ModelConfig());
  EXPECT_EQ(Parse("proof { agreement {} }").proof.agreement_requests, 100);
  EXPECT_EQ(Parse("proof { agreement {} }").proof.agreement, Tolerance());
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
      {"max_batch_size: 1\nruntime: \"x\"", "config.pbtxt:2:8: ", "\"runtime\""},
      {"max_batch_size: \"x\"", "config.pbtxt:1:17: ", "integer"},
      {"max_batch_size: 1 max_batch_size: 2", "config.pbtxt:1:33: ", "max_batch_size"},
      {"weights {", "config.pbtxt:1:9: ", ""},
      {"strict: maybe", "config.pbtxt:1:14: ", "strict"},
      {"\n  name: \"other\"", "config.pbtxt:2:3: ", "'m', got 'other'"},
      {"max_batch_size: -5", "config.pbtxt:1:1: ", "expected 0 to 65536, got -5"},
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
      {"precision: BF16\nprecision: 17", "config.pbtxt:2:", "precision"},
      {"\nprecision: 17", "config.pbtxt:2:1: ", "expected a name such as FP32, got 17"},
      {"instance_group {}\ninstance_group {\n kind: 9 }", "config.pbtxt:3:2: ", "KIND_AUTO, got 9"},
      {"version_policy {}", "config.pbtxt:1:1: ", "expected latest, all or specific"},
      {"version_policy { latest { num_versions: 0 } }",
       "config.pbtxt:1:27: ", "expected 1 to 64, got 0"},
      {"version_policy { latest {}\n all {} }", "config.pbtxt:2:6: ", "all"},
      {"version_policy { specific {} }", "config.pbtxt:1:18: ", "expected versions, got none"},
      {"version_policy { specific {\n versions: 1\n versions: 0 } }",
       "config.pbtxt:3:2: ", "expected 1 to 9007199254740992, got 0"},
      {"version_policy { specific {\n versions: [1, 9007199254740993] } }",
       "config.pbtxt:2:2: ", "got 9007199254740993"},
      {"version_policy { specific { versions: [2, 1, 2] } }", "config.pbtxt:1:29: ", "2 is given"},
      {"version_policy { specific {\n" + Repeat("versions: 1 ", 65) + "} }",
       "config.pbtxt:2:769: ", "expected at most 64, got 65"},
      {"swap { retain_versions: 17 }", "config.pbtxt:1:8: ", "expected 0 to 16, got 17"},
      {"swap { canary { share: 0 } }", "config.pbtxt:1:17: ", "between 0 and 1, got 0"},
      {"swap { canary { share: 1 } }", "config.pbtxt:1:17: ", "got 1"},
      {"swap { canary { share: nan } }", "config.pbtxt:1:17: ", "got nan"},
      {"swap { canary { seconds: 0 } }", "config.pbtxt:1:17: ", "got 0"},
      {"swap { canary { seconds: inf } }", "config.pbtxt:1:17: ", "got inf"},
      {"swap { canary { max_error_share: -0.5 } }", "config.pbtxt:1:17: ", "got -0.5"},
      {"swap { canary { max_latency_ratio: 0.5 } }", "config.pbtxt:1:17: ", "got 0.5"},
      {"swap { canary {\n max_latency_ratio: nan } }", "config.pbtxt:2:2: ", "got nan"},
      {"proof { golden { absolute: -1 } }", "config.pbtxt:1:18: ", "at least 0, got -1"},
      {"proof { golden { relative: inf } }", "config.pbtxt:1:18: ", "got inf"},
      {"proof { agreement { requests: 0 } }", "config.pbtxt:1:21: ", "got 0"},
      {"proof { agreement { requests: 10001 } }", "config.pbtxt:1:21: ", "got 10001"},
      {"proof { agreement { relative: nan } }", "config.pbtxt:1:21: ", "got nan"},
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

TEST(ConfigFileTest, ContradictionsAreToldWhereTheyStand) {
  const std::vector<Mistake> mistakes = {
      {"swap { mode: IN_PLACE\n canary {} }",
       "config.pbtxt:2:2: ", "canary: expected none with mode IN_PLACE"},
      {"swap { mode: IN_PLACE_IF_NEEDED\n canary {} }", "config.pbtxt:2:2: ", "IN_PLACE_IF_NEEDED"},
      {"swap {\n promotion: MANUAL mode: IN_PLACE }",
       "config.pbtxt:2:2: ", "promotion: expected AUTOMATIC"},
      {"swap { mode: IN_PLACE }\nversion_policy { all {} }",
       "config.pbtxt:2:1: ", "version_policy: expected one version"},
      {"swap { mode: IN_PLACE }\nversion_policy { latest { num_versions: 2 } }",
       "config.pbtxt:2:1: ", "version_policy"},
      {"swap { mode: IN_PLACE }\nversion_policy { specific { versions: [1, 2] } }",
       "config.pbtxt:2:1: ", "version_policy"},
      {"swap { mode: IN_PLACE }\nfold_batch_norm: true",
       "config.pbtxt:2:1: ", "fold_batch_norm: expected swap { mode: BESIDE }"},
      {"swap { mode: IN_PLACE\n retain_versions: 1 }", "config.pbtxt:2:2: ", "expected 0"},
      {"version_policy { all {} }\nswap { canary {} }", "config.pbtxt:2:8: ", "version_policy"},
  };
  for (const Mistake& mistake : mistakes) {
    const absl::StatusOr<ModelConfig> config = ParseModelConfig(mistake.text, "m");
    ASSERT_FALSE(config.ok()) << mistake.text;
    const std::string message(config.status().message());
    EXPECT_THAT(message, StartsWith(mistake.where)) << mistake.text;
    EXPECT_THAT(message, HasSubstr(mistake.what)) << mistake.text;
  }
}

TEST(ConfigFileTest, JsonSaysTheSame) {
  const absl::StatusOr<ModelConfig> config = ParseModelConfigJson(R"({
    "name": "m", "max_batch_size": 32, "precision": "BF16",
    "input": [{"name": "x", "data_type": "TYPE_FP32", "dims": ["3", -1]}],
    "architecture": {"name": "mlp", "parameters": {"activation": "gelu"}},
    "version_policy": {"specific": {"versions": [2, "1"]}},
    "swap": {"promotion": "MANUAL", "retain_versions": 0},
    "proof": {"agreement": {"absolute": 0.5}}
  })",
                                                                  "m");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(*config, Parse(R"(
    max_batch_size: 32 precision: BF16
    input { name: "x" data_type: TYPE_FP32 dims: [3, -1] }
    architecture { name: "mlp" parameters { key: "activation" value: "gelu" } }
    version_policy { specific { versions: [1, 2] } }
    swap { promotion: MANUAL retain_versions: 0 }
    proof { agreement { absolute: 0.5 } }
  )"));
  EXPECT_EQ(*ParseModelConfigJson("{}", "m"), ModelConfig());
}

TEST(ConfigFileTest, MistakesInJsonAreErrors) {
  const std::vector<std::pair<std::string, std::string>> mistakes = {
      {"", ""},
      {"[]", ""},
      {"{", ""},
      {"{\"max_batch_size\": 1} {}", ""},
      {"{\"platform\": \"x\"}", "platform"},
      {"{\"swap\": {\"modus\": 1}}", "modus"},
      {"{\"max_batch_size\": 99999999999}", "99999999999"},
      {"{\"max_batch_size\": -1}", "config: max_batch_size: expected 0 to 65536, got -1"},
      {"{\"precision\": 17}", "config: precision: expected a name such as FP32, got 17"},
      {"{\"precision\": \"FP8\"}", "FP8"},
      {"{\"name\": \"other\"}", "expected the name of the folder, 'm', got 'other'"},
      {"{\"proof\": {\"golden\": {\"relative\": \"NaN\"}}}", "config: relative: "},
      {std::string(100'000, '['), ""},
      {Repeat("{\"architecture\":", 100'000), ""},
      {std::string((1 << 20) + 1, ' '), "config: expected at most 1048576 bytes"},
  };
  for (const auto& [json, what] : mistakes) {
    const absl::StatusOr<ModelConfig> config = ParseModelConfigJson(json, "m");
    ASSERT_FALSE(config.ok()) << json.substr(0, 100);
    EXPECT_EQ(config.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(config.status().message()), StartsWith("config: "));
    EXPECT_THAT(std::string(config.status().message()), HasSubstr(what));
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
