// LayerTrace: what a network does in one run, operator by operator, each attributed to the layer
// whose weights it is given. What is looked at are the calls of LibTorch's operators and the memory
// of their arguments, so that any network can be traced, whatever it is made of.
//
// Made by TraceLayers, on one thread; a value.
#ifndef SCONCE_SERVER_TOOLS_LAYER_TRACE_H_
#define SCONCE_SERVER_TOOLS_LAYER_TRACE_H_

#include <ATen/core/Tensor.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "models/net.h"

namespace sconce::tools {

// An operator that has weights, or a run of such that have none.
struct Layer {
  std::string name;                    // "layer1.0.conv1"; "" where there are no weights
  std::vector<std::string> operators;  // "conv2d"
  std::vector<int64_t> output_shape;   // of the last one
  std::vector<size_t> weights;         // by index in the network's State()
  int64_t parameters = 0;              // those that no layer before has
  int64_t multiply_adds = 0;
  // Of a layer with a matrix of weights: the dimension of the first weight, and of the output, in
  // which each index is a channel.
  int channel_of_weight = 0;
  // Mean absolute output by channel, where it was asked for; else empty.
  std::vector<double> activation;
};

struct LayerTrace {
  std::vector<Layer> layers;   // in the order they ran
  std::vector<size_t> unused;  // tensors that no operator was given, as `weights`
  std::vector<at::Tensor> outputs;
};

// Runs the network once. InvalidArgument where it fails on the inputs, with what LibTorch says.
// REQUIRES: Eval; all tensors of the network's State() are on the CPU.
absl::StatusOr<LayerTrace> TraceLayers(const models::Net& net,
                                       const std::vector<at::Tensor>& inputs,
                                       bool measure_activation);

}  // namespace sconce::tools

#endif  // SCONCE_SERVER_TOOLS_LAYER_TRACE_H_
