// Golden samples: batches with the answers that are expected, which an operator puts beside a
// model's weights. Each is a file of any format that weights come in, and holds tensors under the
// names of the signature's inputs and outputs. Pure functions, free of torch, callable from any
// thread.

#ifndef SCONCE_SERVER_LOADER_GOLDEN_SAMPLES_H_
#define SCONCE_SERVER_LOADER_GOLDEN_SAMPLES_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "server/checkpoint/checkpoint.h"
#include "server/loader/answers.h"
#include "server/registry/signature.h"

namespace sconce {

// The most that one sample may take of memory.
inline constexpr int64_t kMaxSampleBytes = int64_t{256} << 20;

// Errors are those of the checkpoint; INVALID_ARGUMENT where a tensor is missing or is none of the
// signature's, is of another type or shape, or has another number of rows than the others or more
// than `max_batch_size`.
absl::StatusOr<Sample> ReadGoldenSample(const std::string& path, const CheckpointOptions& options,
                                        const Signature& signature, int64_t max_batch_size);

}  // namespace sconce

#endif  // SCONCE_SERVER_LOADER_GOLDEN_SAMPLES_H_
