// TempDir: a folder of its own for one test, removed with everything in it at the end.
// Paths given to its methods are relative to the folder. Used by one thread at a time.

#ifndef SCONCE_TESTS_SUPPORT_TEMP_DIR_H_
#define SCONCE_TESTS_SUPPORT_TEMP_DIR_H_

#include <gtest/gtest.h>
#include <stdlib.h>

#include <filesystem>
#include <fstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>

namespace sconce {

class TempDir {
 public:
  TempDir() : path_(testing::TempDir() + "/sconce_XXXXXX") {
    if (mkdtemp(path_.data()) == nullptr) throw std::runtime_error("mkdtemp failed: " + path_);
    // Tests compare with resolved paths.
    path_ = std::filesystem::canonical(path_).string();
  }
  ~TempDir() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;

  const std::string& path() const { return path_; }
  std::string Path(std::string_view name) const { return path_ + "/" + std::string(name); }

  void MakeFolder(std::string_view name) const { std::filesystem::create_directories(Path(name)); }

  // Overwrites in place; makes the folders that lead there.
  void Write(std::string_view name, std::string_view contents) const {
    std::filesystem::create_directories(std::filesystem::path(Path(name)).parent_path());
    std::ofstream file(Path(name), std::ios::binary | std::ios::trunc);
    file.write(contents.data(), static_cast<std::streamsize>(contents.size()));
    file.close();
    if (!file) throw std::runtime_error("cannot write " + Path(name));
  }

  // A symbolic link called `name` with exactly that target.
  void Link(std::string_view target, std::string_view name) const {
    std::filesystem::create_symlink(std::string(target), Path(name));
  }
  void Rename(std::string_view from, std::string_view to) const {
    std::filesystem::rename(Path(from), Path(to));
  }
  void Remove(std::string_view name) const { std::filesystem::remove_all(Path(name)); }

 private:
  std::string path_;
};

}  // namespace sconce

#endif  // SCONCE_TESTS_SUPPORT_TEMP_DIR_H_
