// Checkpoint: a weights file on disk, described without running anything in it.
//
// OpenCheckpoint finds out from the content (never from the name) which container the file is,
// checks its structure, and returns the tensors' descriptions; no weight is read until ReadInto.
// What is allocated while opening is proportional to the file's metadata, never to a number that
// the file merely claims.
//
// Errors read "<path>: <member>: tensor '<name>': expected ..., got ...". Codes: InvalidArgument
// and DataLoss mean that the content is bad and stays so until the file changes; Aborted, that the
// file changed while it was read; NotFound, PermissionDenied and Unavailable come from the file
// system (server/base/file.h).
#ifndef SCONCE_SERVER_CHECKPOINT_CHECKPOINT_H_
#define SCONCE_SERVER_CHECKPOINT_CHECKPOINT_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "server/base/dtype.h"
#include "server/base/file.h"

namespace sconce {

struct TensorDescriptor;

// A run of bytes in the file that one or several tensors are views of.
struct StorageDescriptor {
  std::string member;  // where in the file: "archive/data/0", or "data" in safetensors
  int64_t file_offset = 0;
  int64_t size_bytes = 0;
};

// How the integers of a quantised tensor map to real numbers.
struct Quantizer {
  enum class Scheme { kPerTensorAffine, kPerChannelAffine, kPerChannelAffineFloatQParams };

  Scheme scheme = Scheme::kPerTensorAffine;
  double scale = 1.0;      // kPerTensorAffine only
  int64_t zero_point = 0;  // kPerTensorAffine only
  // The per-channel schemes: one value for each index of dimension `axis`, to be read with ReadInto
  // like any tensor.
  std::shared_ptr<const TensorDescriptor> scales;
  std::shared_ptr<const TensorDescriptor> zero_points;
  int64_t axis = 0;
};

// A named view of a storage. Tied weights have the same storage index (and offset and strides).
struct TensorDescriptor {
  std::string name;
  DType dtype = DType::kFloat32;
  std::vector<int64_t> shape;
  std::vector<int64_t> strides;  // in elements, one per dimension, never negative
  int64_t offset = 0;            // in elements: the first element's place in the storage
  int32_t storage = 0;           // index into Checkpoint::storages()
  bool conjugate = false;        // stored bytes are the conjugate; ReadInto resolves it
  bool negative = false;         // stored bytes are the negative; ReadInto resolves it
  bool is_parameter = false;     // saved as torch.nn.Parameter
  std::optional<Quantizer> quantizer;

  int64_t num_elements() const;
  // Bytes of the tensor laid out contiguously, which is what ReadInto writes.
  int64_t size_bytes() const;
};

// An entry of the state_dict that is no tensor. It matters only if a parameter has its name.
struct NonTensorEntry {
  std::string name;
  std::string type_name;  // "int", "dict", "numpy.dtype", ...; fit to print
};

// A scalar that lies beside the weights, such as an epoch; both parts fit to print.
struct MetadataEntry {
  std::string name;
  std::string value;
};

struct CheckpointOptions {
  // Compare each zip member that is read with the checksum the archive gives for it. Off by
  // default: PyTorch can be told to write archives without valid checksums.
  bool verify_crc = false;
  // The most bytes of structure (central directory, pickle, JSON header) read from one file.
  int64_t max_metadata_bytes = int64_t{256} << 20;
};

// Everything that is known of a file once it is open.
struct CheckpointListing {
  std::string path;
  FileFingerprint fingerprint;
  std::vector<TensorDescriptor> tensors;
  std::vector<StorageDescriptor> storages;
  std::string wrapper;
  bool has_module_versions = false;
  std::map<std::string, int64_t, std::less<>> module_versions;
  std::vector<NonTensorEntry> non_tensors;
  std::vector<MetadataEntry> metadata;
};

// Immutable after OpenCheckpoint; thread-safe. Holds the file open, so that all reads see one file
// even if the path is replaced meanwhile.
class Checkpoint {
 public:
  virtual ~Checkpoint() = default;
  Checkpoint(const Checkpoint&) = delete;
  Checkpoint& operator=(const Checkpoint&) = delete;

  // The container, for messages: "torch.save zip", "safetensors".
  virtual const char* format() const = 0;

  const std::string& path() const { return listing_.path; }
  const FileFingerprint& fingerprint() const { return listing_.fingerprint; }

  // In the file's order, under the names the file uses (prefixes are not touched). Names are unique
  // and valid UTF-8.
  const std::vector<TensorDescriptor>& tensors() const { return listing_.tensors; }
  const std::vector<StorageDescriptor>& storages() const { return listing_.storages; }

  // The key the state_dict was found under, "" if the file holds it directly.
  const std::string& wrapper() const { return listing_.wrapper; }

  // Module prefix -> version, from the state_dict's _metadata. has_module_versions() is false where
  // the file has none at all.
  bool has_module_versions() const { return listing_.has_module_versions; }
  const std::map<std::string, int64_t, std::less<>>& module_versions() const {
    return listing_.module_versions;
  }

  // Entries of the state_dict that are neither tensors, nor None, nor a module's extra state.
  const std::vector<NonTensorEntry>& non_tensors() const { return listing_.non_tensors; }

  // Scalars beside the weights: epoch, loss, safetensors' __metadata__. Inert text for display.
  const std::vector<MetadataEntry>& metadata() const { return listing_.metadata; }

  // Writes the tensor to `destination`: contiguous, row-major, in this machine's byte order,
  // conjugation and negation resolved. Uses bounded memory beside the destination.
  // REQUIRES: `tensor` is from this checkpoint, destination.size() == tensor.size_bytes().
  virtual absl::Status ReadInto(const TensorDescriptor& tensor,
                                absl::Span<std::byte> destination) const = 0;

  // To be called after the last ReadInto: Aborted if the file was changed since it was opened, in
  // which case what was read may be of two files.
  virtual absl::Status CheckUnchanged() const = 0;

 protected:
  explicit Checkpoint(CheckpointListing listing) : listing_(std::move(listing)) {}

  const CheckpointListing listing_;
};

// Opens a torch.save zip or a safetensors file. Anything else is refused with an error that says
// what the file seems to be.
absl::StatusOr<std::unique_ptr<Checkpoint>> OpenCheckpoint(const std::string& path,
                                                           const CheckpointOptions& options = {});

}  // namespace sconce

#endif  // SCONCE_SERVER_CHECKPOINT_CHECKPOINT_H_
