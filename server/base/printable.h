// Printable: text from outside (file names, tensor names, request fields) made fit for a message.
#ifndef SCONCE_SERVER_BASE_PRINTABLE_H_
#define SCONCE_SERVER_BASE_PRINTABLE_H_

#include <cstddef>
#include <string>
#include <string_view>

namespace sconce {

// Returns `untrusted` as valid UTF-8 on one line: control characters, invalid bytes, backslashes
// and the invisible characters that reorder or break lines are written as escapes, and what exceeds
// `max_chars` bytes is cut and replaced by "...". Callable from any thread.
std::string Printable(std::string_view untrusted, size_t max_chars = 200);

}  // namespace sconce

#endif  // SCONCE_SERVER_BASE_PRINTABLE_H_
