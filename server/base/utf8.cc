#include "server/base/utf8.h"

#include <cstring>

namespace sconce {

size_t DecodeUtf8(std::string_view text, uint32_t& code_point) {
  const auto byte = [&](size_t i) { return static_cast<uint8_t>(text[i]); };
  const uint8_t lead = byte(0);
  size_t length;
  uint32_t smallest;
  if (lead < 0x80) {
    code_point = lead;
    return 1;
  } else if (lead >= 0xC2 && lead < 0xE0) {
    length = 2, smallest = 0x80, code_point = lead & 0x1F;
  } else if (lead >= 0xE0 && lead < 0xF0) {
    length = 3, smallest = 0x800, code_point = lead & 0x0F;
  } else if (lead >= 0xF0 && lead < 0xF5) {
    length = 4, smallest = 0x10000, code_point = lead & 0x07;
  } else {
    return 0;
  }
  if (text.size() < length) return 0;
  for (size_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xC0) != 0x80) return 0;
    code_point = code_point << 6 | (byte(i) & 0x3F);
  }
  return code_point < smallest || code_point > 0x10FFFF ? 0 : length;
}

bool IsUtf8(std::string_view text, Surrogates surrogates) {
  while (!text.empty()) {
    // Text is nearly always ASCII: eight bytes at a time.
    uint64_t eight;
    if (text.size() >= sizeof(eight)) {
      std::memcpy(&eight, text.data(), sizeof(eight));
      if ((eight & 0x8080808080808080u) == 0) {
        text.remove_prefix(sizeof(eight));
        continue;
      }
    }
    uint32_t code_point;
    const size_t length = DecodeUtf8(text, code_point);
    if (length == 0) return false;
    if (surrogates == Surrogates::kRefuse && IsSurrogate(code_point)) return false;
    text.remove_prefix(length);
  }
  return true;
}

}  // namespace sconce
