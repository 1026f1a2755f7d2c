// MultiplyAdds: how many products are summed up by one call of an operator, from the shapes of what
// it is given and gives. Counted are matrix products in all their forms: convolutions, linear
// layers, attention, recurrent layers. What works element by element (norms, activations, pooling)
// is not, as is usual.
//
// Pure functions, callable from any thread.
#ifndef SCONCE_SERVER_TOOLS_MULTIPLY_ADDS_H_
#define SCONCE_SERVER_TOOLS_MULTIPLY_ADDS_H_

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string_view>
#include <vector>

#include "absl/types/span.h"

namespace sconce::tools {

// A call of an operator, as far as it is looked at: "aten::conv2d", its arguments by position (not
// defined where an argument is no tensor) and what is in its lists of tensors.
struct OperatorCall {
  std::string_view name;
  std::vector<at::Tensor> arguments;
  std::vector<at::Tensor> listed;
  bool transposed = false;  // of a convolution
};

// Whether the operator's multiply-adds are known, those of what it calls included.
bool IsCounted(std::string_view name);

// REQUIRES: IsCounted(call.name); `output` is the first tensor that the call gave.
int64_t MultiplyAdds(const OperatorCall& call, const at::Tensor& output);

}  // namespace sconce::tools

#endif  // SCONCE_SERVER_TOOLS_MULTIPLY_ADDS_H_
