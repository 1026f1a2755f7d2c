// SiblingFiles: opens the files that another file names, such as the shards that an index lists.
// The names are untrusted: a checkpoint must not be able to make the reader open what lies
// elsewhere on the machine.
//
// A name is relative and plain: without "..", empty parts, backslashes or NUL. Symbolic links are
// followed, and what they lead to must lie in one of two folders: the one in which the naming file
// was found, or the one in which it really lies once its own links are resolved. The second is
// there for the Hugging Face cache, whose snapshots hold nothing but links to ../../blobs: who
// links to a checkpoint elsewhere means its parts too. Hard links cannot be told from other files;
// to make one takes access to what it leads to.
//
// Immutable; thread-safe.
#ifndef SCONCE_SERVER_CHECKPOINT_FOLDER_SIBLING_FILES_H_
#define SCONCE_SERVER_CHECKPOINT_FOLDER_SIBLING_FILES_H_

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "server/base/file.h"

namespace sconce {

class SiblingFiles {
 public:
  enum class Names {
    kInFolder,      // a file of the same folder
    kInSubfolders,  // or of one beneath it
  };

  // `path`: of the file that names the others.
  static absl::StatusOr<SiblingFiles> Of(const std::string& path, Names names);

  // Errors name the file that was meant.
  absl::StatusOr<File> Open(std::string_view name) const;

 private:
  SiblingFiles(std::string folder, std::vector<std::string> resolved_folders, Names names);

  std::string folder_;
  std::vector<std::string> resolved_folders_;
  Names names_;
};

}  // namespace sconce

#endif  // SCONCE_SERVER_CHECKPOINT_FOLDER_SIBLING_FILES_H_
