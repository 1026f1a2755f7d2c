// A program is the same one with whatever weights it came, in every format, and another one where
// anything else differs.
#include <gtest/gtest.h>

#include <memory>
#include <set>
#include <string>

#include "server/program/choose_architecture.h"
#include "server/program/open_program.h"
#include "server/weights/state_dict.h"
#include "tests/program/program_fixtures.h"

namespace sconce {
namespace {

const char kFixtures[] = "SCONCE_PROGRAM_FIXTURES";

// What config.pbtxt would say, for the kinds that need it.
models::Signature Declared() {
  return {.inputs = {{"x", c10::ScalarType::Float, {4}}},
          .outputs = {{"y", c10::ScalarType::Float, {4}}}};
}

std::string IdOf(const std::string& name) {
  const std::string path = FixtureIn(kFixtures, name);
  const auto kind = ProbeProgram(path);
  if (!kind.ok()) {
    ADD_FAILURE() << kind.status();
    return "";
  }
  const auto program = OpenProgram(path, *kind, {.declared = Declared()});
  if (!program.ok()) {
    ADD_FAILURE() << program.status();
    return "";
  }
  return (*program)->program_id();
}

class ProgramId : public testing::TestWithParam<std::string> {};

TEST_P(ProgramId, IsTheSameWithOtherWeights) {
  const std::string id = IdOf("first." + GetParam());
  EXPECT_EQ(id.size(), 32u);
  EXPECT_EQ(id, IdOf("first." + GetParam()));
  EXPECT_EQ(id, IdOf("weights." + GetParam()));
}

TEST_P(ProgramId, IsAnotherWhereAnythingElseDiffers) {
  std::set<std::string> ids;
  for (const char* name : {"first.", "constant.", "shape.", "code."}) {
    ids.insert(IdOf(name + GetParam()));
  }
  EXPECT_EQ(ids.size(), 4u);
}

INSTANTIATE_TEST_SUITE_P(Formats, ProgramId,
                         testing::Values("pt2", "onnx", "scripted.pt", "traced.pt"),
                         [](const auto& info) {
                           return info.param.substr(0, info.param.find('.'));
                         });

// The names and shapes of the file's weights.
StateLayout LayoutOf(const std::string& path) {
  const auto checkpoint = OpenCheckpoint(path);
  if (!checkpoint.ok()) {
    ADD_FAILURE() << checkpoint.status();
    return {};
  }
  auto layout = DescribeState(**checkpoint);
  if (!layout.ok()) {
    ADD_FAILURE() << layout.status();
    return {};
  }
  return *std::move(layout);
}

// An architecture of a catalog that knows everything, or nothing.
class Catalogued final : public models::Architecture {
 public:
  explicit Catalogued(bool knows) : knows_(knows) {}

  absl::string_view name() const override { return "catalogued"; }
  absl::string_view family() const override { return "catalogued"; }
  const std::vector<models::ParameterSpec>& parameters() const override { return parameters_; }
  absl::StatusOr<models::Inference> Infer(absl::Span<const models::NamedShape>,
                                          const models::Parameters&) const override {
    if (!knows_) return absl::NotFoundError("no such network");
    return models::Inference{};
  }
  // No tensor of the state_dict, and the reader of weights cannot know that.
  std::string NameOf(const std::string& saved) const override {
    return saved == "offsets" ? "" : saved;
  }
  absl::StatusOr<std::unique_ptr<models::Net>> Create(const models::Parameters&) const override {
    const auto program = OpenProgram(FixtureIn(kFixtures, "first.scripted.pt"),
                                     ProgramKind::kTorchScript, {.declared = Declared()});
    return (*program)->Create({});
  }

 private:
  const bool knows_;
  const std::vector<models::ParameterSpec> parameters_;
};

// What the archive is given to, where the catalog knows its weights or not.
absl::StatusOr<models::Detection> Chosen(ArchitectureSources sources, bool known) {
  static const Catalogued knowing(true), ignorant(false);
  const models::Architecture* const catalog[] = {known ? &knowing : &ignorant};
  return ChooseArchitecture(LayoutOf(sources.weights_path).tensors, sources, catalog);
}

TEST(LoneTorchScript, IsTakenForWeightsWhereItsInputsAreNotDeclared) {
  ArchitectureSources sources{.weights_path = FixtureIn(kFixtures, "first.scripted.pt")};
  const auto chosen = Chosen(sources, /*known=*/true);
  ASSERT_TRUE(chosen.ok()) << chosen.status();
  EXPECT_EQ(chosen->architecture->name(), "catalogued");
  EXPECT_NE(chosen->why.find("taken for weights: TorchScript does not say its inputs"),
            std::string::npos)
      << chosen->why;
}

TEST(LoneTorchScript, IsRunWhereItsInputsAreDeclared) {
  ArchitectureSources sources{.weights_path = FixtureIn(kFixtures, "first.scripted.pt")};
  sources.program.declared = Declared();
  const auto chosen = Chosen(sources, /*known=*/true);
  ASSERT_TRUE(chosen.ok()) << chosen.status();
  EXPECT_EQ(chosen->architecture->name(), "torchscript");
}

TEST(LoneTorchScript, OfAnUnknownNetworkWantsItsInputsDeclared) {
  ArchitectureSources sources{.weights_path = FixtureIn(kFixtures, "first.scripted.pt")};
  const auto chosen = Chosen(sources, /*known=*/false);
  EXPECT_EQ(chosen.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_NE(chosen.status().message().find("write the inputs and outputs into config.pbtxt"),
            absl::string_view::npos)
      << chosen.status();
}

// Who calls the file a program means it to be run.
TEST(LoneTorchScript, CalledAProgramIsNotTakenForWeights) {
  ArchitectureSources sources{.weights_path = FixtureIn(kFixtures, "first.scripted.pt")};
  sources.program_path = sources.weights_path;
  const auto chosen = Chosen(sources, /*known=*/true);
  EXPECT_EQ(chosen.status().code(), absl::StatusCode::kFailedPrecondition);
}

}  // namespace
}  // namespace sconce
