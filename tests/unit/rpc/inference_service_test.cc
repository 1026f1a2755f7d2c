// What is said of a model of which several versions answer, and what a load brings to the control.

#include "server/rpc/inference_service.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/support/fake_replica.h"
#include "tests/unit/rpc/fake_control.h"
#include "tests/unit/rpc/fake_regions.h"

namespace sconce {
namespace {

class InferenceServiceTest : public testing::Test {
 protected:
  // 7 answers, 3 and 5 by their numbers, 9 as a canary.
  void ServeSeveral() {
    Serving serving{.live = MakeFakeVersion("m", 7, {})};
    for (const int64_t number : {3, 5}) serving.others[number] = MakeFakeVersion("m", number, {});
    serving.canary = MakeFakeVersion("m", 9, {});
    serving.canary_share = 0.25;
    registry_.Serve(model_, std::move(serving));
  }

  static VersionRecord Record(int64_t number, VersionState state, std::string error = "") {
    VersionRecord record;
    record.number = number;
    record.state = state;
    record.error = std::move(error);
    return record;
  }

  // "version state reason" of each entry.
  std::vector<std::string> Index(bool only_ready = false) {
    inference::RepositoryIndexRequest request;
    request.set_ready(only_ready);
    inference::RepositoryIndexResponse response;
    EXPECT_TRUE(service_.RepositoryIndex(nullptr, &request, &response).ok());
    std::vector<std::string> entries;
    for (const auto& entry : response.models()) {
      EXPECT_EQ(entry.name(), "m");
      entries.push_back(absl::StrCat(entry.version(), " ", entry.state(), " ", entry.reason()));
    }
    return entries;
  }

  grpc::Status Metadata(const std::string& version, inference::ModelMetadataResponse* response) {
    inference::ModelMetadataRequest request;
    request.set_name("m");
    request.set_version(version);
    return service_.ModelMetadata(nullptr, &request, response);
  }

  bool Ready(const std::string& version) {
    inference::ModelReadyRequest request;
    request.set_name("m");
    request.set_version(version);
    inference::ModelReadyResponse response;
    EXPECT_TRUE(service_.ModelReady(nullptr, &request, &response).ok());
    return response.ready();
  }

