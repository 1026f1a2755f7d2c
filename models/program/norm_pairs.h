// Convolutions in a graph whose outputs go to a batch norm and nowhere else.
#ifndef SCONCE_MODELS_PROGRAM_NORM_PAIRS_H_
#define SCONCE_MODELS_PROGRAM_NORM_PAIRS_H_

#include <cstddef>
#include <vector>

#include "models/net.h"
#include "models/program/graph.h"

namespace sconce::models {

struct GraphNormPair {
  // Indexes into Graph::nodes.
  size_t convolution = 0;
  size_t norm = 0;
  NormPair tensors;  // indexes into Graph::weights
};

// Those whose tensors are the graph's weights, each used there alone. A pure function.
std::vector<GraphNormPair> FindNormPairs(const Graph& graph);

}  // namespace sconce::models

#endif  // SCONCE_MODELS_PROGRAM_NORM_PAIRS_H_
