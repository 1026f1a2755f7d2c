// Checkpoint: weights on disk, in a file or in a folder of files, described without running
// anything in them.
//
// OpenCheckpoint finds out from the content (never from the name) which container a file is,
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
#include <functional>
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

// One of the files that the tensors' bytes lie in.
struct CheckpointFile {
  std::string path;
  FileFingerprint fingerprint;
};

// A run of bytes that one or several tensors are views of.
struct StorageDescriptor {
  std::string member;  // where in the file: "archive/data/0", or "data" in safetensors
  int32_t file = 0;    // index into Checkpoint::files()
  int64_t file_offset = 0;
  int64_t size_bytes = 0;
  // Where the file has the values in an encoding of its own (integers of variable length): their
  // bytes, decoded when the file was opened. Null for all others.
  std::shared_ptr<const std::string> decoded = nullptr;
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

// A sparse tensor is kept as the dense tensors that describe it, each to be read with ReadInto.
// Layouts as torch.sparse defines them.
struct SparseParts {
  enum class Layout { kCoo, kCsr, kCsc, kBsr, kBsc };

  Layout layout = Layout::kCoo;
  bool coalesced = false;  // kCoo only
  // kCoo: int64 [sparse dimensions, specified elements]. Else the plain indices.
  std::shared_ptr<const TensorDescriptor> indices;
  std::shared_ptr<const TensorDescriptor> compressed_indices;  // null for kCoo
  std::shared_ptr<const TensorDescriptor> values;
};

// A block of a tensor that was saved in several pieces, as distributed checkpoints are.
struct TensorChunk {
  std::vector<int64_t> position;  // of its first element in the tensor
  std::vector<int64_t> shape;
  std::vector<int64_t> strides;  // in the storage, in elements
  int64_t offset = 0;            // in elements
  int32_t storage = 0;
};

inline constexpr int32_t kNoStorage = -1;

// A named view of a storage. Tied weights have the same storage index (and offset and strides), or
// the same `chunks`, or the same parts in `sparse`.
struct TensorDescriptor {
  std::string name;
  DType dtype = DType::kFloat32;
  std::vector<int64_t> shape;
  std::vector<int64_t> strides;  // in elements, one per dimension, never negative
  int64_t offset = 0;            // in elements: the first element's place in the storage
  // Index into Checkpoint::storages(); kNoStorage for a tensor in chunks and for a sparse one,
  // whose strides are those of the contiguous tensor and whose offset is 0.
  int32_t storage = 0;
  bool conjugate = false;     // stored bytes are the conjugate; ReadInto resolves it
  bool negative = false;      // stored bytes are the negative; ReadInto resolves it
  bool big_endian = false;    // stored numbers begin with the highest byte; ReadInto turns them
  bool is_parameter = false;  // saved as torch.nn.Parameter
  std::optional<Quantizer> quantizer;
  std::optional<SparseParts> sparse;
  // Disjoint, and together the whole tensor; null for a tensor that lies in one storage.
  std::shared_ptr<const std::vector<TensorChunk>> chunks = nullptr;

  int64_t num_elements() const;
  // Bytes of the tensor laid out contiguously, which is what ReadInto writes.
  int64_t size_bytes() const;
};

// An entry of the state_dict that is no tensor. It matters only if a parameter has its name.
struct NonTensorEntry {
  std::string name;
  std::string type_name;  // "int", "dict", "numpy.dtype", ...; fit to print
};

// Something that lies beside the weights, such as an epoch or an optimizer's state. The name is its
// path in what was saved ("optimizer.param_groups[0].lr"); both parts fit to print.
struct MetadataEntry {
  std::string name;
  std::string value;
};

// A module of a model that was saved whole. All parts fit to print.
struct ModuleEntry {
  std::string path;                       // "" for the model itself, "layer1.0.conv1"
  std::string class_name;                 // "torch.nn.modules.conv.Conv2d"
  std::vector<MetadataEntry> attributes;  // its hyper-parameters, such as kernel_size
};

struct CheckpointOptions {
  // Compare each zip member that is read with the checksum the archive gives for it. Off by
  // default: PyTorch can be told to write archives without valid checksums.
  bool verify_crc = false;
  // Compare each of files() with the SHA-256 in the manifest beside it (manifest.h), which must be
  // there. Nothing of a tensor is handed out before the files that it lies in, and those that say
  // where it lies, have been read and compared in full; ReadTensors does that in the same pass, any
  // other read first. An index is compared when it is opened.
  bool verify_sha256 = false;
  // The most bytes of structure (central directory, pickle, JSON header) read from one file.
  int64_t max_metadata_bytes = int64_t{256} << 20;
};

// A tensor to be read and where it goes: tensor->size_bytes() bytes.
struct TensorRequest {
  const TensorDescriptor* tensor = nullptr;
  absl::Span<std::byte> destination;
};

// Where in an open file a tensor's bytes begin.
struct FilePlace {
  const File* file;
  int64_t offset;
};

struct ReadOptions {
  // 0: one for each processor, a few at most.
  int threads = 0;
  // Told of each request's bytes, in order and in pieces, while they are in the processor's cache.
  // The calls for one request come one after the other; those for two may come at the same time.
  // Where the files are verified, it is told before that is finished.
  std::function<void(size_t request, absl::Span<const std::byte> piece)> on_piece;
};

// Everything that is known of a file once it is open.
struct CheckpointListing {
  std::string path;
  std::vector<CheckpointFile> files;
  std::string producer;
  std::vector<TensorDescriptor> tensors;
  std::vector<StorageDescriptor> storages;
  std::string wrapper;
  bool has_module_versions = false;
  std::map<std::string, int64_t, std::less<>> module_versions;
  std::vector<NonTensorEntry> non_tensors;
  std::vector<MetadataEntry> metadata;
  std::vector<ModuleEntry> modules;
};

// Immutable after OpenCheckpoint; thread-safe. Holds its files open, so that all reads see the same
// ones even if their paths are replaced meanwhile.
class Checkpoint {
 public:
  virtual ~Checkpoint() = default;
  Checkpoint(const Checkpoint&) = delete;
  Checkpoint& operator=(const Checkpoint&) = delete;

