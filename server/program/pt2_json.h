// JSON from an untrusted file: parsed within bounds, and asked for what ought to be in it. For the
// sources of this folder alone: what is otherwise than it should be is thrown as BadProgram, which
// ParseExportedGraph catches. Functions, callable from any thread.

#ifndef SCONCE_SERVER_PROGRAM_PT2_JSON_H_
#define SCONCE_SERVER_PROGRAM_PT2_JSON_H_

#include <cstdint>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"

namespace sconce {

using Json = nlohmann::json;

struct BadProgram {
  absl::Status status;
  bool named = false;  // whether the message says which node it is about
};

[[noreturn]] inline void Fail(absl::Status status) {
  throw BadProgram{.status = std::move(status)};
}

// The text is wrong. What comes from the file must have been made fit to print.
template <typename... Parts>
[[noreturn]] void Bad(const Parts&... parts) {
  Fail(absl::InvalidArgumentError(absl::StrCat(parts...)));
}

template <typename... Parts>
[[noreturn]] void Unsupported(const Parts&... parts) {
  Fail(absl::UnimplementedError(absl::StrCat(parts...)));
}

// Of no more than a few hundred levels.
Json ParseJson(const std::string& text);

const Json& Member(const Json& object, const char* key);
const Json& Object(const Json& value);
const Json& List(const Json& value);
std::string Text(const Json& value);
int64_t Integer(const Json& value);
double Real(const Json& value);  // also the words "Infinity", "-Infinity" and "NaN"
bool Boolean(const Json& value);

// The one member of an object that is one of several alternatives: its key and its value.
std::pair<std::string, const Json*> Alternative(const Json& value);

}  // namespace sconce

#endif  // SCONCE_SERVER_PROGRAM_PT2_JSON_H_
