#include "server/reload/repository_scan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>

#include "tests/support/temp_dir.h"

namespace sconce {
namespace {

using testing::Contains;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Key;

// A config.pbtxt of these tests is the name of the weights file, "canary", or numbers of versions.
absl::StatusOr<ModelConfig> ReadName(const std::string& path) {
  std::ifstream file(path);
  ModelConfig config;
  file >> config.weights_file;
  if (config.weights_file == "broken")
    return absl::InvalidArgumentError("config.pbtxt:1:1: broken");
  if (config.weights_file == "canary") {
    config.weights_file.clear();
    config.canary.share = 0.1;
  }
  if (config.weights_file == "specific") {
    config.weights_file.clear();
    config.version_policy.kind = VersionPolicy::Kind::kSpecific;
    for (int64_t number; file >> number;) config.version_policy.specific.push_back(number);
  }
  return config;
}

class RepositoryScanTest : public testing::Test {
 protected:
  RepositorySnapshot Scan() {
    absl::StatusOr<RepositorySnapshot> snapshot = scanner_.Scan();
    EXPECT_TRUE(snapshot.ok()) << snapshot.status();
    return *std::move(snapshot);
  }
  ModelObservation ScanModel(const std::string& model = "m") {
    RepositorySnapshot snapshot = Scan();
    EXPECT_THAT(snapshot.models, Contains(Key(model)));
    return snapshot.models[model];
  }
  static std::string MessageOf(const ModelObservation& seen) {
    return std::string(seen.status.message());
  }

