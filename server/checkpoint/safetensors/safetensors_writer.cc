#include "server/checkpoint/safetensors/safetensors_writer.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <numeric>
#include <set>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"
#include "server/base/file.h"
#include "server/base/printable.h"
#include "server/base/utf8.h"
#include "server/checkpoint/error_context.h"
#include "server/checkpoint/safetensors/safetensors_dtypes.h"
#include "server/checkpoint/tensor_bounds.h"

namespace sconce {
namespace {

constexpr size_t kAlignment = 8;
constexpr size_t kMaxHeaderBytes = 100'000'000;  // the format's own limit
constexpr const char* kMetadataName = "__metadata__";

size_t AlignmentRank(DType dtype) {
  const auto found =
      std::find_if(kSafetensorsDTypes.begin(), kSafetensorsDTypes.end(),
                   [&](const SafetensorsDType& known) { return known.dtype == dtype; });
  return static_cast<size_t>(found - kSafetensorsDTypes.begin());
}

std::string Quoted(const std::string& text) { return nlohmann::json(text).dump(); }

// The file's folder, to be opened; never empty.
std::string FolderOf(const std::string& path) {
  const std::string folder = std::filesystem::path(path).parent_path().string();
  return folder.empty() ? "." : folder;
}

// The header's JSON, and in `data_bytes` what follows it.
absl::StatusOr<std::string> Header(const std::vector<SafetensorsWriter::Tensor>& tensors,
                                   const std::vector<size_t>& order,
                                   const std::map<std::string, std::string>& metadata,
                                   int64_t& data_bytes) {
  std::string json = "{";
  if (!metadata.empty()) {
    absl::StrAppend(&json, "\"", kMetadataName, "\":{");
    for (const auto& [key, value] : metadata) {
      absl::StrAppend(&json, json.back() == '{' ? "" : ",", Quoted(key), ":", Quoted(value));
    }
    json += '}';
  }
  data_bytes = 0;
  for (const size_t i : order) {
    const SafetensorsWriter::Tensor& tensor = tensors[i];
    const std::string where = absl::StrCat("tensor '", Printable(tensor.name), "'");
    if (!SafetensorsHas(tensor.dtype)) {
      return InContext(where, Refused("expected a dtype that safetensors has, got ",
                                      std::string(DTypeName(tensor.dtype))));
    }
    const absl::StatusOr<int64_t> size = CountTensorBytes(tensor.shape, tensor.dtype);
    if (!size.ok()) return InContext(where, size.status());
    std::vector<int64_t> shape = tensor.shape;
    if (tensor.dtype == DType::kFloat4E2M1FNX2) {
      if (shape.empty()) return InContext(where, Refused("expected a dimension of F4 values"));
      shape.back() *= 2;
    }
    const int64_t begin = data_bytes;
    if (__builtin_add_overflow(begin, *size, &data_bytes)) {
      return InContext(where, Refused("the tensors add up to more than any file"));
    }
    absl::StrAppend(&json, json.size() == 1 ? "" : ",", Quoted(tensor.name), ":{\"dtype\":\"",
                    std::string(kSafetensorsDTypes[AlignmentRank(tensor.dtype)].name),
                    "\",\"shape\":", nlohmann::json(shape).dump(), ",\"data_offsets\":[", begin,
                    ",", data_bytes, "]}");
    if (json.size() > kMaxHeaderBytes) {
      return Refused("the names take more than the ", kMaxHeaderBytes,
                     " bytes that safetensors has for its header");
    }
  }
  json += '}';
  json.append((kAlignment - json.size() % kAlignment) % kAlignment, ' ');
  return json;
}

absl::Status CheckNames(const std::vector<SafetensorsWriter::Tensor>& tensors) {
  std::set<std::string> seen;
  for (const SafetensorsWriter::Tensor& tensor : tensors) {
    const std::string where = absl::StrCat("tensor '", Printable(tensor.name), "'");
    if (!IsUtf8(tensor.name)) return InContext(where, Refused("expected a name in UTF-8"));
    if (tensor.name == kMetadataName) {
      return InContext(where, Refused("safetensors keeps this name for itself"));
    }
    if (!seen.insert(tensor.name).second) {
      return InContext(where, Refused("expected each name once, got this one twice"));
    }
  }
  return absl::OkStatus();
}

}  // namespace

bool SafetensorsHas(DType dtype) { return AlignmentRank(dtype) < kSafetensorsDTypes.size(); }

SafetensorsWriter::SafetensorsWriter(std::string path, std::string part_path, int fd)
    : path_(std::move(path)), part_path_(std::move(part_path)), fd_(fd) {}

SafetensorsWriter::SafetensorsWriter(SafetensorsWriter&& other) noexcept
    : path_(std::move(other.path_)),
      part_path_(std::exchange(other.part_path_, {})),
      fd_(std::exchange(other.fd_, -1)),
      order_(std::move(other.order_)),
      file_bytes_(other.file_bytes_),
      written_(other.written_) {}

SafetensorsWriter::~SafetensorsWriter() {
  if (fd_ >= 0) ::close(fd_);
  if (!part_path_.empty()) ::unlink(part_path_.c_str());
}

absl::StatusOr<SafetensorsWriter> SafetensorsWriter::Create(
    const std::string& path, const std::vector<Tensor>& tensors,
    const std::map<std::string, std::string>& metadata) {
  std::error_code ignored;
  if (std::filesystem::is_directory(path, ignored)) {
    return Refused(Printable(path), ": expected a file to write, got a folder");
  }
  const std::string name = std::filesystem::path(path).filename().string();
  if (name.empty()) return Refused("'", Printable(path), "': expected a file to write");
  constexpr std::string_view kEnd = ".part";
  std::string part = absl::StrCat(FolderOf(path), "/.", name, ".XXXXXX", std::string(kEnd));
  const int fd = ::mkostemps(part.data(), static_cast<int>(kEnd.size()), O_CLOEXEC);
  if (fd < 0) return ErrnoStatus(errno, path, "make a file beside it");
  SafetensorsWriter writer(path, part, fd);
  // Made for its owner alone; the finished file is to have the permissions of any new one.
  const mode_t hidden = ::umask(0);
  ::umask(hidden);
  if (::fchmod(fd, 0666 & ~hidden) != 0) return ErrnoStatus(errno, path, "set its permissions");
  if (absl::Status begun = writer.Begin(tensors, metadata); !begun.ok()) return begun;
  return writer;
}

absl::Status SafetensorsWriter::Begin(const std::vector<Tensor>& tensors,
                                      const std::map<std::string, std::string>& metadata) {
  const std::string where = Printable(path_);
  if (absl::Status good = CheckNames(tensors); !good.ok()) return InContext(where, good);
  order_.resize(tensors.size());
  std::iota(order_.begin(), order_.end(), 0);
  std::sort(order_.begin(), order_.end(), [&](size_t a, size_t b) {
    const size_t rank_a = AlignmentRank(tensors[a].dtype);
    const size_t rank_b = AlignmentRank(tensors[b].dtype);
    return rank_a != rank_b ? rank_a > rank_b : tensors[a].name < tensors[b].name;
  });
  int64_t data_bytes = 0;
  const absl::StatusOr<std::string> header = Header(tensors, order_, metadata, data_bytes);
  if (!header.ok()) return InContext(where, header.status());
  const auto header_bytes = static_cast<int64_t>(sizeof(uint64_t) + header->size());
  if (__builtin_add_overflow(header_bytes, data_bytes, &file_bytes_)) {
    return InContext(where, Refused("the tensors add up to more than any file"));
  }
  // A disk that is too full is best known before the work. File systems that cannot promise space
  // are tried all the same.
  if (::fallocate(fd_, 0, 0, file_bytes_) != 0 &&
      (errno == ENOSPC || errno == EDQUOT || errno == EFBIG)) {
    return ErrnoStatus(errno, path_, absl::StrCat("make room for ", file_bytes_, " bytes"));
  }
  std::string size(sizeof(uint64_t), '\0');
  for (size_t i = 0; i < size.size(); ++i) {
    size[i] = static_cast<char>(static_cast<uint64_t>(header->size()) >> (8 * i) & 0xFF);
  }
  if (absl::Status wrote = Write(size.data(), size.size()); !wrote.ok()) return wrote;
  return Write(header->data(), header->size());
}

absl::Status SafetensorsWriter::Write(const void* data, size_t size) {
  const char* next = static_cast<const char*>(data);
  while (size > 0) {
    const ssize_t wrote = ::write(fd_, next, size);
    if (wrote < 0) {
      if (errno == EINTR) continue;
      return ErrnoStatus(errno, path_,
                         absl::StrCat("write at byte ", written_, " of ", file_bytes_));
    }
    next += wrote;
    size -= static_cast<size_t>(wrote);
    written_ += wrote;
  }
  return absl::OkStatus();
}

absl::Status SafetensorsWriter::Append(absl::Span<const std::byte> bytes) {
  return Write(bytes.data(), bytes.size());
}

absl::Status SafetensorsWriter::Commit() {
  if (written_ != file_bytes_) {
    return absl::InternalError(absl::StrCat(Printable(path_), ": expected ", file_bytes_,
                                            " bytes to be written, got ", written_));
  }
  if (::fsync(fd_) != 0) return ErrnoStatus(errno, path_, "write the file to the disk");
  if (::close(std::exchange(fd_, -1)) != 0) return ErrnoStatus(errno, path_, "close the file");
  if (::rename(part_path_.c_str(), path_.c_str()) != 0) {
    return ErrnoStatus(errno, path_, "give the file its name");
  }
  part_path_.clear();
  const int folder = ::open(FolderOf(path_).c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (folder < 0) return ErrnoStatus(errno, path_, "open its folder");
  const int synced = ::fsync(folder);
  const int error = errno;
  ::close(folder);
  // Some network file systems have nothing to do here and say so.
  if (synced != 0 && error != EINVAL) return ErrnoStatus(error, path_, "write its folder to disk");
  return absl::OkStatus();
}

}  // namespace sconce
