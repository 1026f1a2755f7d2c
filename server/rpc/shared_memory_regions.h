// SharedMemoryRegions: memory on the server's devices that clients own and have registered by name,
// to exchange tensors in it instead of in messages.
//
// What a region's memory is taken from, a handle, is opened by a function that is handed in, so
// that this needs no device. A region that is unregistered while requests use it stays open until
// the last of them is done.
//
// Thread-safe. Owned by App.

#ifndef SCONCE_SERVER_RPC_SHARED_MEMORY_REGIONS_H_
#define SCONCE_SERVER_RPC_SHARED_MEMORY_REGIONS_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/base/mutex.h"
#include "server/device/replica.h"

namespace sconce {

// Where a request says that a tensor's bytes are; untrusted.
struct RegionPlace {
  std::string region;
  int64_t offset_bytes = 0;
  int64_t size_bytes = 0;

  bool operator==(const RegionPlace&) const = default;
};

class SharedMemoryRegions {
 public:
  // What clients may take together.
  static constexpr size_t kMaxRegions = 1024;
  static constexpr int64_t kMaxTotalBytes = int64_t{1} << 42;
  static constexpr size_t kMaxNameBytes = 256;
  // Of a cudaIpcMemHandle_t.
  static constexpr size_t kHandleBytes = 64;

  struct Region {
    std::string name;
    int64_t device_id = 0;
    int64_t size_bytes = 0;
  };

  // Opens memory of `size_bytes` behind an untrusted handle; INVALID_ARGUMENT where the server has
  // no such device or the handle is none.
  using Opener = std::function<absl::StatusOr<DeviceBytes>(
      int64_t device_id, const std::string& handle, int64_t size_bytes)>;

  // `open` is empty where no device of the server can open another process's memory; then nothing
  // can be registered.
  explicit SharedMemoryRegions(Opener open) : open_(std::move(open)) {}

  bool available() const { return open_ != nullptr; }

  // ALREADY_EXISTS where the name is taken, RESOURCE_EXHAUSTED beyond the limits above,
  // INVALID_ARGUMENT for arguments that are not fit, FAILED_PRECONDITION where no device offers it.
  absl::Status Register(const std::string& name, const std::string& handle, int64_t device_id,
                        uint64_t size_bytes);

  // Does nothing where there is no such region.
  void Unregister(const std::string& name);
  void UnregisterAll();

  // Sorted by name; an empty name asks for all. NOT_FOUND where there is no such region.
  absl::StatusOr<std::vector<Region>> Status(const std::string& name) const;

  // The bytes at `place`, kept open by what is returned. NOT_FOUND where there is no such region,
  // INVALID_ARGUMENT where it is shorter; the message begins with `what`.
  absl::StatusOr<DeviceBytes> At(const RegionPlace& place, const std::string& what) const;

 private:
  struct Entry {
    int64_t device_id = 0;
    int64_t size_bytes = 0;
    std::optional<DeviceBytes> bytes;  // none while it is being opened
  };

  const Opener open_;
  mutable Mutex mutex_;
  std::map<std::string, Entry> entries_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace sconce

#endif  // SCONCE_SERVER_RPC_SHARED_MEMORY_REGIONS_H_
