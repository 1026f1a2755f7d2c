// A batch's way between host memory and the device: inputs in, outputs out, and what a client gave
// or wants in a device's memory. Pure functions, callable from any thread; queued on the current
// stream, on the CPU done when they return. They throw what LibTorch throws.

#ifndef SCONCE_SERVER_DEVICE_EXECUTION_BATCH_COPIES_H_
#define SCONCE_SERVER_DEVICE_EXECUTION_BATCH_COPIES_H_

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/device/execution/output_pool.h"
#include "server/device/replica.h"

namespace sconce {

// The inputs as tensors on `device`, with the bytes of `from_device` in their places. On the CPU
// they are the batch's own memory. INVALID_ARGUMENT where a range is not within its input.
absl::StatusOr<std::vector<at::Tensor>> CopyIn(const BatchInput& batch, c10::Device device);

// Page-locked tensors of the pool that will hold `outputs`. INTERNAL for a type that has no name.
absl::StatusOr<std::vector<HostTensor>> CopyOut(const std::vector<at::Tensor>& outputs,
                                                OutputPool& pool);

// The same of outputs in host memory, which the answers keep.
absl::StatusOr<std::vector<HostTensor>> HandOut(std::vector<at::Tensor> outputs);

// INVALID_ARGUMENT where a target is not of its rows' size.
absl::Status CopyToTargets(const BatchInput& batch, const std::vector<at::Tensor>& outputs);

}  // namespace sconce

#endif  // SCONCE_SERVER_DEVICE_EXECUTION_BATCH_COPIES_H_
