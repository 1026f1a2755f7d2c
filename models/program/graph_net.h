// A graph as an architecture: what makes a program exported from Python one of the networks that
// the server loads, checks and swaps.
#ifndef SCONCE_MODELS_PROGRAM_GRAPH_NET_H_
#define SCONCE_MODELS_PROGRAM_GRAPH_NET_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "models/architecture.h"
#include "models/program/graph.h"

namespace sconce::models {

// An architecture with this name and id and without parameters. The graph is checked and made ready
// here, once; networks share it and the constants' memory until they are put on a device. A network
// calls LibTorch's operators on the device that it was given, and keeps no value longer than until
// its last use. InvalidArgument: what is wrong with the graph; Unimplemented: what of it is not
// supported. Both name node and operator.
absl::StatusOr<std::shared_ptr<const Architecture>> ArchitectureOf(std::string name, std::string id,
                                                                   Graph graph);

}  // namespace sconce::models

#endif  // SCONCE_MODELS_PROGRAM_GRAPH_NET_H_
