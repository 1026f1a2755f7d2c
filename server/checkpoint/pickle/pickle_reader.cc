#include "server/checkpoint/pickle/pickle_reader.h"

#include <algorithm>
#include <cstddef>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "server/checkpoint/error_context.h"
#include "server/checkpoint/little_endian.h"
#include "server/checkpoint/pickle/pickle_opcodes.h"

namespace sconce {
namespace {

constexpr int64_t kFirstReadBytes = 4096;

// What follows an opcode in the stream.
struct Argument {
  enum class Form { kUnknown, kBytes, kCounted, kLines };

  Form form = Form::kUnknown;
  int64_t size = 0;  // kBytes: how many; kCounted: how many bytes the count itself takes
};

Argument ArgumentOf(PickleOpcode opcode) {
  using enum PickleOpcode;
  using Form = Argument::Form;
  switch (opcode) {
    case kMark:
    case kStop:
    case kPop:
    case kPopMark:
    case kNone:
    case kReduce:
    case kAppend:
    case kBuild:
    case kEmptyDict:
    case kAppends:
    case kEmptyList:
    case kSetItem:
    case kTuple:
    case kEmptyTuple:
    case kSetItems:
    case kBinPersId:
    case kNewObj:
    case kTuple1:
    case kTuple2:
    case kTuple3:
    case kNewTrue:
    case kNewFalse:
    case kEmptySet:
    case kAddItems:
    case kFrozenSet:
    case kNewObjEx:
    case kStackGlobal:
    case kMemoize:
    case kObj:
      return {Form::kBytes, 0};
    case kProto:
    case kBinInt1:
    case kBinGet:
    case kBinPut:
      return {Form::kBytes, 1};
    case kBinInt2:
      return {Form::kBytes, 2};
    case kBinInt:
    case kLongBinGet:
    case kLongBinPut:
      return {Form::kBytes, 4};
    case kBinFloat:
    case kFrame:
      return {Form::kBytes, 8};
    case kShortBinString:
    case kShortBinBytes:
    case kShortBinUnicode:
    case kLong1:
      return {Form::kCounted, 1};
    case kBinString:
    case kBinUnicode:
    case kBinBytes:
    case kLong4:
      return {Form::kCounted, 4};
    case kBinUnicode8:
    case kBinBytes8:
    case kByteArray8:
      return {Form::kCounted, 8};
    case kInt:
      return {Form::kLines, 1};
    case kGlobal:
      return {Form::kLines, 2};
  }
  return {};
}

class Reader {
 public:
  Reader(const File& file, const FileSection& section, int64_t max_bytes)
      : file_(file),
        section_(section),
        available_(section.end - section.offset),
        max_bytes_(max_bytes) {}

  absl::StatusOr<std::string> Run() {
    for (bool stopped = false; !stopped;) {
      const int64_t opcode_at = at_;
      const absl::StatusOr<PickleOpcode> opcode = Step();
      if (!opcode.ok()) {
        return InContext(absl::StrCat("pickle byte ", opcode_at), opcode.status());
      }
      stopped = *opcode == PickleOpcode::kStop;
    }
    bytes_.resize(static_cast<size_t>(at_));
    return std::move(bytes_);
  }

 private:
  // Passes over one opcode with its argument.
  absl::StatusOr<PickleOpcode> Step() {
    if (absl::Status read = Need(1, "the STOP opcode"); !read.ok()) return read;
    const auto opcode = static_cast<PickleOpcode>(bytes_[static_cast<size_t>(at_++)]);
    const Argument argument = ArgumentOf(opcode);
    switch (argument.form) {
      case Argument::Form::kBytes:
        if (absl::Status read = Skip(argument.size, "an opcode's argument"); !read.ok())
          return read;
        return opcode;
      case Argument::Form::kCounted:
        if (absl::Status read = SkipCounted(argument.size); !read.ok()) return read;
        return opcode;
      case Argument::Form::kLines:
        for (int64_t line = 0; line < argument.size; ++line) {
          if (absl::Status read = SkipLine(); !read.ok()) return read;
        }
        return opcode;
      case Argument::Form::kUnknown:
        break;
    }
    return Refused("expected an opcode of protocol 2 to 5, got unknown opcode 0x",
                   absl::Hex(static_cast<uint8_t>(opcode), absl::kZeroPad2));
  }

  // Makes sure that the next `count` bytes have been read.
  absl::Status Need(int64_t count, const char* what) {
    const auto size = static_cast<int64_t>(bytes_.size());
    if (count <= size - at_) return absl::OkStatus();
    if (count > available_ - at_) {
      return Refused("expected ", what, ", got the end after ", available_ - at_, " bytes more");
    }
    if (count > max_bytes_ - at_) {
      return Refused("expected a pickle of at most ", max_bytes_, " bytes, got a longer one");
    }
    const int64_t wanted = std::max({at_ + count, 2 * size, kFirstReadBytes});
    const int64_t grown = std::min({wanted, available_, max_bytes_});
    bytes_.resize(static_cast<size_t>(grown));
    auto* added = reinterpret_cast<std::byte*>(bytes_.data()) + size;
    return ReadFrom(file_, section_.offset + size, {added, static_cast<size_t>(grown - size)});
  }

  absl::Status Skip(int64_t count, const char* what) {
    if (absl::Status read = Need(count, what); !read.ok()) return read;
    at_ += count;
    return absl::OkStatus();
  }

  absl::Status SkipCounted(int64_t count_size) {
    if (absl::Status read = Need(count_size, "a length"); !read.ok()) return read;
    const char* count_at = bytes_.data() + at_;
    const uint64_t count = count_size == 1   ? LoadLittleEndian<uint8_t>(count_at)
                           : count_size == 4 ? LoadLittleEndian<uint32_t>(count_at)
                                             : LoadLittleEndian<uint64_t>(count_at);
    at_ += count_size;
    const int64_t remaining = available_ - at_;
    if (count > static_cast<uint64_t>(remaining)) {
      return Refused("expected a string of at most the ", remaining,
                     " bytes that remain, got a length of ", count);
    }
    return Skip(static_cast<int64_t>(count), "a string");
  }

  absl::Status SkipLine() {
    for (size_t searched = static_cast<size_t>(at_);;) {
      const size_t end = bytes_.find('\n', searched);
      if (end != std::string::npos) {
        at_ = static_cast<int64_t>(end) + 1;
        return absl::OkStatus();
      }
      searched = bytes_.size();
      const int64_t beyond = static_cast<int64_t>(searched) - at_ + 1;
      if (absl::Status read = Need(beyond, "the end of a line"); !read.ok()) return read;
    }
  }

  const File& file_;
  const FileSection section_;
  const int64_t available_;
  const int64_t max_bytes_;
  std::string bytes_;  // as much of the section as has been read
  int64_t at_ = 0;     // of the next opcode, in `bytes_`
};

}  // namespace

absl::StatusOr<std::string> ReadPickle(const File& file, FileSection& section, int64_t max_bytes) {
  absl::StatusOr<std::string> bytes = Reader(file, section, max_bytes).Run();
  if (bytes.ok()) section.offset += static_cast<int64_t>(bytes->size());
  return bytes;
}

}  // namespace sconce
