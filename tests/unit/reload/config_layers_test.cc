#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <variant>

#include "server/reload/config_file.h"
#include "tests/unit/reload/parse_config.h"

namespace sconce {
namespace {

using models::LayerSpec;
using testing::ElementsAre;
using testing::HasSubstr;

TEST(ConfigLayersTest, LayersArriveWithTheirDefaultsAndPlaces) {
  const auto config = ParseModelConfig(R"(architecture {
    name: "sequential"
    input { dims: [ 3, 32, 32 ] }
    layers { name: "first" conv2d { out_channels: 8 kernel_size: 3 bias: false } }
    layers { max_pool2d { kernel_size: [ 2, 4 ] } }
    layers { flatten {} }
    layers { leaky_relu {} }
    layers { linear { out_features: 10 } }
  })",
                                       "m");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->architecture, "sequential");
  ASSERT_TRUE(config->sequential.has_value());
  EXPECT_THAT(config->sequential->input_dims, ElementsAre(3, 32, 32));
  EXPECT_EQ(config->sequential->input_type, models::SequentialSpec::InputType::kFp32);
  EXPECT_THAT(
      config->sequential->layers,
      ElementsAre(
          LayerSpec{
              .layer =
                  models::ConvolutionLayer{.out_channels = 8, .kernel_size = {3}, .bias = false},
              .name = "first",
              .line = 4},
          LayerSpec{.layer = models::PoolLayer{.kernel_size = {2, 4}}, .name = "", .line = 5},
          LayerSpec{.layer = models::FlattenLayer{}, .name = "", .line = 6},
          LayerSpec{
              .layer = models::ActivationLayer{.kind = models::ActivationLayer::Kind::kLeakyRelu,
                                               .slope = 0.01},
              .name = "",
              .line = 7},
          LayerSpec{.layer = models::LinearLayer{.out_features = 10}, .name = "", .line = 8}));
}

TEST(ConfigLayersTest, ErrorsSayWhichLayerAndWhere) {
  EXPECT_EQ(ErrorOf(R"(architecture {
    name: "sequential"
    input { dims: 128 }
    layers { relu {} }

    layers { conv2d { out_channels: 8 kernel_size: 3 } }
  })"),
            "config.pbtxt: layers[1], line 6: conv2d expects 3 dimensions [channels, height, "
            "width], gets [128]");
  EXPECT_THAT(ErrorOf("architecture {\n name: \"sequential\" input { dims: 3 }\n layers {}\n }"),
              HasSubstr("config.pbtxt:3:2: layers: layers[0]: expected a layer"));
  EXPECT_THAT(ErrorOf(R"(architecture { name: "sequential" input { dims: 3 }
                          layers { linear { out_features: 2 out_feature: 3 } } })"),
              HasSubstr("out_feature"));
  const auto json = ParseModelConfigJson(
      R"({"architecture": {"name": "sequential", "input": {"dims": [3]}, "layers": [{"lstm": {}}]}})",
      "m");
  EXPECT_EQ(json.status().message(),
            "config: layers[0]: lstm expects 2 dimensions [length, features], gets [3]");
}

TEST(ConfigLayersTest, LayersAreOfTheArchitectureSequentialAlone) {
  EXPECT_THAT(ErrorOf(R"(architecture { name: "mlp" layers { relu {} } })"),
              HasSubstr("layers: only of the architecture \"sequential\""));
  EXPECT_THAT(ErrorOf(R"(architecture { name: "mlp" input { dims: 3 } })"),
              HasSubstr("input: only of the architecture \"sequential\""));
  EXPECT_THAT(ErrorOf(R"(architecture { name: "sequential" })"),
              HasSubstr("needs an input and layers"));
  EXPECT_THAT(ErrorOf(R"(architecture { name: "sequential" input { dims: 3 } layers { relu {} }
                          parameters { key: "a" value: "b" } })"),
              HasSubstr("has none"));
  EXPECT_THAT(ErrorOf(R"(architecture { name: "sequential" layers { relu {} }
                          input { dims: 3 data_type: TYPE_BF16 } })"),
              HasSubstr("expected TYPE_FP32, TYPE_INT32 or TYPE_INT64, got TYPE_BF16"));
}

}  // namespace
}  // namespace sconce
