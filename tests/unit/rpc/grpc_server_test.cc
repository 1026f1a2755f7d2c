// The server on a free loopback port, with fake replicas behind it and a real client before it.

#include "server/rpc/grpc_server.h"

#include <grpcpp/create_channel.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/security/credentials.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <future>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "proto/admin.grpc.pb.h"
#include "proto/open_inference.grpc.pb.h"
#include "tests/support/fake_replica.h"
#include "tests/unit/rpc/fake_control.h"
#include "tests/unit/rpc/fake_regions.h"

namespace sconce {
namespace {

using namespace std::chrono_literals;
using inference::ModelInferRequest;
using inference::ModelInferResponse;

// A call of any method with bytes as they are.
class RawCall {
 public:
  RawCall(const std::shared_ptr<grpc::Channel>& channel, const std::string& method,
          const std::string& request)
      : stub_(channel), call_(stub_.PrepareCall(&context_, method, &queue_)) {
    const grpc::Slice slice(request);
    call_->StartCall(Tag(1));
    Await();
    call_->WriteLast(grpc::ByteBuffer(&slice, 1), grpc::WriteOptions(), Tag(2));
    Await();
  }
  ~RawCall() {
    if (!finished_) {
      context_.TryCancel();
      Finish();
    }
    queue_.Shutdown();
    void* tag;
    bool ok;
    while (queue_.Next(&tag, &ok)) {
    }
  }

  // The next message, or nothing when the stream has ended.
  std::optional<std::string> Read() {
    grpc::ByteBuffer buffer;
    call_->Read(&buffer, Tag(3));
    if (!Await()) return std::nullopt;
    std::vector<grpc::Slice> slices;
    EXPECT_TRUE(buffer.Dump(&slices).ok());
    std::string message;
    for (const grpc::Slice& slice : slices) {
      message.append(reinterpret_cast<const char*>(slice.begin()), slice.size());
    }
    return message;
  }

  grpc::Status Finish() {
    grpc::Status status;
    call_->Finish(&status, Tag(4));
    Await();
    finished_ = true;
    return status;
  }

 private:
  static void* Tag(intptr_t value) { return reinterpret_cast<void*>(value); }
  bool Await() {
    void* tag;
    bool ok = false;
    EXPECT_TRUE(queue_.Next(&tag, &ok));
    return ok;
  }

  grpc::ClientContext context_;
  grpc::CompletionQueue queue_;
  grpc::GenericStub stub_;
  std::unique_ptr<grpc::GenericClientAsyncReaderWriter> call_;
  bool finished_ = false;
};

// Counts the batches whose outputs somebody holds.
class CountedReplica final : public FakeReplica {
 public:
  explicit CountedReplica(std::atomic<int>* held) : FakeReplica({2, 0}), held_(held) {}

  absl::StatusOr<std::unique_ptr<RunningBatch>> Launch(BatchInput batch) override {
    auto running = FakeReplica::Launch(std::move(batch));
    auto outputs = (*running)->Finish();
    for (HostTensor& output : *outputs) {
      ++*held_;
      output.owner = std::shared_ptr<void>(
          output.bytes.data(), [held = held_, memory = output.owner](void*) { --*held; });
    }
    return std::make_unique<Computed>(*std::move(outputs));
  }

 private:
  struct Computed final : RunningBatch {
    explicit Computed(std::vector<HostTensor> computed) : outputs(std::move(computed)) {}
    absl::StatusOr<std::vector<HostTensor>> Finish() override { return std::move(outputs); }
    std::vector<HostTensor> outputs;
  };

  std::atomic<int>* const held_;
};

class GrpcServerTest : public testing::Test {
 protected:
  GrpcServerTest() {
    registry_.AddObserver(&batchers_);
    registry_.AddObserver(server_.get());
  }
  ~GrpcServerTest() override {
    gate_.Open();
    server_.reset();
  }

  void Start() {
    const auto address = server_->Start();
    ASSERT_TRUE(address.ok()) << address.status();
    ASSERT_NE(address->port, 0);
    address_ = address->ToString();
    channel_ = grpc::CreateChannel(address_, grpc::InsecureChannelCredentials());
    stub_ = inference::GRPCInferenceService::NewStub(channel_);
  }

  // Publishes y = scale * x + bias; each run passes the gate.
  void Publish(const std::string& name, int64_t number, float scale, float bias,
               std::vector<int64_t> dims = {2}) {
    const auto model = registry_.Add(name);
    registry_.Publish(model, MakeFakeVersion(name, number,
                                             {scale, bias,
                                              [this](int64_t) {
                                                ++runs_;
                                                gate_.Pass();
                                                return absl::OkStatus();
                                              }},
                                             std::move(dims)));
  }

