// What a network is run on for a summary: zeros of a size that it takes, or samples from a file.
//
// Functions, callable from any thread.
#ifndef SCONCE_SERVER_TOOLS_SUMMARY_INPUTS_H_
#define SCONCE_SERVER_TOOLS_SUMMARY_INPUTS_H_

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "models/net.h"

namespace sconce::tools {

// `sizes`: of the first inputs, without the batch, such as "3,224,224"; of the others those that go
// with them, or else the model's own, or 128 or what is near that. Every element is the smallest
// value that is allowed. INVALID_ARGUMENT where a size cannot be; RESOURCE_EXHAUSTED where there is
// no memory for it.
absl::StatusOr<std::vector<at::Tensor>> PlainInputs(const models::Signature& signature,
                                                    const std::vector<std::string>& sizes,
                                                    int64_t batch);

// The tensors of that file with the inputs' names. Inputs that may be left out may be. Errors name
// the file.
absl::StatusOr<std::vector<at::Tensor>> SampleInputs(const models::Signature& signature,
                                                     const std::string& path);

}  // namespace sconce::tools

#endif  // SCONCE_SERVER_TOOLS_SUMMARY_INPUTS_H_
