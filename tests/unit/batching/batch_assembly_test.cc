#include "server/batching/batch_assembly.h"

#include <gtest/gtest.h>

#include <string>

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
  AssembleInput(requests, 0, absl::MakeSpan(batch));
  EXPECT_EQ(batch, Bytes("abcdefgh"));
}

TEST(BatchAssemblyTest, ShapeKeysAreEqualExactlyForEqualRowShapes) {
  const auto key = [](std::vector<int64_t> shape) {
    InferRequest request;
    request.declared = {{"x", "FP32", std::move(shape)}};
    request.checked.position = {0};
    return ShapeKey(request);
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
