#include "server/device/upload/direct_reader.h"

#include <algorithm>
#include <string>
#include <utility>

#include "server/device/torch_errors.h"

namespace sconce {

DirectReader::DirectReader(const Checkpoint* checkpoint, c10::Device device, DirectReads* result)
    : checkpoint_(checkpoint), device_(device), result_(result) {}

bool DirectReader::Read(absl::Span<const Piece> pieces) {
  const bool all_lie_in_files =
      std::all_of(pieces.begin(), pieces.end(), [this](const Piece& piece) {
        return checkpoint_->PlaceOf(checkpoint_->tensors()[piece.tensor]).has_value();
      });
  if (!all_lie_in_files) return false;
  {
    MutexLock lock(&mutex_);
    if (!result_->why_no_more.empty()) return false;
  }
  int64_t bytes = 0;
  for (const Piece& piece : pieces) {
    const absl::Status read = Guarded(device_.str(), [&] { return ReadPiece(piece); });
    if (!read.ok()) {
      MutexLock lock(&mutex_);
      if (result_->why_no_more.empty()) result_->why_no_more = std::string(read.message());
      return false;
    }
    bytes += piece.size_bytes;
  }
  MutexLock lock(&mutex_);
  result_->bytes += bytes;
  return true;
}

absl::Status DirectReader::ReadPiece(const Piece& piece) {
  const FilePlace place = *checkpoint_->PlaceOf(checkpoint_->tensors()[piece.tensor]);
  const auto file = Opened(place.file);
  if (!file.ok()) return file.status();
  return (*file)->Read(place.offset + piece.first_byte, piece.address, piece.size_bytes);
}

absl::StatusOr<const Accelerator::DirectFile*> DirectReader::Opened(const File* file) {
  const Accelerator* accelerator = FindAccelerator(device_.type());
  if (accelerator == nullptr) return absl::UnimplementedError("devices of this kind cannot");
  MutexLock lock(&mutex_);
  std::unique_ptr<Accelerator::DirectFile>& opened = files_[file];
  if (opened == nullptr) {
    auto direct = accelerator->OpenDirect(device_, *file);
    if (!direct.ok()) return direct.status();
    opened = *std::move(direct);
  }
  return opened.get();
}

}  // namespace sconce
