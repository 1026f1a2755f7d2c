// The rules of a signature: whether they make sense, whether values keep to them, and whether those
// of another signature leave a client what it has. Pure functions, callable from any thread.

#ifndef SCONCE_SERVER_REGISTRY_SIGNATURE_RULES_H_
#define SCONCE_SERVER_REGISTRY_SIGNATURE_RULES_H_

#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "server/registry/signature.h"

namespace sconce {

// Whether the rules of a signature make sense, each for itself and together. INVALID_ARGUMENT
// otherwise, with the tensor's name.
absl::Status CheckRules(const Signature& signature);

// Whether the elements of an input, whose bytes are `pieces` one after the other, are values that
// it may have. INVALID_ARGUMENT otherwise, with the first that is not. REQUIRES: the pieces have
// the bytes of `shape`.
absl::Status CheckValues(const std::string& model_version, const TensorSpec& spec,
                         absl::Span<const int64_t> shape,
                         absl::Span<const absl::Span<const std::byte>> pieces);

// Why a client of `before` may not be able to go on with `after`, rows apart; empty where it is.
// What `after` takes beyond that makes no difference.
std::string WhyIncompatible(const Signature& before, const Signature& after);

}  // namespace sconce

#endif  // SCONCE_SERVER_REGISTRY_SIGNATURE_RULES_H_
