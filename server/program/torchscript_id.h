// What a TorchScript module computes, for its name: the graph of forward() and what the module
// holds beside weights. The text of the archive would not do: it has numbers in the classes' names,
// which go on counting while one process exports one module after the other.
//
// A pure function, callable from any thread.
#ifndef SCONCE_SERVER_PROGRAM_TORCHSCRIPT_ID_H_
#define SCONCE_SERVER_PROGRAM_TORCHSCRIPT_ID_H_

#include "server/program/program_hasher.h"

namespace torch::jit {
struct Graph;
struct Module;
}  // namespace torch::jit

namespace sconce {

// `forward`: of ForwardGraph. Attributes that are parameters, buffers or modules are left out.
// Throws c10::Error where an attribute or a constant is of a kind that cannot be named so.
void HashScript(const torch::jit::Module& module, const torch::jit::Graph& forward,
                ProgramHasher& hasher);

}  // namespace sconce

#endif  // SCONCE_SERVER_PROGRAM_TORCHSCRIPT_ID_H_
