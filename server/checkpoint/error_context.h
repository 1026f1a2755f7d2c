// How the readers make errors: a refusal says "expected ..., got ..."; where that was is put in
// front of it on its way up, so that what a person reads is
// "<path>: <member>: tensor '<name>': expected ..., got ...".
#ifndef SCONCE_SERVER_CHECKPOINT_ERROR_CONTEXT_H_
#define SCONCE_SERVER_CHECKPOINT_ERROR_CONTEXT_H_

#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "absl/types/span.h"
#include "server/base/file.h"
#include "server/base/printable.h"

namespace sconce {

// The error for content that is bad, now and until the file changes. Parts as for absl::StrCat;
// what comes from the file must have been made fit to print (server/base/printable.h).
template <typename... Parts>
absl::Status Refused(const Parts&... parts) {
  return absl::InvalidArgumentError(absl::StrCat(parts...));
}

// Returns `status` with "<where>: " before its message; an OK status as it is. `where` must be fit
// to print.
inline absl::Status InContext(const std::string& where, const absl::Status& status) {
  if (status.ok()) return status;
  return absl::Status(status.code(), absl::StrCat(where, ": ", status.message()));
}

// Reads like file.ReadAt, but leaves the path out of errors: in this folder whoever knows the
// member or tensor adds it, and OpenCheckpoint the path.
inline absl::Status ReadFrom(const File& file, int64_t offset, absl::Span<std::byte> out) {
  const absl::Status status = file.ReadAt(offset, out);
  if (status.ok()) return status;
  const std::string path = absl::StrCat(Printable(file.path()), ": ");
  return absl::Status(status.code(), absl::StripPrefix(status.message(), path));
}

}  // namespace sconce

#endif  // SCONCE_SERVER_CHECKPOINT_ERROR_CONTEXT_H_