  static ModelInferRequest Request(const std::string& model, std::vector<float> values = {1, 2}) {
    ModelInferRequest request;
    request.set_model_name(model);
    auto* input = request.add_inputs();
    input->set_name("x");
    input->set_datatype("FP32");
    input->add_shape(static_cast<int64_t>(values.size() / 2));
    input->add_shape(2);
    request.add_raw_input_contents(values.data(), values.size() * sizeof(float));
    return request;
  }

  static std::vector<float> Values(const ModelInferResponse& response) {
    const std::string& bytes = response.raw_output_contents(0);
    std::vector<float> values(bytes.size() / sizeof(float));
    std::memcpy(values.data(), bytes.data(), bytes.size());
    return values;
  }

  grpc::Status Infer(const ModelInferRequest& request, ModelInferResponse* response,
                     std::chrono::milliseconds timeout = 20s) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + timeout);
    return stub_->ModelInfer(&context, request, response);
  }
  grpc::Status Infer(const ModelInferRequest& request) {
    ModelInferResponse response;
    return Infer(request, &response);
  }

  template <typename Request, typename Response>
  grpc::Status Call(grpc::Status (inference::GRPCInferenceService::Stub::*method)(
                        grpc::ClientContext*, const Request&, Response*),
                    const Request& request, Response* response) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + 20s);
    return (stub_.get()->*method)(&context, request, response);
  }

  // grpc.health.v1: 1 = SERVING, 2 = NOT_SERVING.
  std::string HealthRequest(const std::string& service) {
    return service.empty() ? "" : absl::StrCat("\n", std::string(1, char(service.size())), service);
  }
  int Status(const std::optional<std::string>& message) {
    return message && message->size() == 2 ? (*message)[1] : -1;
  }
  int Check(const std::string& service) {
    RawCall call(channel_, "/grpc.health.v1.Health/Check", HealthRequest(service));
    return Status(call.Read());
  }

  // Until the metrics text has this line.
  bool AwaitMetric(const std::string& line) {
    const auto deadline = std::chrono::steady_clock::now() + 20s;
    while (std::chrono::steady_clock::now() < deadline) {
      if (metrics_.Serialize().find(line + "\n") != std::string::npos) return true;
      std::this_thread::yield();
    }
    ADD_FAILURE() << line << " is not in\n" << metrics_.Serialize();
    return false;
  }

  Metrics metrics_;
  Registry registry_;
  Batchers batchers_{&metrics_, Clock::Real()};
  FakeControl control_;
  Gate gate_;
  std::atomic<int> runs_{0};
  FakeRegions fake_regions_;
  SharedMemoryRegions regions_{fake_regions_.Opener()};
  GrpcServer::Parts parts_{&registry_, &batchers_, &control_, &regions_, &metrics_, Clock::Real()};
  std::unique_ptr<GrpcServer> server_ = std::make_unique<GrpcServer>(
      GrpcServer::Options{.address = {"127.0.0.1", 0}, .max_request_bytes = 1 << 20, .threads = 2},
      parts_, "1.2.3");
  std::string address_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<inference::GRPCInferenceService::Stub> stub_;
};

TEST_F(GrpcServerTest, AnswersWithVersionWeightsAndId) {
  Start();
  Publish("m", 7, 3, 1);
  ModelInferRequest request = Request("m", {1, 2, 3, 4});
  request.set_id("id-1");
  ModelInferResponse response;
  const grpc::Status status = Infer(request, &response);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(Values(response), (std::vector<float>{4, 7, 10, 13}));
  EXPECT_EQ(response.id(), "id-1");
  EXPECT_EQ(response.model_version(), "7");
  EXPECT_EQ(response.parameters().at("weights_id").string_param(), "id7");
  EXPECT_EQ(response.outputs(0).shape(0), 2);
  EXPECT_TRUE(AwaitMetric("sconce_requests_total{code=\"OK\",model=\"m\"} 1"));
  EXPECT_TRUE(AwaitMetric("sconce_requests_in_flight{model=\"m\"} 0"));
}

TEST_F(GrpcServerTest, TypedRequestsGetTypedAnswers) {
  Start();
  Publish("m", 1, 2, 0);
  ModelInferRequest request = Request("m");
  request.clear_raw_input_contents();
  for (const float v : {5, 6}) request.mutable_inputs(0)->mutable_contents()->add_fp32_contents(v);
  ModelInferResponse response;
  ASSERT_TRUE(Infer(request, &response).ok());
  EXPECT_EQ(response.raw_output_contents_size(), 0);
  EXPECT_EQ(response.outputs(0).contents().fp32_contents(1), 12);
}

TEST_F(GrpcServerTest, LargeTensorsGoThroughUnchanged) {
  Start();
  Publish("m", 1, 1, 0, {50000});
  std::vector<float> values(100000);
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i) * 0.5f;
  ModelInferRequest request = Request("m", values);
  request.mutable_inputs(0)->set_shape(0, 2);
  request.mutable_inputs(0)->set_shape(1, 50000);
  ModelInferResponse response;
  const grpc::Status status = Infer(request, &response);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(Values(response), values);
}

