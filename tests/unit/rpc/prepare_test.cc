#include "server/rpc/prepare.h"

#include <google/protobuf/stubs/logging.h>
#include <gtest/gtest.h>

#include <chrono>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "tests/support/fake_replica.h"
#include "tests/unit/rpc/fake_regions.h"
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
    return PrepareInfer(*std::move(decoded), wire, version_, regions_, arrival_, deadline_);
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

  // Puts a tensor of the request into a region, as tritonclient does.
  template <typename Tensor>
  static void Place(Tensor* tensor, const std::string& region, int64_t size, int64_t offset = 0) {
    auto& parameters = *tensor->mutable_parameters();
    parameters["shared_memory_region"].set_string_param(region);
    parameters["shared_memory_byte_size"].set_int64_param(size);
    if (offset != 0) parameters["shared_memory_offset"].set_int64_param(offset);
  }

  FakeRegions fake_;
  SharedMemoryRegions regions_{fake_.Opener()};
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

TEST_F(PrepareTest, ClassificationIsNotSupported) {
  auto* output = request_.add_outputs();
  output->set_name("y");
  (*output->mutable_parameters())["classification"].set_int64_param(3);
  EXPECT_NE(Refused(absl::StatusCode::kUnimplemented).find("classification"), std::string::npos);
}

// The version's output y is FP32[-1,2]; requests have 2 rows: 16 bytes of image, 2 of label.
class PlacedTest : public PrepareTest {
 protected:
  PlacedTest() {
    EXPECT_TRUE(regions_.Register("r", FakeRegions::Handle(), 0, 100).ok());
    request_.clear_raw_input_contents();
  }
  auto* label() { return request_.mutable_inputs(0); }
  auto* image() { return request_.mutable_inputs(1); }
  auto* output() {
    if (request_.outputs_size() == 0) request_.add_outputs()->set_name("y");
    return request_.mutable_outputs(0);
  }
  auto& ImageParameter(const char* name) { return (*image()->mutable_parameters())[name]; }
};

TEST_F(PlacedTest, InputsInARegionAreTakenWhereTheyLie) {
  Place(label(), "r", 2, 98);
  Place(image(), "r", 16);
  const auto prepared = Prepare();
  ASSERT_TRUE(prepared.ok()) << prepared.status();
  const auto& bytes = prepared->request.bytes;
  ASSERT_EQ(bytes.size(), 2u);
  ASSERT_TRUE(bytes[0].device && bytes[1].device);
  EXPECT_TRUE(bytes[0].pieces.empty() && bytes[1].pieces.empty());
  EXPECT_EQ(bytes[0].device->device, "fake:0");
  EXPECT_EQ(bytes[0].device->address.get(), fake_.last_address() + 98);
  EXPECT_EQ(bytes[0].device->size_bytes, 2);
  EXPECT_EQ(bytes[1].device->address.get(), fake_.last_address());
  EXPECT_EQ(bytes[1].device->size_bytes, 16);
  EXPECT_TRUE(prepared->format.raw);
  EXPECT_TRUE(prepared->format.places.empty());
}

TEST_F(PlacedTest, RawContentsGoToTheInputsThatAreInNoRegion) {
  Place(label(), "r", 2);
  request_.add_raw_input_contents(std::string(16, 'x'));
  auto prepared = Prepare();
  ASSERT_TRUE(prepared.ok()) << prepared.status();
  EXPECT_TRUE(prepared->request.bytes[0].device.has_value());
  EXPECT_EQ(Joined(prepared->request.bytes[1]), std::string(16, 'x'));
  EXPECT_FALSE(prepared->request.bytes[1].device.has_value());
  EXPECT_NE(prepared->request.wire, nullptr);

  label()->clear_parameters();
  Place(image(), "r", 16);
  request_.set_raw_input_contents(0, "ab");
  prepared = Prepare();
  ASSERT_TRUE(prepared.ok()) << prepared.status();
  EXPECT_EQ(Joined(prepared->request.bytes[0]), "ab");
  EXPECT_TRUE(prepared->request.bytes[1].device.has_value());
  EXPECT_TRUE(prepared->format.raw);

  request_.add_raw_input_contents("cd");
  EXPECT_EQ(Refused(),
            "net/7: expected raw_input_contents for each of 1 inputs that are not in shared "
            "memory, got 2");
  request_.clear_raw_input_contents();
  EXPECT_NE(Refused().find("input 'label' has no data"), std::string::npos);
}

TEST_F(PlacedTest, TypedContentsGoBesideARegionToo) {
  Place(image(), "r", 16);
  for (const int v : {1, -2}) label()->mutable_contents()->add_int_contents(v);
  const auto prepared = Prepare();
  ASSERT_TRUE(prepared.ok()) << prepared.status();
  EXPECT_EQ(Joined(prepared->request.bytes[0]), BytesOf<int8_t>({1, -2}));
  EXPECT_TRUE(prepared->request.bytes[1].device.has_value());
  EXPECT_FALSE(prepared->format.raw);
}

