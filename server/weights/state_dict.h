// StateDict: the weights of a checkpoint in memory, under the names that a network knows.
//
// Made by ReadStateDict, on any thread; a value that one thread uses at a time. Copies share the
// tensors' memory.
#ifndef SCONCE_SERVER_WEIGHTS_STATE_DICT_H_
#define SCONCE_SERVER_WEIGHTS_STATE_DICT_H_

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "models/architecture.h"
#include "server/checkpoint/checkpoint.h"

namespace sconce {

// What the file's structure tells of its state_dict, before a weight is read.
struct StateLayout {
  // What every name began with and no longer does, "" if nothing: "module.".
  std::string stripped_prefix;
  // In the file's order.
  std::vector<models::NamedShape> tensors;
  // Memory that ReadStateDict takes.
  int64_t size_bytes = 0;
};

struct StateEntry {
  std::string name;
  at::Tensor tensor = {};
  // LibTorch does not copy quantised values into a float parameter: `tensor` then has the shape of
  // what was saved, and no values.
  bool quantized = false;
  // The same for a sparse tensor and a parameter that is none.
  std::optional<SparseParts::Layout> sparse = std::nullopt;
};

struct StateDict {
  std::vector<StateEntry> tensors;          // in the file's order
  std::vector<NonTensorEntry> non_tensors;  // matter only under a parameter's name
  // Module -> version, from the state_dict's _metadata; none for a module without one.
  std::map<std::string, int64_t> module_versions;
  std::string stripped_prefix;
  // Of an ONNX model: numbers in the code, which torch.export calls lifted_tensor_0, 1, ..., may be
  // among the tensors.
  bool has_lifted_constants = false;
  // 32 hexadecimal digits that name the content: names, dtypes, shapes and bytes. The same weights
  // have the same id whatever the container, the order or the wrapper's prefix.
  std::string weights_id;
};

// What every name of the state_dict begins with and a network's names do not, "" if nothing.
std::string StrippedPrefixOf(const Checkpoint& checkpoint);

// InvalidArgument where the tensors' sizes add up to more than any memory.
absl::StatusOr<StateLayout> DescribeState(const Checkpoint& checkpoint);

// What ReadStateDict would give, without values and without a weights id: each tensor has its shape
// and dtype, with one element seen through strides of 0. For FitStateDict.
StateDict OutlineStateDict(const Checkpoint& checkpoint);

// Reads all tensors but sparse ones into one allocation, each 64-byte aligned and contiguous; tied
// weights share. Errors are those of the checkpoint (Aborted: the file was changed meanwhile), or
// ResourceExhausted where there is not enough memory.
absl::StatusOr<StateDict> ReadStateDict(const Checkpoint& checkpoint);

}  // namespace sconce

#endif  // SCONCE_SERVER_WEIGHTS_STATE_DICT_H_