TEST_F(GrpcServerTest, TheMemoryOfAnAnswerComesBackOnceItIsWritten) {
  Start();
  std::atomic<int> held{0};
  auto version = MakeFakeVersion("m", 1, {}, {50000});
  version->replicas.clear();
  version->replicas.push_back(std::make_unique<CountedReplica>(&held));
  registry_.Publish(registry_.Add("m"), std::move(version));
  ModelInferRequest request = Request("m", std::vector<float>(50000, 3));
  request.mutable_inputs(0)->set_shape(0, 1);
  request.mutable_inputs(0)->set_shape(1, 50000);
  for (int i = 0; i < 3; ++i) {
    ModelInferResponse response;
    ASSERT_TRUE(Infer(request, &response).ok());
    EXPECT_EQ(Values(response)[49999], 6);
    const auto deadline = std::chrono::steady_clock::now() + 20s;
    while (held > 0 && std::chrono::steady_clock::now() < deadline) std::this_thread::yield();
    EXPECT_EQ(held, 0);
  }
}

TEST_F(GrpcServerTest, RefusalsNameWhatIsWrong) {
  Start();
  Publish("m", 7, 1, 0);
  grpc::Status status = Infer(Request("nobody\n"));
  EXPECT_EQ(status.error_code(), grpc::NOT_FOUND);
  EXPECT_EQ(status.error_message(), "there is no model 'nobody\\n'");
  EXPECT_TRUE(AwaitMetric("sconce_unknown_model_requests_total 1"));

  ModelInferRequest request = Request("m");
  request.set_model_version("6");
  status = Infer(request);
  EXPECT_EQ(status.error_code(), grpc::NOT_FOUND);
  EXPECT_EQ(status.error_message(), "model 'm' has no version 6, it serves version 7");
  request.set_model_version("six");
  EXPECT_EQ(Infer(request).error_code(), grpc::INVALID_ARGUMENT);
  request.set_model_version("7");
  EXPECT_TRUE(Infer(request).ok());

  request = Request("m");
  request.mutable_inputs(0)->set_datatype("FP64");
  status = Infer(request);
  EXPECT_EQ(status.error_code(), grpc::INVALID_ARGUMENT);
  EXPECT_EQ(status.error_message(), "m/7: input 'x' expects FP32[-1,2], got FP64[1,2]");
  EXPECT_TRUE(AwaitMetric("sconce_requests_total{code=\"INVALID_ARGUMENT\",model=\"m\"} 2"));
  EXPECT_EQ(registry_.Find("m")->statistics().Snapshot().fail.count, 3u);
}

TEST_F(GrpcServerTest, AModelWithoutAVersionSaysWhy) {
  Start();
  registry_.Add("m")->SetProgress({false, "m.pth is truncated"});
  const grpc::Status status = Infer(Request("m"));
  EXPECT_EQ(status.error_code(), grpc::UNAVAILABLE);
  EXPECT_EQ(status.error_message(), "model 'm' is not ready: m.pth is truncated");
}

TEST_F(GrpcServerTest, BytesThatAreNoRequestAreRefused) {
  Start();
  RawCall call(channel_, "/inference.GRPCInferenceService/ModelInfer", "\x3a\xff garbage");
  EXPECT_EQ(call.Read(), std::nullopt);
  EXPECT_EQ(call.Finish().error_code(), grpc::INVALID_ARGUMENT);
}

TEST_F(GrpcServerTest, RequestsBeyondTheLimitAreRefused) {
  Start();
  Publish("m", 1, 1, 0);
  EXPECT_EQ(Infer(Request("m", std::vector<float>(1 << 19))).error_code(),
            grpc::RESOURCE_EXHAUSTED);
  EXPECT_TRUE(Infer(Request("m")).ok());
}

TEST_F(GrpcServerTest, CompressedRequestsAreRefusedBeforeTheyGrow) {
  Start();
  Publish("m", 1, 1, 0);
  grpc::ClientContext context;
  context.set_compression_algorithm(GRPC_COMPRESS_GZIP);
  ModelInferResponse response;
  const grpc::Status status =
      stub_->ModelInfer(&context, Request("m", std::vector<float>(10000)), &response);
  EXPECT_EQ(status.error_code(), grpc::UNIMPLEMENTED);
}

TEST_F(GrpcServerTest, MethodsThatAreNotThereSaySo) {
  Start();
  RawCall call(channel_, "/inference.GRPCInferenceService/TraceSetting", "");
  EXPECT_EQ(call.Read(), std::nullopt);
  const grpc::Status status = call.Finish();
  EXPECT_EQ(status.error_code(), grpc::UNIMPLEMENTED);
  EXPECT_EQ(status.error_message(),
            "method /inference.GRPCInferenceService/TraceSetting is not supported by this server");
}

