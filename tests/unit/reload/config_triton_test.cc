// Configurations as people have them for Triton's PyTorch backend.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <string>
#include <vector>

#include "server/reload/config_file.h"
#include "tests/unit/reload/parse_config.h"

namespace sconce {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::StartsWith;

TEST(ConfigTritonTest, AnImageClassifier) {
  const ModelConfig config = Parse(R"(
    name: "m"
    platform: "pytorch_libtorch"
    max_batch_size: 16
    input [
      {
        name: "INPUT__0"
        data_type: TYPE_FP32
        format: FORMAT_NCHW
        dims: [ 3, 224, 224 ]
      }
    ]
    output [
      {
        name: "OUTPUT__0"
        data_type: TYPE_FP32
        dims: [ 1000 ]
        label_filename: "labels.txt"
      }
    ]
    instance_group [ { name: "all" count: 2 kind: KIND_GPU } ]
    dynamic_batching {
      preferred_batch_size: [ 4, 8 ]
      max_queue_delay_microseconds: 100
    }
    version_policy: { latest: { num_versions: 2 } }
  )");
  EXPECT_EQ(config.max_batch_size, 16);
  EXPECT_EQ(config.inputs, (std::vector<TensorSpec>{{"INPUT__0", DType::kFloat32, {3, 224, 224}}}));
  EXPECT_EQ(config.outputs, (std::vector<TensorSpec>{{"OUTPUT__0", DType::kFloat32, {1000}}}));
  EXPECT_EQ(config.instances.at(0).count, 2);
  EXPECT_EQ(config.version_policy.latest, 2);
  EXPECT_THAT(config.without_effect, ElementsAre(StartsWith("preferred_batch_size ("),
                                                 StartsWith("max_queue_delay_microseconds ("),
                                                 StartsWith("format of 'INPUT__0' ("),
                                                 StartsWith("label_filename of 'OUTPUT__0' (")));
}

TEST(ConfigTritonTest, ATextModelOfAnyLengthWithoutBatching) {
  const ModelConfig config = Parse(R"(
    backend: "pytorch"
    default_model_filename: "traced.pt"
    input { name: "input_ids" data_type: TYPE_INT64 dims: [ 1, -1 ] }
    input { name: "attention_mask" data_type: TYPE_INT64 dims: [ 1, -1 ] }
    output { name: "OUTPUT__0" data_type: TYPE_FP32 dims: [ 1, -1, 384 ] }
    parameters: { key: "INFERENCE_MODE" value: { string_value: "true" } }
    parameters: { key: "DISABLE_OPTIMIZED_EXECUTION" value: { string_value: "True" } }
    parameters: { key: "INTRA_OP_THREAD_COUNT" value: { string_value: "4" } }
    response_cache { enable: false }
    optimization { input_pinned_memory { enable: true } }
  )");
  EXPECT_EQ(config.max_batch_size, 0) << "the default of that backend";
  EXPECT_EQ(config.weights_file, "traced.pt");
  EXPECT_EQ(config.inputs.at(1).dims, (std::vector<int64_t>{1, -1}));
  EXPECT_THAT(
      config.without_effect,
      ElementsAre(StartsWith("INFERENCE_MODE ("), StartsWith("DISABLE_OPTIMIZED_EXECUTION ("),
                  StartsWith("INTRA_OP_THREAD_COUNT ("), StartsWith("pinned memory (")));
}

TEST(ConfigTritonTest, WithoutTheBackendTheDefaultsAreOurs) {
  EXPECT_EQ(Parse("max_batch_size: 0").max_batch_size, 0);
  EXPECT_EQ(Parse("").max_batch_size, 64);
  EXPECT_THAT(Parse("dynamic_batching {}").without_effect, IsEmpty());
}

TEST(ConfigTritonTest, QueuesAreAsTheConfigurationSays) {
  const ModelConfig config = Parse(R"(
    platform: "pytorch_libtorch" max_batch_size: 4
    dynamic_batching {
      preserve_ordering: false
      default_queue_policy {
        timeout_action: REJECT default_timeout_microseconds: 5000 allow_timeout_override: true
        max_queue_size: 10
      }
    })");
  EXPECT_EQ(config.default_timeout, std::chrono::microseconds(5000));
  EXPECT_EQ(config.max_queue_size, 10);
}

TEST(ConfigTritonTest, ATensorMayHaveAnotherShapeInTheNetwork) {
  const ModelConfig config = Parse(R"(
    input { name: "a" data_type: TYPE_FP32 dims: [ 784 ] reshape { shape: [ 1, 28, 28 ] } }
    input { name: "b" data_type: TYPE_INT64 dims: [ 1 ] reshape: { shape: [ ] } }
    input { name: "c" data_type: TYPE_FP32 dims: [ -1, 6 ] reshape { shape: [ -1, 2, 3 ] } }
    output { name: "y" data_type: TYPE_FP32 dims: [ 10 ] }
    output { name: "z" data_type: TYPE_FP32 dims: [ 10 ] reshape { shape: [ 10, 1, 1 ] } })");
  ASSERT_EQ(config.execution.reshape_inputs.size(), 3u);
  EXPECT_EQ(config.execution.reshape_inputs[0], (Reshape{{784}, {1, 28, 28}}));
  EXPECT_EQ(config.execution.reshape_inputs[1], (Reshape{{1}, {}}));
  EXPECT_EQ(config.execution.reshape_inputs[2], (Reshape{{-1, 6}, {-1, 2, 3}}));
  ASSERT_EQ(config.execution.reshape_outputs.size(), 2u);
  EXPECT_FALSE(config.execution.reshape_outputs[0].has_value());
  EXPECT_EQ(config.execution.reshape_outputs[1], (Reshape{{10}, {10, 1, 1}}));
  EXPECT_THAT(Parse("input { name: \"a\" data_type: TYPE_FP32 dims: 3 }").execution.reshape_inputs,
              IsEmpty());
}

struct Refused {
  std::string text;
  std::string where;
  std::string what;
};

TEST(ConfigTritonTest, WhatIsNotSupportedIsRefusedByNameAndPlace) {
  const std::string input = "input { name: \"x\" data_type: TYPE_FP32 dims: 6 ";
  const std::vector<Refused> all = {
      {"platform: \"onnxruntime_onnx\"",
       "config.pbtxt:1:1: platform: ", "expected \"pytorch_libtorch\", got \"onnxruntime_onnx\""},
      {"\n backend: \"python\"", "config.pbtxt:2:2: backend: ", "expected \"pytorch\""},
      {"ensemble_scheduling { }", "config.pbtxt:1:", "\"ensemble_scheduling\""},
      {"sequence_batching { }", "config.pbtxt:1:", "\"sequence_batching\""},
      {"\nmodel_warmup [ ]", "config.pbtxt:2:", "\"model_warmup\""},
      {"response_cache {\n enable: true }", "config.pbtxt:2:2: enable: ", "expected false"},
      {"batch_input [ ]", "config.pbtxt:1:", "\"batch_input\""},
      {"model_transaction_policy { decoupled: true }", "config.pbtxt:1:", "transaction"},
      {"dynamic_batching { preserve_ordering: true }", "config.pbtxt:1:20: ", "expected false"},
      {"dynamic_batching { priority_levels: 2 }", "config.pbtxt:1:", "\"priority_levels\""},
      {"dynamic_batching { default_queue_policy { timeout_action: DELAY } }",
       "config.pbtxt:1:43: timeout_action: ", "expected REJECT"},
      {"dynamic_batching { default_queue_policy {\n allow_timeout_override: false } }",
       "config.pbtxt:2:2: ", "expected true"},
      {"instance_group { kind: KIND_MODEL }", "config.pbtxt:1:", "KIND_MODEL"},
      {"instance_group { rate_limiter { } }", "config.pbtxt:1:", "\"rate_limiter\""},
      {"optimization { execution_accelerators { } }", "config.pbtxt:1:", "execution_accelerators"},
      {input + "optional: true }", "config.pbtxt:1:48: optional: ", "expected false"},
      {input + "allow_ragged_batch: true }", "config.pbtxt:1:48: ", "expected false"},
      {input + "is_shape_tensor: true }", "config.pbtxt:1:", "\"is_shape_tensor\""},
      {input + "label_filename: \"a\" }", "config.pbtxt:1:48: ", "expected none on an input"},
      {input + "reshape { shape: [ 7 ] } }",
       "config.pbtxt:1:48: reshape: ", "as many elements as dims [6], got [7]"},
      {input + "reshape { shape: [ -1 ] } }", "config.pbtxt:1:48: ", "got [-1]"},
      {input + "reshape {\n shape: [ 0, 6 ] } }", "config.pbtxt:2:2: shape: ", "got 0"},
      {"parameters { key: \"INFERENCE_MODE\" value { string_value: \"true\" } }\n"
       "parameters { key: \"EXECUTION_ENV_PATH\" value { string_value: \"x\" } }",
       "config.pbtxt:2:1: parameters: ", "'EXECUTION_ENV_PATH' is not supported, expected one of"},
      {"parameters { key: \"DISABLE_CUDNN\" value { string_value: \"true\" } }",
       "config.pbtxt:1:1: ", "'DISABLE_CUDNN': expected false, got 'true'"},
      {"parameters { key: \"ENABLE_NVFUSER\" value { string_value: \"maybe\" } }",
       "config.pbtxt:1:1: ", "expected true or false, got 'maybe'"},
      {"parameters { key: \"INTER_OP_THREAD_COUNT\" }",
       "config.pbtxt:1:1: ", "expected a number of threads, got ''"},
      {"default_model_filename: \"../x.pt\"", "config.pbtxt:1:1: ", "'../x.pt'"},
      {"weights: \"a.pt\" default_model_filename: \"b.pt\"", "config.pbtxt:1:17: ", "'b.pt'"},
      {"input { name: \"x\" data_type: TYPE_STRING dims: 1 }", "config.pbtxt:1:", "TYPE_STRING"},
  };
  for (const Refused& refused : all) {
    const std::string error = ErrorOf(refused.text);
    EXPECT_THAT(error, StartsWith(refused.where)) << refused.text;
    EXPECT_THAT(error, HasSubstr(refused.what)) << refused.text;
  }
}

}  // namespace
}  // namespace sconce
