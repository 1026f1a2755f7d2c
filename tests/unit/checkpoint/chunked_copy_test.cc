#include "server/checkpoint/data/chunked_copy.h"

#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "server/checkpoint/tensor_bounds.h"

namespace sconce {
namespace {

// A tensor of the numbers 0, 1, 2, ... in chunks, each with its numbers one after the other.
struct Chunked {
  TensorDescriptor tensor;
  std::vector<std::vector<int32_t>> blocks;

  Chunked(std::vector<int64_t> shape,
          const std::vector<std::pair<std::vector<int64_t>, std::vector<int64_t>>>& chunks) {
    tensor.dtype = DType::kInt32;
    tensor.shape = std::move(shape);
    tensor.strides = ContiguousStrides(tensor.shape);
    tensor.storage = kNoStorage;
    auto made = std::make_shared<std::vector<TensorChunk>>();
    for (const auto& [position, size] : chunks) {
      made->push_back({.position = position,
                       .shape = size,
                       .strides = ContiguousStrides(size),
                       .offset = 0,
                       .storage = static_cast<int32_t>(blocks.size())});
      const int64_t count = *CountElements(size);
      std::vector<int32_t>& block = blocks.emplace_back();
      for (int64_t i = 0; i < count; ++i) {
        int64_t rest = i, place = 0;
        for (size_t d = size.size(); d-- > 0;) {
          place += (position[d] + rest % size[d]) * tensor.strides[d];
          rest /= size[d];
        }
        block.push_back(static_cast<int32_t>(place));
      }
    }
    tensor.chunks = made;
  }

  std::vector<int32_t> Read(int64_t first, int64_t count) const {
    std::vector<int32_t> numbers(static_cast<size_t>(count), -1);
    const ReadBlock read = [this](const TensorDescriptor& block, int64_t offset,
                                  absl::Span<std::byte> out) {
      const std::vector<int32_t>& from = blocks[static_cast<size_t>(block.storage)];
      EXPECT_LE(static_cast<size_t>(offset) + out.size(), from.size() * 4);
      std::memcpy(out.data(), reinterpret_cast<const char*>(from.data()) + offset, out.size());
      return absl::OkStatus();
    };
    const absl::Status copied =
        CopyChunks(tensor, first * 4, read,
                   {reinterpret_cast<std::byte*>(numbers.data()), numbers.size() * 4});
    EXPECT_TRUE(copied.ok()) << copied;
    return numbers;
  }
};

void ExpectEveryRangeIsRight(const Chunked& chunked) {
  ASSERT_TRUE(CheckChunks(chunked.tensor).ok()) << CheckChunks(chunked.tensor);
  const int64_t count = chunked.tensor.num_elements();
  for (int64_t first = 0; first < count; ++first) {
    for (int64_t end = first; end <= count; ++end) {
      std::vector<int32_t> expected;
      for (int64_t i = first; i < end; ++i) expected.push_back(static_cast<int32_t>(i));
      ASSERT_EQ(chunked.Read(first, end - first), expected) << first << " to " << end;
    }
  }
}

TEST(ChunkedCopyTest, RowsColumnsAndBlocksAreJoined) {
  ExpectEveryRangeIsRight(Chunked({7, 3}, {{{0, 0}, {4, 3}}, {{4, 0}, {3, 3}}}));
  ExpectEveryRangeIsRight(Chunked({3, 7}, {{{0, 4}, {3, 3}}, {{0, 0}, {3, 4}}}));
  ExpectEveryRangeIsRight(
      Chunked({4, 2, 3}, {{{0, 0, 0}, {4, 1, 3}}, {{0, 1, 0}, {4, 1, 2}}, {{0, 1, 2}, {4, 1, 1}}}));
  ExpectEveryRangeIsRight(Chunked(
      {4, 4},
      {{{0, 0}, {2, 3}}, {{0, 3}, {3, 1}}, {{3, 1}, {1, 3}}, {{2, 0}, {2, 1}}, {{2, 1}, {1, 2}}}));
  ExpectEveryRangeIsRight(Chunked({}, {{{}, {}}}));
}

TEST(ChunkedCopyTest, ShortRunsOfALargeTensorAreReadTogether) {
  const Chunked chunked({3000, 400}, {{{0, 0}, {3000, 100}}, {{0, 100}, {3000, 300}}});
  const std::vector<int32_t> numbers = chunked.Read(0, 1'200'000);
  for (size_t i = 0; i < numbers.size(); ++i) ASSERT_EQ(numbers[i], static_cast<int32_t>(i));
}

void ExpectBad(const Chunked& chunked, const std::string& words) {
  const absl::Status status = CheckChunks(chunked.tensor);
  ASSERT_FALSE(status.ok());
  EXPECT_NE(status.message().find(words), std::string::npos) << status;
}

TEST(ChunkedCopyTest, ChunksThatAreNotTheWholeTensorAreRefused) {
  ExpectBad(Chunked({4, 2}, {{{0, 0}, {2, 2}}, {{1, 0}, {3, 2}}}), "do not overlap");
  ExpectBad(Chunked({4, 2}, {{{0, 0}, {4, 2}}, {{0, 0}, {4, 2}}}), "do not overlap");
  ExpectBad(Chunked({4, 2}, {{{0, 0}, {2, 2}}, {{3, 0}, {1, 2}}}), "holes");
  ExpectBad(Chunked({4, 2}, {}), "holes");
  ExpectBad(Chunked({4, 2}, {{{0, 0}, {5, 2}}}), "inside shape [4, 2]");
  ExpectBad(Chunked({4, 2}, {{{2, 0}, {3, 2}}}), "inside shape [4, 2]");
  ExpectBad(Chunked({4, 2}, {{{0}, {4}}}), "inside shape [4, 2]");
}

TEST(ChunkedCopyTest, ManyChunksCostWorkInProportion) {
  std::vector<std::pair<std::vector<int64_t>, std::vector<int64_t>>> rows;
  for (int64_t i = 0; i < 100'000; ++i) rows.push_back({{i, 0}, {1, 1}});
  EXPECT_TRUE(CheckChunks(Chunked({100'000, 1}, rows).tensor).ok());
  // On the diagonal each cuts all others.
  std::vector<std::pair<std::vector<int64_t>, std::vector<int64_t>>> diagonal;
  for (int64_t i = 0; i < 1000; ++i) diagonal.push_back({{i, i}, {1, 1}});
  ExpectBad(Chunked({1000, 1000}, diagonal), "cut regularly");
}

}  // namespace
}  // namespace sconce