TEST_F(GrpcServerTest, HealthFollowsReadinessAndModels) {
  registry_.Add("early");
  Start();
  EXPECT_EQ(Check(""), 2);
  EXPECT_EQ(Check("early"), 2);
  EXPECT_EQ(Check("nobody"), -1);
  RawCall watch(channel_, "/grpc.health.v1.Health/Watch", HealthRequest("early"));
  EXPECT_EQ(Status(watch.Read()), 2);
  registry_.SetInitialModels({"early"});
  EXPECT_EQ(Check(""), 2);
  Publish("early", 1, 1, 0);
  EXPECT_EQ(Status(watch.Read()), 1);
  EXPECT_EQ(Check(""), 1);
  EXPECT_EQ(Check("early"), 1);
  registry_.Remove("early");
  EXPECT_EQ(Status(watch.Read()), 2);
  EXPECT_EQ(Check(""), 1);
  registry_.BeginShutdown();
  EXPECT_EQ(Check(""), 2);
}

TEST_F(GrpcServerTest, ReflectionListsTheService) {
  Start();
  // ServerReflectionRequest{list_services: "*"}
  RawCall call(channel_, "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
               "\x3a\x01*");
  const auto listed = call.Read();
  ASSERT_TRUE(listed.has_value());
  EXPECT_NE(listed->find("inference.GRPCInferenceService"), listed->npos);
  EXPECT_NE(listed->find("grpc.health.v1.Health"), listed->npos);
  EXPECT_NE(listed->find("sconce.admin.v1.Admin"), listed->npos);
}

TEST_F(GrpcServerTest, ReadinessOfServerAndModels) {
  Start();
  using Stub = inference::GRPCInferenceService::Stub;
  inference::ServerLiveResponse live;
  ASSERT_TRUE(Call(&Stub::ServerLive, {}, &live).ok());
  EXPECT_TRUE(live.live());
  inference::ServerReadyResponse ready;
  ASSERT_TRUE(Call(&Stub::ServerReady, {}, &ready).ok());
  EXPECT_FALSE(ready.ready());
  registry_.SetInitialModels({});
  ASSERT_TRUE(Call(&Stub::ServerReady, {}, &ready).ok());
  EXPECT_TRUE(ready.ready());

  const auto model_ready = [&](const char* name, const char* version) {
    inference::ModelReadyRequest request;
    request.set_name(name);
    request.set_version(version);
    inference::ModelReadyResponse response;
    EXPECT_TRUE(Call(&Stub::ModelReady, request, &response).ok());
    return response.ready();
  };
  registry_.Add("empty");
  Publish("m", 7, 1, 0);
  EXPECT_TRUE(model_ready("m", ""));
  EXPECT_TRUE(model_ready("m", "7"));
  EXPECT_FALSE(model_ready("m", "6"));
  EXPECT_FALSE(model_ready("empty", ""));
  EXPECT_FALSE(model_ready("nobody", ""));
}

TEST_F(GrpcServerTest, DescribesItselfAndItsModels) {
  Start();
  Publish("m", 7, 1, 0);
  registry_.Add("broken")->SetProgress({false, "garbage"});
  using Stub = inference::GRPCInferenceService::Stub;
  inference::ServerMetadataResponse server;
  ASSERT_TRUE(Call(&Stub::ServerMetadata, {}, &server).ok());
  EXPECT_EQ(server.name(), "sconce");
  EXPECT_EQ(server.version(), "1.2.3");

  inference::ModelMetadataRequest metadata_request;
  metadata_request.set_name("m");
  inference::ModelMetadataResponse metadata;
  ASSERT_TRUE(Call(&Stub::ModelMetadata, metadata_request, &metadata).ok());
  EXPECT_EQ(metadata.versions(0), "7");
  metadata_request.set_version("8");
  EXPECT_EQ(Call(&Stub::ModelMetadata, metadata_request, &metadata).error_code(), grpc::NOT_FOUND);

  inference::ModelConfigRequest config_request;
  config_request.set_name("m");
  inference::ModelConfigResponse config;
  ASSERT_TRUE(Call(&Stub::ModelConfig, config_request, &config).ok());
  EXPECT_EQ(config.config().name(), "m");

  ASSERT_TRUE(Infer(Request("m")).ok());
  inference::ModelStatisticsResponse statistics;
  ASSERT_TRUE(Call(&Stub::ModelStatistics, {}, &statistics).ok());
  ASSERT_EQ(statistics.model_stats_size(), 1);
  EXPECT_EQ(statistics.model_stats(0).inference_stats().success().count(), 1u);
  Publish("m", 8, 1, 0);
  inference::ModelStatisticsRequest statistics_request;
  statistics_request.set_name("m");
  ASSERT_TRUE(Call(&Stub::ModelStatistics, statistics_request, &statistics).ok());
  EXPECT_EQ(statistics.model_stats(0).version(), "8");
  EXPECT_EQ(statistics.model_stats(0).inference_count(), 1u);
  statistics_request.set_name("broken");
  EXPECT_EQ(Call(&Stub::ModelStatistics, statistics_request, &statistics).error_code(),
            grpc::UNAVAILABLE);

  inference::RepositoryIndexResponse index;
  ASSERT_TRUE(Call(&Stub::RepositoryIndex, {}, &index).ok());
  ASSERT_EQ(index.models_size(), 2);
  EXPECT_EQ(index.models(0).name(), "broken");
  EXPECT_EQ(index.models(0).state(), "UNAVAILABLE");
  EXPECT_EQ(index.models(0).reason(), "garbage");
  EXPECT_EQ(index.models(1).state(), "READY");
  inference::RepositoryIndexRequest only_ready;
  only_ready.set_ready(true);
  ASSERT_TRUE(Call(&Stub::RepositoryIndex, only_ready, &index).ok());
  EXPECT_EQ(index.models_size(), 1);
}

