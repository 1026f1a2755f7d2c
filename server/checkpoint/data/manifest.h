// A manifest: the file "<name>.sha256" beside a file, in the format of sha256sum:
//
//   manifest = line*
//   line     = 64 hexadecimal digits, space, space or '*', the file's name (folders may precede it)
#ifndef SCONCE_SERVER_CHECKPOINT_DATA_MANIFEST_H_
#define SCONCE_SERVER_CHECKPOINT_DATA_MANIFEST_H_

#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/base/sha256.h"

namespace sconce {

// The digest that `manifest` gives for the file called `name` (without folders), which must be
// there once. Errors leave out the manifest's path.
absl::StatusOr<Sha256Digest> DigestInManifest(std::string_view manifest, std::string_view name);

// The digest that the manifest beside the file at `path` gives for it. A manifest that is missing
// is FailedPrecondition.
absl::StatusOr<Sha256Digest> ReadManifestOf(const std::string& path);

// DataLoss where the file at `path` has another digest than its manifest gives.
absl::Status CheckDigest(const std::string& path, const Sha256Digest& in_manifest,
                         const Sha256Digest& of_file);

}  // namespace sconce

#endif  // SCONCE_SERVER_CHECKPOINT_DATA_MANIFEST_H_
