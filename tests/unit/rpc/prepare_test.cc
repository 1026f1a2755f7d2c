#include "server/rpc/prepare.h"

#include <gtest/gtest.h>

#include <chrono>
#include <memory>
#include <string>

#include "tests/support/fake_replica.h"
#include "tests/unit/rpc/wire_pieces.h"

namespace sconce {
namespace {

using namespace std::chrono_literals;

// A model with two inputs: image FP32[-1,2] and label INT8[-1,1].
class PrepareTest : public testing::Test {
 protected:
  PrepareTest() {
    version_ = MakeFakeVersion("net", 7, {});
    version_->signature.inputs = {{"image", DType::kFloat32, {2}}, {"label", DType::kInt8, {1}}};
    version_->config.max_batch_size = 4;

    request_.set_model_name("net");
    request_.set_id("id-1");
    // Not in the signature's order.
    AddInput("label", "INT8", {2, 1});
    AddInput("image", "FP32", {2, 2});
    request_.add_raw_input_contents("ab");
    request_.add_raw_input_contents(std::string(16, 'x'));
  }

  void AddInput(const char* name, const char* datatype, std::vector<int64_t> shape) {
    auto* input = request_.add_inputs();
    input->set_name(name);
    input->set_datatype(datatype);
    for (const int64_t dim : shape) input->add_shape(dim);
  }

  absl::StatusOr<PreparedInfer> Prepare() {
    auto wire = std::make_shared<WirePieces>(request_.SerializeAsString());
    auto decoded = DecodeInfer(wire->pieces());
    if (!decoded.ok()) return decoded.status();
    return PrepareInfer(*std::move(decoded), wire, version_, arrival_, deadline_);
  }

  std::string Refused(absl::StatusCode code = absl::StatusCode::kInvalidArgument) {
    const auto prepared = Prepare();
    EXPECT_EQ(prepared.status().code(), code) << prepared.status();
    return std::string(prepared.status().message());
  }

  void MakeTyped() {
    request_.clear_raw_input_contents();
    for (const int v : {1, -2}) request_.mutable_inputs(0)->mutable_contents()->add_int_contents(v);
    for (const float v : {1, 2, 3, 4}) {
      request_.mutable_inputs(1)->mutable_contents()->add_fp32_contents(v);
    }
  }

  inference::InferParameter& Parameter(const char* name) {
    return (*request_.mutable_parameters())[name];
  }