TEST_F(GrpcServerTest, LoadsAndUnloadsThroughTheControl) {
  Start();
  using Stub = inference::GRPCInferenceService::Stub;
  inference::RepositoryModelLoadRequest load;
  load.set_model_name("m");
  inference::RepositoryModelLoadResponse loaded;
  EXPECT_TRUE(Call(&Stub::RepositoryModelLoad, load, &loaded).ok());
  EXPECT_EQ(control_.asked, std::vector<std::string>{"load m"});
  control_.result = absl::NotFoundError("no folder");
  EXPECT_EQ(Call(&Stub::RepositoryModelLoad, load, &loaded).error_code(), grpc::NOT_FOUND);
  control_.result = absl::OkStatus();

  control_.asked.clear();
  (*load.mutable_parameters())["priority"].set_string_param("1");
  const grpc::Status refused = Call(&Stub::RepositoryModelLoad, load, &loaded);
  EXPECT_EQ(refused.error_code(), grpc::UNIMPLEMENTED);
  EXPECT_NE(refused.error_message().find("'priority'"), std::string::npos);
  load.clear_parameters();
  load.set_repository_name("other");
  EXPECT_EQ(Call(&Stub::RepositoryModelLoad, load, &loaded).error_code(), grpc::UNIMPLEMENTED);
  EXPECT_TRUE(control_.asked.empty());

  // As tritonclient sends it.
  inference::RepositoryModelUnloadRequest unload;
  unload.set_model_name("m");
  (*unload.mutable_parameters())["unload_dependents"].set_bool_param(false);
  inference::RepositoryModelUnloadResponse unloaded;
  EXPECT_TRUE(Call(&Stub::RepositoryModelUnload, unload, &unloaded).ok());
  EXPECT_EQ(control_.asked, std::vector<std::string>{"unload m"});
  (*unload.mutable_parameters())["force"].set_bool_param(true);
  EXPECT_EQ(Call(&Stub::RepositoryModelUnload, unload, &unloaded).error_code(),
            grpc::UNIMPLEMENTED);
  EXPECT_EQ(control_.asked.size(), 1u);
}

TEST_F(GrpcServerTest, TheAdminServiceIsOnTheSamePort) {
  Start();
  control_.models = {StatusOf("m")};
  control_.answers = 3;
  const auto stub = admin::v1::Admin::NewStub(channel_);
  grpc::ClientContext context;
  admin::v1::RollbackRequest request;
  request.set_model("m");
  admin::v1::RollbackResponse response;
  ASSERT_TRUE(stub->Rollback(&context, request, &response).ok());
  EXPECT_EQ(response.version(), 3);
  EXPECT_EQ(response.model().name(), "m");
  grpc::ClientContext status_context;
  admin::v1::StatusResponse status;
  ASSERT_TRUE(stub->Status(&status_context, {}, &status).ok());
  EXPECT_EQ(status.control(), "follow");
}

