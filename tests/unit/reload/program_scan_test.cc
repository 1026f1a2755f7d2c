// What a look at a model's folder makes of programs and of a Hugging Face folder's files.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <string>
#include <vector>

#include "server/reload/model_source.h"
#include "server/reload/repository_scan.h"
#include "tests/support/temp_dir.h"

namespace sconce {
namespace {

using testing::HasSubstr;

// A config.pbtxt of these tests is the name of the program, and then of the weights.
absl::StatusOr<ModelConfig> ReadNames(const std::string& path) {
  std::ifstream file(path);
  ModelConfig config;
  file >> config.program_file >> config.weights_file;
  return config;
}

class ProgramScanTest : public testing::Test {
 protected:
  ModelObservation Scan() {
    absl::StatusOr<RepositorySnapshot> snapshot = scanner_.Scan();
    EXPECT_TRUE(snapshot.ok()) << snapshot.status();
    return snapshot->models["m"];
  }
  static std::string MessageOf(const ModelObservation& seen) {
    return std::string(seen.status.message());
  }

  TempDir dir_;
  RepositoryScanner scanner_{dir_.path(), ReadNames};
};

TEST_F(ProgramScanTest, ProgramStandsBesideItsWeights) {
  for (const std::string name : {"program.pt2", "program.pt", "program.onnx", "plugin.so"}) {
    dir_.Write("m/" + name, "p");
    dir_.Write("m/anything.pth", "w");
    const ModelObservation seen = Scan();
    ASSERT_TRUE(seen.status.ok()) << seen.status;
    EXPECT_EQ(seen.source.weights->path, dir_.Path("m/anything.pth"));
    ASSERT_TRUE(seen.source.program.has_value());
    EXPECT_EQ(seen.source.program->path, dir_.Path("m/" + name));
    dir_.Remove("m");
  }
}

TEST_F(ProgramScanTest, ProgramAloneIsItsOwnWeights) {
  for (const std::string name : {"program.pt2", "program.pt", "program.onnx"}) {
    dir_.Write("m/" + name, "p");
    const ModelObservation seen = Scan();
    ASSERT_TRUE(seen.status.ok()) << seen.status;
    ASSERT_TRUE(seen.source.weights.has_value());
    EXPECT_EQ(seen.source.weights, seen.source.program);
    dir_.Remove("m");
  }
}

TEST_F(ProgramScanTest, PluginWaitsForItsWeights) {
  dir_.Write("m/plugin.so", "p");
  EXPECT_TRUE(absl::IsNotFound(Scan().status));
  dir_.Write("m/model.pth", "w");
  EXPECT_TRUE(Scan().status.ok());
}

TEST_F(ProgramScanTest, FilesThatAreOftenProgramsAreWeightsWhereThereAreNoOthers) {
  dir_.Write("m/exported.pt2", "p");
  EXPECT_EQ(Scan().source.weights->path, dir_.Path("m/exported.pt2"));
  EXPECT_FALSE(Scan().source.program.has_value());
  dir_.Write("m/model.safetensors", "w");
  EXPECT_EQ(Scan().source.weights->path, dir_.Path("m/model.safetensors"));
  dir_.Remove("m/model.safetensors");
  dir_.Write("m/model.onnx", "p");
  EXPECT_THAT(MessageOf(Scan()), HasSubstr("expected one weights file, got 2"));
}

TEST_F(ProgramScanTest, ConfigNamesTheProgram) {
  dir_.Write("m/net.pt2", "p");
  dir_.Write("m/program.pt", "w");
  dir_.Write("m/config.pbtxt", "net.pt2");
  ModelObservation seen = Scan();
  ASSERT_TRUE(seen.status.ok()) << seen.status;
  EXPECT_EQ(seen.source.program->path, dir_.Path("m/net.pt2"));
  EXPECT_EQ(seen.source.weights->path, dir_.Path("m/program.pt"));

  dir_.Write("m/config.pbtxt", "missing.pt2");
  seen = Scan();
  EXPECT_TRUE(absl::IsNotFound(seen.status));
  EXPECT_THAT(MessageOf(seen), HasSubstr("names the program 'missing.pt2'"));
}

TEST_F(ProgramScanTest, SeveralProgramsAreNamedWithTheLineThatSettlesIt) {
  dir_.Write("m/program.pt2", "p");
  dir_.Write("m/program.onnx", "p");
  dir_.Write("m/model.pth", "w");
  const ModelObservation seen = Scan();
  EXPECT_TRUE(absl::IsFailedPrecondition(seen.status));
  EXPECT_THAT(MessageOf(seen), HasSubstr("program.onnx, program.pt2"));
  EXPECT_THAT(MessageOf(seen), HasSubstr("program: \"program.onnx\""));
}

TEST_F(ProgramScanTest, NumberedFoldersHaveTheirOwnProgramOrTheModels) {
  dir_.Write("m/program.pt2", "p");
  dir_.Write("m/1/model.pth", "w");
  dir_.Write("m/2/model.pth", "w");
  dir_.Write("m/2/program.pt2", "p");
  dir_.Write("m/3/program.pt2", "p");
  const ModelObservation seen = Scan();
  ASSERT_TRUE(seen.status.ok()) << seen.status;
  ASSERT_EQ(seen.numbered.size(), 3u);
  const auto program = [&](int64_t number) {
    return seen.numbered.at(number).source.program->path;
  };
  const auto weights = [&](int64_t number) {
    return seen.numbered.at(number).source.weights->path;
  };
  EXPECT_EQ(program(1), dir_.Path("m/program.pt2"));
  EXPECT_EQ(weights(1), dir_.Path("m/1/model.pth"));
  EXPECT_EQ(program(2), dir_.Path("m/2/program.pt2"));
  EXPECT_EQ(weights(2), dir_.Path("m/2/model.pth"));
  EXPECT_EQ(program(3), dir_.Path("m/3/program.pt2"));
  EXPECT_EQ(weights(3), dir_.Path("m/3/program.pt2"));
}

TEST_F(ProgramScanTest, ChangeOfAnyFileChangesTheSource) {
  const std::vector<std::string> files = {"m/program.pt2", "m/model.safetensors", "m/config.json",
                                          "m/modules.json", "m/1_Pooling/config.json"};
  for (const std::string& name : files) dir_.Write(name, "before");
  for (const std::string& name : files) {
    const ModelSource before = Scan().source;
    ASSERT_EQ(before.hugging_face.size(), 3u);
    EXPECT_EQ(before.hugging_face.front().path, dir_.Path("m/config.json"));
    EXPECT_TRUE(IsUnchanged(before, dir_.Path("m")));
    dir_.Write(name, "and after it");
    EXPECT_FALSE(IsUnchanged(before, dir_.Path("m"))) << name;
    EXPECT_FALSE(before == Scan().source) << name;
    EXPECT_NE(FingerprintText(before), FingerprintText(Scan().source)) << name;
    dir_.Write(name, "before");
  }
  dir_.Remove("m/config.json");
  EXPECT_TRUE(Scan().source.hugging_face.empty());
}

}  // namespace
}  // namespace sconce
