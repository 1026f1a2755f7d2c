// What of a device's memory is used, and by whom.

#ifndef SCONCE_SERVER_DEVICE_UPLOAD_MEMORY_METER_H_
#define SCONCE_SERVER_DEVICE_UPLOAD_MEMORY_METER_H_

#include <c10/core/Device.h>

#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"

namespace sconce {

// Counts what the calling thread allocates on one device, and gives back, while it lives: what
// other threads do there, such as other models' batches, is not counted. LibTorch's allocators
// report to it. Used by the thread that made it; such meters may be nested, the innermost counts.
class MemoryMeter {
 public:
  explicit MemoryMeter(c10::Device device);
  ~MemoryMeter();
  MemoryMeter(const MemoryMeter&) = delete;
  MemoryMeter& operator=(const MemoryMeter&) = delete;

  // The most that was there at a time.
  int64_t peak_bytes() const;

 private:
  class Installed;

  const std::unique_ptr<Installed> installed_;
};

struct FreeMemory {
  int64_t free_bytes = 0;
  int64_t total_bytes = 0;
};

// What can be allocated on an accelerator: what is free, and what LibTorch's allocator keeps.
// UNAVAILABLE where the device does not say.
absl::StatusOr<FreeMemory> FreeMemoryOf(c10::Device device);

}  // namespace sconce

#endif  // SCONCE_SERVER_DEVICE_UPLOAD_MEMORY_METER_H_