TEST_F(GrpcServerTest, WeightsInALoadDoNotLetRequestsGrow) {
  GrpcServer other({.address = {"127.0.0.1", 0},
                    .max_request_bytes = 1 << 20,
                    .inline_weights_max_bytes = 8 << 20},
                   parts_, "1.2.3");
  const auto address = other.Start();
  ASSERT_TRUE(address.ok()) << address.status();
  stub_ = inference::GRPCInferenceService::NewStub(
      grpc::CreateChannel(address->ToString(), grpc::InsecureChannelCredentials()));
  Publish("m", 1, 1, 0);
  using Stub = inference::GRPCInferenceService::Stub;
  inference::RepositoryModelLoadRequest load;
  load.set_model_name("m");
  (*load.mutable_parameters())["file:model.pth"].set_bytes_param(std::string(8 << 20, 'x'));
  inference::RepositoryModelLoadResponse loaded;
  const grpc::Status taken = Call(&Stub::RepositoryModelLoad, load, &loaded);
  EXPECT_TRUE(taken.ok()) << taken.error_message();
  EXPECT_EQ(control_.overrides.files.at("model.pth").size(), size_t{8} << 20);
  (*load.mutable_parameters())["file:model.pth"].set_bytes_param(std::string((8 << 20) + 1, 'x'));
  EXPECT_EQ(Call(&Stub::RepositoryModelLoad, load, &loaded).error_code(), grpc::RESOURCE_EXHAUSTED);

  const ModelInferRequest large = Request("m", std::vector<float>(1 << 18));
  const grpc::Status refused = Infer(large);
  EXPECT_EQ(refused.error_code(), grpc::RESOURCE_EXHAUSTED);
  EXPECT_EQ(
      refused.error_message(),
      absl::StrCat("expected a request of at most 1048576 bytes, got ", large.ByteSizeLong()));
  EXPECT_TRUE(Infer(Request("m")).ok());
}

TEST_F(GrpcServerTest, AnswersOfACanaryAndOfAVersionByNumberSayWhoGaveThem) {
  Start();
  Serving serving{.live = MakeFakeVersion("m", 7, {.scale = 7})};
  serving.canary = MakeFakeVersion("m", 8, {.scale = 8});
  serving.canary_share = 0.5;
  serving.others[3] = MakeFakeVersion("m", 3, {.scale = 3});
  registry_.Serve(registry_.Add("m"), std::move(serving));
  std::map<std::string, int> answered;
  const auto check = [&](const ModelInferRequest& request) {
    ModelInferResponse response;
    const grpc::Status status = Infer(request, &response);
    ASSERT_TRUE(status.ok()) << status.error_message();
    ++answered[response.model_version()];
    EXPECT_EQ(response.parameters().at("weights_id").string_param(),
              absl::StrCat("id", response.model_version()));
    const auto scale = static_cast<float>(std::stoi(response.model_version()));
    EXPECT_EQ(Values(response), (std::vector<float>{scale, 2 * scale}));
  };
  for (int i = 0; i < 10; ++i) check(Request("m"));
  EXPECT_EQ(answered, (std::map<std::string, int>{{"7", 5}, {"8", 5}}));
  answered.clear();
  ModelInferRequest wanted = Request("m");
  for (const char* version : {"3", "7", "8"}) {
    wanted.set_model_version(version);
    check(wanted);
  }
  EXPECT_EQ(answered, (std::map<std::string, int>{{"3", 1}, {"7", 1}, {"8", 1}}));
}

TEST_F(GrpcServerTest, RegionsAreRegisteredListedAndUnregistered) {
  Start();
  using Stub = inference::GRPCInferenceService::Stub;
  inference::ServerMetadataResponse server;
  ASSERT_TRUE(Call(&Stub::ServerMetadata, {}, &server).ok());
  EXPECT_EQ(
      std::count(server.extensions().begin(), server.extensions().end(), "cuda_shared_memory"), 1);

  // As stock clients begin.
  inference::SystemSharedMemoryUnregisterResponse system_unregistered;
  EXPECT_TRUE(Call(&Stub::SystemSharedMemoryUnregister, {}, &system_unregistered).ok());
  inference::CudaSharedMemoryUnregisterRequest unregister;
  inference::CudaSharedMemoryUnregisterResponse unregistered;
  EXPECT_TRUE(Call(&Stub::CudaSharedMemoryUnregister, unregister, &unregistered).ok());

  inference::CudaSharedMemoryRegisterRequest request;
  inference::CudaSharedMemoryRegisterResponse registered;
  request.set_name("a");
  request.set_raw_handle(FakeRegions::Handle());
  request.set_byte_size(64);
  EXPECT_TRUE(Call(&Stub::CudaSharedMemoryRegister, request, &registered).ok());
  EXPECT_EQ(Call(&Stub::CudaSharedMemoryRegister, request, &registered).error_code(),
            grpc::ALREADY_EXISTS);
  request.set_name("b");
  EXPECT_TRUE(Call(&Stub::CudaSharedMemoryRegister, request, &registered).ok());
  request.set_name("c");
  request.set_device_id(-1);
  EXPECT_EQ(Call(&Stub::CudaSharedMemoryRegister, request, &registered).error_code(),
            grpc::INVALID_ARGUMENT);

  inference::CudaSharedMemoryStatusRequest status_request;
  inference::CudaSharedMemoryStatusResponse status;
  ASSERT_TRUE(Call(&Stub::CudaSharedMemoryStatus, status_request, &status).ok());
  ASSERT_EQ(status.regions_size(), 2);
  EXPECT_EQ(status.regions().at("a").name(), "a");
  EXPECT_EQ(status.regions().at("a").byte_size(), 64u);
  EXPECT_EQ(status.regions().at("a").device_id(), 0u);
  unregister.set_name("a");
  EXPECT_TRUE(Call(&Stub::CudaSharedMemoryUnregister, unregister, &unregistered).ok());
  status_request.set_name("a");
  EXPECT_EQ(Call(&Stub::CudaSharedMemoryStatus, status_request, &status).error_code(),
            grpc::NOT_FOUND);
  unregister.clear_name();
  EXPECT_TRUE(Call(&Stub::CudaSharedMemoryUnregister, unregister, &unregistered).ok());
  status_request.clear_name();
  ASSERT_TRUE(Call(&Stub::CudaSharedMemoryStatus, status_request, &status).ok());
  EXPECT_EQ(status.regions_size(), 0);
  EXPECT_EQ(fake_regions_.open, 0);
}

