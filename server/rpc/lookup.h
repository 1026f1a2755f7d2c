// Finding the model and version a client names, with the errors every RPC gives. Thread-safe.

#ifndef SCONCE_SERVER_RPC_LOOKUP_H_
#define SCONCE_SERVER_RPC_LOOKUP_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "server/registry/model.h"
#include "server/registry/registry.h"

namespace sconce {

// NOT_FOUND where there is no such model.
absl::StatusOr<std::shared_ptr<Model>> FindModel(const Registry& registry, const std::string& name);

// 0 for an empty string. INVALID_ARGUMENT where it is no version number.
absl::StatusOr<int64_t> ParseVersion(const std::string& version);

// The version that answers requests for the `wanted` one (0: that ask for none). UNAVAILABLE, with
// the reason, where the model is out of service; NOT_FOUND, with what is known of that version,
// where it does not answer.
absl::StatusOr<std::shared_ptr<const ModelVersion>> PinVersion(const Model& model, int64_t wanted);

// The numbers of the versions that answer, rising.
std::vector<int64_t> AnsweringNumbers(const Serving& serving);

}  // namespace sconce

#endif  // SCONCE_SERVER_RPC_LOOKUP_H_
