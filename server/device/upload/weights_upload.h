// UploadWeights: weights go from the files to the devices through a few portions of page-locked
// memory, each reused as soon as the devices have copied it, while the next ones are read. The host
// never holds more of them than that.
//
// Each device gives one piece of memory, which the network's tensors are views of. Casts to other
// types and layouts are the device's work. The files are read once, however many devices there are.
//
// Called by one thread at a time per device, which may be a background thread.

#ifndef SCONCE_SERVER_DEVICE_UPLOAD_WEIGHTS_UPLOAD_H_
#define SCONCE_SERVER_DEVICE_UPLOAD_WEIGHTS_UPLOAD_H_

#include <c10/core/Stream.h>

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "models/net.h"
#include "server/checkpoint/checkpoint.h"
#include "server/device/device_health.h"
#include "server/device/upload/upload_plan.h"

namespace sconce {

struct UploadTarget {
  // What is queued for the load; its device is where the weights go. Nobody else uses it.
  c10::Stream stream;
  models::Net* net;
};

// What the first target's device read from the files by itself (Accelerator::DirectFile).
struct DirectReads {
  int64_t bytes = 0;
  std::string why_no_more;  // empty where nothing went wrong
};

// Gives the tensors of each target's net their weights; returns the weights id, which is the one
// ReadStateDict gives.
//
// `direct`: null, or the first target's device is to read by itself what it wants as it is in the
// file. It gives a copy back to the host, for the id and for other devices. What cannot be had that
// way comes through the host.
//
// Errors are those of the checkpoint (ABORTED: a file was changed meanwhile); RESOURCE_EXHAUSTED
// where a device's or the host's memory is too small, with what was needed and what was free;
// UNAVAILABLE where a device is lost, which `health` is told; else INTERNAL. The nets may then not
// be used; neither device nor page-locked memory is kept, and nothing is under way.
// REQUIRES: `plan` was made for nets such as these; no two targets on one device.
absl::StatusOr<std::string> UploadWeights(const Checkpoint& checkpoint, const UploadPlan& plan,
                                          absl::Span<const UploadTarget> targets,
                                          DeviceHealth* health, DirectReads* direct = nullptr);

}  // namespace sconce

#endif  // SCONCE_SERVER_DEVICE_UPLOAD_WEIGHTS_UPLOAD_H_
