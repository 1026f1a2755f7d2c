#include "server/checkpoint/tied_tensors.h"

#include <gtest/gtest.h>

namespace sconce {
namespace {

TensorDescriptor Tensor(int32_t storage, std::vector<int64_t> shape) {
  TensorDescriptor tensor;
  tensor.storage = storage;
  tensor.shape = std::move(shape);
  tensor.strides.assign(tensor.shape.size(), 1);
  return tensor;
}

TEST(TiedTensors, AreTheSameViewOfTheSameStorage) {
  TensorDescriptor negative = Tensor(0, {4});
  negative.negative = true;
  EXPECT_EQ(FirstOfSameView({Tensor(0, {4}), Tensor(1, {4}), Tensor(0, {4}), Tensor(0, {2}),
                             negative, Tensor(1, {4})}),
            (std::vector<size_t>{0, 1, 0, 3, 4, 1}));
}

TEST(TiedTensors, WithoutElementsAreTiedToNone) {
  EXPECT_EQ(FirstOfSameView({Tensor(0, {0}), Tensor(0, {0})}), (std::vector<size_t>{0, 1}));
}

TEST(TiedTensors, OfASparseTensorAreTheSameParts) {
  TensorDescriptor sparse = Tensor(kNoStorage, {4});
  sparse.sparse.emplace();
  sparse.sparse->values = std::make_shared<TensorDescriptor>(Tensor(0, {2}));
  TensorDescriptor other = sparse;
  other.sparse->values = std::make_shared<TensorDescriptor>(Tensor(1, {2}));
  EXPECT_EQ(FirstOfSameView({sparse, other, sparse}), (std::vector<size_t>{0, 1, 0}));
}

}  // namespace
}  // namespace sconce
