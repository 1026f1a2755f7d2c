#include "server/batching/batch_assembly.h"

#include <gtest/gtest.h>

#include <string>

#include "server/batching/request_check.h"
#include "tests/support/fake_replica.h"

namespace sconce {
namespace {

std::vector<std::byte> Bytes(const std::string& text) {
  const auto* data = reinterpret_cast<const std::byte*>(text.data());
  return {data, data + text.size()};
}

TEST(BatchAssemblyTest, PiecesOfEveryRequestAreLaidDownInOrder) {
  const auto a = Bytes("ab"), b = Bytes("cdef"), c = Bytes("gh");
  InferRequest first, second;
  // The second request declares its inputs the other way round.
  first.checked.position = {0};
  first.bytes = {{{absl::MakeConstSpan(a)}}};
  second.checked.position = {1};
  second.bytes = {{{}}, {{absl::MakeConstSpan(b), absl::MakeConstSpan(c)}}};
  std::vector<InferRequest> requests;
  requests.push_back(std::move(first));
  requests.push_back(std::move(second));
  std::vector<std::byte> batch(8);
  std::vector<BatchInput::FromDevice> from_device;
  AssembleInput(requests, 0, absl::MakeSpan(batch), &from_device);
  EXPECT_EQ(batch, Bytes("abcdefgh"));
}

// A request for `rows` rows of the version that MakeFakeVersion makes, whose bytes are on a device.
InferRequest DeviceRequest(int64_t rows, int64_t size_bytes) {
  InferRequest request;
  request.declared = {{"x", "FP32", {rows, 2}}};
  request.checked = {{0}, rows, {rows * 8}};
  request.bytes.resize(1);
  request.bytes[0].device = {"sim:0", std::make_shared<int>(), size_bytes};
  return request;
}

TEST(BatchAssemblyTest, WhatLiesOnADeviceIsNotedWhereItBelongs) {
  const auto version = MakeFakeVersion("m", 1, {});
  const auto wire = Bytes("abcdefgh");
  std::vector<InferRequest> requests;
  requests.push_back(DeviceRequest(2, 16));
  requests.push_back(DeviceRequest(1, 8));
  requests.push_back(DeviceRequest(3, 24));
  requests[1].bytes[0] = {{absl::MakeConstSpan(wire)}};
  const DeviceBytes target{"sim:1", std::make_shared<int>(), 24};
  requests[2].output_targets = {{"y", target}};

  const BatchLayout layout = LayOut(*version, requests, 6);
  EXPECT_EQ(InputSizes(*version, requests, layout), (std::vector<int64_t>{48}));
  std::vector<std::byte> memory(48);
  std::vector<HostTensor> staged = {{DType::kUInt8, {48}, absl::MakeSpan(memory), nullptr}};
  const BatchInput batch = AssembleBatch(*version, requests, layout, std::move(staged));
  EXPECT_EQ(batch.inputs[0].dtype, DType::kFloat32);
  EXPECT_EQ(batch.inputs[0].shape, (std::vector<int64_t>{6, 2}));
  EXPECT_EQ(std::vector<std::byte>(memory.begin() + 16, memory.begin() + 24), wire);
  ASSERT_EQ(batch.from_device.size(), 2u);
  EXPECT_EQ(batch.from_device[0].offset_bytes, 0);
  EXPECT_EQ(batch.from_device[1].offset_bytes, 24);
  EXPECT_EQ(batch.from_device[1].source.address, requests[2].bytes[0].device->address);
  ASSERT_EQ(batch.to_device.size(), 1u);
  EXPECT_EQ(batch.to_device[0].output, 0u);
  EXPECT_EQ(batch.to_device[0].first, 3);
  EXPECT_EQ(batch.to_device[0].rows, 3);
  EXPECT_EQ(batch.to_device[0].target.address, target.address);
}

TEST(BatchAssemblyTest, DeviceMemoryOfTheWrongSizeOrForNoOutputIsRefused) {
  const auto version = MakeFakeVersion("m", 1, {});
  const auto targets = [&](std::string name, int64_t size) {
    InferRequest request = DeviceRequest(2, 16);
    request.output_targets = {{std::move(name), {"sim:0", nullptr, size}}};
    return CheckDeviceBytes(*version, request);
  };
  EXPECT_TRUE(targets("y", 16).ok());
  EXPECT_EQ(targets("y", 24),
            absl::InvalidArgumentError(
                "m/1: output 'y' of 2 rows has 16 bytes, got device memory of 24"));
  EXPECT_EQ(targets("z", 16), absl::InvalidArgumentError("m/1: has no output 'z', which is to be "
                                                         "written to device memory"));
  EXPECT_EQ(CheckDeviceBytes(*version, DeviceRequest(2, 17)),
            absl::InvalidArgumentError("m/1: input 'x' expects 16 bytes in device memory, got 17"));
  version->signature.outputs[0].dims = {-1};
  EXPECT_TRUE(targets("y", 24).ok()) << "known when it is computed";
}

TEST(BatchAssemblyTest, ShapeKeysAreEqualExactlyForEqualRowShapes) {
  const auto key = [](std::vector<int64_t> shape) {
    const auto version = MakeFakeVersion("m", 1, {}, std::vector<int64_t>(shape.size() - 1, -1));
    InferRequest request;
    request.declared = {{"x", "FP32", std::move(shape)}};
    request.checked.position = {0};
    SetShape(version->signature, &request);
    EXPECT_TRUE(request.open_sizes.empty());
    return request.shape_key;
  };
  EXPECT_EQ(key({1, 3, 4}), key({9, 3, 4}));
  EXPECT_NE(key({1, 3, 4}), key({1, 4, 3}));
}

TEST(BatchAssemblyTest, RowsAreCutOutWithoutCopying) {
  auto memory = std::make_shared<std::vector<std::byte>>(Bytes("aabbcc"));
  const HostTensor output{DType::kUInt8, {3, 2}, absl::MakeSpan(*memory), memory};
  const auto slices = SliceRows({&output, 1}, 1, 2);
  EXPECT_EQ(slices[0].shape, (std::vector<int64_t>{2, 2}));
  EXPECT_EQ(slices[0].bytes.data(), memory->data() + 2);
  EXPECT_EQ(slices[0].bytes.size(), 4u);
  EXPECT_EQ(slices[0].owner, memory);
}

}  // namespace
}  // namespace sconce
