#include "models/net.h"

#include <c10/util/Exception.h>

namespace sconce::models {

void Net::Fold(size_t pair, const at::Tensor& /*weight*/, const at::Tensor& /*bias*/) {
  TORCH_CHECK(false, class_name(), ": has no batch norm to fold at ", pair);
}

}  // namespace sconce::models
