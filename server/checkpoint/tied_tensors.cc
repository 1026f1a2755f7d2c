#include "server/checkpoint/tied_tensors.h"

#include <map>
#include <tuple>

namespace sconce {
namespace {

// What makes two descriptors the same view. Chunks and the parts of a sparse tensor are shared
// objects where they are the same.
using ViewKey = std::tuple<int32_t, int64_t, DType, std::vector<int64_t>, std::vector<int64_t>,
                           bool, bool, const void*, const void*>;

ViewKey KeyOf(const TensorDescriptor& tensor) {
  return {tensor.storage,
          tensor.offset,
          tensor.dtype,
          tensor.shape,
          tensor.strides,
          tensor.conjugate,
          tensor.negative,
          tensor.chunks.get(),
          tensor.sparse.has_value() ? tensor.sparse->values.get() : nullptr};
}

}  // namespace

std::vector<size_t> FirstOfSameView(const std::vector<TensorDescriptor>& tensors) {
  std::vector<size_t> first(tensors.size());
  std::map<ViewKey, size_t> seen;
  for (size_t i = 0; i < tensors.size(); ++i) {
    const bool empty = tensors[i].num_elements() == 0;
    first[i] = empty ? i : seen.emplace(KeyOf(tensors[i]), i).first->second;
  }
  return first;
}

}  // namespace sconce