  Registry registry_;
  std::shared_ptr<Model> model_ = registry_.Add("m");
  FakeControl control_;
  FakeRegions fake_regions_;
  SharedMemoryRegions regions_{fake_regions_.Opener()};
  OpenCalls calls_;
  InferenceService service_{&registry_, &control_, &regions_, &calls_, "1.2.3", 10};
};

TEST_F(InferenceServiceTest, MetadataNamesEveryVersionThatAnswersAndDescribesTheOneAskedFor) {
  ServeSeveral();
  inference::ModelMetadataResponse metadata;
  ASSERT_TRUE(Metadata("", &metadata).ok());
  EXPECT_EQ(std::vector<std::string>(metadata.versions().begin(), metadata.versions().end()),
            (std::vector<std::string>{"3", "5", "7", "9"}));
  EXPECT_EQ(metadata.properties().at("weights_id"), "id7");
  ASSERT_TRUE(Metadata("5", &metadata).ok());
  EXPECT_EQ(metadata.versions_size(), 4);
  EXPECT_EQ(metadata.properties().at("weights_id"), "id5");
}

TEST_F(InferenceServiceTest, AVersionIsReadyWhereItAnswers) {
  EXPECT_FALSE(Ready(""));
  ServeSeveral();
  for (const char* version : {"", "3", "5", "7", "9"}) EXPECT_TRUE(Ready(version)) << version;
  EXPECT_FALSE(Ready("4"));
}

TEST_F(InferenceServiceTest, AVersionThatDoesNotAnswerIsNotFoundWithWhatIsKnownOfIt) {
  ServeSeveral();
  model_->SetRecords({Record(6, VersionState::kRejected), Record(6, VersionState::kRetained)});
  inference::ModelMetadataResponse metadata;
  grpc::Status status = Metadata("6", &metadata);
  EXPECT_EQ(status.error_code(), grpc::NOT_FOUND);
  EXPECT_EQ(status.error_message(),
            "model 'm' has no version 6 that answers (it is retained), it serves versions 3, 5, 7, "
            "9");
  status = Metadata("4", &metadata);
  EXPECT_EQ(status.error_message(), "model 'm' has no version 4, it serves versions 3, 5, 7, 9");
  registry_.Retire(model_);
  EXPECT_EQ(Metadata("6", &metadata).error_code(), grpc::UNAVAILABLE);
}

TEST_F(InferenceServiceTest, ConfigAndStatisticsAreOfTheVersionAskedFor) {
  auto live = MakeFakeVersion("m", 7, {});
  live->config.version_policy.kind = VersionPolicy::Kind::kSpecific;
  live->config.version_policy.specific = {5, 7};
  auto other = MakeFakeVersion("m", 5, {});
  other->config.max_batch_size = 2;
  other->config.version_policy.kind = VersionPolicy::Kind::kAll;
  Serving serving{.live = std::move(live)};
  serving.others[5] = std::move(other);
  registry_.Serve(model_, std::move(serving));
  inference::ModelConfigRequest request;
  request.set_name("m");
  inference::ModelConfigResponse response;
  ASSERT_TRUE(service_.ModelConfig(nullptr, &request, &response).ok());
  const auto& versions = response.config().version_policy().specific().versions();
  EXPECT_EQ(std::vector<int64_t>(versions.begin(), versions.end()), (std::vector<int64_t>{5, 7}));
  request.set_version("5");
  ASSERT_TRUE(service_.ModelConfig(nullptr, &request, &response).ok());
  EXPECT_EQ(response.config().max_batch_size(), 2);
  EXPECT_TRUE(response.config().version_policy().has_all());

  inference::ModelStatisticsRequest of;
  of.set_name("m");
  of.set_version("5");
  inference::ModelStatisticsResponse statistics;
  ASSERT_TRUE(service_.ModelStatistics(nullptr, &of, &statistics).ok());
  ASSERT_EQ(statistics.model_stats_size(), 1);
  EXPECT_EQ(statistics.model_stats(0).version(), "5");
  of.set_version("6");
  EXPECT_EQ(service_.ModelStatistics(nullptr, &of, &statistics).error_code(), grpc::NOT_FOUND);
}

TEST_F(InferenceServiceTest, TheIndexHasWhatAnswersThenWhatMay) {
  ServeSeveral();
  model_->SetProgress({true, "model.pth is torn"});
  model_->SetRecords({Record(1, VersionState::kRejected, "old"), Record(2, VersionState::kRetired),
                      Record(6, VersionState::kRetained), Record(7, VersionState::kPublished),
                      Record(10, VersionState::kHeld), Record(11, VersionState::kWarmed),
                      Record(12, VersionState::kRejected, "model.pth is torn")});
  EXPECT_EQ(Index(),
            (std::vector<std::string>{
                "7 READY model.pth is torn", "3 READY ", "5 READY ",
                "9 READY canary: answers 0.25 of the batches that ask for no version",
                "10 UNAVAILABLE held: proven, and waits to be promoted",
                "11 LOADING on its way: warmed", "12 UNAVAILABLE rejected: model.pth is torn"}));
  EXPECT_EQ(Index(true).size(), 4u);
}

TEST_F(InferenceServiceTest, AModelOutOfServiceIsInTheIndexWithoutAVersion) {
  model_->SetProgress({true, ""});
  model_->SetRecords({Record(1, VersionState::kRead)});
  EXPECT_EQ(Index(), (std::vector<std::string>{" LOADING ", "1 LOADING on its way: read"}));
  model_->SetRecords({});
  model_->SetProgress({false, "why"});
  EXPECT_EQ(Index(), (std::vector<std::string>{" UNAVAILABLE why"}));
  EXPECT_TRUE(Index(true).empty());
}

TEST_F(InferenceServiceTest, ALoadBringsItsOverridesToTheControl) {
  // As tritonclient sends it.
  inference::RepositoryModelLoadRequest request;
  request.set_model_name("m");
  (*request.mutable_parameters())["config"].set_string_param("{}");
  (*request.mutable_parameters())["file:1/model.safetensors"].set_bytes_param("0123456789");
  inference::RepositoryModelLoadResponse response;
  ASSERT_TRUE(service_.RepositoryModelLoad(nullptr, &request, &response).ok());
  EXPECT_EQ(control_.asked, std::vector<std::string>{"load m"});
  EXPECT_EQ(control_.overrides.config_json, "{}");
  EXPECT_EQ(control_.overrides.files.at("model.safetensors"), "0123456789");

  (*request.mutable_parameters())["config"].set_string_param("{}");  // the call has taken it
  (*request.mutable_parameters())["file:1/model.safetensors"].set_bytes_param("0123456789a");
  EXPECT_EQ(service_.RepositoryModelLoad(nullptr, &request, &response).error_code(),
            grpc::RESOURCE_EXHAUSTED);
  EXPECT_EQ(control_.asked.size(), 1u);
}

}  // namespace
}  // namespace sconce
