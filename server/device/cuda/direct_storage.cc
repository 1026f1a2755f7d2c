#include "server/device/cuda/direct_storage.h"

#include <c10/cuda/CUDAGuard.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <sys/types.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "server/base/printable.h"

namespace sconce {
namespace {

// What is used of the library's binary interface, as in its versions 1.15 and 1.20.

struct CuFileError {
  int32_t error;       // 0: none
  int32_t cuda_error;  // the driver's, where `error` is kCudaDriverError
};
constexpr int32_t kCudaDriverError = 5011;

struct CuFileDescriptor {
  int32_t type;
  union {
    int32_t fd;
    void* other;
  } handle;
  const void* file_system_operations;
};
constexpr int32_t kTypeFd = 1;

constexpr int32_t kAllowCompatibilityMode = 1;  // of the parameters that are true or false

using CuFileHandle = void*;

struct Library {
  CuFileError (*set_bool)(int32_t parameter, bool value) = nullptr;  // null in old ones
  CuFileError (*open_driver)() = nullptr;
  CuFileError (*register_file)(CuFileHandle* handle, CuFileDescriptor* descriptor) = nullptr;
  void (*deregister_file)(CuFileHandle handle) = nullptr;
  ssize_t (*read)(CuFileHandle handle, void* base, size_t size, off_t file_offset,
                  off_t base_offset) = nullptr;
};

absl::Status ToStatus(const CuFileError& error, const std::string& what) {
  if (error.error == 0) return absl::OkStatus();
  std::string message = absl::StrCat(what, ": libcufile's error ", error.error);
  if (error.error == kCudaDriverError) {
    absl::StrAppend(&message, ", the CUDA driver's ", error.cuda_error);
  }
  return absl::UnavailableError(message);
}

template <typename Function>
bool Find(void* library, const char* name, Function** function) {
  *function = reinterpret_cast<Function*>(dlsym(library, name));
  return *function != nullptr;
}

absl::StatusOr<Library> LoadLibrary() {
  // Stays loaded: it has threads of its own.
  void* const opened = dlopen("libcufile.so.0", RTLD_NOW | RTLD_LOCAL);
  if (opened == nullptr) {
    const char* const why = dlerror();
    return absl::UnavailableError(
        absl::StrCat("libcufile cannot be loaded: ", why == nullptr ? "" : why));
  }
  Library library;
  if (!Find(opened, "cuFileDriverOpen", &library.open_driver) ||
      !Find(opened, "cuFileHandleRegister", &library.register_file) ||
      !Find(opened, "cuFileHandleDeregister", &library.deregister_file) ||
      !Find(opened, "cuFileRead", &library.read)) {
    return absl::UnavailableError("libcufile lacks a function that is needed");
  }
  // In old ones cufile.json alone says whether the library may copy through the host instead.
  if (Find(opened, "cuFileSetParameterBool", &library.set_bool)) {
    absl::Status set = ToStatus(library.set_bool(kAllowCompatibilityMode, false),
                                "refusing the compatibility mode");
    if (!set.ok()) return set;
  }
  absl::Status driver = ToStatus(library.open_driver(), "opening the GPUDirect Storage driver");
  if (!driver.ok()) return driver;
  return library;
}

class DirectStorageFile final : public Accelerator::DirectFile {
 public:
  DirectStorageFile(const Library& library, c10::Device device, const std::string& path, int fd)
      : library_(library), device_(device), path_(path), fd_(fd) {}
  ~DirectStorageFile() override {
    if (handle_ != nullptr) library_.deregister_file(handle_);
    ::close(fd_);
  }

  absl::Status Register() {
    CuFileDescriptor descriptor = {};
    descriptor.type = kTypeFd;
    descriptor.handle.fd = fd_;
    return ToStatus(library_.register_file(&handle_, &descriptor),
                    absl::StrCat(Printable(path_), ": registering the file"));
  }

  // The memory is not registered, which is worth it only where it is read into again and again.
  absl::Status Read(int64_t offset, void* address, int64_t size_bytes) const override {
    const c10::cuda::CUDAGuard on_device(device_);
    // Linux transfers at most 2 GiB a call.
    constexpr int64_t kMostBytes = int64_t{1} << 30;
    for (int64_t done = 0; done < size_bytes;) {
      const auto size = static_cast<size_t>(std::min(size_bytes - done, kMostBytes));
      errno = 0;
      const ssize_t got = library_.read(handle_, address, size, static_cast<off_t>(offset + done),
                                        static_cast<off_t>(done));
      if (got == -1) {
        if (errno == EINTR) continue;
        return ErrnoStatus(errno, path_, absl::StrCat("read at byte ", offset + done));
      }
      if (got < 0) {
        return ToStatus({static_cast<int32_t>(-got), 0},
                        absl::StrCat(Printable(path_), ": reading at byte ", offset + done));
      }
      if (got == 0) {
        return absl::AbortedError(
            absl::StrCat(Printable(path_), ": the file ended at byte ", offset + done));
      }
      done += got;
    }
    return absl::OkStatus();
  }

 private:
  const Library library_;
  const c10::Device device_;
  const std::string path_;
  const int fd_;
  CuFileHandle handle_ = nullptr;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Accelerator::DirectFile>> OpenDirectStorage(c10::Device device,
                                                                           const File& file) {
  const c10::cuda::CUDAGuard on_device(device);
  static const absl::StatusOr<Library> library = LoadLibrary();
  if (!library.ok()) return library.status();
  // The same file, whatever its path leads to by now, without the page cache.
  const std::string open_file = absl::StrCat("/proc/self/fd/", file.fd());
  const int fd = ::open(open_file.c_str(), O_RDONLY | O_DIRECT | O_CLOEXEC);
  if (fd < 0) return ErrnoStatus(errno, file.path(), "open the file for direct reads");
  auto direct = std::make_unique<DirectStorageFile>(*library, device, file.path(), fd);
  if (absl::Status status = direct->Register(); !status.ok()) return status;
  return direct;
}

}  // namespace sconce
