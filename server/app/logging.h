// Where log lines go and what they look like: standard error, for people or as JSON.

#ifndef SCONCE_SERVER_APP_LOGGING_H_
#define SCONCE_SERVER_APP_LOGGING_H_

#include <string>

namespace sconce {

// Sets spdlog's default logger. `format`: "human" or "json"; one JSON object a line with "time"
// (RFC 3339, UTC), "level" and "message". `level`: debug, info, warning, error.
// Call once, before the first thread starts.
void SetUpLogging(const std::string& format, const std::string& level);

}  // namespace sconce

#endif  // SCONCE_SERVER_APP_LOGGING_H_
