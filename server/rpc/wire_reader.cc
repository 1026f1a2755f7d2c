#include "server/rpc/wire_reader.h"

#include <algorithm>
#include <cstring>

namespace sconce {

WireReader::WireReader(absl::Span<const Piece> pieces) : pieces_(pieces) {
  for (const Piece& piece : pieces_) left_ += piece.size();
  Settle();
}

void WireReader::Settle() {
  while (at_piece_ < pieces_.size() && at_byte_ == pieces_[at_piece_].size()) {
    ++at_piece_;
    at_byte_ = 0;
  }
}

bool WireReader::ReadVarint(uint64_t* value) {
  uint64_t result = 0;
  for (int shift = 0; shift < 70; shift += 7) {
    if (left_ == 0) return false;
    const auto byte = static_cast<uint64_t>(pieces_[at_piece_][at_byte_]);
    ++at_byte_;
    --left_;
    Settle();
    if (shift == 63 && byte > 1) return false;  // more than 64 bits
    result |= (byte & 0x7F) << shift;
    if ((byte & 0x80) == 0) {
      *value = result;
      return true;
    }
  }
  return false;
}

bool WireReader::ReadTag(WireTag* tag) {
  uint64_t value = 0;
  if (!ReadVarint(&value)) return false;
  const uint64_t number = value >> 3;
  const uint64_t type = value & 7;
  if (number == 0 || number > 0x1FFFFFFF) return false;
  if (type != 0 && type != 1 && type != 2 && type != 5) return false;
  *tag = {static_cast<uint32_t>(number), static_cast<WireType>(type)};
  return true;
}

bool WireReader::ReadInto(absl::Span<std::byte> out) {
  if (out.size() > left_) return false;
  left_ -= out.size();
  while (!out.empty()) {
    const Piece rest = pieces_[at_piece_].subspan(at_byte_);
    const size_t n = std::min(rest.size(), out.size());
    std::memcpy(out.data(), rest.data(), n);
    out.remove_prefix(n);
    at_byte_ += n;
    Settle();
  }
  return true;
}

bool WireReader::ReadPieces(size_t size, std::vector<Piece>* out) {
  if (size > left_) return false;
  left_ -= size;
  while (size > 0) {
    const Piece part = pieces_[at_piece_].subspan(at_byte_, size);
    out->push_back(part);
    size -= part.size();
    at_byte_ += part.size();
    Settle();
  }
  return true;
}

bool WireReader::ReadBytesValue(std::vector<Piece>* out) {
  uint64_t size = 0;
  return ReadVarint(&size) && size <= left_ && ReadPieces(size, out);
}

bool WireReader::Skip(size_t size) {
  if (size > left_) return false;
  left_ -= size;
  while (size > 0) {
    const size_t n = std::min(size, pieces_[at_piece_].size() - at_byte_);
    size -= n;
    at_byte_ += n;
    Settle();
  }
  return true;
}

bool WireReader::CopyField(WireTag tag, std::string* out) {
  AppendTag(tag, out);
  uint64_t size = 0;
  switch (tag.type) {
    case WireType::kVarint: {
      uint64_t value = 0;
      if (!ReadVarint(&value)) return false;
      AppendVarint(value, out);
      return true;
    }
    case WireType::kFixed64:
      size = 8;
      break;
    case WireType::kFixed32:
      size = 4;
      break;
    case WireType::kBytes:
      if (!ReadVarint(&size)) return false;
      AppendVarint(size, out);
      break;
  }
  if (size > left_) return false;
  const size_t before = out->size();
  out->resize(before + size);
  return ReadInto(absl::MakeSpan(reinterpret_cast<std::byte*>(out->data()) + before, size));
}

bool WireReader::SkipValue(WireTag tag) {
  uint64_t size = 0;
  switch (tag.type) {
    case WireType::kVarint:
      return ReadVarint(&size);
    case WireType::kFixed64:
      return Skip(8);
    case WireType::kFixed32:
      return Skip(4);
    case WireType::kBytes:
      return ReadVarint(&size) && size <= left_ && Skip(size);
  }
  return false;
}

void AppendVarint(uint64_t value, std::string* out) {
  while (value >= 0x80) {
    out->push_back(static_cast<char>(value | 0x80));
    value >>= 7;
  }
  out->push_back(static_cast<char>(value));
}

void AppendTag(WireTag tag, std::string* out) {
  AppendVarint(uint64_t{tag.number} << 3 | static_cast<uint64_t>(tag.type), out);
}

}  // namespace sconce
