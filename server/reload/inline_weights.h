// Weights that came with a request, as a file that the loader reads like any other: in memory that
// has a path (/proc/self/fd/N) as long as this lives. Used by one thread at a time.

#ifndef SCONCE_SERVER_RELOAD_INLINE_WEIGHTS_H_
#define SCONCE_SERVER_RELOAD_INLINE_WEIGHTS_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"

namespace sconce {

class InlineWeights {
 public:
  // RESOURCE_EXHAUSTED where there is no room for them.
  static absl::StatusOr<std::unique_ptr<InlineWeights>> Create(const std::string& bytes);
  ~InlineWeights();
  InlineWeights(const InlineWeights&) = delete;
  InlineWeights& operator=(const InlineWeights&) = delete;

  const std::string& path() const { return path_; }

 private:
  explicit InlineWeights(int fd);

  const int fd_;
  const std::string path_;
};

}  // namespace sconce

#endif  // SCONCE_SERVER_RELOAD_INLINE_WEIGHTS_H_
