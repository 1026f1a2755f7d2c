// Reading many tensors at once: StoredCheckpoint::ReadTensors and what verifies whole files.

#include <algorithm>
#include <deque>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "server/base/parallel.h"
#include "server/checkpoint/data/crc32.h"
#include "server/checkpoint/data/extent_reader.h"
#include "server/checkpoint/data/manifest.h"
#include "server/checkpoint/data/stored_checkpoint.h"
#include "server/checkpoint/error_context.h"
#include "server/checkpoint/tensor_bounds.h"

namespace sconce {
namespace {

// More only take the memory's bandwidth from one another, and processors from whoever else is
// there.
constexpr int kMostThreads = 4;
// What one thread takes at a time.
constexpr int64_t kJobBytes = int64_t{8} << 20;

// Consecutive extents of one file, read by one thread.
struct Job {
  size_t file;
  size_t begin;
  size_t end;
};

bool ByOffset(const FileExtent& a, const FileExtent& b) { return a.offset < b.offset; }

int64_t EndOf(const FileExtent& extent) {
  return extent.offset + static_cast<int64_t>(extent.destination.size());
}

std::vector<Job> CutIntoJobs(const std::vector<std::vector<FileExtent>>& files) {
  std::vector<Job> jobs;
  for (size_t file = 0; file < files.size(); ++file) {
    const std::vector<FileExtent>& extents = files[file];
    int64_t bytes = 0;
    size_t begin = 0;
    for (size_t i = 0; i < extents.size(); ++i) {
      bytes += static_cast<int64_t>(extents[i].destination.size());
      if (bytes < kJobBytes && i + 1 < extents.size()) continue;
      jobs.push_back({file, begin, i + 1});
      begin = i + 1;
      bytes = 0;
    }
  }
  return jobs;
}

// Takes from `extents` (in order) those that begin before one before them ends.
std::vector<FileExtent> TakeOverlapping(std::vector<FileExtent>& extents) {
  std::vector<FileExtent> apart, overlapping;
  int64_t end = 0;
  for (const FileExtent& extent : extents) {
    if (extent.offset < end) {
      overlapping.push_back(extent);
    } else {
      apart.push_back(extent);
      end = EndOf(extent);
    }
  }
  extents = std::move(apart);
  return overlapping;
}

}  // namespace

bool StoredCheckpoint::IsPlain(const TensorDescriptor& tensor) const {
  if (tensor.sparse.has_value() || tensor.negative || tensor.conjugate || tensor.big_endian) {
    return false;
  }
  if (tensor.storage < 0 || static_cast<size_t>(tensor.storage) >= storages().size()) return false;
  const StorageDescriptor& storage = storages()[static_cast<size_t>(tensor.storage)];
  if (storage.decoded != nullptr || tensor.size_bytes() == 0) return false;
  if (!CheckTensorBounds(tensor, storage.size_bytes).ok()) return false;
  if (!IsContiguous(tensor.shape, tensor.strides)) return false;
  // A checksum is of a whole storage.
  return storage_crcs_.empty() || (tensor.offset == 0 && tensor.size_bytes() == storage.size_bytes);
}

FilePlace StoredCheckpoint::PlaceOfPlain(const TensorDescriptor& tensor) const {
  const StorageDescriptor& storage = storages()[static_cast<size_t>(tensor.storage)];
  return {&files_[static_cast<size_t>(storage.file)],
          storage.file_offset + tensor.offset * DTypeSize(tensor.dtype)};
}

std::optional<FilePlace> StoredCheckpoint::PlaceOf(const TensorDescriptor& tensor) const {
  if (!storage_crcs_.empty() || !manifests_.empty()) return std::nullopt;
  if (tensor.quantizer.has_value() || !IsPlain(tensor)) return std::nullopt;
  return PlaceOfPlain(tensor);
}

absl::Status StoredCheckpoint::ReadTensors(absl::Span<const TensorRequest> requests,
                                           const ReadOptions& options) const {
  std::vector<std::vector<FileExtent>> plain(files_.size());
  std::vector<size_t> others;
  int64_t bytes = 0;
  for (size_t i = 0; i < requests.size(); ++i) {
    const TensorDescriptor& tensor = *requests[i].tensor;
    const absl::Span<std::byte> destination = requests[i].destination;
    bytes += static_cast<int64_t>(destination.size());
    if (static_cast<int64_t>(destination.size()) != tensor.size_bytes() || !IsPlain(tensor)) {
      others.push_back(i);
      continue;
    }
    const FilePlace place = PlaceOfPlain(tensor);
    plain[static_cast<size_t>(place.file - files_.data())].push_back(
        {place.offset, destination, i});
  }

  std::vector<uint32_t> crcs(storage_crcs_.empty() ? 0 : requests.size());
  std::vector<size_t> summed(crcs.size());
  ExtentSink sink = nullptr;
  if (options.on_piece != nullptr || !crcs.empty()) {
    sink = [&](size_t i, absl::Span<const std::byte> piece) -> absl::Status {
      if (options.on_piece != nullptr) options.on_piece(i, piece);
      if (crcs.empty()) return absl::OkStatus();
      crcs[i] = ExtendCrc32(crcs[i], piece);
      summed[i] += piece.size();
      if (summed[i] < requests[i].destination.size()) return absl::OkStatus();
      const TensorDescriptor& tensor = *requests[i].tensor;
      return About(tensor, CompareCrc(static_cast<size_t>(tensor.storage), crcs[i]));
    };
  }
  const int wanted =
      options.threads > 0 ? options.threads : std::min(AvailableProcessors(), kMostThreads);
  // A thread has to be started, which a few megabytes are not worth.
  const int threads = static_cast<int>(std::min<int64_t>(wanted, 1 + bytes / (2 * kJobBytes)));
  if (absl::Status read = ReadFiles(std::move(plain), threads, sink); !read.ok()) return read;

  return RunInParallel(others.size(), threads, [&](size_t other) {
    const TensorRequest& request = requests[others[other]];
    absl::Status read = ReadInto(*request.tensor, request.destination);
    if (read.ok() && options.on_piece != nullptr) {
      options.on_piece(others[other], request.destination);
    }
    return read;
  });
}

absl::Status StoredCheckpoint::ReadFiles(std::vector<std::vector<FileExtent>> extents, int threads,
                                         const ExtentSink& sink) const {
  for (std::vector<FileExtent>& file : extents) {
    std::stable_sort(file.begin(), file.end(), ByOffset);
  }
  if (!manifests_.empty() && !files_verified_.load(std::memory_order_acquire)) {
    std::vector<std::vector<FileExtent>> overlapping(extents.size());
    for (size_t i = 0; i < extents.size(); ++i) overlapping[i] = TakeOverlapping(extents[i]);
    absl::Status verified = RunInParallel(files_.size(), threads, [&](size_t i) -> absl::Status {
      Sha256Digest digest;
      absl::Status read = ReadExtentsAndHash(files_[i], extents[i], sink, &digest);
      return read.ok() ? CheckDigest(files_[i].path(), manifests_[i], digest) : read;
    });
    if (!verified.ok()) return verified;
    files_verified_.store(true, std::memory_order_release);
    extents = std::move(overlapping);
  }
  std::deque<ReadAhead> ahead;  // by file
  for (size_t i = 0; i < files_.size(); ++i) {
    int64_t end = 0;
    for (const FileExtent& extent : extents[i]) end = std::max(end, EndOf(extent));
    ahead.emplace_back(files_[i], end);
  }
  const std::vector<Job> jobs = CutIntoJobs(extents);
  return RunInParallel(jobs.size(), threads, [&](size_t i) {
    const Job& job = jobs[i];
    const auto mine =
        absl::MakeConstSpan(extents[job.file]).subspan(job.begin, job.end - job.begin);
    return ReadExtents(files_[job.file], mine, sink, ahead[job.file]);
  });
}

absl::Status StoredCheckpoint::UseManifests() {
  for (const File& file : files_) {
    absl::StatusOr<Sha256Digest> digest = ReadManifestOf(file.path());
    if (!digest.ok()) return digest.status();
    manifests_.push_back(*digest);
  }
  return absl::OkStatus();
}

absl::Status StoredCheckpoint::VerifyFilesOnce() const {
  if (manifests_.empty() || files_verified_.load(std::memory_order_acquire)) {
    return absl::OkStatus();
  }
  MutexLock lock(&verifying_);
  return ReadFiles(std::vector<std::vector<FileExtent>>(files_.size()), 1, nullptr);
}

}  // namespace sconce
