// One file, whatever its container: the first input byte on is the file.

#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <string>

#include "tests/fuzz/custom_mutator.h"
#include "tests/fuzz/exercise.h"
#include "tests/fuzz/mutators.h"

namespace sconce {
namespace {

// A file in memory, which has a path like any other.
class MemoryFile {
 public:
  MemoryFile() : fd_(memfd_create("checkpoint", 0)) {
    Require(fd_ >= 0, "a file in memory can be made");
    path_ = "/proc/self/fd/" + std::to_string(fd_);
  }

  const std::string& path() const { return path_; }

  void Write(const uint8_t* data, size_t size) const {
    Resize(0);
    Require(pwrite(fd_, data, size, 0) == static_cast<ssize_t>(size), "a file can be written");
  }
  void Resize(size_t size) const {
    Require(ftruncate(fd_, static_cast<off_t>(size)) == 0, "a file can be cut");
  }

 private:
  int fd_;
  std::string path_;
};

}  // namespace

void Mutate(std::string& input, Random& random) { MutateFile(input, random); }

}  // namespace sconce

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const sconce::MemoryFile file;
  file.Write(data, size);
  // The same input always does the same.
  const bool verify_crc = size % 8 == 0;
  sconce::ExerciseCheckpoint(file.path(), file.path(), size, verify_crc,
                             [&] { file.Resize(size / 2); });
  return 0;
}
