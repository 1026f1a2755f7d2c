#include "server/base/printable.h"

#include <cstdint>

#include "server/base/utf8.h"

namespace sconce {
namespace {

constexpr char kHexDigits[] = "0123456789abcdef";

// Characters that end a line, hide or reorder their neighbours.
bool IsInvisible(uint32_t c) {
  return c < 0x20 || (c >= 0x7F && c < 0xA0) || c == 0xAD || (c >= 0x200B && c <= 0x200F) ||
         (c >= 0x2028 && c <= 0x202E) || (c >= 0x2060 && c <= 0x206F) || c == 0xFEFF ||
         (c >= 0xFFF9 && c <= 0xFFFB) || (c >= 0xE0000 && c <= 0xE0FFF);
}

void AppendByteEscape(uint8_t byte, std::string& out) {
  out += "\\x";
  out += kHexDigits[byte >> 4];
  out += kHexDigits[byte & 0xF];
}

void AppendCodePointEscape(uint32_t c, std::string& out) {
  out += "\\u{";
  bool started = false;
  for (int shift = 20; shift >= 0; shift -= 4) {
    const uint32_t digit = c >> shift & 0xF;
    started = started || digit != 0 || shift == 0;
    if (started) out += kHexDigits[digit];
  }
  out += '}';
}

}  // namespace

std::string Printable(std::string_view untrusted, size_t max_chars) {
  std::string out;
  while (!untrusted.empty()) {
    std::string piece;
    uint32_t c = 0;
    size_t consumed = DecodeUtf8(untrusted, c);
    if (consumed == 0 || IsSurrogate(c)) {
      AppendByteEscape(static_cast<uint8_t>(untrusted[0]), piece);
      consumed = 1;
    } else if (c == '\\') {
      piece = "\\\\";
    } else if (c == '\n') {
      piece = "\\n";
    } else if (c == '\t') {
      piece = "\\t";
    } else if (c == '\r') {
      piece = "\\r";
    } else if (IsInvisible(c)) {
      c < 0x80 ? AppendByteEscape(static_cast<uint8_t>(c), piece) : AppendCodePointEscape(c, piece);
    } else {
      piece = untrusted.substr(0, consumed);
    }
    if (out.size() + piece.size() > max_chars) {
      out += "...";
      break;
    }
    out += piece;
    untrusted.remove_prefix(consumed);
  }
  return out;
}

}  // namespace sconce
