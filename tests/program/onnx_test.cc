// ONNX models, as torch.onnx.export writes them, give what the modules gave that they were made of.
//
// Not bit for bit: the exporters fold batch norm into convolutions and cut operators differently.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <iostream>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "server/program/onnx_import.h"
#include "server/weights/load_state_dict.h"
#include "tests/program/program_fixtures.h"

namespace sconce {
namespace {

using testing::HasSubstr;

const char kFixtures[] = "SCONCE_ONNX_FIXTURES";

// Of the largest output; what was measured with larger networks is in docs/onnx.md.
constexpr double kTolerance = 2e-5;

std::string FileOf(const std::string& name) { return FixtureIn(kFixtures, name); }

TEST(OnnxProgram, AnswersAreThoseOfTheModule) {
  const nlohmann::json cases = ReadJsonFile(FileOf("cases.json"));
  ASSERT_FALSE(cases.empty());
  for (const auto& [name, scale] : cases.items()) {
    SCOPED_TRACE(name);
    const auto architecture = OpenOnnxProgram(FileOf(name + ".onnx"), {});
    if (!architecture.ok()) {
      ADD_FAILURE() << architecture.status();
      continue;
    }
    const auto net = WithWeights(**architecture, FileOf(name + ".onnx"));
    if (net == nullptr) continue;
    const StateDict io = ReadTensors(FileOf(name + ".io.safetensors"));
    const double difference = Difference(*net, io, io) / scale.get<double>();
    EXPECT_LE(difference, kTolerance);
    std::cout << "difference " << name << " " << difference << "\n";
  }
}

TEST(OnnxProgram, TakesAStateDictWhereTheExporterKeptItsNames) {
  const auto architecture = OpenOnnxProgram(FileOf("mlp.onnx"), {});
  ASSERT_TRUE(architecture.ok()) << architecture.status();
  const auto net = WithWeights(**architecture, FileOf("mlp.pth"));
  ASSERT_NE(net, nullptr);
  const StateDict io = ReadTensors(FileOf("mlp.io.safetensors"));
  EXPECT_LE(Difference(*net, io, ReadTensors(FileOf("mlp.new.safetensors"))), 1e-5);
  EXPECT_GT(Difference(*net, io, io), 1e-3);
}

// The newer exporter names numbers in the code so, and has them among the weights.
TEST(OnnxProgram, NumbersInTheCodeAreNoWeightsThatAreUnexpected) {
  const auto architecture = OpenOnnxProgram(FileOf("mlp.onnx"), {});
  ASSERT_TRUE(architecture.ok()) << architecture.status();
  const auto net = (*architecture)->Create({});
  ASSERT_TRUE(net.ok()) << net.status();
  StateDict state = ReadTensors(FileOf("mlp.pth"));
  state.tensors.push_back({.name = "layer.lifted_tensor_0", .tensor = state.tensors[0].tensor});
  EXPECT_FALSE(LoadStateDict(**net, state).ok());  // no file of the exporter's
  state.has_lifted_constants = true;
  EXPECT_TRUE(LoadStateDict(**net, state).ok());
  state.tensors.back().name = "layer.lifted_tensor_a";
  EXPECT_FALSE(LoadStateDict(**net, state).ok());
}

TEST(OnnxProgram, SignatureIsThatOfTheGraph) {
  const auto architecture = OpenOnnxProgram(FileOf("mlp.onnx"), {});
  ASSERT_TRUE(architecture.ok()) << architecture.status();
  const auto net = (*architecture)->Create({});
  ASSERT_TRUE(net.ok()) << net.status();
  const models::Signature& signature = (*net)->signature();
  ASSERT_EQ(signature.inputs.size(), 1u);
  EXPECT_EQ(signature.inputs[0].name, "x");
  EXPECT_EQ(signature.inputs[0].dims, std::vector<int64_t>{20});
  ASSERT_EQ(signature.outputs.size(), 1u);
  EXPECT_EQ(signature.outputs[0].name, "y");
  EXPECT_EQ(signature.outputs[0].dims, std::vector<int64_t>{7});
  EXPECT_TRUE(signature.rows.batched);
}

// An id beyond a table would cost a device.
TEST(OnnxProgram, IdsThatAreLookedUpHaveToBeRowsOfTheTable) {
  for (const char* name : {"lookup.onnx", "lookup_cast.onnx"}) {
    SCOPED_TRACE(name);
    const auto architecture = OpenOnnxProgram(FileOf(name), {});
    ASSERT_TRUE(architecture.ok()) << architecture.status();
    const auto net = (*architecture)->Create({});
    ASSERT_TRUE(net.ok()) << net.status();
    const auto& values = (*net)->signature().inputs[0].rules.values;
    ASSERT_TRUE(values.has_value());
    EXPECT_EQ(values->minimum, 0);
    EXPECT_EQ(values->maximum, 4);
  }
}

TEST(OnnxProgram, ThatIsNotSupportedIsRefusedByName) {
  const nlohmann::json refused = ReadJsonFile(FileOf("refused.json"));
  ASSERT_FALSE(refused.empty());
  for (const auto& [name, expected] : refused.items()) {
    const auto opened = OpenOnnxProgram(FileOf(name), {});
    EXPECT_EQ(absl::StatusCodeToString(opened.status().code()), expected[0]) << name;
    EXPECT_THAT(std::string(opened.status().message()), HasSubstr(expected[1])) << name;
    EXPECT_THAT(std::string(opened.status().message()), HasSubstr(name));
  }
}

TEST(OnnxProgram, InputsAndAttributesThatAreLeftOutAreNoCrash) {
  size_t refused = 0;
  for (const auto& file : std::filesystem::directory_iterator(FileOf("short"))) {
    const auto opened = OpenOnnxProgram(file.path(), {});
    if (opened.ok()) continue;
    ++refused;
    EXPECT_THAT(std::string(opened.status().message()), HasSubstr("node 'n'")) << file.path();
  }
  EXPECT_GT(refused, 100u);
}

// Whatever byte is changed, the importer says what is wrong or gives a network.
TEST(OnnxProgram, DamageIsNoCrash) {
  const std::string path = testing::TempDir() + "/damaged_" + std::to_string(getpid()) + ".onnx";
  std::ifstream source(FileOf("tiny.onnx"), std::ios::binary);
  const std::string whole((std::istreambuf_iterator<char>(source)), {});
  ASSERT_GT(whole.size(), 100u);
  size_t refused = 0;
  for (size_t i = 0; i < whole.size(); ++i) {
    std::string damaged = whole;
    damaged[i] = static_cast<char>(damaged[i] ^ (i % 2 == 0 ? 0x11 : 0x80));
    std::ofstream(path, std::ios::binary) << damaged;
    const auto opened = OpenOnnxProgram(path, {});
    if (opened.ok()) continue;
    ++refused;
    EXPECT_FALSE(opened.status().message().empty());
  }
  EXPECT_GT(refused, whole.size() / 10);
  std::filesystem::remove(path);
}

}  // namespace
}  // namespace sconce
