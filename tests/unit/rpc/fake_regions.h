// An opener for SharedMemoryRegions without a device: every handle that begins with "good" leads to
// host memory of its own, on "fake:<id>"; what is open is counted.

#ifndef SCONCE_TESTS_UNIT_RPC_FAKE_REGIONS_H_
#define SCONCE_TESTS_UNIT_RPC_FAKE_REGIONS_H_

#include <atomic>
#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "server/rpc/shared_memory_regions.h"

namespace sconce {

class FakeRegions {
 public:
  SharedMemoryRegions::Opener Opener() {
    return [this](int64_t device_id, const std::string& handle,
                  int64_t size_bytes) -> absl::StatusOr<DeviceBytes> {
      if (!absl::StartsWith(handle, "good")) return absl::InvalidArgumentError("no such handle");
      if (device_id != 0) {
        return absl::InvalidArgumentError(absl::StrCat("expected device_id 0, got ", device_id));
      }
      ++open;
      auto* memory = new std::vector<std::byte>(static_cast<size_t>(size_bytes));
      last_address_ = memory->data();
      const std::shared_ptr<void> owner(memory, [this](std::vector<std::byte>* closed) {
        --open;
        delete closed;
      });
      return DeviceBytes{"fake:0", std::shared_ptr<void>(owner, memory->data()), size_bytes};
    };
  }

  static std::string Handle(std::string text = "good") {
    text.resize(SharedMemoryRegions::kHandleBytes, '.');
    return text;
  }

  // Of the region that was opened last; null while there was none.
  std::byte* last_address() const { return last_address_; }

  std::atomic<int> open{0};

 private:
  std::atomic<std::byte*> last_address_{nullptr};
};

}  // namespace sconce

#endif  // SCONCE_TESTS_UNIT_RPC_FAKE_REGIONS_H_
