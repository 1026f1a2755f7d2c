// A shared library that is loaded from a copy of its own: one that is written over in place while
// it is mapped takes the process with it.
//
// Functions, callable from any thread.

#ifndef SCONCE_SERVER_PROGRAM_NATIVE_LIBRARY_H_
#define SCONCE_SERVER_PROGRAM_NATIVE_LIBRARY_H_

#include <cstddef>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace sconce {

// The status of native code that is not allowed; `what` begins the message: "models/m/plugin.so".
absl::Status NativeCodeNotAllowed(const std::string& what);

// Bytes in memory that nobody can write to any more, under a path that no library of this process
// was ever loaded from: the dynamic linker takes what has the same path for the same library. The
// path is good as long as this lives; what is mapped stays.
class SealedCopy {
 public:
  // RESOURCE_EXHAUSTED where there is no room.
  static absl::StatusOr<std::unique_ptr<SealedCopy>> Of(absl::Span<const std::byte> bytes);
  ~SealedCopy();
  SealedCopy(const SealedCopy&) = delete;
  SealedCopy& operator=(const SealedCopy&) = delete;

  const std::string& path() const { return path_; }

 private:
  explicit SealedCopy(int fd) : fd_(fd) {}

  const int fd_;
  std::string path_;
};

}  // namespace sconce

#endif  // SCONCE_SERVER_PROGRAM_NATIVE_LIBRARY_H_
