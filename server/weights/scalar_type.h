// The two names of an element type: DType, which the torch-free code speaks, and LibTorch's own.
// Pure functions, callable from any thread.
#ifndef SCONCE_SERVER_WEIGHTS_SCALAR_TYPE_H_
#define SCONCE_SERVER_WEIGHTS_SCALAR_TYPE_H_

#include <c10/core/ScalarType.h>

#include <optional>

#include "server/base/dtype.h"

namespace sconce {

// REQUIRES: `dtype` is not kBytes, which no tensor has.
c10::ScalarType ToScalarType(DType dtype);

// Nullopt for the types that we do not know.
std::optional<DType> FromScalarType(c10::ScalarType type);

}  // namespace sconce

#endif  // SCONCE_SERVER_WEIGHTS_SCALAR_TYPE_H_
