#include "server/base/file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/base/printable.h"

namespace sconce {
namespace {

int64_t Nanoseconds(const struct timespec& t) {
  return static_cast<int64_t>(t.tv_sec) * 1'000'000'000 + t.tv_nsec;
}

FileFingerprint FromStat(const struct stat& s) {
  return {.device = s.st_dev,
          .inode = s.st_ino,
          .size_bytes = s.st_size,
          .mtime_ns = Nanoseconds(s.st_mtim),
          .ctime_ns = Nanoseconds(s.st_ctim)};
}

}  // namespace

absl::Status ErrnoStatus(int error, const std::string& path, const std::string& action) {
  const std::string message = absl::StrCat(Printable(path), ": cannot ", action, ": ",
                                           std::system_category().message(error));
  switch (error) {
    case ENOENT:
    case ENOTDIR:
      return absl::NotFoundError(message);
    case EACCES:
    case EPERM:
    case EROFS:
      return absl::PermissionDeniedError(message);
    case ELOOP:
    case ENAMETOOLONG:
    case ENXIO:
    case EISDIR:
      return absl::InvalidArgumentError(message);
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
      return absl::ResourceExhaustedError(message);
    default:
      return absl::UnavailableError(message);
  }
}

absl::StatusOr<FileFingerprint> FingerprintOf(const std::string& path) {
  struct stat s;
  if (::stat(path.c_str(), &s) != 0) return ErrnoStatus(errno, path, "look at the file");
  return FromStat(s);
}

absl::StatusOr<File> File::Open(const std::string& path) {
  if (path.find('\0') != std::string::npos) {
    return absl::InvalidArgumentError(
        absl::StrCat(Printable(path), ": a path cannot hold a NUL character"));
  }
  int fd;
  do {
    // O_NONBLOCK: opening a FIFO would otherwise wait for a writer.
    fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
  } while (fd < 0 && errno == EINTR);
  if (fd < 0) return ErrnoStatus(errno, path, "open the file");
  File file(path, fd, {});
  struct stat s;
  if (::fstat(fd, &s) != 0) return ErrnoStatus(errno, path, "look at the file");
  if (S_ISDIR(s.st_mode)) {
    return absl::InvalidArgumentError(
        absl::StrCat(Printable(path), ": expected a regular file, got a folder"));
  }
  if (!S_ISREG(s.st_mode)) {
    return absl::InvalidArgumentError(absl::StrCat(
        Printable(path), ": expected a regular file, got a device, a FIFO or a socket"));
  }
  file.fingerprint_ = FromStat(s);
  // Advice: where it is not taken, nothing is lost but time.
  (void)::posix_fadvise(fd, 0, 0, POSIX_FADV_RANDOM);
  return file;
}

File::File(std::string path, int fd, const FileFingerprint& fingerprint)
    : path_(std::move(path)), fd_(fd), fingerprint_(fingerprint) {}

File::File(File&& other) noexcept
    : path_(std::move(other.path_)),
      fd_(std::exchange(other.fd_, -1)),
      fingerprint_(other.fingerprint_) {}

File& File::operator=(File&& other) noexcept {
  if (this != &other) {
    if (fd_ >= 0) ::close(fd_);
    path_ = std::move(other.path_);
    fd_ = std::exchange(other.fd_, -1);
    fingerprint_ = other.fingerprint_;
  }
  return *this;
}

File::~File() {
  if (fd_ >= 0) ::close(fd_);
}

absl::Status File::CheckRange(int64_t offset, int64_t size) const {
  if (offset >= 0 && size <= size_bytes() && offset <= size_bytes() - size) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(Printable(path_), ": expected to read inside the file's ", size_bytes(),
                   " bytes, got offset ", offset, " and ", size, " bytes"));
}

absl::Status File::Shrank(int64_t at) const {
  return absl::AbortedError(
      absl::StrCat(Printable(path_), ": the file shrank while it was read: expected ", size_bytes(),
                   " bytes, got an end at byte ", at, " or before"));
}

absl::Status File::ReadAt(int64_t offset, absl::Span<std::byte> out) const {
  const auto wanted = static_cast<int64_t>(out.size());
  if (absl::Status inside = CheckRange(offset, wanted); !inside.ok()) return inside;
  // Linux transfers at most 2 GiB a call; pieces of this size also let a signal be noticed.
  constexpr int64_t kMaxPiece = int64_t{1} << 30;
  int64_t done = 0;
  while (done < wanted) {
    const ssize_t got =
        ::pread(fd_, out.data() + done, static_cast<size_t>(std::min(wanted - done, kMaxPiece)),
                static_cast<off_t>(offset + done));
    if (got < 0) {
      if (errno == EINTR) continue;
      return ErrnoStatus(errno, path_, absl::StrCat("read at byte ", offset + done));
    }
    if (got == 0) return Shrank(offset + done);
    done += got;
  }
  return absl::OkStatus();
}

absl::Status File::ReadScattered(int64_t offset, int64_t size, absl::Span<struct iovec> parts,
                                 bool* waited) const {
  if (absl::Status inside = CheckRange(offset, size); !inside.ok()) return inside;
  int flags = RWF_NOWAIT;
  int64_t done = 0;
  while (done < size) {
    const ssize_t got = ::preadv2(fd_, parts.data(), static_cast<int>(parts.size()),
                                  static_cast<off_t>(offset + done), flags);
    if (got < 0) {
      if (errno == EINTR) continue;
      // EAGAIN: not in the page cache. EOPNOTSUPP: this file system cannot tell.
      if (flags == 0 || (errno != EAGAIN && errno != EOPNOTSUPP)) {
        return ErrnoStatus(errno, path_, absl::StrCat("read at byte ", offset + done));
      }
    } else if (got == 0 && flags == 0) {
      return Shrank(offset + done);
    } else {
      done += got;
      for (auto left = static_cast<size_t>(got); left > 0;) {
        struct iovec& part = parts.front();
        const size_t taken = std::min(left, part.iov_len);
        part.iov_base = static_cast<std::byte*>(part.iov_base) + taken;
        part.iov_len -= taken;
        left -= taken;
        if (part.iov_len == 0) parts.remove_prefix(1);
      }
    }
    if (flags != 0 && done < size) *waited = true;
    flags = 0;
  }
  return absl::OkStatus();
}

void File::ExpectSequentialReads() const {
  (void)::posix_fadvise(fd_, 0, 0, POSIX_FADV_SEQUENTIAL);
}

void File::Prefetch(int64_t offset, int64_t size) const {
  (void)::posix_fadvise(fd_, offset, size, POSIX_FADV_WILLNEED);
}

absl::Status File::CheckUnchanged() const {
  struct stat s;
  if (::fstat(fd_, &s) != 0) return ErrnoStatus(errno, path_, "look at the file");
  const FileFingerprint now = FromStat(s);
  // Not the ctime: a rename over this name, which is how files should be replaced, changes it
  // without touching a byte.
  if (now.size_bytes != fingerprint_.size_bytes) {
    return absl::AbortedError(
        absl::StrCat(Printable(path_), ": the file changed while it was read: expected a size of ",
                     fingerprint_.size_bytes, " bytes, got ", now.size_bytes));
  }
  if (now.mtime_ns != fingerprint_.mtime_ns) {
    return absl::AbortedError(absl::StrCat(
        Printable(path_), ": the file changed while it was read: its modification time moved"));
  }
  return absl::OkStatus();
}

}  // namespace sconce
