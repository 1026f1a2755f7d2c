// From a TorchScript archive to a module in memory, by PyTorch's own reader, after ours has checked
// the file's structure and without its weights being held: they are read later, by name.
//
// Callable from any thread.
#ifndef SCONCE_SERVER_PROGRAM_TORCHSCRIPT_FILE_H_
#define SCONCE_SERVER_PROGRAM_TORCHSCRIPT_FILE_H_

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace c10::ivalue {
struct Object;
}  // namespace c10::ivalue
namespace torch::jit {
struct Module;
}  // namespace torch::jit

namespace sconce {

// A tensor that an attribute of a module holds.
struct ScriptTensor {
  std::string name;                                // "layer1.0.conv1.weight"
  c10::intrusive_ptr<c10::ivalue::Object> module;  // whose attribute it is
  size_t slot;
  bool is_parameter;
  bool is_buffer;  // else, if it is no parameter either, something the program keeps for itself
};

struct ScriptModule {
  std::string name;  // "layer1.0", "" for the whole
  c10::intrusive_ptr<c10::ivalue::Object> object;
};

struct ScriptContents {
  std::vector<ScriptModule> modules;  // each before those in it
  std::vector<ScriptTensor> tensors;  // in the order of a state_dict
};

// All modules in a module, itself first, and all tensors that are attributes of one. What modules
// share is there under each of its names. Of a copy, it is the same at the same places.
ScriptContents ContentsOf(const torch::jit::Module& module);

// The values of parameters and buffers are undefined; all other tensors are as saved. Nothing of
// the archive's code has been run. Errors do not name the path. UNIMPLEMENTED where opening it
// would run code, or where it calls operators that are not there.
absl::StatusOr<torch::jit::Module> LoadScriptModule(const std::string& path,
                                                    int64_t max_metadata_bytes);

}  // namespace sconce

#endif  // SCONCE_SERVER_PROGRAM_TORCHSCRIPT_FILE_H_
