// TensorRebuilder: what torch's _rebuild functions would make of their pickled arguments, as tensor
// descriptions. Nothing is called; each known function is a case here, and any other where a
// tensor is built is an error.
#ifndef SCONCE_SERVER_CHECKPOINT_TENSOR_REBUILDER_H_
#define SCONCE_SERVER_CHECKPOINT_TENSOR_REBUILDER_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "server/base/dtype.h"
#include "server/checkpoint/checkpoint.h"
#include "server/checkpoint/pickle_value.h"

namespace sconce {

// Used by one thread while a file is opened.
class TensorRebuilder {
 public:
  // Finds where the bytes of the storage with this key lie.
  using FindStorage = std::function<absl::StatusOr<StorageDescriptor>(std::string_view key)>;

  // `tree` must outlive the rebuilder.
  TensorRebuilder(const PickleTree& tree, FindStorage find_storage);

  // Whether Python would make a tensor of this value.
  bool IsTensor(PickleId id) const;

  // Describes the tensor, checked against its storage; the name is left empty.
  // REQUIRES: IsTensor(id).
  absl::StatusOr<TensorDescriptor> Rebuild(PickleId id);

  // The storages that the rebuilt tensors refer to, each key once.
  std::vector<StorageDescriptor> TakeStorages() { return std::move(storages_); }

 private:
  // A storage's element type; nullopt for bytes without a type of their own.
  using StorageType = std::optional<DType>;

  struct Storage {
    int32_t index = 0;
    StorageType type;
    int64_t numel = 0;
  };

  using Arguments = absl::Span<const PickleId>;

  absl::StatusOr<TensorDescriptor> RebuildAt(PickleId id, int depth);
  absl::StatusOr<TensorDescriptor> RebuildCall(PickleTree::Global function, Arguments arguments,
                                               int depth);
  absl::StatusOr<TensorDescriptor> RebuildStrided(std::string_view function, Arguments arguments);
  absl::StatusOr<TensorDescriptor> RebuildParameter(Arguments arguments, int depth);
  absl::StatusOr<TensorDescriptor> RebuildFromType(Arguments arguments, int depth);
  absl::StatusOr<TensorDescriptor> RebuildForDevice(Arguments arguments, int depth);
  absl::StatusOr<TensorDescriptor> RebuildQuantized(Arguments arguments, int depth);
  absl::Status SetQuantizer(PickleId parameters, int depth, TensorDescriptor& tensor);
  absl::StatusOr<std::shared_ptr<const TensorDescriptor>> RebuildChannelValues(PickleId id,
                                                                               const char* what,
                                                                               int64_t channels,
                                                                               int depth);

  // Fills in storage, offset, shape and strides from the four arguments all functions start with.
  absl::StatusOr<StorageType> SetView(Arguments arguments, TensorDescriptor& tensor);
  absl::Status SetBits(PickleId metadata, TensorDescriptor& tensor);
  absl::Status CheckBounds(const TensorDescriptor& tensor) const;
  absl::StatusOr<Storage> FindOrAddStorage(PickleId persistent);
  absl::StatusOr<DType> DTypeOf(PickleId id) const;
  absl::StatusOr<int64_t> IntegerOf(PickleId id, const char* what) const;
  absl::StatusOr<std::vector<int64_t>> IntegersOf(PickleId id, const char* what) const;

  const PickleTree& tree_;
  const FindStorage find_storage_;
  std::map<std::string_view, Storage> by_key_;  // the keys are views of the tree's stream
  std::vector<StorageDescriptor> storages_;
};

}  // namespace sconce

#endif  // SCONCE_SERVER_CHECKPOINT_TENSOR_REBUILDER_H_
