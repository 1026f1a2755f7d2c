// Checkpoints in several files: shards with their index, distributed checkpoints, ONNX with
// external data. The input is a bundle (bundle.h). Beside the folder lies a file that must never be
// read.

#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "tests/fuzz/bundle.h"
#include "tests/fuzz/custom_mutator.h"
#include "tests/fuzz/exercise.h"
#include "tests/fuzz/mutators.h"
#include "tests/support/checkpoint_builders.h"

namespace sconce {
namespace {

void WriteFile(const std::string& path, std::string_view bytes) {
  const int fd = open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  Require(fd >= 0 && write(fd, bytes.data(), bytes.size()) == static_cast<ssize_t>(bytes.size()),
          "a file can be written", path);
  close(fd);
}

// A folder for the inputs, in memory where the machine has such a file system.
class Folder {
 public:
  Folder() {
    parent_ = std::filesystem::is_directory("/dev/shm") ? "/dev/shm/sconce_fuzz_XXXXXX"
                                                        : "/tmp/sconce_fuzz_XXXXXX";
    Require(mkdtemp(parent_.data()) != nullptr, "a folder can be made", parent_);
    parent_ = std::filesystem::canonical(parent_).string();
    path_ = parent_ + "/checkpoint";
    Require(mkdir(path_.c_str(), 0700) == 0, "a folder can be made", path_);
    WriteFile(parent_ + "/outside.safetensors",
              SafetensorsFile(R"({"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})", "abcd"));
    WriteFile(parent_ + "/outside.bin", "abcd");
    Require(symlink("../outside.safetensors", (path_ + "/aside").c_str()) == 0 &&
                symlink("../outside.bin", (path_ + "/aside.data").c_str()) == 0,
            "links can be made");
  }
  ~Folder() { std::filesystem::remove_all(parent_); }

  const std::string& path() const { return path_; }

  void Fill(const Bundle& bundle) {
    for (const std::string& file : files_) unlink(file.c_str());
    files_.clear();
    for (const Bundle::File& file : bundle.files) {
      const std::string path = path_ + "/" + std::string(kBundleNames[file.name]);
      WriteFile(path, file.bytes);
      files_.push_back(path);
    }
  }

  void Shrink() const {
    for (const std::string& file : files_) {
      struct stat s;
      Require(stat(file.c_str(), &s) == 0 && truncate(file.c_str(), s.st_size / 2) == 0,
              "a file can be cut", file);
    }
  }

 private:
  std::string parent_;
  std::string path_;
  std::vector<std::string> files_;
};

}  // namespace

void Mutate(std::string& input, Random& random) {
  Bundle bundle = DecodeBundle(input);
  if (bundle.files.empty() || random.OneIn(64)) return MutateBytes(input);
  switch (random.Below(32)) {
    case 0:
      bundle.opens = random.OneIn(2) ? kOpensFolder
                                     : static_cast<uint8_t>(random.Below(std::size(kBundleNames)));
      break;
    case 1:
      bundle.files.erase(bundle.files.begin() +
                         static_cast<ptrdiff_t>(random.Below(bundle.files.size())));
      break;
    case 2:
      bundle.files.push_back(Bundle::File(random.Pick(bundle.files)));
      bundle.files.back().name = static_cast<uint8_t>(random.Below(std::size(kBundleNames)));
      break;
    default:
      // The first file is the one that says what is in the others.
      MutateFile(bundle.files[random.OneIn(4) ? random.Below(bundle.files.size()) : 0].bytes,
                 random);
      break;
  }
  input = EncodeBundle(bundle);
}

}  // namespace sconce

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static sconce::Folder folder;
  const sconce::Bundle bundle = sconce::DecodeBundle({reinterpret_cast<const char*>(data), size});
  folder.Fill(bundle);
  std::string path = folder.path();
  if (bundle.opens < std::size(sconce::kBundleNames)) {
    path += "/" + std::string(sconce::kBundleNames[bundle.opens]);
  }
  // The same input always does the same.
  const bool verify_crc = size % 8 == 0;
  sconce::ExerciseCheckpoint(path, folder.path(), size, verify_crc, [&] { folder.Shrink(); });
  return 0;
}
