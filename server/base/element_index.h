// Where an element of a tensor is, for messages. Callable from any thread.

#ifndef SCONCE_SERVER_BASE_ELEMENT_INDEX_H_
#define SCONCE_SERVER_BASE_ELEMENT_INDEX_H_

#include <cstdint>
#include <string>

#include "absl/types/span.h"

namespace sconce {

// As PyTorch counts: "[3, 0, 17]" of the element that is `element` places behind the first one.
// REQUIRES: 0 <= element < the product of `shape`.
std::string ElementIndexText(int64_t element, absl::Span<const int64_t> shape);

}  // namespace sconce

#endif  // SCONCE_SERVER_BASE_ELEMENT_INDEX_H_
