#include "server/device/upload/target_errors.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "server/device/device_set.h"
#include "server/device/torch_errors.h"

namespace sconce {

absl::Status NoMemoryOn(c10::Device device, int64_t needed_bytes, const absl::Status& error) {
  const auto memory = MemoryOf(device);
  const std::string free = memory.ok()
                               ? absl::StrCat(memory->total_bytes - memory->used_bytes, " of ",
                                              memory->total_bytes, " bytes are free")
                               : std::string("what is free is not known");
  return absl::ResourceExhaustedError(
      absl::StrCat(device.str(), ": no memory for the weights: ", needed_bytes,
                   " bytes are needed, ", free, " (", std::string(error.message()), ")"));
}

absl::Status Diagnose(const absl::Status& error, absl::Span<const WeightsTarget> targets,
                      DeviceHealth* health) {
  if (!absl::IsInternal(error)) return error;
  for (const WeightsTarget& target : targets) {
    if (!target.stream.has_value()) continue;
    const std::string device = target.device.str();
    const absl::Status again = Guarded(device, [&] {
      target.stream->synchronize();
      return absl::OkStatus();
    });
    if (!absl::IsInternal(again)) continue;
    health->ReportLost(device, absl::StrCat("the device is lost: ", std::string(again.message())));
    return absl::UnavailableError(*health->LostBecause(device));
  }
  return error;
}

}  // namespace sconce