TEST_F(GrpcServerTest, ARegionReachesTheReplicaAndStaysOpenUntilTheAnswer) {
  Start();
  std::vector<BatchInput> batches;
  const auto model = registry_.Add("m");
  registry_.Publish(
      model, MakeFakeVersion("m", 1,
                             {.on_run =
                                  [this](int64_t) {
                                    gate_.Pass();
                                    return absl::OkStatus();
                                  },
                              .on_launch =
                                  [&](const BatchInput& batch) {
                                    batches.push_back({{}, batch.from_device, batch.to_device});
                                  }}));
  ASSERT_TRUE(regions_.Register("r", FakeRegions::Handle(), 0, 64).ok());
  ModelInferRequest request = Request("m");
  request.clear_raw_input_contents();
  auto& input = *request.mutable_inputs(0)->mutable_parameters();
  input["shared_memory_region"].set_string_param("r");
  input["shared_memory_byte_size"].set_int64_param(8);
  request.add_outputs()->set_name("y");
  auto& output = *request.mutable_outputs(0)->mutable_parameters();
  output["shared_memory_region"].set_string_param("r");
  output["shared_memory_byte_size"].set_int64_param(8);
  output["shared_memory_offset"].set_int64_param(32);
  gate_.Close();
  ModelInferResponse response;
  auto answer = std::async(std::launch::async, [&] { return Infer(request, &response); });
  gate_.AwaitHeld();
  ASSERT_EQ(batches.size(), 1u);
  ASSERT_EQ(batches[0].from_device.size(), 1u);
  EXPECT_EQ(batches[0].from_device[0].source.address.get(), fake_regions_.last_address());
  EXPECT_EQ(batches[0].from_device[0].source.size_bytes, 8);
  ASSERT_EQ(batches[0].to_device.size(), 1u);
  EXPECT_EQ(batches[0].to_device[0].target.address.get(), fake_regions_.last_address() + 32);
  batches.clear();
  regions_.UnregisterAll();
  EXPECT_EQ(fake_regions_.open, 1);
  gate_.Open();
  const grpc::Status status = answer.get();
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(response.outputs(0).parameters().at("shared_memory_offset").int64_param(), 32);
  EXPECT_EQ(response.raw_output_contents(0), "");
  const auto deadline = std::chrono::steady_clock::now() + 20s;
  while (fake_regions_.open > 0 && std::chrono::steady_clock::now() < deadline) {
    std::this_thread::yield();
  }
  EXPECT_EQ(fake_regions_.open, 0);
}

TEST_F(GrpcServerTest, AnswersStayTrueToTheirVersionWhileVersionsChange) {
  Start();
  Publish("m", 1, 1, 1);
  std::atomic<int> failures{0};
  std::atomic<bool> stop{false};
  std::vector<std::thread> clients;
  for (int c = 0; c < 4; ++c) {
    clients.emplace_back([&] {
      int64_t last = 0;
      while (!stop) {
        ModelInferResponse response;
        if (!Infer(Request("m"), &response).ok()) {
          ++failures;
          continue;
        }
        const auto version = std::stoll(response.model_version());
        const auto expected = static_cast<float>(version);
        if (Values(response) != std::vector<float>{1 + expected, 2 + expected}) ++failures;
        if (version < last) ++failures;
        last = version;
      }
    });
  }
  for (int64_t number = 2; number <= 30; ++number) {
    const int before = runs_;
    while (runs_ < before + 5) std::this_thread::yield();
    Publish("m", number, 1, static_cast<float>(number));
  }
  stop = true;
  for (std::thread& client : clients) client.join();
  EXPECT_EQ(failures, 0);
}

TEST_F(GrpcServerTest, ADeadlineInTheQueueIsKept) {
  Start();
  Publish("m", 1, 1, 0);
  gate_.Close();
  auto first = std::async(std::launch::async, [&] { return Infer(Request("m")); });
  gate_.AwaitHeld();
  ModelInferResponse response;
  EXPECT_EQ(Infer(Request("m"), &response, 50ms).error_code(), grpc::DEADLINE_EXCEEDED);
  EXPECT_TRUE(AwaitMetric("sconce_requests_total{code=\"DEADLINE_EXCEEDED\",model=\"m\"} 1"));
  gate_.Open();
  EXPECT_TRUE(first.get().ok());
  EXPECT_TRUE(AwaitMetric("sconce_requests_in_flight{model=\"m\"} 0"));
}

