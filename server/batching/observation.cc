#include "server/batching/observation.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "server/base/dtype.h"
#include "server/base/non_finite.h"
#include "server/registry/tensor_fill.h"

namespace sconce {

bool AnyNonFinite(absl::Span<const HostTensor> tensors) {
  return std::any_of(tensors.begin(), tensors.end(), [](const HostTensor& tensor) {
    return FirstNonFinite(tensor.dtype, tensor.dtype, tensor.bytes).has_value();
  });
}

std::optional<RecentRequest> CopyForComparison(const InferRequest& request,
                                               const InferResponse& response) {
  const ModelVersion& version = *response.version;
  int64_t size_bytes = 0;
  for (const InputBytes& input : request.bytes) {
    if (input.device.has_value()) return std::nullopt;
  }
  for (const int64_t size : request.checked.size_bytes) size_bytes += size;
  for (const HostTensor& output : response.outputs) {
    size_bytes += static_cast<int64_t>(output.bytes.size());
  }
  if (size_bytes > RecentRequests::kMaxBytes) return std::nullopt;

  RecentRequest copy;
  copy.version = version.number;
  copy.weights_id = version.weights_id;
  for (size_t i = 0; i < version.signature.inputs.size(); ++i) {
    const TensorSpec& spec = version.signature.inputs[i];
    const size_t position = request.checked.position[i];
    KeptTensor& kept = copy.inputs.emplace_back();
    kept.dtype = spec.dtype;
    if (position == CheckedInputs::kAbsent) {
      kept.shape = copy.inputs[0].shape;
      int64_t bytes = DTypeSize(spec.dtype);
      for (const int64_t size : kept.shape) bytes *= size;
      kept.bytes.resize(static_cast<size_t>(bytes));
      FillElements(spec.dtype, spec.rules.absent.value_or(0), absl::MakeSpan(kept.bytes));
      continue;
    }
    kept.shape = request.declared[position].shape;
    kept.bytes.reserve(static_cast<size_t>(request.checked.size_bytes[i]));
    for (const auto& piece : request.bytes[position].pieces) {
      kept.bytes.insert(kept.bytes.end(), piece.begin(), piece.end());
    }
  }
  for (const HostTensor& output : response.outputs) {
    copy.outputs.push_back(
        {output.dtype, output.shape, {output.bytes.begin(), output.bytes.end()}});
  }
  return copy;
}

}  // namespace sconce
