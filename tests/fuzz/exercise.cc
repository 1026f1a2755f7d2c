#include "tests/fuzz/exercise.h"

#include <sanitizer/allocator_interface.h>
#include <time.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <memory>
#include <set>
#include <system_error>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "server/base/printable.h"
#include "server/base/utf8.h"
#include "server/checkpoint/checkpoint.h"
#include "server/checkpoint/data/dense_read.h"
#include "server/checkpoint/tensor_bounds.h"

namespace sconce {
namespace {

// Tensors up to this size are read whole, and no more than a few of them.
constexpr int64_t kMaxReadBytes = int64_t{1} << 20;
constexpr int64_t kMaxReadBytesInAll = int64_t{4} << 20;
constexpr int64_t kPieceBytes = 512;

// A few bytes of a pickle can name one more tensor of 64 dimensions, which takes a kilobyte or two.
constexpr int64_t kMemoryPerByte = 1024;
constexpr int64_t kMemoryBase = int64_t{24} << 20;
constexpr double kSecondsPerByte = 50e-6;
constexpr double kSecondsBase = 2;

std::atomic<int64_t> live_bytes = 0;
std::atomic<int64_t> peak_bytes = 0;

void OnMalloc(const volatile void* /*memory*/, size_t size) {
  const int64_t live =
      live_bytes.fetch_add(static_cast<int64_t>(size)) + static_cast<int64_t>(size);
  if (live > peak_bytes.load()) peak_bytes.store(live);
}

void OnFree(const volatile void* memory) {
  if (memory == nullptr) return;
  live_bytes.fetch_sub(
      static_cast<int64_t>(__sanitizer_get_allocated_size(const_cast<const void*>(memory))));
}

double ProcessorSeconds() {
  struct timespec now;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9;
}

// Printable() finds nothing to escape but the backslashes that it writes itself.
bool IsFitToPrint(std::string_view text) {
  std::string plain;
  for (const char c : text) {
    if (c != '\\') plain += c;
  }
  return Printable(plain, plain.size()) == plain;
}

class Exercise {
 public:
  Exercise(const Checkpoint& checkpoint, const std::string& folder)
      : checkpoint_(checkpoint), folder_(folder) {}

  void CheckListing() const {
    std::set<std::string_view> names;
    for (const TensorDescriptor& tensor : checkpoint_.tensors()) {
      Require(IsUtf8(tensor.name), "a tensor's name is UTF-8", tensor.name);
      Require(names.insert(tensor.name).second, "a tensor's name is unique", tensor.name);
      CheckTensor(tensor);
    }
    Require(!checkpoint_.files().empty(), "a checkpoint has a file");
    for (const CheckpointFile& file : checkpoint_.files()) CheckPlace(file.path);
    for (const StorageDescriptor& storage : checkpoint_.storages()) CheckStorage(storage);
    CheckTexts();
  }

  // `files_are_whole`: nothing stands in the way of reading.
  void ReadAll(bool files_are_whole) const {
    int64_t read = 0;
    for (const TensorDescriptor& tensor : checkpoint_.tensors()) {
      if (read > kMaxReadBytesInAll) break;
      if (tensor.sparse.has_value() || tensor.quantizer.has_value()) {
        ReadAsDense(tensor, files_are_whole);
        read += tensor.sparse.has_value() ? kMaxReadBytes / 8 : tensor.size_bytes();
      }
      ForEachPart(tensor, [&](const TensorDescriptor& part) {
        if (part.size_bytes() > kMaxReadBytes) return ReadPiece(part, files_are_whole);
        ReadWhole(part, files_are_whole);
        read += part.size_bytes();
      });
    }
    ReadTogether(files_are_whole);
  }

 private:
  template <typename Visit>
  static void ForEachPart(const TensorDescriptor& tensor, const Visit& visit) {
    if (tensor.sparse.has_value()) {
      for (const auto& part :
           {tensor.sparse->indices, tensor.sparse->compressed_indices, tensor.sparse->values}) {
        if (part != nullptr) visit(*part);
      }
      return;
    }
    visit(tensor);
    if (!tensor.quantizer.has_value()) return;
    for (const auto& part : {tensor.quantizer->scales, tensor.quantizer->zero_points}) {
      if (part != nullptr) visit(*part);
    }
  }

