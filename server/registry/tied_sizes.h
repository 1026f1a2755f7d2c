// Sizes of inputs that depend on one another (models::TiedSize): whether a request's do, and
// whether another signature leaves a client the sizes that it has. Pure functions, callable from
// any thread.

#ifndef SCONCE_SERVER_REGISTRY_TIED_SIZES_H_
#define SCONCE_SERVER_REGISTRY_TIED_SIZES_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/types/span.h"
#include "server/registry/signature.h"

namespace sconce {

// What is wrong with the sizes of a request whose inputs have the signature's ranks: both inputs,
// their dimensions, their sizes, and what was expected; "" where they go together.
// `position` is CheckedInputs::position.
std::string WhySizesDiffer(const Signature& signature, absl::Span<const size_t> position,
                           absl::Span<const DeclaredInput> inputs);

// Which sizes that clients of `before` may send would be refused by `after`; "" where none would.
// REQUIRES: the inputs have the same names and dimensions.
std::string WhyFewerSizes(const Signature& before, const Signature& after);

}  // namespace sconce

#endif  // SCONCE_SERVER_REGISTRY_TIED_SIZES_H_