TEST_F(PlacedTest, ContentsBesideTheInputsOwnRegionAreRefused) {
  Place(label(), "r", 2);
  Place(image(), "r", 16);
  image()->mutable_contents();
  EXPECT_EQ(Refused(),
            "net/7: input 'image' has contents beside shared memory region 'r'; expected one or "
            "the other");
}

TEST_F(PlacedTest, TheSizeMustBeThatOfTheInput) {
  Place(label(), "r", 2);
  for (const int64_t size :
       {int64_t{0}, int64_t{15}, int64_t{17}, std::numeric_limits<int64_t>::max()}) {
    Place(image(), "r", size);
    EXPECT_EQ(Refused(), absl::StrCat("net/7: input 'image' expects 16 bytes for FP32[2,2], got ",
                                      size, " in shared memory region 'r'"));
  }
}

TEST_F(PlacedTest, PlacesOutsideOfTheRegionAreRefused) {
  Place(label(), "r", 2);
  for (const int64_t offset : {int64_t{85}, int64_t{100}, std::numeric_limits<int64_t>::max()}) {
    Place(image(), "r", 16, offset);
    EXPECT_EQ(Refused(), absl::StrCat("net/7: input 'image': shared memory region 'r' has 100 "
                                      "bytes, got 16 from offset ",
                                      offset));
  }
}

TEST_F(PlacedTest, RegionsThatAreNotThereAreNamed) {
  Place(label(), "r", 2);
  Place(image(), "no\nne", 16);
  EXPECT_EQ(Refused(absl::StatusCode::kNotFound),
            "net/7: input 'image': there is no shared memory region 'no\\nne'");
  Place(image(), "r", 16);
  Place(output(), "none", 16);
  EXPECT_EQ(Refused(absl::StatusCode::kNotFound),
            "net/7: output 'y': there is no shared memory region 'none'");
}

TEST_F(PlacedTest, ParametersOfTheWrongKindAreRefused) {
  Place(label(), "r", 2);
  Place(image(), "r", 16);
  ASSERT_TRUE(Prepare().ok());
  ImageParameter("shared_memory_byte_size").set_uint64_param(16);
  ASSERT_TRUE(Prepare().ok());
  ImageParameter("shared_memory_byte_size").set_int64_param(-16);
  EXPECT_EQ(Refused(),
            "net/7: input 'image': parameter 'shared_memory_byte_size' expects a number of bytes, "
            "got -16");
  ImageParameter("shared_memory_byte_size").set_uint64_param(uint64_t{1} << 63);
  EXPECT_NE(Refused().find("got 9223372036854775808"), std::string::npos);
  ImageParameter("shared_memory_byte_size").set_string_param("16");
  EXPECT_NE(Refused().find("got something else"), std::string::npos);
  ImageParameter("shared_memory_byte_size").set_int64_param(16);
  ImageParameter("shared_memory_offset").set_int64_param(-1);
  EXPECT_EQ(Refused(),
            "net/7: input 'image': parameter 'shared_memory_offset' expects a number of bytes, got "
            "-1");
  ImageParameter("shared_memory_offset").set_int64_param(0);
  ASSERT_TRUE(Prepare().ok());
  ImageParameter("shared_memory_region").set_int64_param(1);
  EXPECT_NE(Refused().find("'shared_memory_region' expects a name"), std::string::npos);
}

TEST_F(PlacedTest, APlaceWithoutRegionOrSizeIsRefused) {
  Place(label(), "r", 2);
  Place(image(), "r", 16, 4);
  image()->mutable_parameters()->erase("shared_memory_region");
  EXPECT_NE(Refused().find("expected shared_memory_region beside"), std::string::npos);
  image()->clear_parameters();
  ImageParameter("shared_memory_region").set_string_param("r");
  EXPECT_EQ(Refused(),
            "net/7: input 'image': expected shared_memory_byte_size beside shared_memory_region "
            "'r'");
  image()->clear_parameters();
  ImageParameter("shared_memory_key").set_string_param("r");
  EXPECT_NE(Refused().find("unknown reserved parameter 'shared_memory_key'"), std::string::npos);
}

TEST_F(PlacedTest, DatatypesThatAreNotTheInputsAreRefusedAsElsewhere) {
  Place(label(), "r", 2);
  Place(image(), "r", 16);
  image()->set_datatype("BYTES");
  EXPECT_EQ(Refused(), "net/7: input 'image' expects FP32[-1,2], got BYTES[2,2]");
}

TEST_F(PlacedTest, OutputsGoToTheirRegion) {
  Place(label(), "r", 2);
  Place(image(), "r", 16);
  Place(output(), "r", 16, 32);
  const auto prepared = Prepare();
  ASSERT_TRUE(prepared.ok()) << prepared.status();
  const DeviceBytes& target = prepared->request.output_targets.at("y");
  EXPECT_EQ(target.address.get(), fake_.last_address() + 32);
  EXPECT_EQ(target.size_bytes, 16);
  EXPECT_EQ(prepared->format.places.at("y"), (RegionPlace{"r", 32, 16}));
  EXPECT_EQ(prepared->format.outputs, std::vector<std::string>{"y"});
}

