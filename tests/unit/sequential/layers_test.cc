#include "models/sequential/layers.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <utility>
#include <vector>

namespace sconce::models {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

using Dims = std::vector<int64_t>;

SequentialSpec Net(Dims input, std::vector<Layer> layers) {
  SequentialSpec spec;
  spec.input_dims = std::move(input);
  for (Layer& layer : layers) spec.layers.push_back({.layer = std::move(layer)});
  return spec;
}

// What the one layer gives; empty where it takes no such input.
Dims Out(const Dims& input, const Layer& layer) {
  const auto shapes = CheckSequential(Net(input, {layer}));
  return shapes.ok() ? shapes->dims.back() : Dims{};
}

std::string ErrorOf(const SequentialSpec& spec) {
  const auto shapes = CheckSequential(spec);
  EXPECT_EQ(shapes.status().code(), absl::StatusCode::kInvalidArgument);
  return std::string(shapes.status().message());
}

std::string ErrorOf(const Dims& input, const Layer& layer) { return ErrorOf(Net(input, {layer})); }

ConvolutionLayer Conv2d(int64_t out_channels, Sizes kernel_size) {
  return {.dimensions = 2, .out_channels = out_channels, .kernel_size = std::move(kernel_size)};
}

TEST(LayersTest, ShapesAreThoseOfTorch) {
  EXPECT_THAT(Out({7}, LinearLayer{.out_features = 3}), ElementsAre(3));
  EXPECT_THAT(Out({5, 7}, LinearLayer{.out_features = 3}), ElementsAre(5, 3));
  EXPECT_THAT(Out({3, 20, 30}, Conv2d(8, {3})), ElementsAre(8, 18, 28));
  ConvolutionLayer conv = Conv2d(8, {3, 5});
  conv.stride = {2, 1};
  conv.padding = {1, 2};
  conv.dilation = {2};
  EXPECT_THAT(Out({4, 20, 30}, conv), ElementsAre(8, 9, 26));
  EXPECT_THAT(
      Out({3, 50}, ConvolutionLayer{.dimensions = 1, .out_channels = 6, .kernel_size = {5}}),
      ElementsAre(6, 46));
  EXPECT_THAT(Out({3, 7}, PoolLayer{.dimensions = 1, .kernel_size = {2}}), ElementsAre(3, 3));
  EXPECT_THAT(Out({3, 7}, PoolLayer{.dimensions = 1, .kernel_size = {2}, .ceil_mode = true}),
              ElementsAre(3, 4));
  // The last window would begin in the right padding.
  EXPECT_THAT(Out({3, 4}, PoolLayer{.dimensions = 1,
                                    .kernel_size = {2},
                                    .stride = {3},
                                    .padding = {1},
                                    .ceil_mode = true}),
              ElementsAre(3, 2));
  EXPECT_THAT(Out({3, 9, 9}, AdaptivePoolLayer{.output_size = {2, 4}}), ElementsAre(3, 2, 4));
  EXPECT_THAT(Out({3, 4, 5}, FlattenLayer{}), ElementsAre(60));
  EXPECT_THAT(Out({9, 6}, RecurrentLayer{.hidden_size = 4, .bidirectional = true}),
              ElementsAre(9, 8));
  EXPECT_THAT(Out({9, 6}, RecurrentLayer{.hidden_size = 4,
                                         .bidirectional = true,
                                         .output = RecurrentLayer::Output::kLast}),
              ElementsAre(8));
  EXPECT_THAT(Out({3, 4, 5}, PermuteLayer{.dims = {2, 0, 1}}), ElementsAre(5, 3, 4));
  EXPECT_THAT(Out({9, 6}, LastStepLayer{}), ElementsAre(6));
  EXPECT_THAT(Out({6}, BatchNormLayer{.dimensions = 1}), ElementsAre(6));
}

TEST(LayersTest, ErrorsSayWhichLayerItIsAndWhereItStands) {
  SequentialSpec spec = Net({128}, {LinearLayer{.out_features = 128}, Conv2d(8, {3})});
  spec.layers[1].line = 12;
  EXPECT_EQ(
      ErrorOf(spec),
      "layers[1], line 12: conv2d expects 3 dimensions [channels, height, width], gets [128]");
  EXPECT_EQ(ErrorOf({3, 2, 2}, Conv2d(8, {3})),
            "layers[0]: conv2d kernel_size 3 is larger than what it is over, 2 and a padding of 0");
}

TEST(LayersTest, WhatTorchRefusesIsRefused) {
  EXPECT_THAT(ErrorOf({3}, LinearLayer{}), HasSubstr("out_features: expected 1 to"));
  EXPECT_THAT(ErrorOf({3, 9, 9}, Conv2d(8, {})), HasSubstr("kernel_size: expected 1 or 2 values"));
  EXPECT_THAT(ErrorOf({3, 9, 9}, Conv2d(8, {1, 2, 3})), HasSubstr("got 3"));
  EXPECT_THAT(ErrorOf({3, 9, 9}, Conv2d(8, {0})), HasSubstr("kernel_size: expected 1 to"));
  ConvolutionLayer grouped = Conv2d(8, {3});
  grouped.groups = 2;
  EXPECT_THAT(ErrorOf({3, 9, 9}, grouped), HasSubstr("groups: expected a divisor of 3 and 8"));
  EXPECT_THAT(ErrorOf({3, 9}, PoolLayer{.dimensions = 1, .kernel_size = {2}, .padding = {2}}),
              HasSubstr("padding: expected at most half"));
  EXPECT_THAT(ErrorOf({6}, GroupNormLayer{.groups = 4}), HasSubstr("num_groups"));
  EXPECT_THAT(ErrorOf({6}, RecurrentLayer{.hidden_size = 4}), HasSubstr("[length, features]"));
  EXPECT_THAT(ErrorOf({6}, PermuteLayer{.dims = {0, 0}}), HasSubstr("each of 0 to 0 once"));
  EXPECT_THAT(ErrorOf({6}, PermuteLayer{}), HasSubstr("each of 0 to 0 once"));
  EXPECT_THAT(ErrorOf({6}, ActivationLayer{.kind = ActivationLayer::Kind::kSoftmax, .dim = 1}),
              HasSubstr("dim: expected -1 to 0, got 1"));
  EXPECT_THAT(ErrorOf({6}, EmbeddingLayer{.num_embeddings = 4, .embedding_dim = 2}),
              HasSubstr("expects integers"));
  EXPECT_THAT(ErrorOf({3, 5}, LayerNormLayer{.dimensions = 3}), HasSubstr("at least 3 dimensions"));
}

TEST(LayersTest, HostileSizesAreRefused) {
  EXPECT_THAT(ErrorOf({}, FlattenLayer{}), HasSubstr("input: expected dims"));
  EXPECT_THAT(ErrorOf({0}, FlattenLayer{}), HasSubstr("input: expected dims"));
  EXPECT_THAT(ErrorOf({-1, -1}, FlattenLayer{}), HasSubstr("at most one -1"));
  EXPECT_THAT(ErrorOf(Dims(9, 1), FlattenLayer{}), HasSubstr("input: expected dims"));
  EXPECT_THAT(ErrorOf({1 << 30, 1 << 30}, FlattenLayer{}), HasSubstr("input: expected dims"));
  EXPECT_THAT(ErrorOf({1 << 30}, LinearLayer{.out_features = 1 << 30}),
              HasSubstr("its weight would be"));
  EXPECT_THAT(ErrorOf({1 << 20, 1024}, LinearLayer{.out_features = 1 << 21}),
              HasSubstr("gives [1048576, 2097152]"));
  EXPECT_THAT(ErrorOf(Net({4}, {})), HasSubstr("layers: expected 1 to 1000, got 0"));
  EXPECT_THAT(ErrorOf(Net({4}, std::vector<Layer>(1001, DropoutLayer{}))), HasSubstr("got 1001"));
}

TEST(LayersTest, ADimensionOfAnySizeIsLongEnoughForEveryLayer) {
  const ConvolutionLayer conv{.dimensions = 1, .out_channels = 4, .kernel_size = {5}};
  const auto shapes = CheckSequential(
      Net({3, -1}, {conv, PoolLayer{.dimensions = 1, .kernel_size = {2}}, conv,
                    AdaptivePoolLayer{.dimensions = 1, .output_size = {1}}, FlattenLayer{}}));
  ASSERT_TRUE(shapes.ok()) << shapes.status();
  EXPECT_THAT(shapes->dims.back(), ElementsAre(4));
  // 14 - 4 = 10, halved 5, - 4 = 1.
  EXPECT_THAT(shapes->input_rules.sizes, ElementsAre(Range{3, 3}, Range{14, 65536}));
  EXPECT_THAT(ErrorOf(Net({3, -1}, {FlattenLayer{}, LinearLayer{.out_features = 2}})),
              HasSubstr("layers[1]: linear expects a last dimension of known size, gets [-1]"));
}

TEST(LayersTest, AnEmbeddingBoundsTheIntegersItIsGiven) {
  SequentialSpec spec = Net({-1}, {EmbeddingLayer{.num_embeddings = 10, .embedding_dim = 4},
                                   RecurrentLayer{.hidden_size = 3}, LastStepLayer{}});
  spec.input_type = SequentialSpec::InputType::kInt64;
  const auto shapes = CheckSequential(spec);
  ASSERT_TRUE(shapes.ok()) << shapes.status();
  EXPECT_EQ(shapes->input_rules.values, (Range{0, 9}));
  EXPECT_THAT(shapes->dims.back(), ElementsAre(3));
  spec.layers.insert(spec.layers.begin(), LayerSpec{.layer = DropoutLayer{}});
  EXPECT_THAT(ErrorOf(spec), HasSubstr("layers[0]: dropout expects numbers of TYPE_FP32"));
}

TEST(LayersTest, NamesAreThoseOfSequentialOrTheirOwn) {
  SequentialSpec spec = Net({4}, {LinearLayer{.out_features = 4}, DropoutLayer{}});
  spec.layers[0].name = "features.fc1";
  EXPECT_EQ(ModuleName(spec, 0), "features.fc1");
  EXPECT_EQ(ModuleName(spec, 1), "1");
  EXPECT_TRUE(CheckSequential(spec).ok());
  spec.layers[0].name = "1";
  EXPECT_THAT(ErrorOf(spec), HasSubstr("layers[1]: dropout name: 1 and 1, a layer before it"));
  spec.layers[1].name = "1.1";
  EXPECT_THAT(ErrorOf(spec), HasSubstr("name: 1.1 and 1, a layer before it"));
  spec.layers[1].name = "11";
  EXPECT_TRUE(CheckSequential(spec).ok());
  for (const char* name : {".a", "a.", "a..b", "a b", "\n", "a/b"}) {
    spec.layers[0].name = name;
    EXPECT_THAT(ErrorOf(spec), HasSubstr("layers[0]: linear name: expected letters")) << name;
  }
}

}  // namespace
}  // namespace sconce::models
