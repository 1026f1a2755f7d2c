#include "server/checkpoint/data/extent_reader.h"

#include <sys/uio.h>

#include <algorithm>
#include <memory>
#include <vector>

namespace sconce {
namespace {

// Of one system call, where somebody looks at the bytes next: they are still in the second-level
// cache then, and the call's own cost hardly counts.
constexpr int64_t kHotBytes = int64_t{512} << 10;
// Where nobody does.
constexpr int64_t kPlainBytes = int64_t{8} << 20;
constexpr size_t kMaxParts = 512;  // Linux takes 1024
// Gaps up to this size are read in vain rather than jumped over with one more system call.
constexpr int64_t kBridgedBytes = 4096;
// How far the disk is kept ahead of the reader, where bytes come from the disk.
constexpr int64_t kAheadBytes = int64_t{32} << 20;

class ExtentReader {
 public:
  // `hash`: of the whole file; null where only the extents are wanted.
  ExtentReader(const File& file, absl::Span<const FileExtent> extents, const ExtentSink& sink,
               Sha256* hash, ReadAhead& ahead)
      : file_(file),
        extents_(extents),
        sink_(sink),
        hash_(hash),
        ahead_(ahead),
        most_(hash != nullptr || sink != nullptr ? kHotBytes : kPlainBytes) {}

  absl::Status Run() {
    while (next_ < extents_.size() || (hash_ != nullptr && position_ < file_.size_bytes())) {
      FillWindow();
      if (absl::Status read = ReadWindow(); !read.ok()) return read;
    }
    return absl::OkStatus();
  }

 private:
  // What lies in the window: a piece of an extent, or of a gap (`request` is kGap).
  struct Piece {
    absl::Span<std::byte> bytes;
    size_t request;
  };
  static constexpr size_t kGap = static_cast<size_t>(-1);

  // Collects pieces that follow one another in the file.
  void FillWindow() {
    pieces_.clear();
    window_bytes_ = 0;
    staged_ = 0;
    if (hash_ == nullptr && done_ == 0 && next_ < extents_.size()) {
      position_ = extents_[next_].offset;
    }
    window_start_ = position_;
    while (window_bytes_ < most_ && staged_ < kExtentStagingBytes && pieces_.size() < kMaxParts) {
      const bool has_extent = next_ < extents_.size();
      const int64_t until = has_extent ? extents_[next_].offset : file_.size_bytes();
      if (done_ == 0 && position_ != until) {
        const bool bridged = has_extent && position_ < until && until - position_ <= kBridgedBytes;
        if (hash_ == nullptr && !bridged) return;
        AddGap(until - position_);
        continue;
      }
      if (!has_extent) return;
      AddExtent();
    }
  }

  void AddGap(int64_t size) {
    size = std::min(
        {size, std::max(most_ - window_bytes_, kBridgedBytes), kExtentStagingBytes - staged_});
    if (staging_ == nullptr) staging_.reset(new std::byte[kExtentStagingBytes]);
    Add({staging_.get() + staged_, static_cast<size_t>(size)}, kGap);
    staged_ += size;
  }

  void AddExtent() {
    const FileExtent& extent = extents_[next_];
    const absl::Span<std::byte> left = extent.destination.subspan(static_cast<size_t>(done_));
    const absl::Span<std::byte> piece =
        left.first(std::min(left.size(), static_cast<size_t>(most_ - window_bytes_)));
    Add(piece, extent.request);
    done_ += static_cast<int64_t>(piece.size());
    if (piece.size() == left.size()) {
      ++next_;
      done_ = 0;
    }
  }

  void Add(absl::Span<std::byte> bytes, size_t request) {
    pieces_.push_back({bytes, request});
    window_bytes_ += static_cast<int64_t>(bytes.size());
    position_ += static_cast<int64_t>(bytes.size());
  }

  absl::Status ReadWindow() {
    parts_.clear();
    for (const Piece& piece : pieces_) parts_.push_back({piece.bytes.data(), piece.bytes.size()});
    ahead_.Keep(window_start_);
    bool waited = false;
    absl::Status read =
        file_.ReadScattered(window_start_, window_bytes_, absl::MakeSpan(parts_), &waited);
    if (waited) ahead_.Waited();
    if (!read.ok()) return read;
    for (const Piece& piece : pieces_) {
      if (hash_ != nullptr) hash_->Update(piece.bytes);
      if (piece.request == kGap || sink_ == nullptr) continue;
      if (absl::Status taken = sink_(piece.request, piece.bytes); !taken.ok()) return taken;
    }
    return absl::OkStatus();
  }

  const File& file_;
  const absl::Span<const FileExtent> extents_;
  const ExtentSink& sink_;
  Sha256* const hash_;
  ReadAhead& ahead_;
  const int64_t most_;  // bytes of one system call

  size_t next_ = 0;       // the extent that is being read
  int64_t done_ = 0;      // bytes of it that were read
  int64_t position_ = 0;  // in the file: where the window ends

  std::vector<Piece> pieces_;
  std::vector<struct iovec> parts_;
  int64_t window_start_ = 0;
  int64_t window_bytes_ = 0;
  std::unique_ptr<std::byte[]> staging_;  // of the gaps
  int64_t staged_ = 0;
};

}  // namespace

void ReadAhead::Keep(int64_t position) {
  if (!from_disk_.load(std::memory_order_relaxed)) return;
  int64_t from = until_.load(std::memory_order_relaxed);
  const int64_t until = std::min(end_, position + kAheadBytes);
  // In large steps, so that the disk gets large requests.
  if (from >= end_ || (until < end_ && until - from < kAheadBytes / 8)) return;
  if (!until_.compare_exchange_strong(from, until)) return;  // another thread does it
  from = std::max(from, position);
  if (from < until) file_.Prefetch(from, until - from);
}

absl::Status ReadExtents(const File& file, absl::Span<const FileExtent> extents,
                         const ExtentSink& sink, ReadAhead& ahead) {
  return ExtentReader(file, extents, sink, nullptr, ahead).Run();
}

absl::Status ReadExtentsAndHash(const File& file, absl::Span<const FileExtent> extents,
                                const ExtentSink& sink, Sha256Digest* digest) {
  Sha256 hash;
  ReadAhead ahead(file, file.size_bytes());
  const absl::Status read = ExtentReader(file, extents, sink, &hash, ahead).Run();
  *digest = hash.Finish();
  return read;
}

}  // namespace sconce
