// CheckAssignable: what Net::Assign demands of a tensor, for those who implement it.
#ifndef SCONCE_MODELS_ASSIGNABLE_H_
#define SCONCE_MODELS_ASSIGNABLE_H_

#include <ATen/core/Tensor.h>
#include <c10/core/ScalarType.h>

#include <string>

namespace sconce::models {

// Throws c10::Error, which names it, unless `tensor` may become the weight `name` of this dtype and
// shape: it has the same shape, and the same dtype or both are of floating-point numbers.
void CheckAssignable(const std::string& name, c10::ScalarType dtype, at::IntArrayRef shape,
                     const at::Tensor& tensor);

}  // namespace sconce::models

#endif  // SCONCE_MODELS_ASSIGNABLE_H_