TEST_F(PlacedTest, OutputsMayHaveMoreRoomThanTheyNeedAndNotLess) {
  Place(label(), "r", 2);
  Place(image(), "r", 16);
  Place(output(), "r", 100);
  const auto prepared = Prepare();
  ASSERT_TRUE(prepared.ok()) << prepared.status();
  EXPECT_EQ(prepared->request.output_targets.at("y").size_bytes, 16);
  Place(output(), "r", 15);
  EXPECT_EQ(Refused(),
            "net/7: output 'y' of 2 rows takes 16 bytes, got 15 in shared memory region 'r'");
  Place(output(), "r", 101);
  EXPECT_EQ(Refused(),
            "net/7: output 'y': shared memory region 'r' has 100 bytes, got 101 from offset 0");
}

TEST_F(PlacedTest, ARegionInUseByARequestOutlivesItsName) {
  Place(label(), "r", 2);
  Place(image(), "r", 16);
  Place(output(), "r", 16);
  {
    const auto prepared = Prepare();
    ASSERT_TRUE(prepared.ok()) << prepared.status();
    regions_.UnregisterAll();
    EXPECT_EQ(fake_.open, 1);
  }
  EXPECT_EQ(fake_.open, 0);
}

TEST_F(PlacedTest, EveryTruncationAndChangedByteIsPreparedOrRefusedAndNothingElse) {
  const google::protobuf::LogSilencer silencer;
  Place(label(), "r", 2, 98);
  Place(image(), "r", 16, 3);
  Place(output(), "r", 16, 50);
  const std::string message = request_.SerializeAsString();
  int prepared_well = 0, refused = 0;
  const auto run = [&](std::string_view wire) {
    const WirePieces pieces(wire, {wire.size() / 2});
    auto decoded = DecodeInfer(pieces.pieces());
    if (!decoded.ok()) return;
    const auto prepared =
        PrepareInfer(*std::move(decoded), nullptr, version_, regions_, arrival_, TimePoint::max());
    ++(prepared.ok() ? prepared_well : refused);
    if (!prepared.ok()) return;
    for (const InputBytes& bytes : prepared->request.bytes) {
      if (!bytes.device) continue;
      const auto* at = static_cast<std::byte*>(bytes.device->address.get());
      EXPECT_GE(at, fake_.last_address());
      EXPECT_LE(at + bytes.device->size_bytes, fake_.last_address() + 100);
    }
    for (const auto& [name, target] : prepared->request.output_targets) {
      const auto* at = static_cast<std::byte*>(target.address.get());
      EXPECT_GE(at, fake_.last_address());
      EXPECT_LE(at + target.size_bytes, fake_.last_address() + 100);
    }
  };
  for (size_t size = 0; size <= message.size(); ++size) run({message.data(), size});
  for (size_t at = 0; at < message.size(); ++at) {
    for (const int change : {0x01, 0x02, 0x04, 0x10, 0x7f, 0x80, 0xff}) {
      std::string changed = message;
      changed[at] = static_cast<char>(changed[at] ^ change);
      run(changed);
    }
  }
  EXPECT_GT(prepared_well, 10);
  EXPECT_GT(refused, 100);
}

TEST_F(PrepareTest, ValuesThatAnInputMayNotHaveAreRefusedBeforeTheRequestWaits) {
  version_->signature.inputs[1].rules.values = models::Range{'a', 'b'};
  EXPECT_TRUE(Prepare().ok());
  request_.set_raw_input_contents(0, "ac");
  EXPECT_EQ(Refused(), "net/7: input 'label' expects values 97 to 98, got 99 at [1, 0]");
  MakeTyped();
  EXPECT_EQ(Refused(), "net/7: input 'label' expects values 97 to 98, got 1 at [0, 0]");
}

TEST_F(PrepareTest, ValuesInADevicesMemoryCannotBeLookedAt) {
  version_->signature.inputs[1].rules.values = models::Range{0, 127};
  ASSERT_TRUE(regions_.Register("r", fake_.Handle(), 0, 64).ok());
  request_.mutable_raw_input_contents()->DeleteSubrange(0, 1);
  Place(request_.mutable_inputs(0), "r", 2);
  EXPECT_EQ(Refused(),
            "net/7: input 'label' expects values 0 to 127, which cannot be checked in a device's "
            "memory; expected it in the request, got it in shared memory");
}

TEST_F(PrepareTest, AnInputMayBeLeftOut) {
  version_->signature.inputs[1].dims = {2};
  version_->signature.inputs[1].rules.absent = 1;
  request_.mutable_inputs()->DeleteSubrange(0, 1);
  request_.mutable_raw_input_contents()->DeleteSubrange(0, 1);
  const auto prepared = Prepare();
  ASSERT_TRUE(prepared.ok()) << prepared.status();
  EXPECT_EQ(prepared->request.checked.position, (std::vector<size_t>{0, CheckedInputs::kAbsent}));
  EXPECT_EQ(Joined(prepared->request.bytes.at(0)), std::string(16, 'x'));
}

}  // namespace
}  // namespace sconce