TEST_F(GrpcServerTest, ARequestWhoseClientLeftIsNotRun) {
  Start();
  Publish("m", 1, 1, 0);
  gate_.Close();
  auto first = std::async(std::launch::async, [&] { return Infer(Request("m")); });
  gate_.AwaitHeld();
  grpc::ClientContext context;
  auto second = std::async(std::launch::async, [&] {
    ModelInferResponse response;
    return stub_->ModelInfer(&context, Request("m"), &response);
  });
  EXPECT_TRUE(AwaitMetric("sconce_queue_depth{model=\"m\"} 1"));
  context.TryCancel();
  EXPECT_EQ(second.get().error_code(), grpc::CANCELLED);
  EXPECT_TRUE(AwaitMetric("sconce_requests_total{code=\"CANCELLED\",model=\"m\"} 1"));
  gate_.Open();
  EXPECT_TRUE(first.get().ok());
  EXPECT_TRUE(AwaitMetric("sconce_queue_depth{model=\"m\"} 0"));
  EXPECT_TRUE(Infer(Request("m")).ok());
  EXPECT_EQ(runs_, 2);
}

TEST_F(GrpcServerTest, ShutdownFinishesWhatIsInFlightAndDoesNotWaitForWatchers) {
  Start();
  Publish("m", 1, 2, 0);
  RawCall watch(channel_, "/grpc.health.v1.Health/Watch", HealthRequest("m"));
  EXPECT_EQ(Status(watch.Read()), 1);
  gate_.Close();
  ModelInferResponse response;
  auto inflight = std::async(std::launch::async, [&] { return Infer(Request("m"), &response); });
  gate_.AwaitHeld();
  const auto begin = std::chrono::steady_clock::now();
  auto shutdown = std::async(std::launch::async, [&] { server_->Shutdown(begin + 60s); });
  EXPECT_EQ(Status(watch.Read()), 2);
  EXPECT_EQ(shutdown.wait_for(0s), std::future_status::timeout);
  gate_.Open();
  const grpc::Status status = inflight.get();
  EXPECT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(Values(response), (std::vector<float>{2, 4}));
  shutdown.get();
  EXPECT_LT(std::chrono::steady_clock::now() - begin, 30s);
  EXPECT_EQ(watch.Read(), std::nullopt);
  EXPECT_TRUE(CheckCanListen(*ParseAddress(address_)).ok());
}

TEST_F(GrpcServerTest, ShutdownCancelsWhatIsLeftAtItsDeadline) {
  Start();
  Publish("m", 1, 1, 0);
  gate_.Close();
  auto held = std::async(std::launch::async, [&] { return Infer(Request("m")); });
  gate_.AwaitHeld();
  auto queued = std::async(std::launch::async, [&] { return Infer(Request("m")); });
  EXPECT_TRUE(AwaitMetric("sconce_queue_depth{model=\"m\"} 1"));
  // Neither has an answer, and the batch still runs when the server is gone.
  server_->Shutdown(std::chrono::steady_clock::now() + 50ms);
  EXPECT_FALSE(held.get().ok());
  EXPECT_FALSE(queued.get().ok());
  server_.reset();
  gate_.Open();
  EXPECT_TRUE(AwaitMetric("sconce_queue_depth{model=\"m\"} 0"));
}

TEST_F(GrpcServerTest, ShutdownIsSafeInEveryOrder) {
  server_->Shutdown(std::chrono::steady_clock::now());
  EXPECT_EQ(server_->Start().status().code(), absl::StatusCode::kFailedPrecondition);
  server_->Shutdown(std::chrono::steady_clock::now());

  GrpcServer other({.address = {"127.0.0.1", 0}}, parts_, "1");
  ASSERT_TRUE(other.Start().ok());
  EXPECT_EQ(other.Start().status().code(), absl::StatusCode::kFailedPrecondition);
  std::thread first([&] { other.Shutdown(std::chrono::steady_clock::now() + 10s); });
  std::thread second([&] { other.Shutdown(std::chrono::steady_clock::now()); });
  first.join();
  second.join();
  other.OnReadyChanged(true);
}

TEST_F(GrpcServerTest, ATakenPortIsAnError) {
  Start();
  const auto taken = ParseAddress(address_);
  GrpcServer other({.address = *taken}, parts_, "1");
  const auto started = other.Start();
  ASSERT_FALSE(started.ok());
  EXPECT_EQ(started.status().message(),
            absl::StrCat("cannot listen on ", address_, ": Address already in use"));
}

}  // namespace
}  // namespace sconce
