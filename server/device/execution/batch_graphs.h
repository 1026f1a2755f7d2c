// BatchGraphs: a network's forward captured once per batch bucket, on memory of its own, to be
// replayed for batches up to that size. What launches dozens of kernels becomes one call.
//
// Used by one thread at a time; replayed on one stream. Destroyed when nothing of it is under way.
// Owned by its replica. Throws what LibTorch throws.

#ifndef SCONCE_SERVER_DEVICE_EXECUTION_BATCH_GRAPHS_H_
#define SCONCE_SERVER_DEVICE_EXECUTION_BATCH_GRAPHS_H_

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "server/device/accelerator.h"
#include "server/device/execution/forward_pass.h"

namespace sconce {

class BatchGraphs {
 public:
  // A tensor of the largest batch, without its values.
  struct Shape {
    std::vector<int64_t> sizes;  // the first is the rows
    at::ScalarType type;
  };

  // Captures for batches of 1 to as many rows as the shapes have. `inputs` as clients send them,
  // `outputs` as the network gave them. `forward` outlives the graphs.
  // REQUIRES: the forward has been run for each bucket on this thread, or what LibTorch sets up at
  // a first run would be captured.
  static absl::StatusOr<std::unique_ptr<BatchGraphs>> Capture(const Accelerator& accelerator,
                                                              c10::Device device,
                                                              ForwardPass& forward,
                                                              const std::vector<Shape>& inputs,
                                                              const std::vector<Shape>& outputs);

  // Whether a batch of these inputs can be replayed.
  bool Fit(const std::vector<at::Tensor>& sent) const;

  // The outputs of these inputs, queued on the current stream. They are no memory of the graphs.
  // REQUIRES: Fit(sent).
  std::vector<at::Tensor> Replay(const std::vector<at::Tensor>& sent);

  // Device memory kept: the graphs' and that of inputs and outputs.
  int64_t size_bytes() const;

 private:
  BatchGraphs(ForwardPass& forward, std::vector<Shape> shapes)
      : forward_(forward), sent_(std::move(shapes)) {}

  ForwardPass& forward_;
  const std::vector<Shape> sent_;
  // Of the largest batch; smaller ones use their first rows.
  std::vector<at::Tensor> inputs_;
  std::vector<at::Tensor> outputs_;
  std::vector<int64_t> buckets_;
  std::vector<std::unique_ptr<Accelerator::Graph>> graphs_;  // by bucket
};

}  // namespace sconce

#endif  // SCONCE_SERVER_DEVICE_EXECUTION_BATCH_GRAPHS_H_
