// CUDA graphs: a batch's kernels captured once and launched again as a whole.
//
// Thread-safe; one capture at a time in the process.

#ifndef SCONCE_SERVER_DEVICE_CUDA_CUDA_GRAPH_H_
#define SCONCE_SERVER_DEVICE_CUDA_CUDA_GRAPH_H_

#include <c10/core/Device.h>

#include <functional>
#include <memory>

#include "absl/status/statusor.h"
#include "server/device/accelerator.h"

namespace sconce {

// As Accelerator::Capture, on a stream of its own. REQUIRES: `beside` is null or came from here.
absl::StatusOr<std::unique_ptr<Accelerator::Graph>> CaptureCudaGraph(
    c10::Device device, const std::function<void()>& body, const Accelerator::Graph* beside);

}  // namespace sconce

#endif  // SCONCE_SERVER_DEVICE_CUDA_CUDA_GRAPH_H_
