#include "server/device/upload/memory_meter.h"

#include <ATen/DeviceAccelerator.h>
#include <c10/core/Allocator.h>
#include <c10/util/ThreadLocalDebugInfo.h>

#include <algorithm>
#include <exception>

#include "absl/strings/str_cat.h"

namespace sconce {

namespace {

// Called on the metered thread alone.
class Counter : public c10::MemoryReportingInfoBase {
 public:
  explicit Counter(c10::Device device) : device_(device) {}

  // `size` is negative where memory is given back.
  void reportMemoryUsage(void*, int64_t size, size_t, size_t, c10::Device device) override {
    if (device != device_) return;
    live_bytes_ += size;
    peak_bytes_ = std::max(peak_bytes_, live_bytes_);
  }
  bool memoryProfilingEnabled() const override { return true; }

  int64_t peak_bytes() const { return peak_bytes_; }

 private:
  const c10::Device device_;
  int64_t live_bytes_ = 0;
  int64_t peak_bytes_ = 0;
};

}  // namespace

class MemoryMeter::Installed {
 public:
  explicit Installed(c10::Device device)
      : counter_(std::make_shared<Counter>(device)),
        guard_(c10::DebugInfoKind::PROFILER_STATE, counter_) {}

  int64_t peak_bytes() const { return counter_->peak_bytes(); }

 private:
  const std::shared_ptr<Counter> counter_;
  const c10::DebugInfoGuard guard_;
};

MemoryMeter::MemoryMeter(c10::Device device) : installed_(std::make_unique<Installed>(device)) {}

MemoryMeter::~MemoryMeter() = default;

int64_t MemoryMeter::peak_bytes() const { return installed_->peak_bytes(); }

absl::StatusOr<FreeMemory> FreeMemoryOf(c10::Device device) {
  constexpr auto kAll = static_cast<size_t>(c10::CachingAllocator::StatType::AGGREGATE);
  try {
    const auto [free_bytes, total_bytes] = at::accelerator::getMemoryInfo(device.index());
    const auto stats = at::accelerator::getDeviceStats(device.index());
    const int64_t kept = stats.reserved_bytes[kAll].current - stats.allocated_bytes[kAll].current;
    return FreeMemory{static_cast<int64_t>(free_bytes) + std::max<int64_t>(kept, 0),
                      static_cast<int64_t>(total_bytes)};
  } catch (const std::exception& e) {
    return absl::UnavailableError(absl::StrCat("memory of ", device.str(), ": ", e.what()));
  }
}

}  // namespace sconce
