// CopyRange against the obvious element-by-element copy, and how much it reads.

#include "server/checkpoint/data/strided_copy.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "server/checkpoint/data/resolve_bits.h"
#include "server/checkpoint/tensor_bounds.h"

namespace sconce {
namespace {

struct Reads {
  int64_t count = 0;
  int64_t bytes = 0;
  int64_t largest = 0;
};

// `size` bytes of the tensor from `offset` on; all of them where no size is given.
std::vector<std::byte> Copy(const TensorDescriptor& tensor, const std::vector<std::byte>& storage,
                            Reads* reads = nullptr, int64_t offset = 0, int64_t size = -1) {
  EXPECT_TRUE(CheckTensorBounds(tensor, static_cast<int64_t>(storage.size())).ok());
  std::vector<std::byte> out(static_cast<size_t>(size < 0 ? tensor.size_bytes() : size));
  const absl::Status copied = CopyRange(
      tensor, offset,
      [&](int64_t from, absl::Span<std::byte> piece) {
        if (from < 0 || static_cast<size_t>(from) + piece.size() > storage.size()) {
          return absl::InternalError("read outside the storage");
        }
        std::memcpy(piece.data(), storage.data() + from, piece.size());
        if (reads != nullptr) {
          ++reads->count;
          reads->bytes += static_cast<int64_t>(piece.size());
          reads->largest = std::max(reads->largest, static_cast<int64_t>(piece.size()));
        }
        return absl::OkStatus();
      },
      absl::MakeSpan(out));
  EXPECT_TRUE(copied.ok()) << copied;
  return out;
}

std::vector<std::byte> Naive(const TensorDescriptor& tensor,
                             const std::vector<std::byte>& storage) {
  const auto element = static_cast<size_t>(DTypeSize(tensor.dtype));
  std::vector<std::byte> out;
  std::vector<int64_t> index(tensor.shape.size(), 0);
  for (int64_t n = 0; n < tensor.num_elements(); ++n) {
    int64_t at = tensor.offset;
    for (size_t i = 0; i < index.size(); ++i) at += index[i] * tensor.strides[i];
    const std::byte* source = storage.data() + static_cast<size_t>(at) * element;
    out.insert(out.end(), source, source + element);
    for (size_t i = index.size(); i-- > 0;) {
      if (++index[i] < tensor.shape[i]) break;
      index[i] = 0;
    }
  }
  return out;
}

std::vector<std::byte> Storage(int64_t bytes) {
  std::vector<std::byte> storage(static_cast<size_t>(bytes));
  uint32_t state = 1;
  for (std::byte& byte : storage) {
    state = state * 1664525 + 1013904223;
    byte = static_cast<std::byte>(state >> 24);
  }
  return storage;
}

TensorDescriptor View(DType dtype, std::vector<int64_t> shape, std::vector<int64_t> strides,
                      int64_t offset = 0) {
  TensorDescriptor tensor;
  tensor.dtype = dtype;
  tensor.shape = std::move(shape);
  tensor.strides = std::move(strides);
  tensor.offset = offset;
  return tensor;
}

TEST(StridedCopyTest, EveryViewEqualsTheNaiveCopy) {
  const std::vector<std::byte> storage = Storage(1 << 18);
  const std::pair<std::vector<int64_t>, std::vector<int64_t>> views[] = {
      {{}, {}},
      {{5}, {1}},
      {{5}, {3}},
      {{1}, {1'000'000}},
      {{4, 5}, {5, 1}},
      {{5, 4}, {1, 5}},
      {{2, 3, 4}, {1, 8, 2}},
      {{7, 3}, {0, 1}},
      {{7, 3}, {1, 0}},
      {{3, 4}, {0, 0}},
      {{6, 5}, {1, 1}},
      {{2, 2, 2, 2}, {8, 1, 4, 2}},
      {{100, 100}, {1, 100}},
      {{1, 3, 1, 2}, {99, 2, 77, 1}},
      {{3, 0, 2}, {1, 1, 1}},
      {{30, 40}, {2, 60}},
  };
  for (const DType dtype :
       {DType::kUInt8, DType::kFloat16, DType::kFloat32, DType::kInt64, DType::kComplex128}) {
    for (const auto& [shape, strides] : views) {
      for (const int64_t offset : {0, 3}) {
        const TensorDescriptor tensor = View(dtype, shape, strides, offset);
        EXPECT_EQ(Copy(tensor, storage), Naive(tensor, storage)) << testing::PrintToString(shape);
      }
    }
  }
}

// How many boxes a range takes, by its definition: a partial index of each dimension at both ends.
TEST(StridedCopyTest, EveryRangeEqualsTheNaiveCopy) {
  const std::vector<std::byte> storage = Storage(4096);
  const std::pair<std::vector<int64_t>, std::vector<int64_t>> views[] = {
      {{}, {}},
      {{7}, {3}},
      {{5, 4}, {1, 5}},
      {{2, 3, 4}, {1, 8, 2}},
      {{2, 1, 3, 2}, {1, 9, 4, 2}},
      {{3, 4}, {0, 1}},
      {{2, 3, 1, 2, 2}, {1, 2, 5, 6, 12}},
  };
  for (const auto& [shape, strides] : views) {
    const TensorDescriptor tensor = View(DType::kInt16, shape, strides, 1);
    const std::vector<std::byte> whole = Naive(tensor, storage);
    const auto count = static_cast<int64_t>(whole.size() / 2);
    const auto most = std::max<size_t>(1, 2 * shape.size());
    for (int64_t first = 0; first <= count; ++first) {
      for (int64_t end = first; end <= count; ++end) {
        EXPECT_EQ(Copy(tensor, storage, nullptr, 2 * first, 2 * (end - first)),
                  std::vector<std::byte>(whole.begin() + 2 * first, whole.begin() + 2 * end))
            << testing::PrintToString(shape) << " from " << first << " to " << end;
        EXPECT_LE(BoxesOfRange(shape, first, end - first).size(), most);
      }
    }
  }
}

TEST(StridedCopyTest, PieceOfALargeTensorReadsLittleMoreThanThePiece) {
  const std::vector<std::byte> storage = Storage(8'000'000);
  const TensorDescriptor tensor = View(DType::kFloat32, {1000, 2000}, {1, 1000});
  const std::vector<std::byte> whole = Naive(tensor, storage);
  Reads reads;
  // From the middle of a row to the middle of the row 300 further on.
  const int64_t offset = 4 * (100 * 2000 + 700);
  const int64_t size = 4 * 300 * 2000;
  EXPECT_EQ(Copy(tensor, storage, &reads, offset, size),
            std::vector<std::byte>(whole.begin() + offset, whole.begin() + offset + size));
  EXPECT_LE(reads.largest, kStagingBytes);
  EXPECT_LE(reads.bytes, size + 2000 * 3 * 4096);
}

TEST(StridedCopyTest, LargeViewsCrossTheStaging) {
  const std::vector<std::byte> storage = Storage(6 << 20);
  const TensorDescriptor views[] = {
      View(DType::kFloat32, {1000, 1500}, {1, 1000}),         // transposed
      View(DType::kFloat32, {300, 2000}, {4000, 2}),          // every other column
      View(DType::kUInt8, {5, 900'000}, {1'000'000, 1}, 17),  // long runs with gaps
      View(DType::kUInt8, {3}, {2'500'000}),                  // far apart
      View(DType::kInt64, {200, 30, 100}, {100, 20000, 1}),   // permuted, rows of 800 bytes
      View(DType::kUInt8, {3, 1'500'000}, {1'500'000, 1}),    // in order
      View(DType::kUInt8, {1'500'000, 3}, {1, 1'500'000}),    // three long columns
      View(DType::kUInt8, {3, 1'500'000}, {1, 3}),            // a million short ones
      View(DType::kFloat16, {90, 70, 80, 3}, {1, 90, 6300, 504'000}),  // all dimensions reversed
      View(DType::kFloat32, {64, 50, 9, 40}, {18'000, 1, 2000, 50}),   // channels last
      View(DType::kFloat32, {50, 64, 300}, {1, 15'000, 50}),           // outermost innermost
      View(DType::kFloat16, {300, 1000, 4}, {7000, 2, 2001}),          // strided, with gaps
      View(DType::kFloat32, {500, 4, 300}, {1, 0, 501}),               // repeated in the middle
      View(DType::kUInt8, {2, 1000}, {1, 5000}),                       // far apart
  };
  for (const TensorDescriptor& tensor : views) {
    EXPECT_EQ(Copy(tensor, storage), Naive(tensor, storage))
        << testing::PrintToString(tensor.shape);
  }
}

TEST(StridedCopyTest, ContiguousTensorsAreOneRead) {
  Reads reads;
  Copy(View(DType::kFloat32, {1, 1000, 1, 700}, {5, 700, 9, 1}), Storage(2'800'000), &reads);
  EXPECT_EQ(reads.count, 1);
  EXPECT_EQ(reads.bytes, 2'800'000);
}

TEST(StridedCopyTest, LongRunsGoStraightToTheirPlace) {
  Reads reads;
  Copy(View(DType::kUInt8, {4, 500'000}, {600'000, 1}), Storage(2'400'000), &reads);
  EXPECT_EQ(reads.count, 4);
  EXPECT_EQ(reads.bytes, 2'000'000);
}

TEST(StridedCopyTest, TransposedStorageIsReadOnceInBoundedPieces) {
  Reads reads;
  Copy(View(DType::kFloat32, {2000, 1000}, {1, 2000}), Storage(8'000'000), &reads);
  EXPECT_LE(reads.largest, kStagingBytes);
  EXPECT_EQ(reads.bytes, 8'000'000);
  EXPECT_LT(reads.count, 10);
}

TEST(StridedCopyTest, JumpsDoNotReadTheWholeStorageAgainAndAgain) {
  Reads reads;
  const int64_t far = 500'000;
  Copy(View(DType::kUInt8, {40, 10}, {far / 40, far + 1}), Storage(6'000'000), &reads);
  EXPECT_LE(reads.bytes, 13'000'000);
}

TEST(StridedCopyTest, IntegersAreNegatedByValue) {
  TensorDescriptor tensor = View(DType::kInt16, {2}, {1});
  tensor.negative = true;
  int16_t values[] = {5, -7};
  EXPECT_TRUE(ResolveBits(tensor, {reinterpret_cast<std::byte*>(values), sizeof(values)}).ok());
  EXPECT_EQ(values[0], -5);
  EXPECT_EQ(values[1], 7);
  tensor.dtype = DType::kBool;
  EXPECT_FALSE(ResolveBits(tensor, {reinterpret_cast<std::byte*>(values), 2}).ok());
}

}  // namespace
}  // namespace sconce
