// CheckSparseShapes: whether the parts of a sparse tensor fit each other and the tensor's shape, as
// far as shapes tell. Their values, the indices, are checked when they are read.
#ifndef SCONCE_SERVER_CHECKPOINT_DATA_SPARSE_SHAPES_H_
#define SCONCE_SERVER_CHECKPOINT_DATA_SPARSE_SHAPES_H_

#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"
#include "server/checkpoint/checkpoint.h"

namespace sconce {

// REQUIRES: tensor.sparse has a value, with all parts that its layout has.
absl::Status CheckSparseShapes(const TensorDescriptor& tensor);

// How the dimensions of a sparse tensor divide.
//
//   kCoo:        [sparse...] [dense...]
//   compressed:  [batch...] [rows, columns] [dense...]; kBsr and kBsc have blocks in place of the
//                elements
struct SparseDimensions {
  size_t batch = 0;
  size_t sparse = 0;  // 2 in the compressed layouts
  size_t dense = 0;
  int64_t block_rows = 1;  // 1 but in kBsr and kBsc
  int64_t block_columns = 1;
  bool compresses_rows = true;  // false in kCsc and kBsc
  int64_t specified = 0;        // elements or blocks, in each batch
};

// REQUIRES: CheckSparseShapes(tensor) is OK.
SparseDimensions SparseDimensionsOf(const TensorDescriptor& tensor);

}  // namespace sconce

#endif  // SCONCE_SERVER_CHECKPOINT_DATA_SPARSE_SHAPES_H_
