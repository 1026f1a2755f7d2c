// Architectures are told from names and shapes; where they cannot be, the message says what to do.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <iostream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "models/catalog.h"
#include "tests/torch/fixtures.h"

namespace sconce::models {
namespace {

using testing::AllOf;
using testing::HasSubstr;

std::vector<NamedShape> Shapes(
    const std::vector<std::pair<std::string, std::vector<int64_t>>>& tensors) {
  std::vector<NamedShape> shapes;
  for (const auto& [name, shape] : tensors) shapes.push_back({name, c10::kFloat, shape});
  return shapes;
}

std::vector<NamedShape> ShapesFromJson(const nlohmann::json& network) {
  std::vector<NamedShape> shapes;
  for (const auto& tensor : network.at("state")) {
    shapes.push_back({tensor.at("name"),
                      tensor.at("dtype") == "torch.int64" ? c10::kLong : c10::kFloat,
                      tensor.at("shape")});
  }
  return shapes;
}

std::string ErrorOf(absl::Span<const NamedShape> state, const Configured& configured = {}) {
  const auto detection = Detect(state, configured);
  return detection.ok() ? "" : std::string(detection.status().message());
}

TEST(Detect, TellsEveryTorchvisionNetworkAndItsNumberOfClasses) {
  const nlohmann::json catalog = ReadJson("catalog.json");
  EXPECT_EQ(catalog.size(), 80u);
  for (const auto& [name, network] : catalog.items()) {
    const std::vector<NamedShape> state = ShapesFromJson(network);
    const auto detection = Detect(state, {});
    ASSERT_TRUE(detection.ok()) << name << ": " << detection.status();
    EXPECT_EQ(std::string(detection->architecture->name()), name);
    EXPECT_EQ(Get<int64_t>(detection->parameters, "num_classes"), 12) << name;

    // Not just the same set: the order and the modules are Python's, which messages depend on.
    auto net = detection->architecture->Create(detection->parameters);
    ASSERT_TRUE(net.ok()) << net.status();
    const std::vector<NamedTensor> own = (*net)->State();
    ASSERT_EQ(own.size(), state.size()) << name;
    for (size_t i = 0; i < own.size(); ++i) {
      EXPECT_EQ(own[i].name, state[i].name) << name;
      EXPECT_EQ(own[i].tensor.sizes().vec(), state[i].shape) << name << ' ' << state[i].name;
      EXPECT_EQ(own[i].tensor.scalar_type(), state[i].dtype) << name << ' ' << state[i].name;
    }
    EXPECT_EQ((*net)->ModuleNames(), network.at("modules").get<std::vector<std::string>>()) << name;
    EXPECT_EQ((*net)->class_name(), network.at("class_name")) << name;
  }
}

// As they are where a network is the only part of somebody's own module.
TEST(Detect, NamesMayHaveAPrefixOfTheirOwn) {
  const nlohmann::json catalog = ReadJson("catalog.json");
  for (const auto& [name, network] : catalog.items()) {
    std::vector<NamedShape> state = ShapesFromJson(network);
    for (NamedShape& tensor : state) {
      tensor.name = absl::StrCat("encoder.backbone.", tensor.name);
    }
    const auto detection = Detect(state, {});
    ASSERT_TRUE(detection.ok()) << name << ": " << detection.status();
    EXPECT_EQ(std::string(detection->architecture->name()), name);
    EXPECT_THAT(detection->why, HasSubstr(R"(all names begin with "encoder.backbone.")"));
    for (const NamedShape& tensor : state) {
      EXPECT_EQ("encoder.backbone." + detection->architecture->NameOf(tensor.name), tensor.name);
    }
    // Also where it is configured, and where something else is missing.
    const auto configured = Detect(state, {name, {}});
    ASSERT_TRUE(configured.ok()) << name << ": " << configured.status();
    EXPECT_EQ(configured->parameters, detection->parameters);
    state.pop_back();
    const auto nearest = Nearest(state);
    ASSERT_TRUE(nearest.has_value()) << name;
    EXPECT_EQ(std::string(nearest->architecture->family()),
              std::string(detection->architecture->family()));
  }
}

// To tell one network, no other is built: the whole catalog takes seconds.
TEST(Detect, TakesMilliseconds) {
  const nlohmann::json catalog = ReadJson("catalog.json");
  double longest = 0;
  std::string slowest;
  const auto time = [&](const std::string& name, absl::Span<const NamedShape> state) {
    const auto start = std::chrono::steady_clock::now();
    (void)Detect(state, {});
    (void)Nearest(state);
    const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - start;
    if (taken.count() <= longest) return;
    longest = taken.count();
    slowest = name;
  };
  for (const auto& [name, network] : catalog.items()) {
    std::vector<NamedShape> state = ShapesFromJson(network);
    time(name, state);
    std::vector<NamedShape> prefixed = state;
    for (NamedShape& tensor : prefixed) tensor.name = absl::StrCat("backbone.", tensor.name);
    time(name + ", under a prefix", prefixed);
    for (NamedShape& tensor : state) {
      if (tensor.name.ends_with("weight")) tensor.shape.push_back(1);
    }
    time(name + ", spoilt", state);
    state.back().name = "other";
    time(name + ", spoilt and another name", state);
  }
  RecordProperty("longest_milliseconds", std::to_string(longest * 1e3));
  std::cout << "longest: " << slowest << ", " << longest * 1e3 << " ms\n";
  EXPECT_LT(longest, 0.5) << slowest;  // a busy machine
}

TEST(Detect, OlderSpellingsOfNamesAreKnown) {
  const nlohmann::json catalog = ReadJson("catalog.json");
  std::vector<NamedShape> densenet = ShapesFromJson(catalog.at("densenet169"));
  size_t renamed = 0;
  for (NamedShape& tensor : densenet) {
    for (const char* part : {".norm1.", ".norm2.", ".conv1.", ".conv2."}) {
      const size_t at = tensor.name.find(part);
      if (at == std::string::npos) continue;
      tensor.name = absl::StrCat(tensor.name.substr(0, at + 5), ".", tensor.name.substr(at + 5));
      ++renamed;
    }
  }
  ASSERT_EQ(renamed, 984u);
  const auto detection = Detect(densenet, {});
  ASSERT_TRUE(detection.ok()) << detection.status();
  EXPECT_EQ(ToString(detection->architecture->name(), detection->parameters),
            "densenet169(num_classes=12)");

  // A name in both spellings is one tensor too many.
  densenet.push_back({"features.denseblock1.denselayer1.norm1.weight", c10::kFloat, {64}});
  EXPECT_THAT(ErrorOf(densenet), HasSubstr("not in the network: "
                                           "\"features.denseblock1.denselayer1.norm1.weight\""));

  std::vector<NamedShape> vit = ShapesFromJson(catalog.at("vit_b_32"));
  for (NamedShape& tensor : vit) {
    for (const auto& [own, old] :
         {std::pair(".mlp.0.", ".mlp.linear_1."), std::pair(".mlp.3.", ".mlp.linear_2.")}) {
      const size_t at = tensor.name.find(own);
      if (at != std::string::npos) tensor.name.replace(at, 7, old);
    }
  }
  const auto old_vit = Detect(vit, {});
  ASSERT_TRUE(old_vit.ok()) << old_vit.status();
  EXPECT_EQ(old_vit->architecture->name(), "vit_b_32");
}

TEST(Detect, OrderOfTensorsDoesNotMatter) {
  std::vector<NamedShape> state = ShapesFromJson(ReadJson("catalog.json").at("resnext101_64x4d"));
  std::reverse(state.begin(), state.end());
  const auto detection = Detect(state, {});
  ASSERT_TRUE(detection.ok()) << detection.status();
  EXPECT_EQ(detection->architecture->name(), "resnext101_64x4d");
}

TEST(Detect, BatchNormMayLackItsCounter) {
  std::vector<NamedShape> state = ShapesFromJson(ReadJson("catalog.json").at("resnet18"));
  std::erase_if(state, [](const NamedShape& tensor) {
    return tensor.name.find("num_batches_tracked") != std::string::npos;
  });
  const auto detection = Detect(state, {});
  ASSERT_TRUE(detection.ok()) << detection.status();
  EXPECT_EQ(detection->architecture->name(), "resnet18");
}

TEST(Detect, LinearUnderAnyPrefixWithOrWithoutBias) {
  const auto detected = [](const std::vector<NamedShape>& state) {
    const auto detection = Detect(state, {});
    return detection.ok() ? ToString(detection->architecture->name(), detection->parameters)
                          : std::string(detection.status().message());
  };
  EXPECT_EQ(detected(Shapes({{"weight", {3, 2}}})),
            "linear(bias=false, in_features=2, out_features=3)");
  EXPECT_EQ(detected(Shapes({{"bias", {3}}, {"weight", {3, 2}}})),
            "linear(bias=true, in_features=2, out_features=3)");
  EXPECT_EQ(detected(Shapes({{"head.0.weight", {3, 2}}, {"head.0.bias", {3}}})),
            R"(linear(bias=true, in_features=2, out_features=3, prefix="head.0."))");
}

TEST(Detect, MlpSaysThatItAssumesRelu) {
  const auto detection = Detect(Shapes({{"0.weight", {3, 2}}, {"2.weight", {1, 3}}}), {});
  ASSERT_TRUE(detection.ok()) << detection.status();
  EXPECT_EQ(detection->why,
            "mlp(bias=false, features=[2, 3, 1], layers=\"0,2\"): the names and shapes of all 2 "
            "tensors fit; the activation is not in the file: relu is assumed; another is set in "
            "config.pbtxt with architecture { name: \"mlp\" parameters { key: \"activation\" "
            "value: \"gelu\" } }");
}

TEST(Detect, MlpWhoseNamesLeaveNoRoomForAnActivationMustBeConfigured) {
  const std::unique_ptr<Checkpoint> checkpoint = OpenFixture("mlp_ambiguous.pth");
  ASSERT_NE(checkpoint, nullptr);
  const auto layout = DescribeState(*checkpoint);
  ASSERT_TRUE(layout.ok()) << layout.status();
  const auto detection = Detect(layout->tensors, {});
  EXPECT_EQ(detection.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(std::string(detection.status().message()),
            "the weights look like mlp: seen 4 tensors (\"0.weight\" [5, 6], \"0.bias\" [5], "
            "\"1.weight\" [4, 5], \"1.bias\" [4]), but the layers \"0,1\" are numbered without a "
            "gap, so the file does not tell whether or which activation stands between them. Write "
            "it into config.pbtxt, architecture { name: \"mlp\" parameters { key: \"activation\" "
            "value: \"relu\" } } (or gelu, tanh, sigmoid, silu, none)");

  const auto settled = Detect(layout->tensors, {"mlp", {{"activation", "tanh"}}});
  ASSERT_TRUE(settled.ok()) << settled.status();
  EXPECT_EQ(ToString(settled->architecture->name(), settled->parameters),
            R"(mlp(activation="tanh", bias=true, features=[6, 5, 4], layers="0,1"))");
}

TEST(Detect, MlpLayersWithoutNumbersTakeTheConfiguredOrder) {
  const std::vector<NamedShape> state = Shapes({{"out.weight", {1, 3}}, {"hidden.weight", {3, 2}}});
  EXPECT_NE(ErrorOf(state), "");
  const auto detection = Detect(state, {"mlp", {{"layers", "hidden,out"}}});
  ASSERT_TRUE(detection.ok()) << detection.status();
  EXPECT_EQ(ToString(detection->architecture->name(), detection->parameters),
            R"(mlp(bias=false, features=[2, 3, 1], layers="hidden,out"))");
}

TEST(Detect, UnknownWeightsNameWhatCameNearest) {
  std::vector<NamedShape> state = ShapesFromJson(ReadJson("catalog.json").at("resnet50"));
  for (NamedShape& tensor : state) {
    if (tensor.name == "conv1.weight") tensor.shape[1] = 1;
    if (tensor.name == "fc.weight") tensor.name = "fc.0.weight";
  }
  EXPECT_EQ(
      ErrorOf(state),
      "the weights fit no known architecture: seen 320 tensors (\"conv1.weight\" [64, 1, 7, 7], "
      "\"bn1.weight\" [64], \"bn1.bias\" [64], \"bn1.running_mean\" [64], ...); nearest: "
      "resnet50() (317 of 320 tensors match; not in the file: \"fc.weight\"; not in the network: "
      "\"fc.0.weight\"; \"conv1.weight\" is [64, 1, 7, 7], expected [64, 3, 7, 7], \"fc.bias\" is "
      "[12], expected [1000]). To choose one, write into config.pbtxt: architecture { name: "
      "\"resnet50\" }");
}

TEST(Detect, UnknownWeightsNameASecondThatComesAlmostAsNear) {
  std::vector<NamedShape> state = ShapesFromJson(ReadJson("catalog.json").at("resnext101_32x8d"));
  state.push_back({"attention.weight", c10::kFloat, {1}});
  const auto find = [](absl::string_view name) {
    return *std::find_if(Catalog().begin(), Catalog().end(),
                         [&](const Architecture* known) { return known->name() == name; });
  };
  const std::vector<const Architecture*> twice = {find("resnext101_32x8d"),
                                                  find("resnext101_32x8d")};
  const std::string nearest =
      "resnext101_32x8d(num_classes=12) (626 of 626 tensors match; not in the network: "
      "\"attention.weight\")";
  EXPECT_THAT(std::string(Detect(state, {}, twice).status().message()),
              HasSubstr("; nearest: " + nearest + "; " + nearest + ". To choose one"));
  EXPECT_THAT(
      ErrorOf(state),
      AllOf(HasSubstr("; nearest: " + nearest + ". To choose one"),
            HasSubstr("write into config.pbtxt: architecture { name: \"resnext101_32x8d\" }")));
}

TEST(Detect, WeightsThatNothingComesNearSayWhereTheKnownAreListed) {
  EXPECT_EQ(ErrorOf(Shapes({{"lstm.weight_ih_l0", {8, 4}}})),
            "the weights fit no known architecture: seen 1 tensor (\"lstm.weight_ih_l0\" [8, 4]); "
            "nothing comes near. To choose one, write into config.pbtxt: architecture { name: "
            "\"NAME\" }; `sconce architectures` lists those there are");
  EXPECT_EQ(ErrorOf({}), "the weights hold no tensors");
}

TEST(Detect, NamesFromTheFileAreEscapedAndCut) {
  const std::string error =
      ErrorOf(Shapes({{"a\nb\x1b[31m", {1}}, {std::string(100000, 'x'), {1}}}));
  EXPECT_THAT(error, HasSubstr(R"("a\nb\033[31m")"));
  EXPECT_LT(error.size(), 2000u);
}

TEST(Detect, HugeNumberOfNamesIsNoTrouble) {
  std::vector<NamedShape> state;
  for (int i = 0; i < 200000; ++i) state.push_back({std::to_string(i), c10::kFloat, {1}});
  const auto start = std::chrono::steady_clock::now();
  EXPECT_THAT(ErrorOf(state), HasSubstr("seen 200000 tensors"));
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(10));
}

TEST(Detect, ConfiguredArchitectureIsTakenEvenIfTheWeightsDiffer) {
  const std::vector<NamedShape> state = ShapesFromJson(ReadJson("catalog.json").at("resnet18"));
  const auto detection = Detect(state, {"resnet50", {{"image_size", "128"}}});
  ASSERT_TRUE(detection.ok()) << detection.status();
  EXPECT_EQ(detection->why, "resnet50(image_size=128, num_classes=12), as configured");
  // What the operator says stands against what the weights say.
  const auto other = Detect(state, {"resnet18", {{"num_classes", "7"}}});
  ASSERT_TRUE(other.ok()) << other.status();
  EXPECT_EQ(ToString("resnet18", other->parameters), "resnet18(num_classes=7)");
}

TEST(Detect, WrongConfigurationIsRefusedWithWhatWasExpected) {
  const std::vector<NamedShape> state = Shapes({{"0.weight", {3, 2}}, {"2.weight", {1, 3}}});
  EXPECT_THAT(ErrorOf(state, {"resnet5", {}}),
              HasSubstr("no architecture is called \"resnet5\"; `sconce architectures` lists"));
  EXPECT_EQ(ErrorOf(state, {"mlp", {{"activation", "swish"}}}),
            "architecture mlp: parameter activation (what stands between the layers): expected "
            "relu, gelu, tanh, sigmoid, silu, none, got \"swish\"");
  EXPECT_EQ(ErrorOf(state, {"mlp", {{"activations", "relu"}}}),
            "architecture mlp has no parameter \"activations\"; it has: layers, features, bias, "
            "activation");
  EXPECT_EQ(ErrorOf(state, {"vgg16", {{"image_size", "31"}}}),
            "architecture vgg16: parameter image_size (height and width of the input in pixels): "
            "expected an integer of 32 to 2147483647, got \"31\"");
  EXPECT_THAT(ErrorOf(state, {"mlp", {{"bias", "yes"}}}),
              HasSubstr("expected true or false, got \"yes\""));
  EXPECT_THAT(ErrorOf(state, {"mlp", {{"features", "2,x,1"}}}),
              HasSubstr("expected integers of 1 to 2147483647 between commas, got \"2,x,1\""));
  EXPECT_THAT(ErrorOf(state, {"", {{"activation", "relu"}}}),
              HasSubstr("sets the architecture's parameter \"activation\" but not its name"));
  EXPECT_EQ(ErrorOf(state, {"linear", {}}),
            "architecture linear, as configured, does not fit: seen 2 tensors (\"0.weight\" "
            "[3, 2], \"2.weight\" [1, 3]): \"2.weight\" stands where a bias was expected");
}

TEST(Detect, WeightsThatFitTwiceAskWhichItIs) {
  const std::vector<const Architecture*> twice = {Catalog()[0], Catalog()[0]};
  const auto detection = Detect(Shapes({{"weight", {3, 2}}}), {}, twice);
  EXPECT_EQ(std::string(detection.status().message()),
            "the weights fit more than one architecture: seen 1 tensor (\"weight\" [3, 2]); they "
            "fit linear(bias=false, in_features=2, out_features=3) and linear(bias=false, "
            "in_features=2, out_features=3). Write into config.pbtxt which it is: architecture { "
            "name: \"linear\" } or architecture { name: \"linear\" }");
}

TEST(Detect, HostileNamesAndShapesAreRefused) {
  for (const auto& state : {
           Shapes({{"weight", {0, 0}}}),
           Shapes({{"weight", {int64_t{1} << 62, 4}}}),
           Shapes({{".weight", {3, 2}}}),
           Shapes({{"a..weight", {3, 2}}}),
           Shapes({{"0.weight", {3, 2}}, {"2.weight", {1, 4}}}),
           Shapes({{"0.weight", {3, 2}}, {"99999999999999999999.weight", {1, 3}}}),
           Shapes({{"a.0.weight", {3, 2}}, {"a.0.2.weight", {1, 3}}}),
           Shapes({{"a..0.weight", {3, 2}}, {"a..2.weight", {1, 3}}}),
           Shapes({{"0.weight", {3, 2}}, {"00.weight", {1, 3}}}),
           Shapes({{"fc.weight", {-1, 2}}}),
       }) {
    const auto detection = Detect(state, {});
    EXPECT_EQ(detection.status().code(), absl::StatusCode::kFailedPrecondition)
        << state[0].name << ": " << detection.status();
  }
}

}  // namespace
}  // namespace sconce::models
