// The families of torchvision's networks read back from names and shapes what they were made with,
// and refuse what does not go together.
#include "models/families.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "models/catalog.h"

namespace sconce::models {
namespace {

using testing::HasSubstr;

std::vector<NamedShape> ShapesOf(const Net& net) {
  std::vector<NamedShape> shapes;
  for (const NamedTensor& tensor : net.State()) {
    shapes.push_back({tensor.name, tensor.tensor.scalar_type(), tensor.tensor.sizes().vec()});
  }
  return shapes;
}

const Architecture& InCatalog(absl::string_view name) {
  for (const Architecture* architecture : Catalog()) {
    if (architecture->name() == name) return *architecture;
  }
  ADD_FAILURE() << "no " << std::string(name);
  return *Catalog()[0];
}

std::vector<NamedShape> ShapesOf(absl::string_view name, const Parameters& parameters) {
  const auto net = InCatalog(name).Create(parameters);
  EXPECT_TRUE(net.ok()) << net.status();
  return net.ok() ? ShapesOf(**net) : std::vector<NamedShape>();
}

std::string DetectedIn(absl::Span<const NamedShape> state) {
  const auto detection = Detect(state, {});
  return detection.ok() ? ToString(detection->architecture->name(), detection->parameters)
                        : std::string(detection.status().message());
}

std::string CreationError(absl::string_view name, const Parameters& parameters) {
  return std::string(InCatalog(name).Create(parameters).status().message());
}

using Ints = std::vector<int64_t>;

TEST(Families, NoVariantIsTakenForAnother) {
  int variants = 0;
  for (const Family* family : {&AlexNet(), &DenseNet(), &EfficientNet(), &GoogLeNet(), &Inception(),
                               &MnasNet(), &MobileNetV2(), &MobileNetV3(), &RegNet(), &ResNet(),
                               &ShuffleNetV2(), &SqueezeNet(), &Vgg()}) {
    for (const Variant& variant : family->variants()) {
      EXPECT_EQ(DetectedIn(ShapesOf(variant.name, {{"num_classes", int64_t{7}}})),
                variant.name + "(num_classes=7)");
      ++variants;
    }
  }
  EXPECT_EQ(variants, 61);
}

TEST(Families, AuxiliaryHeadsAreThereWhereTheWeightsHaveThem) {
  for (const char* name : {"googlenet", "inception_v3"}) {
    for (const bool heads : {false, true}) {
      EXPECT_EQ(DetectedIn(ShapesOf(name, {{"aux_logits", heads}})),
                ToString(name, {{"aux_logits", heads}, {"num_classes", int64_t{1000}}}));
    }
  }
}

TEST(Families, AuxiliaryHeadsMayHaveTheClassesOfBeforeTheLastLayerWasReplaced) {
  for (const char* name : {"googlenet", "inception_v3"}) {
    std::vector<NamedShape> state =
        ShapesOf(name, {{"aux_logits", true}, {"num_classes", int64_t{1000}}});
    for (NamedShape& tensor : state) {
      if (tensor.name == "fc.weight" || tensor.name == "fc.bias") tensor.shape[0] = 7;
    }
    EXPECT_EQ(DetectedIn(state), ToString(name, {{"aux_classes", int64_t{1000}},
                                                 {"aux_logits", true},
                                                 {"num_classes", int64_t{7}}}));
  }
}

TEST(Families, WhatNoShapeTellsIsAssumedAndCanBeSet) {
  const std::vector<NamedShape> state = ShapesOf("googlenet", {});
  const auto assumed = Detect(state, {});
  ASSERT_TRUE(assumed.ok()) << assumed.status();
  EXPECT_THAT(assumed->why, HasSubstr("transform_input is not in the file: false is assumed"));
  EXPECT_THAT(assumed->why, HasSubstr("architecture { name: \"googlenet\" parameters { key: "
                                      "\"transform_input\" value: \"true\" } }"));
  const auto set = Detect(state, {"googlenet", {{"transform_input", "true"}}});
  ASSERT_TRUE(set.ok()) << set.status();
  EXPECT_EQ(set->why,
            "googlenet(aux_logits=false, num_classes=1000, transform_input=true), as configured");

  const std::vector<NamedShape> blocks =
      ShapesOf("mobilenetv2", {{"stem_width", int64_t{8}},
                               {"widths", Ints{8, 16, 16}},
                               {"expanded_widths", Ints{8, 48, 96}},
                               {"strides", Ints{1, 1, 2}},
                               {"last_width", int64_t{32}}});
  const auto guessed = Detect(blocks, {});
  ASSERT_TRUE(guessed.ok()) << guessed.status();
  EXPECT_THAT(guessed->why, HasSubstr("the strides are not in the file: 1,2,1 is assumed"));
}

TEST(Families, ListsOfTheSameBlocksMustBeOfOneLength) {
  EXPECT_EQ(CreationError("vgg", {{"layers", Ints(1001, 8)}}),
            "vgg: layers: expected at most 1000 numbers, got 1001");
  EXPECT_EQ(CreationError("mobilenetv2", {{"stem_width", int64_t{8}},
                                          {"widths", Ints{8, 16}},
                                          {"expanded_widths", Ints{8, 48}},
                                          {"strides", Ints{1}},
                                          {"last_width", int64_t{32}}}),
            "mobilenetv2: strides: expected 2 numbers, as in widths, got 1");
  EXPECT_EQ(CreationError("regnet", {{"widths", Ints{24}},
                                     {"depths", Ints{1}},
                                     {"inner_widths", Ints{24}},
                                     {"group_widths", Ints{16}}}),
            "regnet: inner_widths: expected a multiple of the group's width, 16, got 24");
}

TEST(Families, DenseNetKnowsTheNamesOfItsOldFiles) {
  const std::string layer = "features.denseblock1.denselayer2.";
  EXPECT_EQ(DenseNet().NameOf(layer + "norm.1.running_mean"), layer + "norm1.running_mean");
  EXPECT_EQ(DenseNet().NameOf(layer + "conv.2.weight"), layer + "conv2.weight");
  for (const std::string& name :
       {layer + "norm1.weight", layer + "norm.3.weight", std::string("features.norm.1.weight"),
        std::string("features.denselayerX.norm.1.weight"), layer + "norm."}) {
    EXPECT_EQ(DenseNet().NameOf(name), name);
  }
}

}  // namespace
}  // namespace sconce::models
