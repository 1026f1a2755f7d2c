// Reads runs of a file's bytes, each to its place, in the file's order: neighbours in one system
// call with the small gaps between them, large ones in pieces that are still in the processor's
// cache when they are looked at.
#ifndef SCONCE_SERVER_CHECKPOINT_DATA_EXTENT_READER_H_
#define SCONCE_SERVER_CHECKPOINT_DATA_EXTENT_READER_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "server/base/file.h"
#include "server/base/sha256.h"

namespace sconce {

// A run of a file's bytes and where it goes. `request`: whatever its owner knows it by.
struct FileExtent {
  int64_t offset = 0;
  absl::Span<std::byte> destination;  // not empty
  size_t request = 0;
};

// Told of each extent's bytes in order, in one piece or several, right after they were read. Null
// where nobody wants to know, which makes larger pieces.
using ExtentSink = std::function<absl::Status(size_t request, absl::Span<const std::byte> piece)>;

// Keeps the disk busy ahead of the readers of one file, once one of them had to wait for it.
// Thread-safe; shared by the threads that read the file.
class ReadAhead {
 public:
  // `end`: one past the last byte that will be wanted.
  ReadAhead(const File& file, int64_t end) : file_(file), end_(end) {}

  // A reader is about to read from `position` on, all readers in the order of the file.
  void Keep(int64_t position);
  void Waited() { from_disk_.store(true, std::memory_order_relaxed); }

 private:
  const File& file_;
  const int64_t end_;
  std::atomic<bool> from_disk_ = false;
  std::atomic<int64_t> until_ = 0;
};

// The most that reading extents takes beside the destinations.
inline constexpr int64_t kExtentStagingBytes = int64_t{1} << 20;

// REQUIRES: `extents` are in the order of their offsets; they may overlap.
absl::Status ReadExtents(const File& file, absl::Span<const FileExtent> extents,
                         const ExtentSink& sink, ReadAhead& ahead);

// The same, but the whole file is read, from its first byte to its last, and its digest returned in
// `digest`. REQUIRES: `extents` do not overlap.
absl::Status ReadExtentsAndHash(const File& file, absl::Span<const FileExtent> extents,
                                const ExtentSink& sink, Sha256Digest* digest);

}  // namespace sconce

#endif  // SCONCE_SERVER_CHECKPOINT_DATA_EXTENT_READER_H_
