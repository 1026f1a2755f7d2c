// Placement: which devices get how many replicas of a version, before any memory is taken. Pure
// functions of a snapshot, free of torch.

#ifndef SCONCE_SERVER_DEVICE_UPLOAD_PLACEMENT_H_
#define SCONCE_SERVER_DEVICE_UPLOAD_PLACEMENT_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "server/device/instance_group.h"

namespace sconce {

// A device the server was given, or the CPU.
struct DeviceState {
  std::string name;  // "cuda:0"
  bool is_accelerator = false;
  int32_t number = 0;
  // What can be allocated; none where it is not known.
  std::optional<int64_t> free_bytes;
  int64_t total_bytes = 0;
  // Why it is lost; none while it works.
  std::optional<std::string> lost;

  // What the versions of the model that are there take for their weights.
  int64_t model_bytes = 0;

  // Of the version to be placed: what its weights take once, what of that is known to be there
  // already, and what each replica takes beside them, as far as it is known.
  int64_t weights_bytes = 0;
  int64_t shared_bytes = 0;
  int64_t replica_bytes = 0;
};

struct Placement {
  struct OnDevice {
    size_t device = 0;  // index into what PlaceReplicas was given
    int32_t replicas = 0;
    // Whether a group names it, so that it may not be left out.
    bool named = false;

    bool operator==(const OnDevice&) const = default;
  };
  std::vector<OnDevice> devices;  // each once, in the order given; never empty

  // For each device that was left out where others serve, a line for the log.
  std::vector<std::string> left_out;
  // Whether one of them was left out for want of memory that may become free.
  bool short_of_memory = false;
};

// `devices`: what --device chose, and the CPU. `chosen`: how many of these --device chose; the CPU
// comes behind them if it is not one of them. `groups`: no group is one with its defaults.
// `cap_bytes`: what the model may take of one device's memory, its versions together; 0: no limit.
//
// A device that nobody named and that is lost or too small is left out. INVALID_ARGUMENT where the
// server has no such device; RESOURCE_EXHAUSTED where one that was named, or all others, are too
// small, or the cap leaves too little beside the versions that are there: each with what is needed
// and what is free; FAILED_PRECONDITION where the version alone exceeds the cap, and UNAVAILABLE
// where devices are lost, of each of them.
absl::StatusOr<Placement> PlaceReplicas(absl::Span<const DeviceState> devices, size_t chosen,
                                        absl::Span<const InstanceGroup> groups, int64_t cap_bytes);

}  // namespace sconce

#endif  // SCONCE_SERVER_DEVICE_UPLOAD_PLACEMENT_H_
