// File: a regular file opened for reading, and the fingerprint that tells one state of it from
// another.
//
// Reads go through pread and never through a mapping: a mapped file that shrinks raises SIGBUS.
//
// Status codes callers may rely on: NotFound (no such path), PermissionDenied, InvalidArgument (not
// a regular file), Aborted (the file changed or shrank while it was open: read it again),
// Unavailable (the machine or the file system is in trouble: the same file may be readable later).
#ifndef SCONCE_SERVER_BASE_FILE_H_
#define SCONCE_SERVER_BASE_FILE_H_

#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace sconce {

// The status of a system call that failed: "<path>: cannot <action>: <the system's words>". Beside
// the codes above, ResourceExhausted where a disk or a limit leaves no room to write.
absl::Status ErrnoStatus(int error, const std::string& path, const std::string& action);

// What stat() says of a file's identity and age. Two different fingerprints of one path mean that
// it may hold something else; equal ones, that it most likely does not.
struct FileFingerprint {
  uint64_t device = 0;
  uint64_t inode = 0;
  int64_t size_bytes = 0;
  int64_t mtime_ns = 0;
  int64_t ctime_ns = 0;

  friend bool operator==(const FileFingerprint&, const FileFingerprint&) = default;
};

// Fingerprint of the file that `path` leads to; symbolic links are followed. It need not be a
// regular file.
absl::StatusOr<FileFingerprint> FingerprintOf(const std::string& path);

// Owns one file descriptor; movable, not copyable. The const methods may be called from any number
// of threads at once.
class File {
 public:
  // Regular files only; never blocks on a FIFO or a device. The kernel is told not to read ahead,
  // until ExpectSequentialReads: opening a large file reads little of it, here and there.
  static absl::StatusOr<File> Open(const std::string& path);

  File(File&& other) noexcept;
  File& operator=(File&& other) noexcept;
  File(const File&) = delete;
  File& operator=(const File&) = delete;
  ~File();

  const std::string& path() const { return path_; }
  // For those that read by other means; valid as long as this is.
  int fd() const { return fd_; }
  // As it was when the file was opened.
  int64_t size_bytes() const { return fingerprint_.size_bytes; }
  const FileFingerprint& fingerprint() const { return fingerprint_; }

  // Fills all of `out` with the bytes from `offset` on, or fails.
  absl::Status ReadAt(int64_t offset, absl::Span<std::byte> out) const;

  // The same for bytes that go to several places, one after the other. Sets `waited` where they
  // were not all in the page cache. The parts' lengths add up to `size`; they may be changed.
  absl::Status ReadScattered(int64_t offset, int64_t size, absl::Span<struct iovec> parts,
                             bool* waited) const;

  // From now on, small reads near one another are worth reading ahead for.
  void ExpectSequentialReads() const;

  // Starts to bring bytes into the page cache, without waiting for them.
  void Prefetch(int64_t offset, int64_t size) const;

  // Aborted where the open file's size or modification time is no longer what it was at Open. That
  // the path has come to lead elsewhere does not matter: the bytes read here are still one file's.
  absl::Status CheckUnchanged() const;

 private:
  File(std::string path, int fd, const FileFingerprint& fingerprint);

  absl::Status CheckRange(int64_t offset, int64_t size) const;
  absl::Status Shrank(int64_t at) const;

  std::string path_;
  int fd_ = -1;
  FileFingerprint fingerprint_;
};

}  // namespace sconce

#endif  // SCONCE_SERVER_BASE_FILE_H_
