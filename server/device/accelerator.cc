#include "server/device/accelerator.h"

#include <array>
#include <atomic>

namespace sconce {
namespace {

std::array<std::atomic<const Accelerator*>, c10::COMPILE_TIME_MAX_DEVICE_TYPES> g_accelerators{};

}  // namespace

const Accelerator* FindAccelerator(c10::DeviceType type) {
  return g_accelerators.at(static_cast<size_t>(type)).load(std::memory_order_acquire);
}

void RegisterAccelerator(c10::DeviceType type, const Accelerator* accelerator) {
  g_accelerators.at(static_cast<size_t>(type)).store(accelerator, std::memory_order_release);
}

}  // namespace sconce
