// How much each layer of a network, and each of its channels, weighs: by the magnitude of its
// weights and, where it was measured, of what it puts out.
//
// Pure functions, callable from any thread.
#ifndef SCONCE_SERVER_TOOLS_LAYER_IMPORTANCE_H_
#define SCONCE_SERVER_TOOLS_LAYER_IMPORTANCE_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "models/net.h"
#include "server/tools/layer_trace.h"

namespace sconce::tools {

struct LayerImportance {
  std::string name;
  std::string weight;  // the tensor that is meant: the layer's first matrix
  // By channel: the sum of the weights' absolute values, and the root of the sum of their squares.
  std::vector<double> l1;
  std::vector<double> l2;
  std::vector<double> activation;  // Layer::activation, where it has as many
  double mean_magnitude = 0;       // of all weights
  double root_mean_square = 0;
  double mean_activation = 0;

  // The channels, the one with the least of `values` first.
  static std::vector<size_t> Ranked(const std::vector<double>& values);
};

// The layers that have a matrix of weights, in the order they ran; each tensor once.
// REQUIRES: `net` has its weights, on the CPU.
std::vector<LayerImportance> MeasureImportance(const models::Net& net, const LayerTrace& trace);

}  // namespace sconce::tools

#endif  // SCONCE_SERVER_TOOLS_LAYER_IMPORTANCE_H_
