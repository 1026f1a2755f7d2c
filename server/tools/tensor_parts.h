// What a tensor consists of on disk, and passing it through memory in pieces of fixed size, so that
// no command needs more memory for a larger file.
//
// Functions are thread-safe; a PieceReader is used by one thread.
#ifndef SCONCE_SERVER_TOOLS_TENSOR_PARTS_H_
#define SCONCE_SERVER_TOOLS_TENSOR_PARTS_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "server/checkpoint/checkpoint.h"
#include "server/tools/progress.h"

namespace sconce::tools {

// A dense run of values: a tensor itself, or one of those that describe it.
struct TensorPart {
  const char* role;  // "" for the tensor itself, "indices", "values", "scales", ...
  const TensorDescriptor* tensor;
};

// A plain tensor is its one part. A quantised one is followed by its scales and zero points where
// they are tensors; a sparse one is its indices and values.
std::vector<TensorPart> PartsOf(const TensorDescriptor& tensor);

// Bytes of all parts.
int64_t StoredBytes(const TensorDescriptor& tensor);

enum class TensorKind { kDense, kQuantized, kSparse };
TensorKind KindOf(const TensorDescriptor& tensor);

// "quantized, per tensor, scale 0.02, zero point 3"; "" for a plain tensor in one storage.
std::string FormText(const TensorDescriptor& tensor);

class PieceReader {
 public:
  using Consumer = std::function<absl::Status(absl::Span<const std::byte> piece)>;

  explicit PieceReader(Progress& progress) : progress_(progress) {}

  // Hands the tensor's bytes to `consumer`, in order, in pieces of whole elements. Stops at the
  // first error. REQUIRES: `tensor` is a part (PartsOf) and from `checkpoint`.
  absl::Status Read(const Checkpoint& checkpoint, const TensorDescriptor& tensor,
                    const Consumer& consumer);

  // The same for `tensors` of equal shape, of a checkpoint each, side by side: `pieces` holds the
  // same elements of each, in their order.
  using GroupConsumer =
      std::function<absl::Status(absl::Span<const absl::Span<const std::byte>> pieces)>;
  struct Source {
    const Checkpoint* checkpoint;
    const TensorDescriptor* tensor;
  };
  absl::Status ReadGroup(absl::Span<const Source> sources, const GroupConsumer& consumer);

 private:
  Progress& progress_;
  std::vector<std::vector<std::byte>> staging_;  // one for each source
};

}  // namespace sconce::tools

#endif  // SCONCE_SERVER_TOOLS_TENSOR_PARTS_H_
