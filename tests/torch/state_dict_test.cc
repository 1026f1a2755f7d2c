// Reading weights: names, memory and the id of the content.
#include "server/weights/state_dict.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <map>
#include <string>
#include <utility>

#include "tests/torch/fixtures.h"

namespace sconce {
namespace {

TEST(StateDict, WeightsIdIsOfTheContentAlone) {
  const std::string id = ReadFixture("resnet18.pth").weights_id;
  EXPECT_EQ(id.size(), 32u);
  EXPECT_EQ(id, ReadFixture("resnet18.safetensors").weights_id);  // in another order
  EXPECT_EQ(id, ReadFixture("resnet18_wrapped.pth").weights_id);
  EXPECT_NE(id, ReadFixture("savedModel_weights.pth").weights_id);
  EXPECT_EQ(ReadFixture("general_checkpoint.pth").weights_id,
            ReadFixture("general_checkpoint.safetensors").weights_id);
  EXPECT_NE(ReadFixture("general_checkpoint.pth").weights_id, ReadFixture("linear.pth").weights_id);
}

TEST(StateDict, SharedPrefixesAreStrippedFromNamesAndVersions) {
  const std::unique_ptr<Checkpoint> checkpoint = OpenFixture("resnet18_wrapped.pth");
  ASSERT_NE(checkpoint, nullptr);
  const auto layout = DescribeState(*checkpoint);
  ASSERT_TRUE(layout.ok()) << layout.status();
  EXPECT_EQ(layout->stripped_prefix, "module._orig_mod.");
  EXPECT_EQ(layout->tensors[0].name, "conv1.weight");
  const auto state = ReadStateDict(*checkpoint);
  ASSERT_TRUE(state.ok()) << state.status();
  EXPECT_EQ(state->tensors[0].name, "conv1.weight");
  EXPECT_EQ(state->module_versions.at("bn1"), 2);
  EXPECT_EQ(state->module_versions.at(""), 1);
}

TEST(StateDict, TensorsAreAlignedViewsOfOneAllocation) {
  const std::unique_ptr<Checkpoint> checkpoint = OpenFixture("resnet18.pth");
  ASSERT_NE(checkpoint, nullptr);
  const auto layout = DescribeState(*checkpoint);
  const auto state = ReadStateDict(*checkpoint);
  ASSERT_TRUE(layout.ok() && state.ok());
  uintptr_t lowest = UINTPTR_MAX, highest = 0;
  for (const StateEntry& entry : state->tensors) {
    const auto begin = reinterpret_cast<uintptr_t>(entry.tensor.const_data_ptr());
    EXPECT_EQ(begin % 64, 0u) << entry.name;
    EXPECT_TRUE(entry.tensor.is_contiguous()) << entry.name;
    lowest = std::min(lowest, begin);
    highest = std::max(highest, begin + entry.tensor.nbytes());
  }
  EXPECT_LE(highest - lowest, static_cast<uintptr_t>(layout->size_bytes));
  EXPECT_NEAR(static_cast<double>(layout->size_bytes), 46.8e6, 0.1e6);
}

// A checkpoint with what a test puts into it; every tensor's bytes count up from 0.
class FakeCheckpoint final : public Checkpoint {
 public:
  explicit FakeCheckpoint(CheckpointListing listing) : Checkpoint(std::move(listing)) {}

  const char* format() const override { return "fake"; }
  absl::Status ReadRange(const TensorDescriptor& tensor, int64_t offset_bytes,
                         absl::Span<std::byte> destination) const override {
    ++reads[tensor.name];
    for (size_t i = 0; i < destination.size(); ++i) {
      destination[i] = static_cast<std::byte>(i + static_cast<size_t>(offset_bytes));
    }
    return absl::OkStatus();
  }
  absl::Status ReadTensors(absl::Span<const TensorRequest> requests,
                           const ReadOptions& options) const override {
    for (size_t i = 0; i < requests.size(); ++i) {
      absl::Status read = ReadInto(*requests[i].tensor, requests[i].destination);
      if (!read.ok()) return read;
      options.on_piece(i, requests[i].destination);
    }
    return absl::OkStatus();
  }
  std::optional<FilePlace> PlaceOf(const TensorDescriptor&) const override { return std::nullopt; }
  absl::Status CheckUnchanged() const override { return unchanged; }
  absl::Status UseManifests() override { return absl::OkStatus(); }

