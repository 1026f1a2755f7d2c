// WireReader: reads protobuf's wire format out of pieces of memory, as gRPC delivers a message in
// slices, without joining them.
//
//   message := field*
//   field   := tag value          tag = varint: number << 3 | type
//   value   := varint             type 0
//            | 8 bytes            type 1
//            | varint:n n bytes   type 2
//            | 4 bytes            type 5
//
// Types 3 and 4 (groups) are not read: no message of the protocol has them.
//
// Every read says whether the bytes were there; nothing is allocated by what a length claims. Used
// by one thread; the pieces outlive it.

#ifndef SCONCE_SERVER_RPC_WIRE_READER_H_
#define SCONCE_SERVER_RPC_WIRE_READER_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/types/span.h"

namespace sconce {

using Piece = absl::Span<const std::byte>;

enum class WireType : uint8_t { kVarint = 0, kFixed64 = 1, kBytes = 2, kFixed32 = 5 };

struct WireTag {
  uint32_t number = 0;
  WireType type = WireType::kVarint;
};

class WireReader {
 public:
  explicit WireReader(absl::Span<const Piece> pieces);

  bool AtEnd() const { return left_ == 0; }
  size_t left() const { return left_; }

  bool ReadTag(WireTag* tag);
  bool ReadVarint(uint64_t* value);
  // Fills `out`.
  bool ReadInto(absl::Span<std::byte> out);
  // Appends `size` bytes as views of the pieces they lie in.
  bool ReadPieces(size_t size, std::vector<Piece>* out);
  // The length and the bytes of a kBytes value.
  bool ReadBytesValue(std::vector<Piece>* out);
  // Appends tag and value to `out`, as they would be read again.
  bool CopyField(WireTag tag, std::string* out);
  bool SkipValue(WireTag tag);

 private:
  // Goes past pieces that are used up.
  void Settle();
  bool Skip(size_t size);

  absl::Span<const Piece> pieces_;
  size_t at_piece_ = 0;
  size_t at_byte_ = 0;
  size_t left_ = 0;
};

void AppendVarint(uint64_t value, std::string* out);
void AppendTag(WireTag tag, std::string* out);

}  // namespace sconce

#endif  // SCONCE_SERVER_RPC_WIRE_READER_H_