  inference::ModelInferRequest request_;
  std::shared_ptr<ModelVersion> version_;
  TimePoint arrival_{1h};
  TimePoint deadline_ = TimePoint::max();
};

TEST_F(PrepareTest, RawInputsInAnyOrder) {
  const auto prepared = Prepare();
  ASSERT_TRUE(prepared.ok()) << prepared.status();
  const InferRequest& request = prepared->request;
  EXPECT_EQ(request.checked.rows, 2);
  EXPECT_EQ(request.checked.position, (std::vector<size_t>{1, 0}));
  EXPECT_EQ(Joined(request.bytes[0]), "ab");
  EXPECT_EQ(Joined(request.bytes[1]), std::string(16, 'x'));
  EXPECT_NE(request.wire, nullptr);
  EXPECT_EQ(request.checked_against, version_);
  EXPECT_EQ(request.arrival, arrival_);
  EXPECT_EQ(request.deadline, TimePoint::max());
  EXPECT_EQ(prepared->format.id, "id-1");
  EXPECT_TRUE(prepared->format.raw);
}

TEST_F(PrepareTest, TypedInputsBecomeBytes) {
  MakeTyped();
  const auto prepared = Prepare();
  ASSERT_TRUE(prepared.ok()) << prepared.status();
  EXPECT_EQ(Joined(prepared->request.bytes[0]), BytesOf<int8_t>({1, -2}));
  EXPECT_EQ(Joined(prepared->request.bytes[1]), BytesOf<float>({1, 2, 3, 4}));
  EXPECT_FALSE(prepared->format.raw);
}

TEST_F(PrepareTest, TheClientMayChooseTheFormOfTheAnswer) {
  Parameter("binary_data_output").set_bool_param(false);
  EXPECT_FALSE(Prepare()->format.raw);
  MakeTyped();
  Parameter("binary_data_output").set_bool_param(true);
  EXPECT_TRUE(Prepare()->format.raw);
}

TEST_F(PrepareTest, SizesMustBeThoseOfTheShape) {
  request_.set_raw_input_contents(1, std::string(15, 'x'));
  EXPECT_EQ(Refused(), "net/7: input 'image' expects 16 bytes for FP32[2,2], got 15");
}

TEST_F(PrepareTest, AWrongShapeIsNamed) {
  request_.mutable_inputs(1)->set_shape(1, 3);
  EXPECT_EQ(Refused(), "net/7: input 'image' expects FP32[-1,2], got FP32[2,3]");
  request_.mutable_inputs(1)->set_shape(1, -2);
  EXPECT_EQ(Refused(), "net/7: input 'image' expects FP32[-1,2], got FP32[2,-2]");
}

TEST_F(PrepareTest, HugeShapesAreRefusedBeforeAnythingIsMade) {
  version_->signature.inputs[0].dims = {-1, -1};
  for (auto& input : *request_.mutable_inputs()) input.set_shape(0, 1);
  request_.mutable_inputs(1)->add_shape(int64_t{1} << 62);
  request_.mutable_inputs(1)->set_shape(1, int64_t{1} << 62);
  const std::string message = Refused();
  EXPECT_NE(message.find("more bytes than can be counted"), message.npos) << message;
  // One that can be counted, typed: there is not so much on the wire.
  request_.mutable_inputs(1)->set_shape(1, int64_t{1} << 40);
  request_.mutable_inputs(1)->set_shape(2, 1);
  MakeTyped();
  request_.mutable_inputs(0)->mutable_contents()->clear_int_contents();
  request_.mutable_inputs(0)->mutable_contents()->add_int_contents(1);
  EXPECT_NE(Refused().find("got fewer"), std::string::npos);
}

TEST_F(PrepareTest, RawContentsAndContentsExcludeEachOther) {
  request_.mutable_inputs(1)->mutable_contents();
  EXPECT_EQ(Refused(),
            "net/7: input 'image' has contents beside raw_input_contents; expected one or the "
            "other");
}

TEST_F(PrepareTest, RawContentsComeForEachInput) {
  request_.add_raw_input_contents("z");
  EXPECT_EQ(Refused(), "net/7: expected raw_input_contents for each of 2 inputs, got 3");
}

TEST_F(PrepareTest, AnInputWithoutDataIsNamed) {
  MakeTyped();
  request_.mutable_inputs(1)->clear_contents();
  const std::string message = Refused();
  EXPECT_NE(message.find("input 'image' has no data"), message.npos) << message;
}

TEST_F(PrepareTest, UnknownOutputsAreFoundBeforeTheWork) {
  request_.add_outputs()->set_name("z");
  EXPECT_EQ(Refused(), "net/7: has no output 'z', expected 'y'");
}

TEST_F(PrepareTest, TheNearerOfDeadlineAndTimeoutCounts) {
  Parameter("timeout").set_int64_param(5000);
  EXPECT_EQ(Prepare()->request.deadline, arrival_ + 5ms);
  deadline_ = arrival_ + 1ms;
  EXPECT_EQ(Prepare()->request.deadline, arrival_ + 1ms);
  deadline_ = arrival_ + 1s;
  Parameter("timeout").set_uint64_param(~uint64_t{0});
  EXPECT_EQ(Prepare()->request.deadline, arrival_ + 1s);
  deadline_ = TimePoint::max();
  EXPECT_GT(Prepare()->request.deadline, arrival_ + 24h);
}

TEST_F(PrepareTest, TheModelsTimeoutCountsWhereTheClientGivesNone) {
  version_->config.default_timeout = 3ms;
  EXPECT_EQ(Prepare()->request.deadline, arrival_ + 3ms);
  Parameter("timeout").set_int64_param(0);
  EXPECT_EQ(Prepare()->request.deadline, arrival_ + 3ms);
  Parameter("timeout").set_int64_param(5000);
  EXPECT_EQ(Prepare()->request.deadline, arrival_ + 5ms);
  deadline_ = arrival_ + 1s;
  request_.clear_parameters();
  EXPECT_EQ(Prepare()->request.deadline, arrival_ + 1s);
}

TEST_F(PrepareTest, KnownParametersPassAndOthersAreTheClientsOwn) {
  Parameter("priority").set_uint64_param(1);
  Parameter("sequence_id").set_string_param("s");
  Parameter("sequence_start").set_bool_param(true);
  Parameter("sequence_end").set_bool_param(false);
  Parameter("triton_enable_empty_final_response").set_bool_param(true);
  Parameter("traceparent").set_string_param("00-1");
  (*request_.mutable_inputs(0)->mutable_parameters())["binary_data_size"].set_int64_param(2);
  const auto prepared = Prepare();
  ASSERT_TRUE(prepared.ok()) << prepared.status();
  EXPECT_TRUE(prepared->format.mark_final);
}

TEST_F(PrepareTest, ReservedParametersThatAreUnknownAreRefused) {
  Parameter("triton_magic").set_bool_param(true);
  EXPECT_EQ(Refused().find("net/7: unknown reserved parameter 'triton_magic'"), 0u);
}

TEST_F(PrepareTest, ParametersOfTheWrongTypeAreRefused) {
  Parameter("timeout").set_string_param("5");
  EXPECT_EQ(Refused(),
            "net/7: parameter 'timeout' expects a number of microseconds, got something "
            "else");
  Parameter("timeout").set_int64_param(-1);
  Refused();
}

TEST_F(PrepareTest, SharedMemoryAndClassificationAreNotSupported) {
  auto& parameters = *request_.mutable_inputs(0)->mutable_parameters();
  parameters["shared_memory_region"].set_string_param("r");
  EXPECT_NE(Refused(absl::StatusCode::kUnimplemented).find("shared memory"), std::string::npos);
  parameters.clear();
  auto* output = request_.add_outputs();
  output->set_name("y");
  (*output->mutable_parameters())["classification"].set_int64_param(3);
  EXPECT_NE(Refused(absl::StatusCode::kUnimplemented).find("classification"), std::string::npos);
}

}  // namespace
}  // namespace sconce
