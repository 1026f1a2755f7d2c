// What a RepositoryModelLoad brings in place of what the model's folder holds, from its parameters
// as Triton names them: "config", the configuration as JSON, and "file:PATH", a file's bytes. Pure;
// callable from any thread.

#ifndef SCONCE_SERVER_RPC_LOAD_OVERRIDES_H_
#define SCONCE_SERVER_RPC_LOAD_OVERRIDES_H_

#include <cstddef>
#include <cstdint>

#include "absl/status/statusor.h"
#include "proto/open_inference.pb.h"
#include "server/registry/repository_control.h"

namespace sconce {

inline constexpr size_t kMaxConfigBytes = size_t{1} << 20;

// Takes the bytes of the file out of `request`. Of its path the last part counts. `max_file_bytes`:
// what --inline-weights-max-bytes allows; 0: no files.
// FAILED_PRECONDITION where files are not allowed, RESOURCE_EXHAUSTED where one is too large,
// UNIMPLEMENTED for parameters that are not known, else INVALID_ARGUMENT.
absl::StatusOr<LoadOverrides> TakeLoadOverrides(inference::RepositoryModelLoadRequest* request,
                                                int64_t max_file_bytes);

}  // namespace sconce

#endif  // SCONCE_SERVER_RPC_LOAD_OVERRIDES_H_
