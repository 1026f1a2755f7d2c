// ReadTarMembers: the list of members of a tar archive as the first versions of torch.save wrote
// it, for a reader that never unpacks anything.
//
//   archive = (header data padding)* zeros
//   header  = 512 bytes: name, size in octal digits, checksum, type, ...
//
// Regular files alone are taken, under the names that are known, each once: links, folders and
// paths have no business in such an archive. Extended headers (Python writes them for times) may
// say nothing about name, size or links.
#ifndef SCONCE_SERVER_CHECKPOINT_ARCHIVE_TAR_ARCHIVE_H_
#define SCONCE_SERVER_CHECKPOINT_ARCHIVE_TAR_ARCHIVE_H_

#include <map>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "server/base/file.h"
#include "server/checkpoint/pickle/pickle_reader.h"

namespace sconce {

// Returns where the data of each member lies; an error unless the members are those of `names`.
// Errors do not name the file's path; the caller does.
absl::StatusOr<std::map<std::string, FileSection, std::less<>>> ReadTarMembers(
    const File& file, absl::Span<const std::string_view> names);

}  // namespace sconce

#endif  // SCONCE_SERVER_CHECKPOINT_ARCHIVE_TAR_ARCHIVE_H_
