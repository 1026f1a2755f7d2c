// load_state_dict in PyTorch's words: every case was put to Python's own, whose answer is compared
// letter by letter.
#include "server/weights/load_state_dict.h"

#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/torch/fixtures.h"

namespace sconce {
namespace {

// A network of the catalog, parameters as a configuration gives them.
std::unique_ptr<models::Net> Make(const std::string& name,
                                  const std::map<std::string, std::string>& parameters) {
  for (const models::Architecture* architecture : models::Catalog()) {
    if (architecture->name() != name) continue;
    const auto parsed = models::ParseParameters(*architecture, parameters);
    if (!parsed.ok()) {
      ADD_FAILURE() << parsed.status();
      return nullptr;
    }
    auto net = architecture->Create(*parsed);
    if (net.ok()) return *std::move(net);
    ADD_FAILURE() << net.status();
    return nullptr;
  }
  ADD_FAILURE() << "the catalog has no " << name;
  return nullptr;
}

std::unique_ptr<models::Net> MakeLinear() {
  return Make("linear", {{"in_features", "2"}, {"out_features", "3"}});
}

TEST(LoadStateDict, SaysWhatPythonSays) {
  const nlohmann::json cases = ReadJson("load_state_dict.json");
  ASSERT_GE(cases.size(), 20u);
  for (const auto& one : cases) {
    SCOPED_TRACE(one.at("file").get<std::string>());
    const std::unique_ptr<models::Net> net = Make(one.at("architecture"), one.at("parameters"));
    ASSERT_NE(net, nullptr);
    const StateDict state = ReadFixture(one.at("file"));
    const auto keys = LoadStateDict(*net, state, {.strict = one.at("strict")});
    if (one.contains("error")) {
      EXPECT_EQ(keys.status().code(), absl::StatusCode::kInvalidArgument);
      EXPECT_EQ(std::string(keys.status().message()), one.at("error").get<std::string>());
      continue;
    }
    ASSERT_TRUE(keys.ok()) << keys.status();
    EXPECT_EQ(keys->missing, one.at("missing").get<std::vector<std::string>>());
    EXPECT_EQ(keys->unexpected, one.at("unexpected").get<std::vector<std::string>>());
    if (!one.contains("after")) continue;
    const StateDict after = ReadFixture(one.at("after"));
    for (const models::NamedTensor& own : net->State()) {
      EXPECT_TRUE(at::equal(own.tensor, TensorNamed(after, own.name))) << own.name;
    }
  }
}

TEST(LoadStateDict, TakesTheReadTensorsWithoutACopy) {
  const Loaded loaded = LoadFixture("resnet18.pth");
  ASSERT_NE(loaded.net, nullptr);
  for (const models::NamedTensor& own : loaded.net->State()) {
    EXPECT_EQ(own.tensor.const_data_ptr(), TensorNamed(loaded.state, own.name).const_data_ptr())
        << own.name;
  }
}

TEST(LoadStateDict, FailureLeavesTheNetworkAsItWas) {
  const std::unique_ptr<models::Net> net = MakeLinear();
  StateDict good;
  good.tensors = {{"weight", at::ones({3, 2})}, {"bias", at::ones({3})}};
  ASSERT_TRUE(LoadStateDict(*net, good).ok());
  StateDict bad;
  bad.tensors = {{"weight", at::zeros({3, 2})}, {"bias", at::zeros({4})}};
  EXPECT_FALSE(LoadStateDict(*net, bad).ok());
  EXPECT_TRUE(at::equal(net->State()[0].tensor, at::ones({3, 2})));
}

TEST(LoadStateDict, WhatIsMissingKeepsTheConstantsItStartsWith) {
  const std::unique_ptr<models::Net> net = Make("resnet18", {{"num_classes", "2"}});
  const auto keys = LoadStateDict(*net, {}, {.strict = false});
  ASSERT_TRUE(keys.ok()) << keys.status();
  EXPECT_EQ(keys->missing.size(), 62u + 20 * 2);  // all but batch norm's counters
  for (const models::NamedTensor& own : net->State()) {
    const bool ones = own.name.find("running_var") != std::string::npos ||
                      (own.tensor.dim() == 1 && own.name.ends_with("weight"));
    const at::Tensor expected = at::zeros(own.tensor.sizes(), own.tensor.options());
    EXPECT_TRUE(at::equal(own.tensor, ones ? expected.add(1) : expected)) << own.name;
    EXPECT_TRUE(own.tensor.is_contiguous()) << own.name;
  }
}

TEST(LoadStateDict, WeightsTakeTheFormThatIsWanted) {
  const Loaded plain = LoadFixture("resnet18.pth");
  ASSERT_NE(plain.net, nullptr);
  auto net = plain.detection.architecture->Create(plain.detection.parameters);
  ASSERT_TRUE(net.ok()) << net.status();
  const auto keys = LoadStateDict(**net, plain.state,
                                  {.form = {.floating = at::kBFloat16, .channels_last = true}});
  ASSERT_TRUE(keys.ok()) << keys.status();
  const std::vector<models::NamedTensor> before = plain.net->State();
  const std::vector<models::NamedTensor> after = (*net)->State();
  for (size_t i = 0; i < after.size(); ++i) {
    const at::Tensor& tensor = after[i].tensor;
    const bool floating = before[i].tensor.is_floating_point();
    EXPECT_EQ(tensor.scalar_type(), floating ? at::kBFloat16 : at::kLong) << after[i].name;
    EXPECT_TRUE(at::equal(tensor, before[i].tensor.to(tensor.scalar_type()))) << after[i].name;
    if (tensor.dim() == 4) {
      EXPECT_TRUE(tensor.is_contiguous(at::MemoryFormat::ChannelsLast)) << after[i].name;
    }
  }
}

TEST(LoadStateDict, TiedTensorsAreCastOnceAndStayTied) {
  const std::unique_ptr<models::Net> net = Make("mlp", {{"features", "4,4,4"}, {"layers", "0,2"}});
  ASSERT_NE(net, nullptr);
  const at::Tensor tied = at::ones({4, 4});
  StateDict state;
  state.tensors = {
      {"0.weight", tied}, {"0.bias", at::ones({4})}, {"2.weight", tied}, {"2.bias", at::ones({4})}};
  ASSERT_TRUE(LoadStateDict(*net, state, {.form = {.floating = at::kHalf}}).ok());
  const std::vector<models::NamedTensor> own = net->State();
  EXPECT_EQ(own[0].tensor.const_data_ptr(), own[2].tensor.const_data_ptr());
  EXPECT_NE(own[1].tensor.const_data_ptr(), own[3].tensor.const_data_ptr());
}

TEST(LoadStateDict, TakesOlderNamesThatTheArchitectureKnows) {
  const models::Architecture* densenet = nullptr;
  for (const models::Architecture* known : models::Catalog()) {
    if (known->name() == "densenet") densenet = known;
  }
  ASSERT_NE(densenet, nullptr);
  const std::unique_ptr<models::Net> net =
      Make("densenet", {{"blocks", "1,1"}, {"growth_rate", "2"}, {"stem_width", "4"}});
  ASSERT_NE(net, nullptr);
  constexpr char kNew[] = "features.denseblock1.denselayer1.norm1.weight";
  constexpr char kOld[] = "features.denseblock1.denselayer1.norm.1.weight";
  StateDict state;
  for (const models::NamedTensor& own : net->State()) {
    const double value = own.name == kNew ? 7 : 1;
    state.tensors.push_back({.name = own.name == kNew ? std::string(kOld) : own.name,
                             .tensor = at::full(own.tensor.sizes(), value, own.tensor.options())});
  }
  EXPECT_THAT(std::string(LoadStateDict(*net, state).status().message()),
              testing::HasSubstr(std::string("Unexpected key(s) in state_dict: \"") + kOld));
  const LoadOptions options = {.architecture = densenet};
  const auto keys = LoadStateDict(*net, state, options);
  ASSERT_TRUE(keys.ok()) << keys.status();
  EXPECT_TRUE(keys->missing.empty() && keys->unexpected.empty());
  for (const models::NamedTensor& own : net->State()) {
    EXPECT_EQ(own.tensor.flatten()[0].item<double>(), own.name == kNew ? 7 : 1) << own.name;
  }

  // Which of the two is meant nobody can tell.
  state.tensors.push_back({kNew, at::ones({4})});
  for (const bool strict : {true, false}) {
    const LoadOptions either = {.strict = strict, .architecture = densenet};
    EXPECT_EQ(std::string(LoadStateDict(*net, state, either).status().message()),
              absl::StrCat("Error(s) in loading state_dict for DenseNet:\n\t\"", kOld, "\" and \"",
                           kNew, "\" are both names of \"", kNew, "\"."));
  }
}

TEST(LoadStateDict, NamesFromTheFileCannotBreakTheMessage) {
  const std::unique_ptr<models::Net> net = MakeLinear();
  StateDict state;
  state.tensors = {{"weight", at::ones({3, 2})}, {"bias", at::ones({3})}, {"a\nb", at::ones({1})}};
  EXPECT_THAT(std::string(LoadStateDict(*net, state).status().message()),
              testing::HasSubstr("Unexpected key(s) in state_dict: \"a\\nb\". "));
  for (int i = 0; i < 100000; ++i) state.tensors.push_back({std::to_string(i), at::Tensor()});
  const std::string message(LoadStateDict(*net, state).status().message());
  EXPECT_THAT(message, testing::EndsWith(" and 99001 more. "));
  EXPECT_LT(message.size(), 20000u);
}

}  // namespace
}  // namespace sconce
