#include "server/reload/inline_weights.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>

#include "absl/strings/str_cat.h"
#include "server/base/file.h"

namespace sconce {

InlineWeights::InlineWeights(int fd) : fd_(fd), path_(absl::StrCat("/proc/self/fd/", fd)) {}

InlineWeights::~InlineWeights() { ::close(fd_); }

absl::StatusOr<std::unique_ptr<InlineWeights>> InlineWeights::Create(const std::string& bytes) {
  constexpr char kName[] = "weights of the request";
  const int fd = ::memfd_create("sconce-weights", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (fd < 0) return ErrnoStatus(errno, kName, "be kept");
  std::unique_ptr<InlineWeights> weights(new InlineWeights(fd));
  for (size_t written = 0; written < bytes.size();) {
    const ssize_t count = ::write(fd, bytes.data() + written, bytes.size() - written);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return ErrnoStatus(errno, kName, "be kept");
    written += static_cast<size_t>(count);
  }
  if (::fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW) != 0) {
    return ErrnoStatus(errno, kName, "be sealed");
  }
  return weights;
}

}  // namespace sconce
