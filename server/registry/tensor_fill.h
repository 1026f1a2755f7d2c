// Elements that no client sent: what an input is that a request leaves out, what shorter requests
// of a batch are filled up with, what warms a network up. Pure functions.

#ifndef SCONCE_SERVER_REGISTRY_TENSOR_FILL_H_
#define SCONCE_SERVER_REGISTRY_TENSOR_FILL_H_

#include <cstddef>
#include <cstdint>

#include "absl/types/span.h"
#include "server/base/dtype.h"

namespace sconce {

// Makes every element of `bytes` that value, as near as the type has it; zero bytes for types that
// are no plain numbers.
void FillElements(DType dtype, int64_t value, absl::Span<std::byte> bytes);

// Whether the type is one of whole numbers, truth values included.
bool IsWhole(DType dtype);

}  // namespace sconce

#endif  // SCONCE_SERVER_REGISTRY_TENSOR_FILL_H_
