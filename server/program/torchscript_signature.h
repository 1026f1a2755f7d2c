// What forward() of a TorchScript module takes and gives, brought together with what config.pbtxt
// says: the archive knows arguments and types but neither dtypes nor shapes.
//
// Pure functions, callable from any thread.
#ifndef SCONCE_SERVER_PROGRAM_TORCHSCRIPT_SIGNATURE_H_
#define SCONCE_SERVER_PROGRAM_TORCHSCRIPT_SIGNATURE_H_

#include <ATen/core/Tensor.h>

#include <cstddef>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "models/net.h"

namespace c10 {
struct FunctionSchema;
struct IValue;
}  // namespace c10

namespace sconce {

// How the signature's tensors are passed to forward() and taken from its result.
struct ScriptCall {
  // For each argument of forward() after self: the input it is given; none: what `defaults` has.
  std::vector<std::optional<size_t>> inputs;
  std::vector<c10::IValue> defaults;
  // For each output of the signature: its key in a dictionary of tensors, or its place in a tuple
  // or list. A single tensor has place 0.
  std::vector<std::string> output_keys;
  std::vector<size_t> output_places;
};

// FAILED_PRECONDITION: what must be written into config.pbtxt; UNIMPLEMENTED: an argument or a
// result that is neither a tensor nor made of tensors, by name.
absl::StatusOr<ScriptCall> MatchCall(const c10::FunctionSchema& forward,
                                     const models::Signature& declared);

// The signature's outputs in `result`. Throws c10::Error where it is not as declared.
std::vector<at::Tensor> OutputsOf(const c10::IValue& result, const ScriptCall& call);

}  // namespace sconce

#endif  // SCONCE_SERVER_PROGRAM_TORCHSCRIPT_SIGNATURE_H_
