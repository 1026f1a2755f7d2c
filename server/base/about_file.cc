#include "server/base/about_file.h"

#include "absl/strings/str_cat.h"
#include "server/base/printable.h"

namespace sconce {

absl::Status AboutFile(const std::string& path, const absl::Status& status) {
  return absl::Status(status.code(),
                      absl::StrCat(Printable(path), ": ", std::string(status.message())));
}

}  // namespace sconce
