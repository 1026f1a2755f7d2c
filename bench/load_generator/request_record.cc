#include "bench/load_generator/request_record.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "server/base/dtype.h"
#include "server/base/printable.h"

namespace sconce::bench {
namespace {

constexpr size_t kBufferBytes = size_t{1} << 18;

absl::Status Failed(const std::string& path) {
  return absl::UnknownError(absl::StrCat(Printable(path), ": ", strerror(errno)));
}

// The size of one element of `output`; zero where it has none of fixed size.
size_t ElementBytes(const inference::ModelInferResponse::InferOutputTensor& output) {
  const auto dtype = DTypeFromOip(output.datatype());
  return dtype.has_value() ? static_cast<size_t>(DTypeSize(*dtype)) : 0;
}

// Whether `bytes` is `element` over and over.
bool Repeats(const std::string& bytes, const std::string& element) {
  const size_t size = element.size();
  if (bytes.size() < size || bytes.size() % size != 0) return false;
  return std::memcmp(bytes.data(), element.data(), size) == 0 &&
         std::memcmp(bytes.data(), bytes.data() + size, bytes.size() - size) == 0;
}

}  // namespace

RequestRecord RecordOf(const inference::ModelInferResponse& answer) {
  RequestRecord record;
  if (!absl::SimpleAtoi(answer.model_version(), &record.version)) record.version = 0;
  const auto id = answer.parameters().find("weights_id");
  if (id != answer.parameters().end()) {
    const std::string digits = id->second.string_param().substr(0, 16);
    if (!absl::SimpleHexAtoi(digits, &record.weights_id)) record.weights_id = 0;
  }
  if (answer.outputs().empty() || answer.raw_output_contents_size() != answer.outputs_size()) {
    return record;
  }
  const size_t size = ElementBytes(answer.outputs(0));
  const std::string& first = answer.raw_output_contents(0);
  if (size == 0 || size > sizeof record.value || first.size() < size) return record;
  std::memcpy(&record.value, first.data(), size);
  const std::string element = first.substr(0, size);
  record.uniform =
      std::all_of(answer.raw_output_contents().begin(), answer.raw_output_contents().end(),
                  [&element](const std::string& bytes) { return Repeats(bytes, element); });
  return record;
}

absl::StatusOr<std::unique_ptr<RecordFile>> RecordFile::Create(const std::string& path) {
  std::FILE* const file = std::fopen(path.c_str(), "wb");
  if (file == nullptr) return Failed(path);
  return std::unique_ptr<RecordFile>(new RecordFile(path, file));
}

RecordFile::RecordFile(std::string path, std::FILE* file)
    : path_(std::move(path)), file_(file), buffer_(kBufferBytes) {
  std::setvbuf(file_, buffer_.data(), _IOFBF, buffer_.size());
}

RecordFile::~RecordFile() {
  if (file_ != nullptr) std::fclose(file_);
}

void RecordFile::Write(const RequestRecord& record) {
  std::fwrite(&record, sizeof record, 1, file_);
}

absl::Status RecordFile::Close() {
  const bool good = std::ferror(file_) == 0;
  std::FILE* const file = std::exchange(file_, nullptr);
  if (std::fclose(file) != 0 || !good) return Failed(path_);
  return absl::OkStatus();
}

}  // namespace sconce::bench
