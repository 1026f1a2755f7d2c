// What is said where weights cannot be brought to a device. Internal to the upload; callable from
// any thread.

#ifndef SCONCE_SERVER_DEVICE_UPLOAD_TARGET_ERRORS_H_
#define SCONCE_SERVER_DEVICE_UPLOAD_TARGET_ERRORS_H_

#include <c10/core/Device.h>

#include <cstdint>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "server/device/device_health.h"
#include "server/device/upload/pooled_weights.h"

namespace sconce {

// RESOURCE_EXHAUSTED, with what is free there.
absl::Status NoMemoryOn(c10::Device device, int64_t needed_bytes, const absl::Status& error);

// `error`, or that a target's device is lost where a call for it fails again.
absl::Status Diagnose(const absl::Status& error, absl::Span<const WeightsTarget> targets,
                      DeviceHealth* health);

}  // namespace sconce

#endif  // SCONCE_SERVER_DEVICE_UPLOAD_TARGET_ERRORS_H_
