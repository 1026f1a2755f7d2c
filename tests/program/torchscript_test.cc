// TorchScript archives give, under our roof, the very bits that Python's own run of them gives.
#include "server/program/torchscript.h"

#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <c10/core/InferenceMode.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "tests/program/program_fixtures.h"

namespace sconce {
namespace {

using testing::HasSubstr;

const char kFixtures[] = "SCONCE_TORCHSCRIPT_FIXTURES";

absl::StatusOr<std::shared_ptr<const models::Architecture>> Open(const std::string& name) {
  return OpenTorchScript(FixtureIn(kFixtures, name + ".pt"),
                         {.declared = DeclaredIn(kFixtures, name)});
}

// The archive `name` with the weights in the file `weights`.
std::unique_ptr<models::Net> Load(const std::string& name, const std::string& weights) {
  const auto architecture = Open(name);
  if (!architecture.ok()) {
    ADD_FAILURE() << architecture.status();
    return nullptr;
  }
  return WithWeights(**architecture, FixtureIn(kFixtures, weights));
}

class TorchScript : public testing::TestWithParam<std::string> {};

TEST_P(TorchScript, AnswersAreThoseOfPythonBitForBit) {
  const std::unique_ptr<models::Net> net = Load(GetParam(), GetParam() + ".pt");
  ASSERT_NE(net, nullptr);
  const StateDict io = ReadTensors(FixtureIn(kFixtures, GetParam() + ".io.safetensors"));
  EXPECT_EQ(Difference(*net, io, io), 0.0);
}

class TorchScriptSwap : public testing::TestWithParam<std::string> {};

TEST_P(TorchScriptSwap, OtherWeightsAreTakenByName) {
  const std::string other = FixtureIn(kFixtures, GetParam() + ".pth");
  const std::unique_ptr<models::Net> net = Load(GetParam(), GetParam() + ".pt");
  ASSERT_NE(net, nullptr);
  const StateDict weights = ReadTensors(other);
  std::vector<models::NamedTensor> state = net->State();
  for (size_t i = 0; i < state.size(); ++i) {
    net->Assign(i, TensorOf(weights, state[i].name));
  }
  const StateDict io = ReadTensors(FixtureIn(kFixtures, GetParam() + ".io.safetensors"));
  const StateDict expected = ReadTensors(FixtureIn(kFixtures, GetParam() + ".new.safetensors"));
  EXPECT_EQ(Difference(*net, io, expected), 0.0);
}

INSTANTIATE_TEST_SUITE_P(Archives, TorchScript,
                         testing::Values("resnet18_traced", "resnet18_scripted",
                                         "mobilenet_v3_traced", "mobilenet_v3_scripted",
                                         "lstm_traced", "lstm_scripted", "branches", "many_outputs",
                                         "numbered", "named", "keyed", "constants",
                                         "traced_constants", "frozen", "optimised"),
                         [](const auto& info) { return info.param; });

INSTANTIATE_TEST_SUITE_P(Archives, TorchScriptSwap,
                         testing::Values("resnet18_traced", "resnet18_scripted",
                                         "mobilenet_v3_traced", "mobilenet_v3_scripted",
                                         "lstm_traced", "lstm_scripted", "branches",
                                         "many_outputs"),
                         [](const auto& info) { return info.param; });

TEST(TorchScriptWeights, AStateDictBesideTheArchiveLoadsStrictly) {
  ASSERT_NE(Load("resnet18_traced", "resnet18_traced.pth"), nullptr);
  ASSERT_NE(Load("resnet18_traced", "resnet18_scripted.pt"), nullptr);
}

TEST(TorchScriptWeights, TakeNoMemoryBeforeTheyAreGiven) {
  const auto architecture = Open("resnet18_traced");
  ASSERT_TRUE(architecture.ok()) << architecture.status();
  const auto net = (*architecture)->Create({});
  ASSERT_TRUE(net.ok()) << net.status();
  const std::vector<models::NamedTensor> state = (*net)->State();
  EXPECT_EQ(state.size(), 122u);
  for (const models::NamedTensor& tensor : state) {
    EXPECT_EQ(tensor.tensor.storage().nbytes(), tensor.tensor.element_size()) << tensor.name;
  }
  EXPECT_EQ((*net)->class_name(), "ResNet");
}

TEST(TorchScriptWeights, OfOneNetworkAreNotThoseOfAnother) {
  const auto architecture = Open("many_outputs");
  ASSERT_TRUE(architecture.ok()) << architecture.status();
  const StateDict io = ReadTensors(FixtureIn(kFixtures, "many_outputs.io.safetensors"));
  const StateDict other = ReadTensors(FixtureIn(kFixtures, "many_outputs.new.safetensors"));
  const auto first = WithWeights(**architecture, FixtureIn(kFixtures, "many_outputs.pt"));
  const auto second = WithWeights(**architecture, FixtureIn(kFixtures, "many_outputs.pth"));
  ASSERT_TRUE(first != nullptr && second != nullptr);
  EXPECT_EQ(Difference(*first, io, io), 0.0);
  EXPECT_EQ(Difference(*second, io, other), 0.0);
}

TEST(TorchScriptWeights, OfAnotherShapeOrTypeAreRefused) {
  const std::unique_ptr<models::Net> net = Load("many_outputs", "many_outputs.pt");
  ASSERT_NE(net, nullptr);
  EXPECT_THROW(net->Assign(0, at::full({4, 5}, 1.0)), c10::Error);
  EXPECT_THROW(net->Assign(0, at::full({4, 4}, 1, at::kLong)), c10::Error);
}

TEST(TorchScriptNet, RunsInSeveralThreads) {
  const std::unique_ptr<models::Net> net = Load("lstm_scripted", "lstm_scripted.pt");
  ASSERT_NE(net, nullptr);
  const StateDict io = ReadTensors(FixtureIn(kFixtures, "lstm_scripted.io.safetensors"));
  std::vector<double> differences(3, 1.0);
  std::vector<std::thread> threads;
  for (double& difference : differences) {
    threads.emplace_back([&] {
      difference = 0.0;
      for (int i = 0; i < 20; ++i) difference += Difference(*net, io, io);
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(differences, std::vector<double>(3, 0.0));
}

TEST(TorchScriptNet, AnErrorWithinSaysWhatPyTorchSays) {
  const std::unique_ptr<models::Net> net = Load("many_outputs", "many_outputs.pt");
  ASSERT_NE(net, nullptr);
  const c10::InferenceMode inference_mode;
  try {
    net->Forward({at::full({3, 5}, 1.0), at::full({3, 4}, 1.0)});
    ADD_FAILURE() << "expected an error";
  } catch (const c10::Error& error) {
    EXPECT_THAT(error.what_without_backtrace(),
                HasSubstr("mat1 and mat2 shapes cannot be multiplied (3x5 and 4x4)"));
  }
}

TEST(TorchScriptSignature, MustBeDeclared) {
  const auto opened = OpenTorchScript(FixtureIn(kFixtures, "many_outputs.pt"), {});
  EXPECT_EQ(opened.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(opened.status().message()),
              testing::AllOf(HasSubstr("many_outputs.pt: TorchScript does not say"),
                             HasSubstr("config.pbtxt"), HasSubstr("input [ { name: \"a\""),
                             HasSubstr("forward takes (a: Tensor, b: Tensor, c: Optional[Tensor])"),
                             HasSubstr("Tuple[Tensor, Tensor]")));
}

// What is wrong with the inputs a, b and the outputs first, second is said by name.
TEST(TorchScriptSignature, MustBeThatOfForward) {
  const auto refusal = [](const std::vector<std::string>& inputs,
                          const std::vector<std::string>& outputs) {
    ProgramOptions options;
    for (const std::string& name : inputs) {
      options.declared.inputs.push_back({name, c10::ScalarType::Float, {4}});
    }
    for (const std::string& name : outputs) {
      options.declared.outputs.push_back({name, c10::ScalarType::Float, {4}});
    }
    const auto opened = OpenTorchScript(FixtureIn(kFixtures, "many_outputs.pt"), options);
    return std::string(opened.status().message());
  };
  EXPECT_EQ(refusal({"a", "b"}, {"x", "y"}), "");
  EXPECT_EQ(refusal({"b", "a", "c"}, {"x"}), "");
  EXPECT_THAT(refusal({"a"}, {"x"}), HasSubstr("no input for forward's argument 'b'"));
  EXPECT_THAT(refusal({"a", "image"}, {"x"}), HasSubstr("input 'image': expected the name"));
  EXPECT_THAT(refusal({"a", "x__3"}, {"x"}), HasSubstr("input 'x__3': expected the name"));
  EXPECT_THAT(refusal({"a", "x__0"}, {"x"}), HasSubstr("argument 'a' is given twice"));
  EXPECT_THAT(refusal({"a", "b"}, {"x__2"}), HasSubstr("output 'x__2' is result 2"));
}

TEST(TorchScriptArchive, IsRefusedForWhatItDoes) {
  const nlohmann::json refused = ReadJsonFile(FixtureIn(kFixtures, "refused.json"));
  ASSERT_GT(refused.size(), 5u);
  const models::Signature declared = {
      .inputs = {{"x", c10::ScalarType::Float, {4}}, {"times", c10::ScalarType::Float, {}}},
      .outputs = {{"y", c10::ScalarType::Float, {4}}}};
  for (const auto& [name, expected] : refused.items()) {
    const auto opened = OpenTorchScript(FixtureIn(kFixtures, name), {.declared = declared});
    EXPECT_EQ(absl::StatusCodeToString(opened.status().code()), expected[0]) << name;
    EXPECT_THAT(std::string(opened.status().message()), HasSubstr(expected[1])) << name;
    EXPECT_THAT(std::string(opened.status().message()), HasSubstr(name));
  }
}

TEST(TorchScriptArchive, ThatIsDamagedOrNoneIsRefused) {
  const std::string path = testing::TempDir() + "/damaged_" + std::to_string(getpid()) + ".pt";
  std::ifstream source(FixtureIn(kFixtures, "many_outputs.pt"), std::ios::binary);
  const std::string whole((std::istreambuf_iterator<char>(source)), {});
  const auto refusal = [&path](const std::string& content) {
    std::ofstream(path, std::ios::binary) << content;
    return OpenTorchScript(path, {}).status().code();
  };
  EXPECT_EQ(refusal(whole), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(refusal(whole.substr(0, whole.size() / 2)), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(refusal(""), absl::StatusCode::kInvalidArgument);
  std::string renamed = whole;
  for (size_t at; (at = renamed.find("code/__torch__")) != std::string::npos;) {
    renamed.replace(at, 14, "code/__tarch__");
  }
  EXPECT_EQ(refusal(renamed), absl::StatusCode::kInvalidArgument);
  std::filesystem::remove(path);
  const auto weights = OpenTorchScript(FixtureIn(kFixtures, "many_outputs.pth"), {});
  EXPECT_THAT(std::string(weights.status().message()),
              HasSubstr("expected a TorchScript archive, got one without constants.pkl"));
}

}  // namespace
}  // namespace sconce