  // A file may be reached by a link, and what counts is where that leads. A file in memory lies
  // nowhere.
  void CheckPlace(const std::string& path) const {
    std::error_code error;
    const bool is_folder = std::filesystem::is_directory(folder_, error);
    const std::string real = is_folder ? std::filesystem::canonical(path, error).string() : path;
    Require(std::string_view(real).starts_with(folder_), "files lie in the folder", path);
  }

  void CheckStorage(const StorageDescriptor& storage) const {
    Require(storage.size_bytes >= 0, "a storage has a size", storage.member);
    if (storage.decoded != nullptr) {
      Require(static_cast<int64_t>(storage.decoded->size()) == storage.size_bytes,
              "decoded bytes are as many as the storage has", storage.member);
      return;
    }
    Require(storage.file >= 0 && static_cast<size_t>(storage.file) < checkpoint_.files().size(),
            "a storage's file is one of the files", storage.member);
    const int64_t file_bytes =
        checkpoint_.files()[static_cast<size_t>(storage.file)].fingerprint.size_bytes;
    Require(storage.file_offset >= 0 && storage.file_offset <= file_bytes &&
                storage.size_bytes <= file_bytes - storage.file_offset,
            "a storage lies inside its file", storage.member);
  }

  void CheckTensor(const TensorDescriptor& tensor) const {
    Require(tensor.shape.size() == tensor.strides.size(), "as many strides as sizes", tensor.name);
    Require(
        CountElements(tensor.shape).ok() && CountBytes(tensor.num_elements(), tensor.dtype).ok(),
        "a tensor's size is within 64 bits", tensor.name);
    if (tensor.sparse.has_value()) {
      Require(tensor.storage == kNoStorage, "a sparse tensor has no storage", tensor.name);
      Require(tensor.sparse->indices != nullptr && tensor.sparse->values != nullptr,
              "a sparse tensor has indices and values", tensor.name);
      Require((tensor.sparse->layout == SparseParts::Layout::kCoo) ==
                  (tensor.sparse->compressed_indices == nullptr),
              "a compressed layout has compressed indices", tensor.name);
    } else if (tensor.chunks != nullptr) {
      CheckChunks(tensor);
    } else {
      CheckInStorage(tensor, tensor.storage);
    }
    ForEachPart(tensor, [&](const TensorDescriptor& part) {
      if (&part != &tensor) CheckTensor(part);
    });
  }

  void CheckInStorage(const TensorDescriptor& tensor, int32_t storage) const {
    Require(storage >= 0 && static_cast<size_t>(storage) < checkpoint_.storages().size(),
            "a tensor's storage is one of the storages", tensor.name);
    const int64_t size = checkpoint_.storages()[static_cast<size_t>(storage)].size_bytes;
    Require(CheckTensorBounds(tensor, size).ok(), "a tensor lies inside its storage", tensor.name);
  }

  void CheckChunks(const TensorDescriptor& tensor) const {
    Require(tensor.storage == kNoStorage, "a tensor in chunks has no storage", tensor.name);
    int64_t elements = 0;
    for (const TensorChunk& chunk : *tensor.chunks) {
      Require(
          chunk.position.size() == tensor.shape.size() && chunk.shape.size() == tensor.shape.size(),
          "a chunk has the tensor's rank", tensor.name);
      for (size_t i = 0; i < chunk.shape.size(); ++i) {
        Require(chunk.position[i] >= 0 && chunk.shape[i] >= 0 &&
                    chunk.position[i] <= tensor.shape[i] &&
                    chunk.shape[i] <= tensor.shape[i] - chunk.position[i],
                "a chunk lies inside its tensor", tensor.name);
      }
      TensorDescriptor block;
      block.name = tensor.name;
      block.dtype = tensor.dtype;
      block.shape = chunk.shape;
      block.strides = chunk.strides;
      block.offset = chunk.offset;
      CheckInStorage(block, chunk.storage);
      elements += block.num_elements();
    }
    Require(elements == tensor.num_elements(), "chunks make up the whole tensor", tensor.name);
  }