  // The container, for messages: "torch.save zip", "safetensors".
  virtual const char* format() const = 0;

  // What OpenCheckpoint was given.
  const std::string& path() const { return listing_.path; }
  // The files that hold tensors' bytes, and those that say where they lie.
  const std::vector<CheckpointFile>& files() const { return listing_.files; }

  // What wrote the file, as far as it tells: "PyTorch 1.6 or later". "" where nothing is known.
  const std::string& producer() const { return listing_.producer; }

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

  // What lies beside the weights: epoch, loss, training state, safetensors' __metadata__. Inert
  // text for display.
  const std::vector<MetadataEntry>& metadata() const { return listing_.metadata; }

  // The modules of a model that was saved whole, parents before children; else empty.
  const std::vector<ModuleEntry>& modules() const { return listing_.modules; }

  // Writes the tensor to `destination`: contiguous, row-major, in this machine's byte order,
  // conjugation and negation resolved. Uses bounded memory beside the destination. A sparse tensor
  // has no bytes of its own and is an error: read its parts, or use ReadDense (dense_read.h).
  // REQUIRES: `tensor` is from this checkpoint, destination.size() == tensor.size_bytes().
  absl::Status ReadInto(const TensorDescriptor& tensor, absl::Span<std::byte> destination) const;

  // As ReadInto, but only the bytes from `offset_bytes` on, as many as `destination` takes, so that
  // a tensor of any size can be passed through in pieces.
  // REQUIRES: both are whole elements, offset_bytes + destination.size() <= tensor.size_bytes().
  virtual absl::Status ReadRange(const TensorDescriptor& tensor, int64_t offset_bytes,
                                 absl::Span<std::byte> destination) const = 0;

  // As ReadInto for each request, in the files' order and with several threads, which is faster the
  // smaller and the more the tensors are. Beside the destinations each thread takes a few MiB.
  // After an error the destinations hold anything.
  virtual absl::Status ReadTensors(absl::Span<const TensorRequest> requests,
                                   const ReadOptions& options) const = 0;

  // For those that read by other means, who then have to call CheckUnchanged as well: where the
  // tensor's bytes lie, in one run and just as ReadInto would write them. None where they do not,
  // or where they are to be verified. The file is open as long as this is.
  virtual std::optional<FilePlace> PlaceOf(const TensorDescriptor& tensor) const = 0;

  // To be called after the last read: Aborted if a file was changed since it was opened, in
  // which case what was read may be of two states of it.
  virtual absl::Status CheckUnchanged() const = 0;

 protected:
  explicit Checkpoint(CheckpointListing listing) : listing_(std::move(listing)) {}

  friend absl::StatusOr<std::unique_ptr<Checkpoint>> OpenCheckpoint(const std::string& path,
                                                                    const CheckpointOptions&);
  // Reads the manifest of each file, and has reads verify the files from now on.
  virtual absl::Status UseManifests() = 0;
  // For a checkpoint that is made of others.
  static absl::Status UseManifestsOf(Checkpoint& part) { return part.UseManifests(); }

  const CheckpointListing listing_;
};

// `path`: a file, or a folder whose files make up one checkpoint. What is no checkpoint is refused
// with an error that says what it seems to be.
absl::StatusOr<std::unique_ptr<Checkpoint>> OpenCheckpoint(const std::string& path,
                                                           const CheckpointOptions& options = {});

}  // namespace sconce

#endif  // SCONCE_SERVER_CHECKPOINT_CHECKPOINT_H_
