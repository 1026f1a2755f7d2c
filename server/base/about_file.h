// AboutFile: a status that names the file it is about.
#ifndef SCONCE_SERVER_BASE_ABOUT_FILE_H_
#define SCONCE_SERVER_BASE_ABOUT_FILE_H_

#include <string>

#include "absl/status/status.h"

namespace sconce {

// `status` with the path, which is untrusted, before its message. Callable from any thread.
absl::Status AboutFile(const std::string& path, const absl::Status& status);

}  // namespace sconce

#endif  // SCONCE_SERVER_BASE_ABOUT_FILE_H_