  void CheckTexts() const {
    std::vector<std::string_view> texts = {checkpoint_.producer(), checkpoint_.format()};
    for (const NonTensorEntry& entry : checkpoint_.non_tensors()) texts.push_back(entry.type_name);
    for (const MetadataEntry& entry : checkpoint_.metadata()) {
      texts.push_back(entry.name);
      texts.push_back(entry.value);
    }
    for (const ModuleEntry& module : checkpoint_.modules()) {
      texts.push_back(module.path);
      texts.push_back(module.class_name);
      for (const MetadataEntry& entry : module.attributes) {
        texts.push_back(entry.name);
        texts.push_back(entry.value);
      }
    }
    for (const std::string_view text : texts) {
      Require(IsFitToPrint(text), "texts for display are fit to print", text);
    }
  }

  // A read fails only if the file was touched, or if its checksum says so.
  static void CheckRead(const absl::Status& read, bool files_are_whole) {
    if (read.ok()) return;
    RequireGoodError(read);
    if (files_are_whole) {
      Require(read.code() == absl::StatusCode::kDataLoss, "what was listed can be read",
              std::string(read.message()));
    } else {
      Require(
          read.code() == absl::StatusCode::kAborted || read.code() == absl::StatusCode::kDataLoss,
          "a file that shrank is an aborted read", std::string(read.message()));
    }
  }

  void ReadWhole(const TensorDescriptor& tensor, bool files_are_whole) const {
    const auto size = static_cast<size_t>(tensor.size_bytes());
    std::vector<std::byte> whole(size, std::byte{0xA5});
    const absl::Status read = checkpoint_.ReadInto(tensor, absl::MakeSpan(whole));
    CheckRead(read, files_are_whole);
    if (!read.ok() || size == 0) return;
    std::vector<std::byte> again(size, std::byte{0x5A});
    CheckRead(checkpoint_.ReadInto(tensor, absl::MakeSpan(again)), files_are_whole);
    Require(again == whole, "every byte is written", tensor.name);
    // Some whole elements out of the middle.
    const auto element = static_cast<size_t>(std::max<int64_t>(DTypeSize(tensor.dtype), 1));
    const size_t begin = size / 3 / element * element;
    const size_t end = begin + (size - begin) / 2 / element * element;
    std::vector<std::byte> range(end - begin);
    const absl::Status ranged =
        checkpoint_.ReadRange(tensor, static_cast<int64_t>(begin), absl::MakeSpan(range));
    CheckRead(ranged, files_are_whole);
    Require(!ranged.ok() || range.empty() ||
                std::memcmp(range.data(), whole.data() + begin, range.size()) == 0,
            "a range is the same as that part of the whole", tensor.name);
  }

  // All tensors at once, which must come to the same as one by one.
  void ReadTogether(bool files_are_whole) const {
    std::vector<std::vector<std::byte>> whole;
    std::vector<TensorRequest> requests;
    int64_t bytes = 0;
    for (const TensorDescriptor& tensor : checkpoint_.tensors()) {
      if (tensor.sparse.has_value() || tensor.size_bytes() > kMaxReadBytes) continue;
      bytes += tensor.size_bytes();
      if (bytes > kMaxReadBytesInAll) break;
      whole.emplace_back(static_cast<size_t>(tensor.size_bytes()), std::byte{0xA5});
      requests.push_back({&tensor, absl::MakeSpan(whole.back())});
    }
    std::vector<size_t> told(requests.size());
    ReadOptions options;
    options.threads = 1;
    options.on_piece = [&](size_t request, absl::Span<const std::byte> piece) {
      Require(request < told.size(), "pieces are of what was asked for");
      if (piece.empty()) return;
      Require(
          piece.size() <= whole[request].size() - told[request] &&
              std::memcmp(piece.data(), whole[request].data() + told[request], piece.size()) == 0,
          "pieces come in order and are what was read");
      told[request] += piece.size();
    };
    const absl::Status read = checkpoint_.ReadTensors(requests, options);
    CheckRead(read, files_are_whole);
    if (!read.ok()) return;
    for (size_t i = 0; i < requests.size(); ++i) {
      const TensorDescriptor& tensor = *requests[i].tensor;
      Require(told[i] == whole[i].size(), "every piece is told", tensor.name);
      std::vector<std::byte> alone(whole[i].size(), std::byte{0x5A});
      CheckRead(checkpoint_.ReadInto(tensor, absl::MakeSpan(alone)), files_are_whole);
      Require(alone == whole[i], "tensors read together are as read one by one", tensor.name);
    }
  }

