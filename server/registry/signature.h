// What a model takes and gives: names, dtypes and dimensions, and the checks of a request and of a
// network's outputs against them. A value type; free of torch.

#ifndef SCONCE_SERVER_REGISTRY_SIGNATURE_H_
#define SCONCE_SERVER_REGISTRY_SIGNATURE_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "server/base/dtype.h"
#include "server/device/replica.h"

namespace sconce {

struct TensorSpec {
  std::string name;
  DType dtype = DType::kFloat32;
  // Without the batch dimension, which always comes first; -1 = any size.
  std::vector<int64_t> dims;

  bool operator==(const TensorSpec&) const = default;
};

struct Signature {
  std::vector<TensorSpec> inputs;
  std::vector<TensorSpec> outputs;

  bool operator==(const Signature&) const = default;
};

// An input as the request declares it; names and datatypes are untrusted.
struct DeclaredInput {
  std::string name;
  std::string datatype;  // Open Inference Protocol: "FP32", ...
  std::vector<int64_t> shape;
};

struct CheckedInputs {
  // position[i] is the index, in the request, of the signature's i-th input.
  std::vector<size_t> position;
  // The common first dimension, 1..max_batch_rows.
  int64_t rows = 0;
  // Bytes of the signature's i-th input.
  std::vector<int64_t> size_bytes;
};

// Checks declared inputs against the signature: each input given once, datatype, rank, every
// dimension, one common number of rows between 1 and `max_batch_rows`. INVALID_ARGUMENT otherwise;
// the message begins with `model_version` ("resnet50/7") and says what was expected and what came.
absl::StatusOr<CheckedInputs> CheckInputs(const std::string& model_version,
                                          const Signature& signature, int64_t max_batch_rows,
                                          absl::Span<const DeclaredInput> inputs);

// Whether the outputs of a batch of `rows` rows are what the signature says. INTERNAL otherwise: a
// network that gives something else would hand one request's rows to another.
absl::Status CheckOutputs(const Signature& signature, int64_t rows,
                          absl::Span<const HostTensor> outputs);

// "FP32[-1,3,224,224]": a spec with its batch dimension, or a declared shape.
std::string SpecString(const TensorSpec& spec);
// Whether rows of that shape, however many `shape` begins with, are what `spec` says.
bool RowsFit(const TensorSpec& spec, absl::Span<const int64_t> shape);

std::string ShapeString(absl::Span<const int64_t> shape);

}  // namespace sconce

#endif  // SCONCE_SERVER_REGISTRY_SIGNATURE_H_
