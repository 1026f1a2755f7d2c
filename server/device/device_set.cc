#include "server/device/device_set.h"

#include <ATen/DeviceAccelerator.h>
#include <c10/core/DeviceType.h>
#include <c10/util/Exception.h>
#include <unistd.h>

#include <algorithm>
#include <exception>
#include <fstream>
#include <limits>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "server/base/printable.h"
#include "server/device/nvidia/cuda_loader.h"

namespace sconce {
namespace {

// The kind of accelerator this process can have, as --device calls it.
struct Kind {
  std::string name = "cuda";
  c10::DeviceType type = c10::DeviceType::CUDA;
};

// CUDA, unless the process has brought an accelerator of its own, as tests do.
Kind KindOfProcess() {
  if (!c10::is_privateuse1_backend_registered()) return {};
  return {c10::get_privateuse1_backend(), c10::DeviceType::PrivateUse1};
}

absl::StatusOr<int> CountDevices(const Kind& kind) {
  if (kind.type == c10::DeviceType::CUDA) {
    const auto& cuda = LoadCuda();
    if (!cuda.ok()) return cuda.status();
    return cuda->device_count;
  }
  return at::accelerator::deviceCount();
}

absl::StatusOr<std::vector<c10::Device>> ParseList(const std::string& wanted, const Kind& kind,
                                                   int count) {
  std::vector<c10::Device> devices;
  for (absl::string_view item : absl::StrSplit(wanted, ',')) {
    int index = 0;
    if (!absl::ConsumePrefix(&item, kind.name + ":") || !absl::SimpleAtoi(item, &index) ||
        index < 0) {
      return absl::InvalidArgumentError(
          absl::StrCat("--device: expected auto, cpu, ", kind.name, " or a list such as ",
                       kind.name, ":0,", kind.name, ":1, got '", Printable(wanted), "'"));
    }
    if (index >= count) {
      return absl::InvalidArgumentError(absl::StrCat("--device: there is no ", kind.name, ":",
                                                     index, ", devices 0 to ", count - 1,
                                                     " are there"));
    }
    const c10::Device device(kind.type, static_cast<c10::DeviceIndex>(index));
    if (std::count(devices.begin(), devices.end(), device) > 0) {
      return absl::InvalidArgumentError(
          absl::StrCat("--device: ", kind.name, ":", index, " is given twice"));
    }
    devices.push_back(device);
  }
  return devices;
}

absl::StatusOr<DeviceMemory> CpuMemory() {
  const int64_t page_bytes = sysconf(_SC_PAGESIZE);
  int64_t virtual_pages = 0, resident_pages = 0;
  std::ifstream statm("/proc/self/statm");
  if (!(statm >> virtual_pages >> resident_pages)) {
    return absl::UnavailableError("/proc/self/statm cannot be read");
  }
  return DeviceMemory{resident_pages * page_bytes, sysconf(_SC_PHYS_PAGES) * page_bytes};
}

}  // namespace

absl::StatusOr<DeviceSet> DeviceSet::Open(const std::string& wanted) {
  DeviceSet set;
  if (wanted == "cpu") {
    set.devices_ = {c10::Device(c10::DeviceType::CPU)};
    set.reason_ = "cpu, as asked";
    return set;
  }
  const Kind kind = KindOfProcess();
  if (wanted != "auto" && wanted != kind.name) {
    // The text is checked before a gigabyte is loaded for it.
    auto list = ParseList(wanted, kind, std::numeric_limits<c10::DeviceIndex>::max());
    if (!list.ok()) return list.status();
  }
  const absl::StatusOr<int> count = CountDevices(kind);
  if (!count.ok()) {
    if (wanted == "auto") {
      set.devices_ = {c10::Device(c10::DeviceType::CPU)};
      set.reason_ = absl::StrCat("cpu, because ", std::string(count.status().message()));
      return set;
    }
    return absl::FailedPreconditionError(
        absl::StrCat("--device ", wanted, ": ", std::string(count.status().message())));
  }
  if (wanted == "auto" || wanted == kind.name) {
    for (int i = 0; i < *count; ++i) {
      set.devices_.emplace_back(kind.type, static_cast<c10::DeviceIndex>(i));
    }
  } else {
    auto list = ParseList(wanted, kind, *count);
    if (!list.ok()) return list.status();
    set.devices_ = *std::move(list);
  }
  set.reason_ = absl::StrCat(absl::StrJoin(set.devices_, ", ",
                                           [](std::string* out, c10::Device device) {
                                             absl::StrAppend(out, device.str());
                                           }),
                             " of ", *count, " ", kind.name, " devices");
  return set;
}

absl::StatusOr<DeviceMemory> MemoryOf(c10::Device device) {
  if (device.is_cpu()) return CpuMemory();
  try {
    const auto [free_bytes, total_bytes] = at::accelerator::getMemoryInfo(device.index());
    return DeviceMemory{static_cast<int64_t>(total_bytes - free_bytes),
                        static_cast<int64_t>(total_bytes)};
  } catch (const std::exception& e) {
    return absl::UnavailableError(absl::StrCat("memory of ", device.str(), ": ", e.what()));
  }
}

}  // namespace sconce
