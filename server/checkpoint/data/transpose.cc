#include "server/checkpoint/data/transpose.h"

#include <algorithm>
#include <cstring>

namespace sconce {
namespace {

// Copies `rows` x `columns` elements one by one, the source's rows fastest.
template <size_t kSize>
void CopyElements(const TransposePlane& plane, int64_t rows, int64_t columns,
                  const std::byte* source, std::byte* destination) {
  for (int64_t column = 0; column < columns; ++column) {
    for (int64_t row = 0; row < rows; ++row) {
      std::memcpy(destination + row * plane.destination_row_stride +
                      column * plane.destination_column_stride,
                  source + row * plane.source_row_stride + column * plane.source_column_stride,
                  kSize);
    }
  }
}

// Both sides' fast dimension is contiguous, so that a tile is whole cache lines of either.
template <size_t kSize, int64_t kTile>
void CopyTile(const TransposePlane& plane, const std::byte* source, std::byte* destination) {
  alignas(64) std::byte tile[kTile * kTile * kSize];
  for (int64_t column = 0; column < kTile; ++column) {
    for (int64_t row = 0; row < kTile; ++row) {
      std::memcpy(tile + (row * kTile + column) * kSize,
                  source + column * plane.source_column_stride + row * kSize, kSize);
    }
  }
  for (int64_t row = 0; row < kTile; ++row) {
    std::memcpy(destination + row * plane.destination_row_stride, tile + row * kTile * kSize,
                kTile * kSize);
  }
}

template <size_t kSize>
void TransposeElements(const TransposePlane& plane) {
  constexpr int64_t kTile = std::max<int64_t>(64 / kSize, 8);
  const bool is_fast = plane.source_row_stride == kSize && plane.destination_column_stride == kSize;
  for (int64_t row = 0; row < plane.rows; row += kTile) {
    const int64_t rows = std::min(kTile, plane.rows - row);
    for (int64_t column = 0; column < plane.columns; column += kTile) {
      const int64_t columns = std::min(kTile, plane.columns - column);
      const std::byte* const source =
          plane.source + row * plane.source_row_stride + column * plane.source_column_stride;
      std::byte* const destination = plane.destination + row * plane.destination_row_stride +
                                     column * plane.destination_column_stride;
      if (is_fast && rows == kTile && columns == kTile) {
        CopyTile<kSize, kTile>(plane, source, destination);
      } else {
        CopyElements<kSize>(plane, rows, columns, source, destination);
      }
    }
  }
}

}  // namespace

void Transpose(const TransposePlane& plane) {
  switch (plane.element_bytes) {
    case 1:
      return TransposeElements<1>(plane);
    case 2:
      return TransposeElements<2>(plane);
    case 4:
      return TransposeElements<4>(plane);
    case 8:
      return TransposeElements<8>(plane);
    default:
      return TransposeElements<16>(plane);
  }
}

}  // namespace sconce
