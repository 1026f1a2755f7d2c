// Transpose: elements in memory from one order of two dimensions to the other, in small tiles, so
// that no cache line of either side is fetched more than once. A pure function.
#ifndef SCONCE_SERVER_CHECKPOINT_DATA_TRANSPOSE_H_
#define SCONCE_SERVER_CHECKPOINT_DATA_TRANSPOSE_H_

#include <cstddef>
#include <cstdint>

namespace sconce {

// Element (row, column) lies at row * row_stride + column * column_stride on either side; strides
// in bytes. It is fast where the source's row stride and the destination's column stride are the
// element's size, and correct for all others.
struct TransposePlane {
  int64_t element_bytes = 1;  // 1, 2, 4, 8 or 16
  int64_t rows = 1;
  int64_t columns = 1;
  const std::byte* source = nullptr;
  int64_t source_row_stride = 0;
  int64_t source_column_stride = 0;
  std::byte* destination = nullptr;
  int64_t destination_row_stride = 0;
  int64_t destination_column_stride = 0;
};

void Transpose(const TransposePlane& plane);

}  // namespace sconce

#endif  // SCONCE_SERVER_CHECKPOINT_DATA_TRANSPOSE_H_
