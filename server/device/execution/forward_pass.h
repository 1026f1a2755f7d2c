// ForwardPass: a network with what is done to its inputs before and to its outputs after, as the
// model's execution options ask: other types, another memory format, pixels made numbers. What the
// signature says of types is unchanged by it.
//
// Used by one thread at a time; queued on the current stream. Throws what LibTorch throws. Owned by
// its replica.

#ifndef SCONCE_SERVER_DEVICE_EXECUTION_FORWARD_PASS_H_
#define SCONCE_SERVER_DEVICE_EXECUTION_FORWARD_PASS_H_

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "server/device/execution_options.h"

namespace sconce {

namespace models {
class Net;
}

class ForwardPass {
 public:
  // REQUIRES: as TorchReplica.
  ForwardPass(std::shared_ptr<const models::Net> net, c10::Device device,
              const ExecutionOptions& options);

  // The input as the network takes it, from the input as clients send it, on the device and
  // contiguous; the same tensor, or a view of it, where nothing is to be computed.
  at::Tensor Prepare(size_t input, const at::Tensor& sent);

  // Memory for what Prepare makes of an input of that shape and type.
  at::Tensor NewInput(size_t input, at::IntArrayRef sent_shape, at::ScalarType sent_type) const;

  // Prepare into memory of the right shape.
  void PrepareInto(size_t input, const at::Tensor& sent, at::Tensor& prepared);

  // What the elements of rows are that nobody asked for.
  int64_t FillerOf(size_t input) const;
  // The fewest rows that the network takes.
  int64_t least_rows() const;

  // Outputs of the types of the network's signature, contiguous, in the shapes that clients see.
  std::vector<at::Tensor> Run(const std::vector<at::Tensor>& prepared) const;

 private:
  struct Constants {
    at::Tensor scale;
    at::Tensor bias;
  };

  const Normalisation* NormalisationOf(size_t input) const;
  at::ScalarType TypeOf(size_t input, at::ScalarType sent_type) const;

  const std::shared_ptr<const models::Net> net_;
  const c10::Device device_;
  const ExecutionOptions options_;
  std::vector<Constants> constants_;  // by input; put on the device when they are first needed
};

}  // namespace sconce

#endif  // SCONCE_SERVER_DEVICE_EXECUTION_FORWARD_PASS_H_
