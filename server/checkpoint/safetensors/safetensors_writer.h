// SafetensorsWriter: writes a .safetensors file that is there whole or not at all.
//
// The bytes go to a file beside the target whose name begins with a dot and ends in ".part". Commit
// makes them durable and renames it over the target; without Commit the destructor removes it. The
// header is what the format's own writer makes: tensors in order of falling alignment, then by
// name, data aligned to 8 bytes.
//
// Used by one thread. Movable.
#ifndef SCONCE_SERVER_CHECKPOINT_SAFETENSORS_SAFETENSORS_WRITER_H_
#define SCONCE_SERVER_CHECKPOINT_SAFETENSORS_SAFETENSORS_WRITER_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "server/base/dtype.h"

namespace sconce {

// Whether safetensors has a name for the type.
bool SafetensorsHas(DType dtype);

class SafetensorsWriter {
 public:
  struct Tensor {
    std::string name;
    DType dtype = DType::kFloat32;
    std::vector<int64_t> shape;
  };

  // Makes the file beside `path` and claims its space. InvalidArgument where the format cannot hold
  // the tensors; NotFound, PermissionDenied, ResourceExhausted (no space) or Unavailable where the
  // file cannot be made.
  static absl::StatusOr<SafetensorsWriter> Create(
      const std::string& path, const std::vector<Tensor>& tensors,
      const std::map<std::string, std::string>& metadata);
  SafetensorsWriter(SafetensorsWriter&& other) noexcept;
  SafetensorsWriter& operator=(SafetensorsWriter&&) = delete;
  ~SafetensorsWriter();

  // Indices into what Create was given, in the order in which the tensors' bytes are to be
  // appended.
  const std::vector<size_t>& order() const { return order_; }

  int64_t file_bytes() const { return file_bytes_; }

  // The next bytes, little-endian and row-major, in pieces of any size.
  absl::Status Append(absl::Span<const std::byte> bytes);

  // REQUIRES: all bytes were appended.
  absl::Status Commit();

 private:
  SafetensorsWriter(std::string path, std::string part_path, int fd);
  absl::Status Begin(const std::vector<Tensor>& tensors,
                     const std::map<std::string, std::string>& metadata);
  absl::Status Write(const void* data, size_t size);

  std::string path_;
  std::string part_path_;  // "" once it is no more
  int fd_ = -1;
  std::vector<size_t> order_;
  int64_t file_bytes_ = 0;
  int64_t written_ = 0;
};

}  // namespace sconce

#endif  // SCONCE_SERVER_CHECKPOINT_SAFETENSORS_SAFETENSORS_WRITER_H_
