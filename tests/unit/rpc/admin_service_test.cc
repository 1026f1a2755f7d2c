#include "server/rpc/admin_service.h"

#include <gtest/gtest.h>

#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "tests/support/fake_replica.h"
#include "tests/unit/rpc/fake_control.h"

namespace sconce {
namespace {

class AdminServiceTest : public testing::Test {
 protected:
  // Asks the service with a request for model "m".
  template <typename Request, typename Response>
  grpc::Status Ask(grpc::Status (AdminService::*method)(grpc::ServerContext*, const Request*,
                                                        Response*),
                   Response* response, int64_t version = 0) {
    Request request;
    request.set_model("m");
    if constexpr (requires { request.set_version(version); }) request.set_version(version);
    return (service_.*method)(nullptr, &request, response);
  }

  FakeControl control_;
  OpenCalls calls_;
  AdminService service_{&control_, &calls_, "command"};
};

TEST_F(AdminServiceTest, StatusTellsAllThereIsToKnow) {
  std::unique_ptr<ModelVersion> live = MakeFakeVersion("m", 7, {});
  live->config.swap = SwapMode::kInPlaceIfNeeded;
  live->config.manual_promotion = true;
  live->config.retained_versions = 3;
  live->config.canary.share = 0.25;
  ModelStatus status = StatusOf("m");
  status.pinned = true;
  status.inline_weights = true;
  status.last_error = "the file is torn \xff";
  status.serving.live = std::move(live);
  status.serving.canary = MakeFakeVersion("m", 8, {});
  status.serving.canary_share = 0.25;
  status.serving.trial = std::make_shared<CanaryTrial>(7, 8);
  status.serving.trial->RecordBatch(8, 5, 5, std::chrono::milliseconds(1), true);
  status.serving.trial->RecordFailures(8, 2);
  status.serving.others[3] = MakeFakeVersion("m", 3, {});
  status.versions.push_back(
      {.number = 6,
       .state = VersionState::kStructureChecked,
       .since = std::chrono::system_clock::time_point(std::chrono::milliseconds(1500)),
       .weights_path = "models/m/model.pth",
       .weights_id = "id6",
       .weights_bytes = 100,
       .shared_bytes = 60,
       .deviations = {{.device = "cpu", .absolute = 0.5, .relative = 0.1}},
       .error = "not finite"});
  control_.models = {status, StatusOf("a\xff")};

  admin::v1::StatusRequest request;
  admin::v1::StatusResponse response;
  ASSERT_TRUE(service_.Status(nullptr, &request, &response).ok());
  EXPECT_EQ(response.control(), "command");
  ASSERT_EQ(response.models_size(), 2);
  EXPECT_EQ(response.models(0).name(), "a\\xff");  // sorted, and valid UTF-8
  EXPECT_EQ(response.models(0).answering_size(), 0);
  EXPECT_FALSE(response.models(0).has_settings());

  const admin::v1::ModelStatus& model = response.models(1);
  EXPECT_EQ(model.name(), "m");
  EXPECT_TRUE(model.pinned());
  EXPECT_FALSE(model.unloaded());
  EXPECT_TRUE(model.inline_weights());
  EXPECT_EQ(model.last_error(), "the file is torn \\xff");
  ASSERT_EQ(model.answering_size(), 3);
  EXPECT_EQ(model.answering(0).number(), 7);
  EXPECT_EQ(model.answering(0).role(), admin::v1::AnsweringVersion::ROLE_LIVE);
  EXPECT_EQ(model.answering(0).weights_id(), "id7");
  EXPECT_EQ(model.answering(0).share(), 0.75);
  EXPECT_EQ(model.answering(1).number(), 8);
  EXPECT_EQ(model.answering(1).role(), admin::v1::AnsweringVersion::ROLE_CANARY);
  EXPECT_EQ(model.answering(1).share(), 0.25);
  EXPECT_EQ(model.answering(1).trial().failed(), 2);
  EXPECT_EQ(model.answering(1).trial().non_finite_batches(), 1);
  EXPECT_EQ(model.answering(2).number(), 3);
  EXPECT_EQ(model.answering(2).role(), admin::v1::AnsweringVersion::ROLE_BY_NUMBER);
  EXPECT_FALSE(model.answering(2).has_trial());
  EXPECT_EQ(model.settings().swap_mode(), "IN_PLACE_IF_NEEDED");
  EXPECT_EQ(model.settings().promotion(), "MANUAL");
  EXPECT_EQ(model.settings().retain_versions(), 3);
  EXPECT_EQ(model.settings().canary_share(), 0.25);

  ASSERT_EQ(model.versions_size(), 1);
  const admin::v1::Version& version = model.versions(0);
  EXPECT_EQ(version.number(), 6);
  EXPECT_EQ(version.state(), "structure_checked");
  EXPECT_EQ(version.since().seconds(), 1);
  EXPECT_EQ(version.since().nanos(), 500'000'000);
  EXPECT_EQ(version.weights_path(), "models/m/model.pth");
  EXPECT_EQ(version.weights_id(), "id6");
  EXPECT_EQ(version.weights_bytes(), 100);
  EXPECT_EQ(version.shared_bytes(), 60);
  ASSERT_EQ(version.prepared_size(), 1);
  EXPECT_EQ(version.prepared(0).device(), "cpu");
  EXPECT_EQ(version.prepared(0).absolute(), 0.5);
  EXPECT_EQ(version.prepared(0).relative(), 0.1);
  EXPECT_EQ(version.prepared(0).not_measured(), "");
  EXPECT_EQ(version.error(), "not finite");
}

TEST_F(AdminServiceTest, StatusOfOneModel) {
  control_.models = {StatusOf("m"), StatusOf("n")};
  admin::v1::StatusResponse response;
  ASSERT_TRUE(Ask(&AdminService::Status, &response).ok());
  ASSERT_EQ(response.models_size(), 1);
  EXPECT_EQ(response.models(0).name(), "m");
  control_.models.clear();
  EXPECT_EQ(Ask(&AdminService::Status, &response).error_code(), grpc::NOT_FOUND);
}

TEST_F(AdminServiceTest, EachMethodAsksTheControlAndTellsTheModel) {
  control_.models = {StatusOf("m")};
  control_.answers = 6;
  admin::v1::RollbackResponse rolled_back;
  EXPECT_TRUE(Ask(&AdminService::Rollback, &rolled_back).ok());
  EXPECT_EQ(rolled_back.version(), 6);
  EXPECT_EQ(rolled_back.model().name(), "m");
  EXPECT_TRUE(Ask(&AdminService::Rollback, &rolled_back, 5).ok());
  admin::v1::PromoteResponse promoted;
  EXPECT_TRUE(Ask(&AdminService::Promote, &promoted, 8).ok());
  EXPECT_EQ(promoted.version(), 6);
  EXPECT_EQ(promoted.model().name(), "m");
  admin::v1::ReloadResponse reloaded;
  EXPECT_TRUE(Ask(&AdminService::Reload, &reloaded).ok());
  EXPECT_EQ(reloaded.model().name(), "m");
  EXPECT_TRUE(control_.overrides.empty());
  admin::v1::PinResponse pinned;
  EXPECT_TRUE(Ask(&AdminService::Pin, &pinned).ok());
  EXPECT_EQ(pinned.model().name(), "m");
  admin::v1::UnpinResponse unpinned;
  EXPECT_TRUE(Ask(&AdminService::Unpin, &unpinned).ok());
  EXPECT_EQ(unpinned.model().name(), "m");
  EXPECT_EQ(control_.asked, (std::vector<std::string>{"rollback m 0", "rollback m 5", "promote m 8",
                                                      "load m", "pin m", "unpin m"}));
}

TEST_F(AdminServiceTest, AModelThatIsGoneAfterwardsIsNoFailure) {
  control_.answers = 6;
  admin::v1::RollbackResponse response;
  EXPECT_TRUE(Ask(&AdminService::Rollback, &response).ok());
  EXPECT_EQ(response.version(), 6);
  EXPECT_FALSE(response.has_model());
}

TEST_F(AdminServiceTest, WhatTheControlRefusesIsAnsweredSo) {
  control_.models = {StatusOf("m")};
  control_.result = absl::FailedPreconditionError("no version of 'm' is retained");
  const auto refused = [](const grpc::Status& status) {
    EXPECT_EQ(status.error_code(), grpc::FAILED_PRECONDITION);
    EXPECT_EQ(status.error_message(), "no version of 'm' is retained");
  };
  admin::v1::RollbackResponse rolled_back;
  refused(Ask(&AdminService::Rollback, &rolled_back));
  admin::v1::PromoteResponse promoted;
  refused(Ask(&AdminService::Promote, &promoted));
  admin::v1::ReloadResponse reloaded;
  refused(Ask(&AdminService::Reload, &reloaded));
  admin::v1::PinResponse pinned;
  refused(Ask(&AdminService::Pin, &pinned));
  admin::v1::UnpinResponse unpinned;
  refused(Ask(&AdminService::Unpin, &unpinned));
}

TEST_F(AdminServiceTest, AsksNothingOfTheControlWithoutAModelOrWithANegativeNumber) {
  admin::v1::RollbackResponse rolled_back;
  EXPECT_EQ(Ask(&AdminService::Rollback, &rolled_back, -1).error_code(), grpc::INVALID_ARGUMENT);
  admin::v1::PromoteResponse promoted;
  EXPECT_EQ(Ask(&AdminService::Promote, &promoted, -1).error_message(),
            "model 'm': expected a version number from 1 on, or 0 to have it chosen, got -1");
  admin::v1::ReloadRequest nameless;
  admin::v1::ReloadResponse reloaded;
  EXPECT_EQ(service_.Reload(nullptr, &nameless, &reloaded).error_code(), grpc::INVALID_ARGUMENT);
  admin::v1::PinRequest pin;
  admin::v1::PinResponse pinned;
  EXPECT_EQ(service_.Pin(nullptr, &pin, &pinned).error_code(), grpc::INVALID_ARGUMENT);
  EXPECT_TRUE(control_.asked.empty());
}

}  // namespace
}  // namespace sconce
