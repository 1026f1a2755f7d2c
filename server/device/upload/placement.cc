#include "server/device/upload/placement.h"

#include <algorithm>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace sconce {
namespace {

// The devices a group means, and whether it names each of them, so that none may be left out.
struct Meant {
  std::vector<size_t> devices;
  bool by_name = false;
};

std::string Names(absl::Span<const DeviceState> devices) {
  return absl::StrJoin(devices, ", ", [](std::string* out, const DeviceState& device) {
    absl::StrAppend(out, device.name);
  });
}

absl::StatusOr<Meant> DevicesOf(const InstanceGroup& group, absl::Span<const DeviceState> devices,
                                size_t chosen) {
  Meant meant;
  if (group.kind == InstanceGroup::Kind::kCpu) {
    meant.by_name = true;
    for (size_t i = 0; i < devices.size(); ++i) {
      if (!devices[i].is_accelerator) meant.devices.push_back(i);
    }
    return meant;
  }
  for (const int32_t gpu : group.gpus) {
    const auto found = std::find_if(
        devices.begin(), devices.end(),
        [gpu](const DeviceState& device) { return device.is_accelerator && device.number == gpu; });
    if (found == devices.end()) {
      return absl::InvalidArgumentError(
          absl::StrCat("config.pbtxt: instance_group: gpus: there is no device ", gpu,
                       ", this server has ", Names(devices.first(chosen))));
    }
    meant.devices.push_back(static_cast<size_t>(found - devices.begin()));
  }
  if (!group.gpus.empty()) {
    meant.by_name = true;
    return meant;
  }
  const bool any_kind = group.kind == InstanceGroup::Kind::kAuto;
  for (size_t i = 0; i < chosen; ++i) {
    if (any_kind || devices[i].is_accelerator) meant.devices.push_back(i);
  }
  if (meant.devices.empty()) {
    return absl::InvalidArgumentError(absl::StrCat("config.pbtxt: instance_group: KIND_GPU: this ",
                                                   "server has ", Names(devices.first(chosen))));
  }
  return meant;
}

// Whether `replicas` of them may be on the device.
absl::Status Fits(const DeviceState& device, int32_t replicas, int64_t cap_bytes) {
  if (device.lost.has_value()) {
    return absl::UnavailableError(absl::StrCat(device.name, " is lost: ", *device.lost));
  }
  const int64_t whole = device.weights_bytes + replicas * device.replica_bytes;
  const int64_t needed = whole - device.shared_bytes;
  const auto what = [&](int64_t bytes) {
    std::string text = absl::StrCat(device.name, ": ", bytes, " bytes of memory are needed");
    if (device.replica_bytes > 0) {
      absl::StrAppend(&text, " (weights ", bytes - replicas * device.replica_bytes, ", ", replicas,
                      replicas == 1 ? " replica of " : " replicas of ", device.replica_bytes, ")");
    }
    return text;
  };
  if (cap_bytes > 0 && whole > cap_bytes) {
    return absl::FailedPreconditionError(
        absl::StrCat(what(whole), ", device_memory_cap_bytes is ", cap_bytes));
  }
  if (cap_bytes > 0 && needed > cap_bytes - device.model_bytes) {
    return absl::ResourceExhaustedError(absl::StrCat(
        what(needed), ", ", std::max<int64_t>(cap_bytes - device.model_bytes, 0),
        " are free of the ", cap_bytes, " that device_memory_cap_bytes allows the model"));
  }
  if (device.free_bytes.has_value() && needed > *device.free_bytes) {
    return absl::ResourceExhaustedError(absl::StrCat(what(needed), ", ", *device.free_bytes, " of ",
                                                     device.total_bytes, " are free"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<Placement> PlaceReplicas(absl::Span<const DeviceState> devices, size_t chosen,
                                        absl::Span<const InstanceGroup> groups, int64_t cap_bytes) {
  const InstanceGroup by_default;
  if (groups.empty()) groups = absl::MakeConstSpan(&by_default, 1);

  std::vector<int32_t> replicas(devices.size());
  std::vector<bool> named(devices.size());
  std::vector<std::string> left_out;
  bool short_of_memory = false;
  // What several groups ask of one device adds up, in their order.
  for (const InstanceGroup& group : groups) {
    const absl::StatusOr<Meant> meant = DevicesOf(group, devices, chosen);
    if (!meant.ok()) return meant.status();
    std::vector<absl::Status> refused;
    for (const size_t i : meant->devices) {
      absl::Status fits = Fits(devices[i], replicas[i] + group.count, cap_bytes);
      if (fits.ok()) {
        replicas[i] += group.count;
        if (meant->by_name) named[i] = true;
        continue;
      }
      if (meant->by_name) return fits;
      refused.push_back(std::move(fits));
    }
    const auto message = [](std::string* out, const absl::Status& status) {
      absl::StrAppend(out, std::string(status.message()));
    };
    if (refused.size() == meant->devices.size()) {
      const absl::StatusCode code = refused[0].code();
      const bool all_alike = std::all_of(refused.begin(), refused.end(),
                                         [&](const auto& status) { return status.code() == code; });
      return absl::Status(
          all_alike ? code : absl::StatusCode::kResourceExhausted,
          absl::StrCat("no device can take the model: ", absl::StrJoin(refused, "; ", message)));
    }
    for (const absl::Status& status : refused) {
      left_out.emplace_back(status.message());
      short_of_memory = short_of_memory || absl::IsResourceExhausted(status);
    }
  }

  Placement placement;
  for (size_t i = 0; i < devices.size(); ++i) {
    if (replicas[i] > 0) placement.devices.push_back({i, replicas[i], named[i]});
  }
  placement.left_out = std::move(left_out);
  placement.short_of_memory = short_of_memory;
  return placement;
}

}  // namespace sconce
