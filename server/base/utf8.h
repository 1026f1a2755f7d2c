// UTF-8, decoded strictly: no overlong forms, nothing above U+10FFFF.
#ifndef SCONCE_SERVER_BASE_UTF8_H_
#define SCONCE_SERVER_BASE_UTF8_H_

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace sconce {

// Length of the sequence at the start of `text`, 0 if there is none; its value goes to
// `code_point`. Surrogates, which UTF-8 proper excludes and Python's pickler writes, are decoded
// like the rest. REQUIRES: !text.empty().
size_t DecodeUtf8(std::string_view text, uint32_t& code_point);

inline bool IsSurrogate(uint32_t code_point) { return code_point >= 0xD800 && code_point < 0xE000; }

enum class Surrogates { kRefuse, kAllow };

// Whether all of `text` is UTF-8.
bool IsUtf8(std::string_view text, Surrogates surrogates = Surrogates::kRefuse);

}  // namespace sconce

#endif  // SCONCE_SERVER_BASE_UTF8_H_
