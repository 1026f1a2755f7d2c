// PickledStorages: the storages that a pickle's tensors refer to, by the persistent ids that
// torch.save gives them:
//
//   ('storage', class, key, location, elements)          since PyTorch 1.6
//   ('storage', class, key, location, elements, view)    before; view: None or (key, offset, size)
//
// Used by one thread while a file is opened.
#ifndef SCONCE_SERVER_CHECKPOINT_PYTORCH_PICKLED_STORAGES_H_
#define SCONCE_SERVER_CHECKPOINT_PYTORCH_PICKLED_STORAGES_H_

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "server/base/dtype.h"
#include "server/checkpoint/checkpoint.h"
#include "server/checkpoint/pickle/pickle_value.h"

namespace sconce {

// A storage's element type; nullopt for bytes without a type of their own.
using StorageType = std::optional<DType>;

// What a persistent id says, each part checked in itself.
struct StorageReference {
  std::string_view key;  // of the tree's stream
  StorageType type;
  int64_t numel = 0;
  int64_t size_bytes = 0;
  // The part of the storage that is meant, in elements; all of it unless a view is given.
  int64_t view_offset = 0;
  int64_t view_numel = 0;
};

// The element type of a storage class such as torch.FloatStorage; an error for what is none.
absl::StatusOr<StorageType> StorageTypeOf(const PickleTree& tree, PickleId storage_class);

// `persistent`: a value of any kind; what is no reference to a storage is an error.
absl::StatusOr<StorageReference> ParseStorageReference(const PickleTree& tree, PickleId persistent);

// Whether two references to one key can both be right.
absl::Status CheckSameStorage(const StorageReference& before, const StorageReference& now);

class PickledStorages {
 public:
  // Finds where the bytes of the storage with this key lie.
  using FindStorage = std::function<absl::StatusOr<StorageDescriptor>(std::string_view key)>;

  // A storage, or the part of it that a view shows.
  struct Slice {
    int32_t storage = 0;
    StorageType type;
    int64_t offset = 0;  // in elements
    int64_t size_bytes = 0;
  };

  // `tree` must outlive this. `find_storage` is null where the file has no storages by key.
  PickledStorages(const PickleTree& tree, FindStorage find_storage)
      : tree_(tree), find_storage_(std::move(find_storage)) {}

  absl::StatusOr<Slice> FindOrAdd(PickleId persistent);

  const StorageDescriptor& at(int32_t storage) const {
    return storages_[static_cast<size_t>(storage)];
  }

  // Those found so far, each key once, in the order of their numbers.
  std::vector<StorageDescriptor> Take() { return std::move(storages_); }

 private:
  struct Known {
    int32_t index = 0;
    StorageReference reference;
  };

  const PickleTree& tree_;
  const FindStorage find_storage_;
  std::map<std::string_view, Known> by_key_;  // the keys are views of the tree's stream
  std::vector<StorageDescriptor> storages_;
};

}  // namespace sconce

#endif  // SCONCE_SERVER_CHECKPOINT_PYTORCH_PICKLED_STORAGES_H_