  TempDir dir_;
  RepositoryScanner scanner_{dir_.path(), ReadName};
};

TEST_F(RepositoryScanTest, TheOneWeightsFileIsTheCandidate) {
  for (const std::string name :
       {"model.pth", "a.pt", "b.bin", "c.ckpt", "d.safetensors", "E.PTH"}) {
    dir_.Write("m/" + name, "w");
    dir_.Write("m/README.md", "not weights");
    const ModelObservation seen = ScanModel();
    ASSERT_TRUE(seen.status.ok()) << seen.status;
    EXPECT_EQ(seen.source.weights->path, dir_.Path("m/" + name));
    EXPECT_FALSE(seen.source.config.has_value());
    EXPECT_EQ(*seen.config, ModelConfig());
    dir_.Remove("m");
  }
}

TEST_F(RepositoryScanTest, AnIndexStandsForTheFilesBesideIt) {
  dir_.Write("m/model-00001-of-00002.safetensors", "a");
  dir_.Write("m/model-00002-of-00002.safetensors", "b");
  EXPECT_THAT(MessageOf(ScanModel()), HasSubstr("expected one weights file, got 2"));
  dir_.Write("m/config.json", "{}");
  dir_.Write("m/model.safetensors.index.json", "{}");
  const ModelObservation seen = ScanModel();
  ASSERT_TRUE(seen.status.ok()) << seen.status;
  EXPECT_EQ(seen.source.weights->path, dir_.Path("m/model.safetensors.index.json"));
  ASSERT_EQ(seen.source.shards.size(), 2u);
  EXPECT_EQ(seen.source, ScanModel().source);
  EXPECT_TRUE(IsUnchanged(seen.source, dir_.Path("m")));

  dir_.Write("m/model-00002-of-00002.safetensors", "longer");
  EXPECT_FALSE(seen.source == ScanModel().source);
  EXPECT_FALSE(IsUnchanged(seen.source, dir_.Path("m")));
}

// FolderTest.WeightsAreChosenAsTransformersDoes has the same for the checkpoint reader.
TEST_F(RepositoryScanTest, WeightsAreChosenAsTransformersDoes) {
  const std::vector<std::string> order = {"model.safetensors", "model.safetensors.index.json",
                                          "pytorch_model.bin", "pytorch_model.bin.index.json"};
  for (const std::string& name : order) dir_.Write("m/" + name, "w");
  dir_.Write("m/model-00001-of-00001.safetensors", "part");
  for (const std::string& name : order) {
    const ModelObservation seen = ScanModel();
    ASSERT_TRUE(seen.status.ok()) << seen.status;
    EXPECT_EQ(seen.source.weights->path, dir_.Path("m/" + name));
    dir_.Remove("m/" + name);
  }
  dir_.Write("m/model.safetensors", "w");
  EXPECT_THAT(MessageOf(ScanModel()), HasSubstr("expected one weights file, got 2"));
}

TEST_F(RepositoryScanTest, EmptyFolderHasNoWeightsYet) {
  dir_.MakeFolder("m");
  EXPECT_EQ(ScanModel().status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(MessageOf(ScanModel()), HasSubstr("no weights file yet"));
}

TEST_F(RepositoryScanTest, WhatIsBeingWrittenIsNotSeen) {
  dir_.Write("m/.model.pth", "w");
  dir_.Write("m/model.pth.tmp", "w");
  dir_.Write("m/model.pth.part", "w");
  EXPECT_EQ(ScanModel().status.code(), absl::StatusCode::kNotFound);
  dir_.Write("m/model.pth", "w");
  EXPECT_TRUE(ScanModel().status.ok());
}

TEST_F(RepositoryScanTest, SeveralFilesAreNamedWithTheLineThatSettlesIt) {
  dir_.Write("m/a.pth", "w");
  dir_.Write("m/b.safetensors", "w");
  const ModelObservation seen = ScanModel();
  EXPECT_EQ(seen.status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(MessageOf(seen), HasSubstr("a.pth, b.safetensors"));
  EXPECT_THAT(MessageOf(seen), HasSubstr("weights: \"a.pth\""));
}

TEST_F(RepositoryScanTest, ConfigNamesTheFile) {
  dir_.Write("m/a.pth", "w");
  dir_.Write("m/odd-name", "w");
  dir_.Write("m/config.pbtxt", "odd-name");
  const ModelObservation seen = ScanModel();
  ASSERT_TRUE(seen.status.ok()) << seen.status;
  EXPECT_EQ(seen.source.weights->path, dir_.Path("m/odd-name"));
  EXPECT_EQ(seen.source.config->path, dir_.Path("m/config.pbtxt"));
  EXPECT_EQ(seen.config->weights_file, "odd-name");
}

TEST_F(RepositoryScanTest, ConfigThatNamesAMissingFileIsTold) {
  dir_.Write("m/a.pth", "w");
  dir_.Write("m/config.pbtxt", "b.pth");
  const ModelObservation seen = ScanModel();
  EXPECT_EQ(seen.status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(MessageOf(seen), HasSubstr("'b.pth'"));
  EXPECT_THAT(MessageOf(seen), HasSubstr("the folder holds a.pth"));
}

TEST_F(RepositoryScanTest, BrokenConfigIsTheModelsTroubleAndIsReadAgainWhenItChanges) {
  dir_.Write("m/a.pth", "w");
  dir_.Write("other/a.pth", "w");
  dir_.Write("m/config.pbtxt", "broken");
  EXPECT_EQ(MessageOf(ScanModel()), "config.pbtxt:1:1: broken");
  EXPECT_TRUE(ScanModel("other").status.ok());
  dir_.Write("m/config.pbtxt", "a.pth ");
  EXPECT_TRUE(ScanModel().status.ok());
}

TEST_F(RepositoryScanTest, ConfigThatIsLeftAloneIsReadOnce) {
  int reads = 0;
  RepositoryScanner scanner(dir_.path(), [&reads](const std::string& path) {
    ++reads;
    return ReadName(path);
  });
  dir_.Write("m/a.pth", "w");
  dir_.Write("m/config.pbtxt", "a.pth");
  ASSERT_TRUE(scanner.Scan().ok());
  ASSERT_TRUE(scanner.Scan().ok());
  EXPECT_EQ(reads, 2) << "a second write in the same tick must not be missed";
  std::filesystem::last_write_time(
      dir_.Path("m/config.pbtxt"),
      std::filesystem::file_time_type::clock::now() - std::chrono::hours(1));
  ASSERT_TRUE(scanner.Scan().ok());
  ASSERT_TRUE(scanner.Scan().ok());
  ASSERT_TRUE(scanner.Scan().ok());
  EXPECT_EQ(reads, 3);
}

TEST_F(RepositoryScanTest, ConfigThatLeadsNowhereIsNotTakenForNone) {
  dir_.Write("m/a.pth", "w");
  dir_.Link("gone", "m/config.pbtxt");
  EXPECT_THAT(MessageOf(ScanModel()), HasSubstr("leads nowhere"));
}

TEST_F(RepositoryScanTest, FolderWithTheNameOfAWeightsFileIsNone) {
  dir_.MakeFolder("m/model.pth");
  EXPECT_EQ(ScanModel().status.code(), absl::StatusCode::kNotFound);
}

TEST_F(RepositoryScanTest, FifoIsRefusedAndNotWaitedFor) {
  dir_.MakeFolder("m");
  ASSERT_EQ(mkfifo(dir_.Path("m/model.pth").c_str(), 0600), 0);
  EXPECT_EQ(ScanModel().status.code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(RepositoryScanTest, NamesThatAreNoModelsAreIgnoredWithAReason) {
  dir_.Write("resnet50.pth", "w");
  dir_.Write("README.md", "text");
  dir_.Write("with space/model.pth", "w");
  dir_.Write(".git/model.pth", "w");
  dir_.Write("..2024/model.pth", "w");
  dir_.Write("ok-1.2_b/model.pth", "w");
  const RepositorySnapshot snapshot = Scan();
  EXPECT_THAT(snapshot.models, ElementsAre(Key("ok-1.2_b")));
  EXPECT_THAT(snapshot.ignored, ElementsAre(Key("resnet50.pth"), Key("with space")));
}

TEST_F(RepositoryScanTest, ConfigMapIsFollowedThroughItsLinks) {
  dir_.Write("m/..2024_1/model.pth", "old");
  dir_.Link("..2024_1", "m/..data");
  dir_.Link("..data/model.pth", "m/model.pth");
  const ModelObservation before = ScanModel();
  ASSERT_TRUE(before.status.ok()) << before.status;
  EXPECT_EQ(before.source.weights->path, dir_.Path("m/model.pth"));
  EXPECT_EQ(before.source.weights->resolved_path, dir_.Path("m/..2024_1/model.pth"));
  EXPECT_THAT(Scan().folders, Contains(dir_.Path("m/..2024_1")));

  dir_.Write("m/..2024_2/model.pth", "new");
  dir_.Link("..2024_2", "m/..data_tmp");
  dir_.Rename("m/..data_tmp", "m/..data");
  const ModelObservation after = ScanModel();
  EXPECT_EQ(after.source.weights->resolved_path, dir_.Path("m/..2024_2/model.pth"));
  EXPECT_FALSE(after.source == before.source);
  EXPECT_FALSE(IsUnchanged(before.source, dir_.Path("m")));
  EXPECT_TRUE(IsUnchanged(after.source, dir_.Path("m")));
}

TEST_F(RepositoryScanTest, ModelFolderMayBeALink) {
  TempDir elsewhere;
  elsewhere.Write("v1/model.pth", "w");
  dir_.Link(elsewhere.Path("v1"), "m");
  const ModelObservation seen = ScanModel();
  ASSERT_TRUE(seen.status.ok()) << seen.status;
  EXPECT_EQ(seen.source.weights->path, dir_.Path("m/model.pth"));
  EXPECT_EQ(seen.source.weights->resolved_path, elsewhere.Path("v1/model.pth"));
}

TEST_F(RepositoryScanTest, LinkThatLeadsNowhereYetIsAModelWithoutWeights) {
  dir_.Link(dir_.Path("late"), "m");
  EXPECT_EQ(ScanModel().status.code(), absl::StatusCode::kNotFound);
  dir_.Write("late/model.pth", "w");
  EXPECT_TRUE(ScanModel().status.ok());
}

TEST_F(RepositoryScanTest, EveryKindOfChangeChangesTheSource) {
  dir_.Write("m/model.pth", "one");
  ModelSource before = ScanModel().source;
  EXPECT_EQ(ScanModel().source, before);

  dir_.Write("m/new.tmp", "one");
  dir_.Rename("m/new.tmp", "m/model.pth");
  ModelSource after = ScanModel().source;
  EXPECT_FALSE(after == before) << "renamed over";

  before = after;
  dir_.Write("m/model.pth", "longer");
  after = ScanModel().source;
  EXPECT_FALSE(after == before) << "written in place";
  EXPECT_FALSE(IsUnchanged(before, dir_.Path("m")));

  before = after;
  dir_.Write("m/config.pbtxt", "model.pth");
  EXPECT_FALSE(ScanModel().source == before) << "configured";
  EXPECT_FALSE(IsUnchanged(before, dir_.Path("m")));
}

TEST_F(RepositoryScanTest, NumberedFoldersAreVersions) {
  dir_.Write("m/1/model.pth", "one");
  dir_.Write("m/12/model.safetensors", "twelve");
  dir_.Write("m/9007199254740992/a.pt", "last");
  dir_.Write("m/3.tmp/model.pth", "being copied");
  dir_.Write("m/.4/model.pth", "hidden");
  dir_.Write("m/notes/model.pth", "no number");
  const ModelObservation seen = ScanModel();
  ASSERT_TRUE(seen.status.ok()) << seen.status;
  EXPECT_FALSE(seen.source.weights.has_value());
  EXPECT_THAT(seen.numbered, ElementsAre(Key(1), Key(12), Key(int64_t{1} << 53)));
  const ModelObservation::Numbered& version = seen.numbered.at(12);
  ASSERT_TRUE(version.status.ok()) << version.status;
  EXPECT_EQ(version.source.weights->path, dir_.Path("m/12/model.safetensors"));
  EXPECT_TRUE(IsUnchanged(version.source, dir_.Path("m")));
  EXPECT_THAT(Scan().folders, Contains(dir_.Path("m/12")));

  dir_.Write("m/12/model.safetensors", "twelve again");
  EXPECT_FALSE(IsUnchanged(version.source, dir_.Path("m")));
  EXPECT_TRUE(IsUnchanged(seen.numbered.at(1).source, dir_.Path("m")));
  EXPECT_FALSE(ScanModel().numbered.at(12) == version);
  EXPECT_EQ(ScanModel().numbered.at(1), seen.numbered.at(1));
}

TEST_F(RepositoryScanTest, EmptyNumberedFolderIsThatVersionsTrouble) {
  dir_.Write("m/1/model.pth", "w");
  dir_.MakeFolder("m/2");
  dir_.Link(dir_.Path("late"), "m/3");
  dir_.Write("m/4/a.pth", "w");
  dir_.Write("m/4/b.pth", "w");
  const ModelObservation seen = ScanModel();
  ASSERT_TRUE(seen.status.ok()) << seen.status;
  EXPECT_TRUE(seen.numbered.at(1).status.ok());
  EXPECT_EQ(seen.numbered.at(2).status.code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(seen.numbered.at(3).status.code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(seen.numbered.at(4).status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(Scan().folders, Contains(dir_.Path("m/2")));

  dir_.Write("m/2/model.pth", "w");
  dir_.Write("late/model.pth", "w");
  EXPECT_TRUE(ScanModel().numbered.at(2).status.ok());
  EXPECT_TRUE(ScanModel().numbered.at(3).status.ok());
}

TEST_F(RepositoryScanTest, ShardsOfANumberedFolderBelongToIt) {
  dir_.Write("m/1/model-00001-of-00001.safetensors", "a");
  dir_.Write("m/1/model.safetensors.index.json", "{}");
  const ModelObservation seen = ScanModel();
  ASSERT_TRUE(seen.numbered.at(1).status.ok()) << seen.numbered.at(1).status;
  EXPECT_EQ(seen.numbered.at(1).source.shards.size(), 1u);
  dir_.Write("m/1/model-00001-of-00001.safetensors", "longer");
  EXPECT_FALSE(IsUnchanged(seen.numbered.at(1).source, dir_.Path("m")));
}

TEST_F(RepositoryScanTest, ConfigNamesTheFileInEachNumberedFolder) {
  for (const std::string number : {"1", "2"}) {
    dir_.Write("m/" + number + "/a.pth", "w");
    dir_.Write("m/" + number + "/b.pth", "w");
  }
  dir_.Write("m/3/a.pth", "w");
  dir_.Write("m/config.pbtxt", "b.pth");
  const ModelObservation seen = ScanModel();
  ASSERT_TRUE(seen.status.ok()) << seen.status;
  EXPECT_EQ(seen.numbered.at(1).source.weights->path, dir_.Path("m/1/b.pth"));
  EXPECT_EQ(seen.numbered.at(1).source.config, seen.source.config);
  EXPECT_EQ(seen.numbered.at(3).status.code(), absl::StatusCode::kNotFound);
  dir_.Write("m/config.pbtxt", "a.pth ");
  EXPECT_FALSE(IsUnchanged(seen.numbered.at(1).source, dir_.Path("m")));
}

TEST_F(RepositoryScanTest, NumbersThatAreNoneAreTold) {
  for (const std::string name : {"0", "007", "9007199254740993", "99999999999999999999"}) {
    dir_.Write("m/" + name + "/model.pth", "w");
  }
  dir_.Write("m/5", "a file");
  EXPECT_EQ(ScanModel().status.code(), absl::StatusCode::kNotFound);
  dir_.Write("m/1/model.pth", "w");
  const RepositorySnapshot snapshot = Scan();
  EXPECT_THAT(snapshot.models.at("m").numbered, ElementsAre(Key(1)));
  EXPECT_THAT(snapshot.ignored,
              ElementsAre(Key("m/0"), Key("m/007"), Key("m/5"), Key("m/9007199254740993"),
                          Key("m/99999999999999999999")));
  EXPECT_THAT(snapshot.ignored.at("m/007"), HasSubstr("without zeros"));
}

TEST_F(RepositoryScanTest, WeightsBesideNumberedFoldersAreAnError) {
  for (const std::string name : {"model.pth", "model.safetensors.index.json", "odd-name"}) {
    dir_.Write("m/2/model.pth", "w");
    dir_.Write("m/" + name, "w");
    if (name == "odd-name") dir_.Write("m/config.pbtxt", name);
    const ModelObservation seen = ScanModel();
    EXPECT_EQ(seen.status.code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_THAT(MessageOf(seen), HasSubstr("got both: " + name + " beside the folder 2"));
    EXPECT_TRUE(seen.numbered.empty());
    dir_.Remove("m");
  }
}

TEST_F(RepositoryScanTest, CanaryNeedsFilesThatAreReplaced) {
  dir_.Write("m/config.pbtxt", "canary");
  dir_.Write("m/model.pth", "w");
  EXPECT_TRUE(ScanModel().status.ok());
  dir_.MakeFolder("m/1");
  dir_.Rename("m/model.pth", "m/1/model.pth");
  EXPECT_EQ(ScanModel().status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(MessageOf(ScanModel()), HasSubstr("canary: expected none with numbered folders"));
}

TEST_F(RepositoryScanTest, OfVeryManyNumbersTheHighestAndThoseNamedAreSeen) {
  for (int i = 1; i <= 1003; ++i) dir_.MakeFolder("m/" + std::to_string(i));
  dir_.Write("m/config.pbtxt", "specific 2 1002");
  const ModelObservation seen = ScanModel();
  EXPECT_EQ(seen.numbered.size(), 1000u);
  EXPECT_THAT(seen.numbered, Contains(Key(2)));
  EXPECT_THAT(seen.numbered, Contains(Key(1003)));
  EXPECT_THAT(seen.numbered, testing::Not(Contains(Key(3))));
}

TEST_F(RepositoryScanTest, GoldenSamplesBelongToTheSource) {
  dir_.Write("m/model.pth", "w");
  const ModelObservation without = ScanModel();
  dir_.Write("m/golden/b.safetensors", "b");
  dir_.Write("m/golden/a.pth", "a");
  dir_.Write("m/golden/.c.pth", "hidden");
  dir_.Write("m/golden/README.md", "text");
  const ModelObservation seen = ScanModel();
  ASSERT_TRUE(seen.status.ok()) << seen.status;
  ASSERT_EQ(seen.source.golden.size(), 2u);
  EXPECT_EQ(seen.source.golden[0].path, dir_.Path("m/golden/a.pth"));
  EXPECT_FALSE(seen.source == without.source);
  EXPECT_TRUE(IsUnchanged(seen.source, dir_.Path("m")));
  EXPECT_THAT(Scan().folders, Contains(dir_.Path("m/golden")));

  dir_.Write("m/golden/a.pth", "another");
  EXPECT_FALSE(IsUnchanged(seen.source, dir_.Path("m")));
  EXPECT_FALSE(ScanModel().source == seen.source);
}

TEST_F(RepositoryScanTest, GoldenSamplesBelongToEveryNumber) {
  dir_.Write("m/1/model.pth", "w");
  dir_.Write("m/2/model.pth", "w");
  dir_.Write("m/golden/a.pth", "a");
  const ModelObservation seen = ScanModel();
  EXPECT_EQ(seen.numbered.at(1).source.golden.size(), 1u);
  EXPECT_EQ(seen.numbered.at(1).source.golden, seen.numbered.at(2).source.golden);
}

TEST_F(RepositoryScanTest, GoldenSamplesThatCannotBeSeenAreNotLeftOut) {
  dir_.Write("m/model.pth", "w");
  dir_.Link("nowhere", "m/golden");
  EXPECT_FALSE(ScanModel().status.ok());
  EXPECT_THAT(MessageOf(ScanModel()), HasSubstr("golden: cannot be read"));
  dir_.Remove("m/golden");
  dir_.MakeFolder("m/golden");
  dir_.Link("nowhere", "m/golden/a.pth");
  EXPECT_THAT(MessageOf(ScanModel()), HasSubstr("leads nowhere"));
  dir_.Remove("m/golden");
  for (int i = 0; i < 65; ++i) dir_.Write("m/golden/" + std::to_string(i) + ".pth", "w");
  EXPECT_EQ(ScanModel().status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(MessageOf(ScanModel()), HasSubstr("expected at most 64 samples, got 65"));
}

TEST_F(RepositoryScanTest, FingerprintTextTellsSourcesApart) {
  dir_.Write("m/model.pth", "w");
  const ModelSource before = ScanModel().source;
  const std::string text = FingerprintText(before);
  EXPECT_EQ(text.size(), 64u);
  EXPECT_EQ(FingerprintText(ScanModel().source), text);
  dir_.Write("m/golden/a.pth", "w");
  const std::string with_sample = FingerprintText(ScanModel().source);
  EXPECT_NE(with_sample, text);
  dir_.Write("m/model.pth", "longer");
  EXPECT_NE(FingerprintText(ScanModel().source), with_sample);
  // The same file in another part.
  ModelSource moved = before;
  moved.shards = {*moved.weights};
  moved.weights.reset();
  EXPECT_NE(FingerprintText(moved), text);
}

TEST_F(RepositoryScanTest, RepositoryThatCannotBeReadSaysNothingOfItsModels) {
  dir_.Write("m/model.pth", "w");
  RepositoryScanner gone(dir_.Path("gone"), ReadName);
  EXPECT_EQ(gone.Scan().status().code(), absl::StatusCode::kNotFound);
  RepositoryScanner file(dir_.Path("m/model.pth"), ReadName);
  EXPECT_FALSE(file.Scan().ok());
}

TEST_F(RepositoryScanTest, UnreadableModelFolderIsThatModelsTrouble) {
  dir_.Link("m", "m");  // leads round in a circle, for root too
  dir_.Write("other/model.pth", "w");
  EXPECT_EQ(ScanModel().status.code(), absl::StatusCode::kUnavailable);
  EXPECT_TRUE(ScanModel("other").status.ok());
}

}  // namespace
}  // namespace sconce
