#include "server/tools/ctl_text.h"

#include <gtest/gtest.h>

#include <chrono>
#include <nlohmann/json.hpp>
#include <string>

namespace sconce::tools {
namespace {

using admin::v1::AnsweringVersion;
using admin::v1::ModelStatus;
using admin::v1::StatusResponse;

constexpr std::chrono::system_clock::time_point kNow{std::chrono::seconds(1'000'000)};

AnsweringVersion* AddAnswering(int64_t number, AnsweringVersion::Role role, double share,
                               ModelStatus* model) {
  AnsweringVersion* version = model->add_answering();
  version->set_number(number);
  version->set_role(role);
  version->set_weights_id("0123");
  version->set_share(share);
  return version;
}

admin::v1::Version* AddVersion(int64_t number, const std::string& state, int64_t seconds_ago,
                               ModelStatus* model) {
  admin::v1::Version* version = model->add_versions();
  version->set_number(number);
  version->set_state(state);
  version->mutable_since()->set_seconds(1'000'000 - seconds_ago);
  version->set_weights_path("models/m/model.pth");
  return version;
}

// A model with one version of each kind that a table shows differently.
StatusResponse Several() {
  StatusResponse status;
  status.set_control("follow");
  ModelStatus* model = status.add_models();
  model->set_name("m");
  AddAnswering(7, AnsweringVersion::ROLE_LIVE, 1, model);
  auto* retained = AddVersion(6, "retained", 7200, model);
  retained->set_weights_id("aaaa");
  retained->set_weights_bytes(1 << 20);
  auto* published = AddVersion(7, "published", 65, model);
  published->set_weights_id("0123");
  published->set_weights_bytes(1 << 20);
  published->set_shared_bytes(1 << 19);
  auto* prepared = published->add_prepared();
  prepared->set_device("cuda:0");
  prepared->set_absolute(0.25);
  prepared->set_relative(0.0125);
  published->add_prepared()->set_device("cpu");
  published->mutable_prepared(1)->set_not_measured("no memory");
  AddVersion(8, "rejected", 3, model)->set_error("model.pth is \x1b[31mtorn");
  model->set_last_error("model.pth is \x1b[31mtorn");
  return status;
}

TEST(CtlText, ATableHasTheVersionsTheNewestFirstWithTheirErrors) {
  EXPECT_EQ(StatusText(Several(), kNow, Console("test")),
            "m: version 7 answers\n"
            "  version  state      since  weights id  size     shared     file\n"
            "  8        rejected   3s     -           -        -          model.pth\n"
            "           model.pth is \\x1b[31mtorn\n"
            "  7        published  1m     0123        1.0 MiB  512.0 KiB  model.pth\n"
            "           on cuda:0 prepared: outputs differ by at most 0.25, 0.0125 of the largest\n"
            "           on cpu prepared: not compared, no memory\n"
            "  6        retained   2h     aaaa        1.0 MiB  0 B        model.pth\n");
}

TEST(CtlText, AnErrorThatNoVersionHasIsToldOfTheModel) {
  StatusResponse status;
  ModelStatus* model = status.add_models();
  model->set_name("m");
  model->set_last_error("no weights file");
  EXPECT_EQ(StatusText(status, kNow, Console("test")),
            "m: out of service\n  last error: no weights file\n");
}

TEST(CtlText, LinesOfAnErrorStayUnderItsVersion) {
  StatusResponse status;
  ModelStatus* model = status.add_models();
  model->set_name("m");
  AddVersion(1, "rejected", 3, model)->set_error("Error(s):\n\tMissing key");
  EXPECT_NE(StatusText(status, kNow, Console("test"))
                .find("\n           Error(s):\n             Missing key\n"),
            std::string::npos);
}

TEST(CtlText, AServerWithoutModelsSaysWhereTheyComeFrom) {
  StatusResponse status;
  status.set_control("command");
  EXPECT_NE(StatusText(status, kNow, Console("test")).find("sconce ctl load"), std::string::npos);
  status.set_control("follow");
  EXPECT_NE(StatusText(status, kNow, Console("test")).find("repository"), std::string::npos);
}

TEST(CtlText, AVersionFromTheFutureIsNew) {
  StatusResponse status;
  ModelStatus* model = status.add_models();
  AddVersion(1, "read", -3600, model);
  EXPECT_NE(StatusText(status, kNow, Console("test")).find(" 0s "), std::string::npos);
}

TEST(CtlText, StandingNamesWhatAnswersAndWhatTheOperatorDid) {
  ModelStatus model;
  EXPECT_EQ(StandingText(model), "out of service");
  model.set_unloaded(true);
  EXPECT_EQ(StandingText(model), "out of service; unloaded");
  model.set_unloaded(false);
  AddAnswering(7, AnsweringVersion::ROLE_LIVE, 0.9, &model);
  auto* canary = AddAnswering(8, AnsweringVersion::ROLE_CANARY, 0.1, &model);
  canary->mutable_trial()->set_requests(1200);
  canary->mutable_trial()->set_failed(2);
  AddAnswering(3, AnsweringVersion::ROLE_BY_NUMBER, 0, &model);
  AddAnswering(5, AnsweringVersion::ROLE_BY_NUMBER, 0, &model);
  model.set_pinned(true);
  model.set_inline_weights(true);
  AddVersion(9, "held", 1, &model);
  EXPECT_EQ(
      StandingText(model),
      "version 7 answers, version 8 as a canary 10.0% of the batches (1,200 requests, 2 "
      "failed), versions 3, 5 by number; pinned; loaded from what a client sent; version 9 is held "
      "until it is promoted");
}

TEST(CtlText, JsonHasEveryFieldAndNullsForWhatIsNotThere) {
  StatusResponse status = Several();
  auto* live = status.mutable_models(0)->mutable_answering(0);
  live->set_architecture("linear");
  live->mutable_trial()->set_failed(4);
  status.mutable_models(0)->mutable_settings()->set_swap_mode("IN_PLACE");
  const auto json = nlohmann::json::parse(StatusJson(status));
  EXPECT_EQ(json["control"], "follow");
  const auto& model = json["models"][0];
  EXPECT_EQ(model["name"], "m");
  EXPECT_EQ(model["pinned"], false);
  EXPECT_EQ(model["unloaded"], false);
  EXPECT_EQ(model["inline_weights"], false);
  EXPECT_EQ(model["settings"]["swap_mode"], "IN_PLACE");
  EXPECT_EQ(
      model["answering"][0],
      (nlohmann::json{{"number", 7},
                      {"role", "live"},
                      {"weights_id", "0123"},
                      {"architecture", "linear"},
                      {"share", 1.0},
                      {"trial", {{"requests", 0}, {"failed", 4}, {"non_finite_batches", 0}}}}));
  EXPECT_EQ(model["versions"][1]["shared_bytes"], 1 << 19);
  EXPECT_EQ(model["versions"][1]["since"], "1970-01-12T13:45:35.000Z");
  EXPECT_TRUE(model["versions"][1]["error"].is_null());
  EXPECT_EQ(model["versions"][1]["prepared"][0], (nlohmann::json{{"device", "cuda:0"},
                                                                 {"absolute", 0.25},
                                                                 {"relative", 0.0125},
                                                                 {"not_measured", nullptr}}));
  EXPECT_EQ(model["versions"][1]["prepared"][1]["not_measured"], "no memory");
  EXPECT_TRUE(model["versions"][1]["prepared"][1]["absolute"].is_null());
  EXPECT_TRUE(model["versions"][2]["weights_id"].is_null());
  EXPECT_EQ(model["versions"][2]["error"], "model.pth is \x1b[31mtorn");
  status.mutable_models(0)->clear_settings();
  status.mutable_models(0)->mutable_answering(0)->clear_trial();
  const auto without = nlohmann::json::parse(StatusJson(status));
  EXPECT_TRUE(without["models"][0]["settings"].is_null());
  EXPECT_TRUE(without["models"][0]["answering"][0]["trial"].is_null());
}

TEST(CtlText, FailuresSayWhatToDo) {
  const grpc::Status refused(grpc::UNAVAILABLE, "connection refused");
  EXPECT_EQ(FailureText("localhost:1", refused, false),
            "no server answers at localhost:1: connection refused; --server names where it listens "
            "for gRPC");
  EXPECT_EQ(FailureText("localhost:1", refused, true), "connection refused");
  EXPECT_NE(FailureText("h:1", {grpc::DEADLINE_EXCEEDED, ""}, true).find("--timeout"),
            std::string::npos);
  EXPECT_NE(FailureText("h:1", {grpc::UNIMPLEMENTED, "method x"}, true).find("method x"),
            std::string::npos);
  EXPECT_EQ(FailureText("h:1", {grpc::FAILED_PRECONDITION, "m: nothing\nretained"}, true),
            "m: nothing\nretained");
  EXPECT_EQ(FailureText("h:1", {grpc::INVALID_ARGUMENT, "Error(s):\n\tMissing \x1b[1m"}, true),
            "Error(s):\n  Missing \\x1b[1m");
}

}  // namespace
}  // namespace sconce::tools
