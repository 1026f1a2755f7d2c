// PickleStream: the bytes of a pickle, taken from front to back. Every take is checked against what
// remains, before anything is allocated.
#ifndef SCONCE_SERVER_CHECKPOINT_PICKLE_PICKLE_STREAM_H_
#define SCONCE_SERVER_CHECKPOINT_PICKLE_PICKLE_STREAM_H_

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <type_traits>

#include "absl/status/statusor.h"
#include "server/checkpoint/error_context.h"
#include "server/checkpoint/little_endian.h"

namespace sconce {

class PickleStream {
 public:
  // `bytes` must outlive the stream.
  explicit PickleStream(std::string_view bytes) : bytes_(bytes) {}

  size_t size() const { return bytes_.size(); }
  size_t position() const { return at_; }
  size_t remaining() const { return bytes_.size() - at_; }

  // A little-endian integer.
  template <typename T>
  absl::StatusOr<T> Take() {
    if (remaining() < sizeof(T)) {
      return Refused("expected ", sizeof(T), " bytes of an opcode or its argument, got ",
                     remaining(), ", the end of the stream");
    }
    const T value = LoadLittleEndian<T>(bytes_.data() + at_);
    at_ += sizeof(T);
    return value;
  }

  // A length, then as many bytes.
  template <typename Length>
  absl::StatusOr<std::string_view> TakeCounted(const char* what) {
    const absl::StatusOr<Length> length = Take<Length>();
    if (!length.ok()) return length.status();
    if constexpr (std::is_signed_v<Length>) {
      if (*length < 0) return Refused("expected the length of ", what, ", got ", *length);
    }
    if (static_cast<uint64_t>(*length) > remaining()) {
      return Refused("expected ", what, " of at most the ", remaining(),
                     " bytes that remain, got a length of ", *length);
    }
    const std::string_view counted = bytes_.substr(at_, static_cast<size_t>(*length));
    at_ += counted.size();
    return counted;
  }

  // What stands before the next line end, which is taken too.
  absl::StatusOr<std::string_view> TakeLine() {
    const size_t end = bytes_.find('\n', at_);
    if (end == std::string_view::npos) {
      return Refused("expected a line with a name, got none before the end of the stream");
    }
    const std::string_view line = bytes_.substr(at_, end - at_);
    at_ = end + 1;
    return line;
  }

 private:
  std::string_view bytes_;
  size_t at_ = 0;
};

}  // namespace sconce

#endif  // SCONCE_SERVER_CHECKPOINT_PICKLE_PICKLE_STREAM_H_
