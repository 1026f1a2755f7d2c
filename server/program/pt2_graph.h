// ParseExportedGraph: what an exported program's archive says is computed (models/<model>.json, as
// torch.export.save writes it with schema version 8), as a graph.
//
//   {"schema_version": {"major": 8, ...}, "range_constraints": {symbol: range...},
//    "graph_module": {"graph": {"inputs", "outputs", "nodes", "tensor_values", ...},
//                     "signature": {"input_specs", "output_specs"}, "module_call_graph", ...}}
//
// A function; callable from any thread.

#ifndef SCONCE_SERVER_PROGRAM_PT2_GRAPH_H_
#define SCONCE_SERVER_PROGRAM_PT2_GRAPH_H_

#include <ATen/core/Tensor.h>

#include <functional>
#include <string>

#include "absl/status/statusor.h"
#include "models/program/graph.h"

namespace sconce {

// Gives the tensor that the archive holds under a constant's name.
using ConstantSource = std::function<absl::StatusOr<at::Tensor>(const std::string& name)>;

// INVALID_ARGUMENT: what is wrong with the text, named; UNIMPLEMENTED: what of it is not supported.
// Values are defined once and before they are used; whether operators and their arguments are right
// is checked by what runs the graph.
absl::StatusOr<models::Graph> ParseExportedGraph(const std::string& text,
                                                 const ConstantSource& constants);

}  // namespace sconce

#endif  // SCONCE_SERVER_PROGRAM_PT2_GRAPH_H_
