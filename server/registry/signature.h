// What a model takes and gives: names, dtypes, dimensions and rules, and the checks of a request
// and of a network's outputs against them. A value type; free of torch.

#ifndef SCONCE_SERVER_REGISTRY_SIGNATURE_H_
#define SCONCE_SERVER_REGISTRY_SIGNATURE_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "models/tensor_rules.h"
#include "server/base/dtype.h"
#include "server/device/replica.h"

namespace sconce {

struct TensorSpec {
  std::string name;
  DType dtype = DType::kFloat32;
  // Without the batch dimension, which comes first; -1 = any size that `rules` allows.
  std::vector<int64_t> dims;
  models::TensorRules rules = {};

  // Whether an input has the first one's sizes in its dimensions of -1, in order.
  bool FollowsFirst() const { return rules.padding.has_value() || rules.absent.has_value(); }

  // What a dimension of -1 may be.
  models::Range SizesOf(size_t dimension) const {
    return rules.sizes.empty() ? models::Range{} : rules.sizes[dimension];
  }

  bool operator==(const TensorSpec&) const = default;
};

struct Signature {
  std::vector<TensorSpec> inputs;
  std::vector<TensorSpec> outputs;
  models::RowRules rows = {};

  bool operator==(const Signature&) const = default;
};

// An input as the request declares it; names and datatypes are untrusted.
struct DeclaredInput {
  std::string name;
  std::string datatype;  // Open Inference Protocol: "FP32", ...
  std::vector<int64_t> shape;
};

struct CheckedInputs {
  static constexpr size_t kAbsent = std::numeric_limits<size_t>::max();

  // position[i] is the index, in the request, of the signature's i-th input; kAbsent where the
  // request leaves it out.
  std::vector<size_t> position;
  // The common first dimension, 1..max_batch_rows; 1 where there is no batch dimension.
  int64_t rows = 0;
  // Bytes of the signature's i-th input; 0 where it is left out.
  std::vector<int64_t> size_bytes;
};

// Checks declared inputs against the signature: each input given once, unless it may be left out,
// datatype, rank, every dimension, sizes that depend on one another, one common number of rows
// between 1 and `max_batch_rows`. INVALID_ARGUMENT otherwise; the message begins with
// `model_version` ("resnet50/7") and says what was expected and what came. What the elements are is
// not looked at: CheckValues (signature_rules.h).
absl::StatusOr<CheckedInputs> CheckInputs(const std::string& model_version,
                                          const Signature& signature, int64_t max_batch_rows,
                                          absl::Span<const DeclaredInput> inputs);

// Whether the outputs of a batch of `rows` rows are what the signature says; `padded` are the sizes
// of the first input's dimensions of -1, where requests that differ in them share a batch (else
// they do not matter). INTERNAL otherwise: a network that gives something else would hand one
// request's rows to another.
absl::Status CheckOutputs(const Signature& signature, int64_t rows,
                          absl::Span<const HostTensor> outputs,
                          absl::Span<const int64_t> padded = {});

// Of a signature whose first input is padded, else none: the sizes of its dimensions of -1 in
// `shape`, which is that input's.
std::vector<int64_t> OpenSizes(const Signature& signature, absl::Span<const int64_t> shape);

// Rows of the largest batch, and so of the largest request, where the configuration says
// `max_batch_size`.
inline int64_t LargestBatch(const models::RowRules& rules, int64_t max_batch_size) {
  return rules.batched ? std::min(max_batch_size, rules.rows.maximum) : 1;
}

// "FP32[-1,3,224,1..640]": a spec with its batch dimension, or a declared shape.
std::string SpecString(const TensorSpec& spec, bool batched = true);
// The same without the type.
std::string DimsString(const TensorSpec& spec, bool batched = true);
// Whether a tensor of that shape, however many rows it begins with, is what `spec` says.
bool ShapeFits(const TensorSpec& spec, bool batched, absl::Span<const int64_t> shape);

std::string ShapeString(absl::Span<const int64_t> shape);

}  // namespace sconce

#endif  // SCONCE_SERVER_REGISTRY_SIGNATURE_H_
