#include "server/rpc/encode.h"

#include <grpcpp/support/slice.h>
#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "proto/open_inference.pb.h"

namespace sconce {
namespace {

template <typename T>
HostTensor Tensor(DType dtype, std::vector<int64_t> shape, std::vector<T> values) {
  auto memory = std::make_shared<std::vector<T>>(std::move(values));
  return {dtype, std::move(shape),
          absl::MakeSpan(reinterpret_cast<std::byte*>(memory->data()), memory->size() * sizeof(T)),
          memory};
}

std::shared_ptr<ModelVersion> Version(std::vector<TensorSpec> outputs) {
  auto version = std::make_shared<ModelVersion>();
  version->model = "m";
  version->number = 3;
  version->weights_id = "abc";
  version->signature.outputs = std::move(outputs);
  return version;
}

std::string Bytes(const grpc::ByteBuffer& buffer) {
  std::vector<grpc::Slice> slices;
  EXPECT_TRUE(buffer.Dump(&slices).ok());
  std::string bytes;
  for (const grpc::Slice& slice : slices) {
    bytes.append(reinterpret_cast<const char*>(slice.begin()), slice.size());
  }
  return bytes;
}

inference::ModelInferResponse Parsed(const absl::StatusOr<grpc::ByteBuffer>& buffer) {
  inference::ModelInferResponse response;
  EXPECT_TRUE(buffer.ok()) << buffer.status();
  EXPECT_TRUE(response.ParseFromString(Bytes(*buffer)));
  return response;
}

TEST(EncodeTest, SaysWhoAnsweredWhat) {
  const InferResponse response{Version({{"y", DType::kFloat32, {2}}}),
                               {Tensor<float>(DType::kFloat32, {1, 2}, {1, 2})}};
  const auto parsed = Parsed(EncodeInfer(response, {.id = "id-1", .outputs = {}, .raw = true}));
  EXPECT_EQ(parsed.model_name(), "m");
  EXPECT_EQ(parsed.model_version(), "3");
  EXPECT_EQ(parsed.id(), "id-1");
  EXPECT_EQ(parsed.parameters().at("weights_id").string_param(), "abc");
  EXPECT_EQ(parsed.parameters().count("triton_final_response"), 0u);
  ASSERT_EQ(parsed.outputs_size(), 1);
  EXPECT_EQ(parsed.outputs(0).name(), "y");
  EXPECT_EQ(parsed.outputs(0).datatype(), "FP32");
  EXPECT_EQ(parsed.outputs(0).shape(1), 2);
  EXPECT_FALSE(parsed.outputs(0).has_contents());
  ASSERT_EQ(parsed.raw_output_contents_size(), 1);
  EXPECT_EQ(parsed.raw_output_contents(0).size(), 8u);
}

TEST(EncodeTest, MarksTheFinalResponseWhereAsked) {
  const InferResponse response{Version({}), {}};
  const auto parsed = Parsed(EncodeInfer(response, {.id = "", .outputs = {}, .mark_final = true}));
  EXPECT_TRUE(parsed.parameters().at("triton_final_response").bool_param());
}

TEST(EncodeTest, OutputsComeInTheOrderAskedFor) {
  const InferResponse response{
      Version({{"a", DType::kInt32, {1}}, {"b", DType::kInt32, {1}}, {"c", DType::kInt32, {1}}}),
      {Tensor<int32_t>(DType::kInt32, {1, 1}, {1}), Tensor<int32_t>(DType::kInt32, {1, 1}, {2}),
       Tensor<int32_t>(DType::kInt32, {1, 1}, {3})}};
  const auto parsed =
      Parsed(EncodeInfer(response, {.id = "", .outputs = {"c", "a"}, .raw = false}));
  ASSERT_EQ(parsed.outputs_size(), 2);
  EXPECT_EQ(parsed.outputs(0).name(), "c");
  EXPECT_EQ(parsed.outputs(0).contents().int_contents(0), 3);
  EXPECT_EQ(parsed.outputs(1).contents().int_contents(0), 1);
  EXPECT_EQ(Parsed(EncodeInfer(response, {})).outputs_size(), 3);
}

TEST(EncodeTest, UnknownAndRepeatedOutputsAreRefused) {
  const auto version = Version({{"a", DType::kInt32, {1}}, {"b", DType::kInt32, {1}}});
  EXPECT_EQ(SelectOutputs("m/3", version->signature, {"z\n"}).status().message(),
            "m/3: has no output 'z\\n', expected 'a', 'b'");
  EXPECT_EQ(SelectOutputs("m/3", version->signature, {"a", "a"}).status().message(),
            "m/3: output 'a' is asked for twice");
}

TEST(EncodeTest, LargeOutputsAreNotCopiedAndOutliveTheResponse) {
  std::vector<float> values(5000);
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i);
  auto tensor = Tensor<float>(DType::kFloat32, {1, 5000}, values);
  const std::byte* const data = tensor.bytes.data();
  const std::weak_ptr<void> memory = tensor.owner;
  {
    grpc::ByteBuffer buffer;
    {
      const auto version =
          Version({{"big", DType::kFloat32, {5000}}, {"small", DType::kFloat32, {1}}});
      const InferResponse response{
          version, {std::move(tensor), Tensor<float>(DType::kFloat32, {1, 1}, {7})}};
      auto encoded = EncodeInfer(response, {});
      ASSERT_TRUE(encoded.ok());
      buffer = *encoded;
    }
    EXPECT_FALSE(memory.expired());
    std::vector<grpc::Slice> slices;
    ASSERT_TRUE(buffer.Dump(&slices).ok());
    ASSERT_EQ(slices.size(), 3u);
    EXPECT_EQ(static_cast<const void*>(slices[1].begin()), data);
    inference::ModelInferResponse parsed;
    ASSERT_TRUE(parsed.ParseFromString(Bytes(buffer)));
    ASSERT_EQ(parsed.raw_output_contents_size(), 2);
    EXPECT_EQ(std::memcmp(parsed.raw_output_contents(0).data(), values.data(), 20000), 0);
    float small = 0;
    std::memcpy(&small, parsed.raw_output_contents(1).data(), 4);
    EXPECT_EQ(small, 7);
  }
  EXPECT_TRUE(memory.expired());
}

TEST(EncodeTest, MemoryIsGivenBackOnlyAfterEveryCopyOfTheAnswerIsGone) {
  // As a pinned buffer of a replica: whoever drops it last gives it back to its ring.
  int given_back = 0;
  std::vector<float> memory(10000, 1.5f);
  const std::shared_ptr<void> batch(memory.data(), [&](void*) { ++given_back; });
  const auto bytes = absl::MakeSpan(reinterpret_cast<std::byte*>(memory.data()), 40000);
  auto version = Version({{"y", DType::kFloat32, {5000}}});
  // Two requests of one batch.
  InferResponse first{version, {{DType::kFloat32, {1, 5000}, bytes.subspan(0, 20000), batch}}};
  InferResponse second{version, {{DType::kFloat32, {1, 5000}, bytes.subspan(20000), batch}}};
  const long before = batch.use_count();
  {
    auto one = EncodeInfer(first, {});
    auto two = EncodeInfer(second, {});
    ASSERT_TRUE(one.ok() && two.ok());
    EXPECT_EQ(batch.use_count(), before + 2);
    first.outputs.clear();
    second.outputs.clear();
    // What gRPC keeps while it writes.
    grpc::ByteBuffer writing(*one);
    one->Clear();
    EXPECT_EQ(batch.use_count(), 3);
    writing.Clear();
    EXPECT_EQ(batch.use_count(), 2);
  }
  EXPECT_EQ(batch.use_count(), 1);
  EXPECT_EQ(given_back, 0);
}

TEST(EncodeTest, OutputsInRegionsAreDescribedAndNotSent) {
  const InferResponse response{
      Version(
          {{"a", DType::kFloat32, {2}}, {"b", DType::kFloat32, {2}}, {"c", DType::kInt32, {1}}}),
      {Tensor<float>(DType::kFloat32, {1, 2}, {1, 2}),
       Tensor<float>(DType::kFloat32, {1, 2}, {3, 4}),
       Tensor<int32_t>(DType::kInt32, {1, 1}, {5})}};
  AnswerFormat format{.id = "", .outputs = {"a", "b", "c"}};
  format.places = {{"a", {"r", 0, 64}}, {"b", {"s", 32, 8}}};
  auto parsed = Parsed(EncodeInfer(response, format));
  ASSERT_EQ(parsed.outputs_size(), 3);
  EXPECT_EQ(parsed.outputs(0).name(), "a");
  EXPECT_EQ(parsed.outputs(0).datatype(), "FP32");
  EXPECT_EQ(parsed.outputs(0).shape(1), 2);
  EXPECT_EQ(parsed.outputs(0).parameters().at("shared_memory_region").string_param(), "r");
  EXPECT_EQ(parsed.outputs(0).parameters().at("shared_memory_byte_size").int64_param(), 8);
  EXPECT_EQ(parsed.outputs(0).parameters().count("shared_memory_offset"), 0u);
  EXPECT_EQ(parsed.outputs(1).parameters().at("shared_memory_region").string_param(), "s");
  EXPECT_EQ(parsed.outputs(1).parameters().at("shared_memory_offset").int64_param(), 32);
  EXPECT_TRUE(parsed.outputs(2).parameters().empty());
  // Stock clients find an output's bytes by its position.
  ASSERT_EQ(parsed.raw_output_contents_size(), 3);
  EXPECT_EQ(parsed.raw_output_contents(0), "");
  EXPECT_EQ(parsed.raw_output_contents(1), "");
  EXPECT_EQ(parsed.raw_output_contents(2).size(), 4u);

  format.raw = false;
  parsed = Parsed(EncodeInfer(response, format));
  EXPECT_EQ(parsed.raw_output_contents_size(), 0);
  EXPECT_FALSE(parsed.outputs(0).has_contents());
  EXPECT_EQ(parsed.outputs(2).contents().int_contents(0), 5);
}

TEST(EncodeTest, HalfPrecisionInARegionLeavesTheOthersTyped) {
  const InferResponse response{Version({{"h", DType::kFloat16, {1}}, {"f", DType::kFloat32, {1}}}),
                               {Tensor<uint16_t>(DType::kFloat16, {1, 1}, {0x3c00}),
                                Tensor<float>(DType::kFloat32, {1, 1}, {1})}};
  AnswerFormat format{.id = "", .outputs = {}, .raw = false};
  format.places = {{"h", {"r", 0, 2}}};
  const auto parsed = Parsed(EncodeInfer(response, format));
  EXPECT_EQ(parsed.raw_output_contents_size(), 0);
  EXPECT_EQ(parsed.outputs(1).contents().fp32_contents(0), 1);
}

TEST(EncodeTest, TypedContentsGoInTheFieldOfTheirDatatype) {
  const InferResponse response{
      Version({{"b", DType::kBool, {1}},
               {"i", DType::kInt8, {1}},
               {"l", DType::kInt64, {1}},
               {"u", DType::kUInt16, {1}},
               {"v", DType::kUInt64, {1}},
               {"d", DType::kFloat64, {1}}}),
      {Tensor<uint8_t>(DType::kBool, {1, 1}, {1}), Tensor<int8_t>(DType::kInt8, {1, 1}, {-5}),
       Tensor<int64_t>(DType::kInt64, {1, 1}, {-6}), Tensor<uint16_t>(DType::kUInt16, {1, 1}, {7}),
       Tensor<uint64_t>(DType::kUInt64, {1, 1}, {8}),
       Tensor<double>(DType::kFloat64, {1, 1}, {0.5})}};
  const auto parsed = Parsed(EncodeInfer(response, {.id = "", .outputs = {}, .raw = false}));
  EXPECT_EQ(parsed.raw_output_contents_size(), 0);
  EXPECT_TRUE(parsed.outputs(0).contents().bool_contents(0));
  EXPECT_EQ(parsed.outputs(1).contents().int_contents(0), -5);
  EXPECT_EQ(parsed.outputs(2).contents().int64_contents(0), -6);
  EXPECT_EQ(parsed.outputs(3).contents().uint_contents(0), 7u);
  EXPECT_EQ(parsed.outputs(4).contents().uint64_contents(0), 8u);
  EXPECT_EQ(parsed.outputs(5).contents().fp64_contents(0), 0.5);
}

TEST(EncodeTest, HalfPrecisionMakesTheAnswerRaw) {
  const InferResponse response{Version({{"h", DType::kFloat16, {1}}, {"f", DType::kFloat32, {1}}}),
                               {Tensor<uint16_t>(DType::kFloat16, {1, 1}, {0x3c00}),
                                Tensor<float>(DType::kFloat32, {1, 1}, {1})}};
  const auto parsed = Parsed(EncodeInfer(response, {.id = "", .outputs = {}, .raw = false}));
  EXPECT_EQ(parsed.raw_output_contents_size(), 2);
  EXPECT_FALSE(parsed.outputs(1).has_contents());
}

}  // namespace
}  // namespace sconce
