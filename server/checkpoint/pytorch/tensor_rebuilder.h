// TensorRebuilder: what torch's _rebuild functions would make of their pickled arguments, as tensor
// descriptions. Nothing is called; each known function is a case here, and any other where a
// tensor is built is an error.
#ifndef SCONCE_SERVER_CHECKPOINT_PYTORCH_TENSOR_REBUILDER_H_
#define SCONCE_SERVER_CHECKPOINT_PYTORCH_TENSOR_REBUILDER_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "server/base/dtype.h"
#include "server/checkpoint/checkpoint.h"
#include "server/checkpoint/pickle/pickle_value.h"
#include "server/checkpoint/pytorch/pickled_storages.h"

namespace sconce {

// Used by one thread while a file is opened.
class TensorRebuilder {
 public:
  using FindStorage = PickledStorages::FindStorage;

  // In the oldest files a persistent id is a whole tensor: describes it, storage number included.
  using FindTensor = std::function<absl::StatusOr<TensorDescriptor>(PickleId persistent_id)>;

  // `tree` must outlive the rebuilder.
  TensorRebuilder(const PickleTree& tree, FindStorage find_storage);
  TensorRebuilder(const PickleTree& tree, FindTensor find_tensor);

  // Whether Python would make a tensor of this value.
  bool IsTensor(PickleId id) const;

  // Whether that tensor has a type and a shape alone: one on the meta device.
  // REQUIRES: IsTensor(id).
  bool HasNoData(PickleId id) const;

  // Describes the tensor, checked against its storage; the name is left empty.
  // REQUIRES: IsTensor(id).
  absl::StatusOr<TensorDescriptor> Rebuild(PickleId id);

  // Makes tensors whose numbers begin with the highest byte, from now on.
  void SetBigEndian() { big_endian_ = true; }

  // The storages that the rebuilt tensors refer to, each key once.
  std::vector<StorageDescriptor> TakeStorages() { return storages_.Take(); }

 private:
  using Arguments = absl::Span<const PickleId>;

  static absl::Status CheckArgumentCount(size_t got, size_t least, size_t most,
                                         std::string_view function);
  static absl::Status RefuseDepth(int depth);

  absl::StatusOr<TensorDescriptor> RebuildAt(PickleId id, int depth);
  absl::StatusOr<TensorDescriptor> RebuildCall(PickleTree::Global function, Arguments arguments,
                                               int depth);
  absl::StatusOr<TensorDescriptor> RebuildStrided(std::string_view function, Arguments arguments);
  absl::StatusOr<TensorDescriptor> RebuildParameter(Arguments arguments, int depth);
  absl::StatusOr<TensorDescriptor> RebuildFromType(Arguments arguments, int depth);
  absl::StatusOr<TensorDescriptor> RebuildForDevice(Arguments arguments, int depth);
  absl::StatusOr<TensorDescriptor> RebuildSparse(Arguments arguments, int depth);
  absl::StatusOr<std::shared_ptr<const TensorDescriptor>> RebuildPart(PickleId id, const char* what,
                                                                      int depth);
  absl::StatusOr<TensorDescriptor> RebuildQuantized(Arguments arguments, int depth);
  absl::Status SetQuantizer(PickleId parameters, int depth, TensorDescriptor& tensor);
  absl::StatusOr<std::shared_ptr<const TensorDescriptor>> RebuildChannelValues(PickleId id,
                                                                               const char* what,
                                                                               int64_t channels,
                                                                               int depth);

  // Fills in storage, offset, shape and strides from the four arguments all functions start with.
  absl::StatusOr<PickledStorages::Slice> SetView(Arguments arguments, TensorDescriptor& tensor);
  absl::Status SetBits(PickleId metadata, TensorDescriptor& tensor);
  // Checks that the tensor, whose offset is counted from the slice's start, lies inside it; then
  // counts the offset from the storage's start.
  absl::Status Place(const PickledStorages::Slice& slice, TensorDescriptor& tensor) const;
  absl::StatusOr<DType> DTypeOf(PickleId id) const;
  absl::StatusOr<int64_t> IntegerOf(PickleId id, const char* what) const;
  absl::StatusOr<std::vector<int64_t>> IntegersOf(PickleId id, const char* what) const;

  const PickleTree& tree_;
  const FindTensor find_tensor_;  // null but for the oldest files
  PickledStorages storages_;
  bool big_endian_ = false;
};

}  // namespace sconce

#endif  // SCONCE_SERVER_CHECKPOINT_PYTORCH_TENSOR_REBUILDER_H_
