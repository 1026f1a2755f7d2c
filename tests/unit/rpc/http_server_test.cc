#include "server/http/http_server.h"

#include <gtest/gtest.h>
#include <httplib.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "tests/support/fake_replica.h"

namespace sconce {
namespace {

class HttpServerTest : public testing::Test {
 protected:
  void SetUp() override {
    const auto address = server_.Start();
    ASSERT_TRUE(address.ok()) << address.status();
    address_ = *address;
    client_ = std::make_unique<httplib::Client>("127.0.0.1", address_.port);
  }

  Metrics metrics_;
  Registry registry_;
  std::atomic<int> refreshed_{0};
  HttpServer server_{{.address = {"127.0.0.1", 0}, .threads = 2},
                     {&registry_, &metrics_, [this] { ++refreshed_; }}};
  Address address_;
  std::unique_ptr<httplib::Client> client_;
};

TEST_F(HttpServerTest, LiveAtOnce) {
  const auto answer = client_->Get("/v2/health/live");
  ASSERT_TRUE(answer);
  EXPECT_EQ(answer->status, 200);
}

TEST_F(HttpServerTest, ReadyOnceTheModelsAreOrSaysWhatIsMissing) {
  registry_.Add("m")->SetProgress({false, "file is \"garbage\" \xff"});
  registry_.SetInitialModels({"m"});
  auto answer = client_->Get("/v2/health/ready");
  ASSERT_TRUE(answer);
  EXPECT_EQ(answer->status, 503);
  EXPECT_EQ(answer->body, "{\"error\":\"model 'm': file is \\\"garbage\\\" \xef\xbf\xbd\"}");
  registry_.Publish(registry_.Find("m"), MakeFakeVersion("m", 1, {}));
  answer = client_->Get("/v2/health/ready");
  ASSERT_TRUE(answer);
  EXPECT_EQ(answer->status, 200);
  registry_.BeginShutdown();
  answer = client_->Get("/v2/health/ready");
  ASSERT_TRUE(answer);
  EXPECT_EQ(answer->status, 503);
}

TEST_F(HttpServerTest, MetricsAreRefreshedAndInPrometheusText) {
  metrics_.ForModel("m")->CountRequest(absl::StatusCode::kOk);
  const auto answer = client_->Get("/metrics");
  ASSERT_TRUE(answer);
  EXPECT_EQ(answer->status, 200);
  EXPECT_EQ(answer->get_header_value("Content-Type"), "text/plain; version=0.0.4");
  EXPECT_NE(answer->body.find("sconce_requests_total{code=\"OK\",model=\"m\"} 1"),
            std::string::npos);
  EXPECT_EQ(refreshed_, 1);
}

TEST_F(HttpServerTest, AnythingElseIsAnErrorInJson) {
  auto answer = client_->Get("/v2/nothing");
  ASSERT_TRUE(answer);
  EXPECT_EQ(answer->status, 404);
  EXPECT_EQ(answer->body, R"({"error":"there is no GET /v2/nothing"})");
  EXPECT_EQ(answer->get_header_value("Content-Type"), "application/json");
  answer = client_->Post("/v2/health/live", std::string(100000, 'x'), "text/plain");
  ASSERT_TRUE(answer);
  EXPECT_GE(answer->status, 400);
}

TEST_F(HttpServerTest, IdleConnectionsDoNotKeepProbesOutForLong) {
  sockaddr_in to{};
  to.sin_family = AF_INET;
  to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  to.sin_port = htons(address_.port);
  std::vector<int> idle;
  for (int i = 0; i < 2; ++i) {
    idle.push_back(socket(AF_INET, SOCK_STREAM, 0));
    ASSERT_EQ(connect(idle.back(), reinterpret_cast<sockaddr*>(&to), sizeof to), 0);
  }
  client_->set_read_timeout(std::chrono::seconds(20));
  const auto answer = client_->Get("/v2/health/live");
  EXPECT_TRUE(answer);
  for (const int fd : idle) close(fd);
}

TEST_F(HttpServerTest, ATakenPortIsAnError) {
  HttpServer other({.address = address_}, {&registry_, &metrics_, nullptr});
  const auto started = other.Start();
  ASSERT_FALSE(started.ok());
  EXPECT_EQ(started.status().message(),
            "cannot listen on " + address_.ToString() + ": Address already in use");
}

TEST_F(HttpServerTest, StopsOnceAndForAll) {
  server_.Stop();
  server_.Stop();
  EXPECT_FALSE(client_->Get("/v2/health/live"));
  EXPECT_EQ(server_.Start().status().code(), absl::StatusCode::kFailedPrecondition);
}

}  // namespace
}  // namespace sconce
