#include "server/program/native_library.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <map>

#include "absl/strings/str_cat.h"
#include "server/base/file.h"
#include "server/base/mutex.h"

namespace sconce {
namespace {

// A path of the descriptor that it did not have before. Numbers of descriptors come again, and with
// them /proc/self/fd/N; "./" within it changes nothing but the text.
absl::StatusOr<std::string> NewPathOf(int fd) {
  constexpr int kMostSteps = 2000;  // a path is no longer than 4096
  static Mutex mutex;
  static auto* const used = new std::map<int, int>();
  MutexLock lock(&mutex);
  const int steps = (*used)[fd]++;
  if (steps > kMostSteps) {
    return absl::ResourceExhaustedError(
        "more native code has been loaded than one process can hold; restart the server");
  }
  std::string path = "/proc/self/fd/";
  for (int i = 0; i < steps; ++i) path += "./";
  return absl::StrCat(path, fd);
}

}  // namespace

absl::Status NativeCodeNotAllowed(const std::string& what) {
  return absl::FailedPreconditionError(
      absl::StrCat(what,
                   " is native code, which can do all that the server can; it runs only where the "
                   "server was started with --allow-native-code, and never from a client's "
                   "request"));
}

absl::StatusOr<std::unique_ptr<SealedCopy>> SealedCopy::Of(absl::Span<const std::byte> bytes) {
  constexpr char kName[] = "native code";
  const int fd = ::memfd_create("sconce-native", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (fd < 0) return ErrnoStatus(errno, kName, "be copied");
  std::unique_ptr<SealedCopy> copy(new SealedCopy(fd));
  while (!bytes.empty()) {
    const ssize_t count = ::write(fd, bytes.data(), bytes.size());
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return ErrnoStatus(errno, kName, "be copied");
    bytes.remove_prefix(static_cast<size_t>(count));
  }
  if (::fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
    return ErrnoStatus(errno, kName, "be sealed");
  }
  absl::StatusOr<std::string> path = NewPathOf(fd);
  if (!path.ok()) return path.status();
  copy->path_ = *std::move(path);
  return copy;
}

SealedCopy::~SealedCopy() { ::close(fd_); }

}  // namespace sconce
