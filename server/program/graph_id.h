// GraphId: what names a graph by what it computes, so that the same program pushed with other
// weights is known to be the same: an exporter writes its file anew, with whatever notes of its
// own, and the graph read from it is equal.
//
// A pure function, callable from any thread.
#ifndef SCONCE_SERVER_PROGRAM_GRAPH_ID_H_
#define SCONCE_SERVER_PROGRAM_GRAPH_ID_H_

#include <string>

#include "models/program/graph.h"

namespace sconce {

// 32 hexadecimal digits, equal for equal nodes, constants, sizes, and names, types and shapes of
// inputs, outputs and weights. Names that only messages have count for nothing.
std::string GraphId(const models::Graph& graph);

}  // namespace sconce

#endif  // SCONCE_SERVER_PROGRAM_GRAPH_ID_H_