  mutable std::map<std::string, int> reads;
  absl::Status unchanged;
};

TensorDescriptor Descriptor(const std::string& name, DType dtype, std::vector<int64_t> shape,
                            int32_t storage) {
  TensorDescriptor tensor;
  tensor.name = name;
  tensor.dtype = dtype;
  tensor.shape = std::move(shape);
  tensor.strides.assign(tensor.shape.size(), 1);
  tensor.storage = storage;
  return tensor;
}

TEST(StateDict, TiedWeightsAreReadOnceAndShareMemory) {
  CheckpointListing listing;
  listing.tensors = {Descriptor("a", DType::kInt32, {4}, 0), Descriptor("b", DType::kInt32, {4}, 0),
                     Descriptor("c", DType::kInt32, {4}, 1)};
  const FakeCheckpoint checkpoint(listing);
  const auto state = ReadStateDict(checkpoint);
  ASSERT_TRUE(state.ok()) << state.status();
  EXPECT_EQ(checkpoint.reads, (std::map<std::string, int>{{"a", 1}, {"c", 1}}));
  EXPECT_EQ(TensorNamed(*state, "a").const_data_ptr(), TensorNamed(*state, "b").const_data_ptr());
  EXPECT_NE(TensorNamed(*state, "a").const_data_ptr(), TensorNamed(*state, "c").const_data_ptr());
  EXPECT_EQ(DescribeState(checkpoint)->size_bytes, 128);

  // Tied or not, the content is the same.
  listing.tensors[1].storage = 2;
  EXPECT_EQ(ReadStateDict(FakeCheckpoint(listing))->weights_id, state->weights_id);
}

TEST(StateDict, WeightsIdTellsNameDtypeAndShapeApart) {
  const auto id = [](TensorDescriptor tensor) {
    CheckpointListing listing;
    listing.tensors = {std::move(tensor)};
    return ReadStateDict(FakeCheckpoint(listing))->weights_id;
  };
  const std::string one = id(Descriptor("a", DType::kInt32, {4, 1}, 0));
  EXPECT_EQ(one, id(Descriptor("a", DType::kInt32, {4, 1}, 0)));
  EXPECT_NE(one, id(Descriptor("b", DType::kInt32, {4, 1}, 0)));
  EXPECT_NE(one, id(Descriptor("a", DType::kFloat32, {4, 1}, 0)));
  EXPECT_NE(one, id(Descriptor("a", DType::kInt32, {1, 4}, 0)));
}

TEST(StateDict, EveryDTypeBecomesATensor) {
  CheckpointListing listing;
  for (int i = 0; i < kDTypeCount; ++i) {
    const auto dtype = static_cast<DType>(i);
    if (dtype == DType::kBytes) continue;
    listing.tensors.push_back(Descriptor(std::string(DTypeName(dtype)), dtype, {4}, i));
  }
  const auto state = ReadStateDict(FakeCheckpoint(listing));
  ASSERT_TRUE(state.ok()) << state.status();
  ASSERT_EQ(state->tensors.size(), listing.tensors.size());
  for (size_t i = 0; i < listing.tensors.size(); ++i) {
    const StateEntry& entry = state->tensors[i];
    EXPECT_EQ(entry.tensor.sizes(), at::IntArrayRef({4})) << entry.name;
    EXPECT_EQ(entry.quantized, IsQuantized(listing.tensors[i].dtype)) << entry.name;
    if (entry.quantized) continue;
    EXPECT_EQ(static_cast<int64_t>(entry.tensor.nbytes()), listing.tensors[i].size_bytes());
    EXPECT_EQ(*(static_cast<const char*>(entry.tensor.const_data_ptr()) + 3), 3) << entry.name;
  }
}

TEST(StateDict, ScalarsAndEmptyTensorsAreKept) {
  CheckpointListing listing;
  listing.tensors = {Descriptor("scalar", DType::kInt64, {}, 0),
                     Descriptor("empty", DType::kFloat32, {3, 0}, 1)};
  const auto state = ReadStateDict(FakeCheckpoint(listing));
  ASSERT_TRUE(state.ok()) << state.status();
  EXPECT_EQ(state->tensors[0].tensor.dim(), 0);
  EXPECT_EQ(state->tensors[0].tensor.item<int64_t>(), 0x0706050403020100);
  EXPECT_EQ(state->tensors[1].tensor.sizes(), at::IntArrayRef({3, 0}));
}

TEST(StateDict, FileThatChangedMeanwhileIsNotUsed) {
  CheckpointListing listing;
  listing.tensors = {Descriptor("a", DType::kInt32, {4}, 0)};
  FakeCheckpoint checkpoint(listing);
  checkpoint.unchanged = absl::AbortedError("changed");
  EXPECT_EQ(ReadStateDict(checkpoint).status().code(), absl::StatusCode::kAborted);
}

TEST(StateDict, MoreThanAnyMemoryIsAnError) {
  CheckpointListing listing;
  listing.path = "big.pth";
  listing.tensors = {Descriptor("a", DType::kInt8, {int64_t{1} << 62}, 0)};
  EXPECT_EQ(ReadStateDict(FakeCheckpoint(listing)).status().code(),
            absl::StatusCode::kResourceExhausted);
  listing.tensors.push_back(Descriptor("b", DType::kInt8, {int64_t{1} << 62}, 1));
  EXPECT_EQ(ReadStateDict(FakeCheckpoint(listing)).status().code(),
            absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace sconce
