// The graph of a module's forward(): made fit to be run without the module's code, checked, and its
// arguments and results as PyTorch's schema has them.
//
// Pure functions of a module that nobody changes meanwhile; callable from any thread.
#ifndef SCONCE_SERVER_PROGRAM_TORCHSCRIPT_GRAPH_H_
#define SCONCE_SERVER_PROGRAM_TORCHSCRIPT_GRAPH_H_

#include <c10/core/Device.h>

#include <memory>

#include "absl/status/statusor.h"

namespace torch::jit {
struct Graph;
struct Module;
}  // namespace torch::jit

namespace sconce {

// A copy with every call inlined and printing left out. UNIMPLEMENTED: it calls an operator that
// programs may not call, changes its module, or does something else that is not supported;
// FAILED_PRECONDITION: it is in training mode.
absl::StatusOr<std::shared_ptr<torch::jit::Graph>> ForwardGraph(const torch::jit::Module& module);

// A copy of such a graph whose constants lie on `device` and that makes new tensors there, whatever
// device a trace has written down. Throws c10::Error.
std::shared_ptr<torch::jit::Graph> GraphOn(const torch::jit::Graph& graph, c10::Device device);

}  // namespace sconce

#endif  // SCONCE_SERVER_PROGRAM_TORCHSCRIPT_GRAPH_H_
