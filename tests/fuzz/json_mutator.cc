// JSON as a sequence of tokens, and safetensors as the length of a JSON header, that header, and
// data.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "server/checkpoint/little_endian.h"
#include "tests/fuzz/mutators.h"
#include "tests/support/checkpoint_builders.h"

namespace sconce {
namespace {

using Tokens = std::vector<std::string>;

constexpr std::string_view kTokens[] = {"{",
                                        "}",
                                        "[",
                                        "]",
                                        ",",
                                        ":",
                                        "null",
                                        "true",
                                        "1.5",
                                        "-1",
                                        "-0",
                                        "1e400",
                                        "\"\"",
                                        "\"dtype\"",
                                        "\"shape\"",
                                        "\"data_offsets\"",
                                        "\"__metadata__\"",
                                        "\"F32\"",
                                        "\"I64\"",
                                        "\"F4\"",
                                        "\"F6_E2M3\"",
                                        "\"BOOL\"",
                                        "\"w\"",
                                        "\"weight_map\"",
                                        "\"metadata\"",
                                        "\"total_size\"",
                                        "\"../outside.safetensors\"",
                                        "\"aside\"",
                                        "\"\\u0000\"",
                                        "\"\\ud800\"",
                                        "\"\\\\\"",
                                        "\"config\"",
                                        "\"path_name\"",
                                        "\"use_pickle\"",
                                        "\"tensor_meta\"",
                                        "\"storage_offset\"",
                                        "\"strides\"",
                                        "\"as_int\"",
                                        "\"type\"",
                                        "\"context\"",
                                        "\"children_spec\"",
                                        "\"builtins.dict\"",
                                        "\"[\\\"a\\\", 1]\"",
                                        "18446744073709551615",
                                        "{}",
                                        "[]"};

bool IsWord(char c) {
  return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '-' ||
         c == '+' || c == '.';
}

Tokens Split(std::string_view text) {
  Tokens tokens;
  for (size_t at = 0; at < text.size();) {
    size_t end = at + 1;
    if (text[at] == '"') {
      while (end < text.size() && text[end] != '"') end += text[end] == '\\' ? 2 : 1;
      end = std::min(end + 1, text.size());
    } else if (IsWord(text[at])) {
      while (end < text.size() && IsWord(text[end])) ++end;
    }
    tokens.emplace_back(text.substr(at, end - at));
    at = end;
  }
  return tokens;
}

void MutateToken(std::string& token, Random& random) {
  if (token.size() >= 2 && token[0] == '"' && random.OneIn(2)) {
    std::string inner = token.substr(1, token.size() - 2);
    MutateBytes(inner);
    token = "\"" + inner + "\"";
  } else if (IsWord(token[0]) && !random.OneIn(4)) {
    token = std::to_string(random.Integer());
  } else {
    token = random.Pick(kTokens);
  }
}

// From the token at `start` to the end of the value that begins there.
size_t EndOfValue(const Tokens& tokens, size_t start) {
  size_t depth = 0;
  for (size_t i = start; i < tokens.size(); ++i) {
    if (tokens[i] == "{" || tokens[i] == "[") ++depth;
    if ((tokens[i] == "}" || tokens[i] == "]") && depth > 0) --depth;
    if (depth == 0) return i + 1;
  }
  return tokens.size();
}

// One member of an object or one item of an array is repeated, under another name perhaps.
void RepeatMember(Tokens& tokens, size_t from, Random& random) {
  const auto comma = std::find(tokens.begin() + static_cast<ptrdiff_t>(from), tokens.end(), ",");
  if (comma == tokens.end()) return;
  size_t start = static_cast<size_t>(comma - tokens.begin());
  size_t end = start + 1;
  while (end < tokens.size() && (tokens[end] == " " || tokens[end] == ":" ||
                                 (end + 1 < tokens.size() && tokens[end + 1] == ":"))) {
    ++end;
  }
  if (end < tokens.size()) end = EndOfValue(tokens, end);
  Tokens copy(tokens.begin() + static_cast<ptrdiff_t>(start),
              tokens.begin() + static_cast<ptrdiff_t>(end));
  MutateToken(copy[random.Below(copy.size())], random);
  tokens.insert(tokens.begin() + static_cast<ptrdiff_t>(end), copy.begin(), copy.end());
}

}  // namespace

void MutateJson(std::string& bytes, Random& random) {
  if (random.OneIn(10)) return MutateBytes(bytes);
  Tokens tokens = Split(bytes);
  if (tokens.empty()) return MutateBytes(bytes);
  for (size_t changes = 1 + random.Below(2); changes > 0; --changes) {
    const size_t place = random.Below(tokens.size());
    const auto at = tokens.begin() + static_cast<ptrdiff_t>(place);
    switch (random.Below(8)) {
      case 0:
        tokens.erase(at);
        break;
      case 1:
        tokens.insert(at, std::string(random.Pick(kTokens)));
        break;
      case 2:
        std::swap(*at, tokens[random.Below(tokens.size())]);
        break;
      case 3:
        *at = random.Pick(tokens);
        break;
      case 4:
        RepeatMember(tokens, place, random);
        break;
      case 5: {
        // Depth, which no parser may spend stack on.
        const size_t depth = 1 + random.Below(64);
        const bool is_array = random.OneIn(2);
        std::string nested;
        for (size_t i = 0; i < depth; ++i) nested += is_array ? "[" : "{\"a\":";
        nested += "1";
        for (size_t i = 0; i < depth; ++i) nested += is_array ? "]" : "}";
        *at = nested;
        break;
      }
      default:
        MutateToken(*at, random);
        break;
    }
    if (tokens.empty()) break;
  }
  bytes.clear();
  for (const std::string& token : tokens) bytes += token;
}

void MutateSafetensors(std::string& bytes, Random& random) {
  constexpr size_t kPrefix = 8;
  if (bytes.size() < kPrefix || random.OneIn(16)) return MutateBytes(bytes);
  const uint64_t size = LoadLittleEndian<uint64_t>(bytes.data());
  if (size > bytes.size() - kPrefix) return MutateBytes(bytes);
  std::string header = bytes.substr(kPrefix, size), data = bytes.substr(kPrefix + size);
  if (random.OneIn(8)) {
    data.resize(random.Below(64));
  } else {
    MutateJson(header, random);
  }
  bytes = SafetensorsFile(header, data);
}

}  // namespace sconce
