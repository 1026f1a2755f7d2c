#include "models/assignable.h"

#include <c10/util/Exception.h>

namespace sconce::models {

void CheckAssignable(const std::string& name, c10::ScalarType dtype, at::IntArrayRef shape,
                     const at::Tensor& tensor) {
  const bool floating = c10::isFloatingType(dtype) && c10::isFloatingType(tensor.scalar_type());
  TORCH_CHECK(tensor.sizes() == shape && (tensor.scalar_type() == dtype || floating), name,
              ": expected ", c10::scalarTypeToTypeMeta(dtype), shape, ", got ", tensor.dtype(),
              tensor.sizes());
}

}  // namespace sconce::models