  // A sparse tensor may still be wrong in its indices, which are data.
  void ReadAsDense(const TensorDescriptor& tensor, bool files_are_whole) const {
    const absl::StatusOr<DenseForm> form = DenseFormOf(tensor, kMaxReadBytes);
    if (!form.ok()) return RequireGoodError(form.status());
    Require(form->size_bytes >= 0 && form->size_bytes <= kMaxReadBytes,
            "the dense form keeps to its limit", tensor.name);
    const auto size = static_cast<size_t>(form->size_bytes);
    std::vector<std::byte> dense(size, std::byte{0xA5}), again(size, std::byte{0x5A});
    const absl::Status read = ReadDense(checkpoint_, tensor, kMaxReadBytes, absl::MakeSpan(dense));
    const absl::Status reread =
        ReadDense(checkpoint_, tensor, kMaxReadBytes, absl::MakeSpan(again));
    Require(read.ok() == reread.ok(), "a tensor reads the same twice", tensor.name);
    if (read.ok()) return Require(dense == again, "every byte is written", tensor.name);
    RequireGoodError(read);
    Require(
        !files_are_whole || tensor.sparse.has_value() || read.code() == absl::StatusCode::kDataLoss,
        "what was listed can be read", std::string(read.message()));
  }

  void ReadPiece(const TensorDescriptor& tensor, bool files_are_whole) const {
    std::vector<std::byte> piece(kPieceBytes);
    CheckRead(checkpoint_.ReadRange(tensor, kPieceBytes, absl::MakeSpan(piece)), files_are_whole);
  }

  const Checkpoint& checkpoint_;
  const std::string folder_;
};

}  // namespace

void Require(bool holds, std::string_view promise, std::string_view detail) {
  if (holds) return;
  std::fprintf(stderr, "broken promise: %.*s: %s\n", static_cast<int>(promise.size()),
               promise.data(), Printable(detail, 2000).c_str());
  std::abort();
}

void RequireGoodError(const absl::Status& error) {
  const std::string message(error.message());
  Require(!message.empty(), "an error says something");
  Require(IsFitToPrint(message), "an error is fit to print", message);
  Require(message.size() < 16384, "an error is of a length that can be read", message);
  const bool is_of_the_input = error.code() == absl::StatusCode::kInvalidArgument ||
                               error.code() == absl::StatusCode::kDataLoss ||
                               error.code() == absl::StatusCode::kAborted ||
                               error.code() == absl::StatusCode::kNotFound;
  Require(is_of_the_input, "an error is of the input", message);
}

void WithinMeans(size_t input_bytes, const std::function<void()>& work) {
  static const bool is_watching = __sanitizer_install_malloc_and_free_hooks(OnMalloc, OnFree) > 0;
  Require(is_watching, "allocations can be watched");
  live_bytes = peak_bytes = 0;
  const double began = ProcessorSeconds();
  work();
  const double took = ProcessorSeconds() - began;
  const auto bytes = static_cast<int64_t>(input_bytes);
  Require(peak_bytes <= kMemoryBase + kMemoryPerByte * bytes,
          "memory is in proportion to the input",
          absl::StrCat(peak_bytes.load(), " bytes held for an input of ", bytes));
  Require(took <= kSecondsBase + kSecondsPerByte * static_cast<double>(bytes),
          "time is in proportion to the input",
          absl::StrCat(took, " seconds for an input of ", bytes, " bytes"));
}

void ExerciseCheckpoint(const std::string& path, const std::string& folder, size_t input_bytes,
                        bool verify_crc, const std::function<void()>& shrink) {
  CheckpointOptions options;
  options.verify_crc = verify_crc;
  absl::StatusOr<std::unique_ptr<Checkpoint>> checkpoint = absl::UnknownError("not opened");
  WithinMeans(input_bytes, [&] { checkpoint = OpenCheckpoint(path, options); });
  if (!checkpoint.ok()) {
    RequireGoodError(checkpoint.status());
    const std::string message(checkpoint.status().message());
    Require(std::string_view(message).starts_with(Printable(folder)), "an error names the path",
            message);
    return;
  }
  const Exercise exercise(**checkpoint, folder);
  exercise.CheckListing();
  WithinMeans(input_bytes, [&] { exercise.ReadAll(/*files_are_whole=*/true); });
  Require((*checkpoint)->CheckUnchanged().ok(), "a file that nobody touched is unchanged");
  if (!shrink) return;
  shrink();
  exercise.ReadAll(/*files_are_whole=*/false);
}

}  // namespace sconce
