#include "server/loader/admitted_load.h"

#include <algorithm>
#include <map>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/device/upload/memory_meter.h"
#include "server/loader/admission.h"
#include "server/loader/in_place.h"
#include "server/loader/version_memory.h"

namespace sconce {
namespace {

bool Wants(const InstanceGroup& group, c10::Device device, bool chosen) {
  if (device.is_cpu()) {
    return group.kind == InstanceGroup::Kind::kCpu ||
           (group.kind == InstanceGroup::Kind::kAuto && group.gpus.empty() && chosen);
  }
  return group.kind != InstanceGroup::Kind::kCpu &&
         (group.gpus.empty() || std::count(group.gpus.begin(), group.gpus.end(),
                                           static_cast<int32_t>(device.index())) > 0);
}

class Admitting {
 public:
  Admitting(LoaderParts& parts, const LoadRequest& request, const WeightsStructure& structure,
            const LoadLanes::Hold& lanes, const absl::Status& over, bool no_room_beside)
      : parts_(parts),
        request_(request),
        structure_(structure),
        lanes_(lanes),
        over_(over),
        no_room_beside_(no_room_beside) {}

  absl::StatusOr<AdmittedLoad> Run() {
    for (;;) {
      absl::StatusOr<Placement> placement = Place();
      // What memory would not change.
      if (!placement.ok() && !absl::IsResourceExhausted(placement.status())) {
        return placement.status();
      }
      switch (DecideAdmission(View(placement))) {
        case AdmissionAction::kLoadBeside:
          if (!Reserve(*placement)) continue;
          admitted_.placement = *std::move(placement);
          return std::move(admitted_);
        case AdmissionAction::kRelease:
          may_release_ = request_.release_retained(Retained::kOfAnyModel);
          continue;
        case AdmissionAction::kSurvey:
          if (absl::Status surveyed = Survey(); !surveyed.ok()) return surveyed;
          continue;
        case AdmissionAction::kWriteOver:
          admitted_.in_place = true;
          return std::move(admitted_);
        case AdmissionAction::kRefuse:
          return Refusal(placement);
      }
    }
  }

 private:
  AdmissionView View(const absl::StatusOr<Placement>& placement) const {
    AdmissionView view;
    view.swap = request_.config.swap;
    view.can_write_over = over_.ok();
    view.fits_partly = placement.ok() && !no_room_beside_;
    view.fits = view.fits_partly && (!placement->short_of_memory || IsWhereLiveIs(*placement));
    view.may_release = may_release_;
    const std::vector<c10::Device> devices = DevicesFor(parts_, request_.config);
    view.may_share = std::any_of(devices.begin(), devices.end(), [this](c10::Device device) {
      return parts_.ledger->HasWeights(device.str());
    });
    view.surveyed = admitted_.survey != nullptr;
    return view;
  }

  // A device that is too small for the live version, too, is no reason to write over that.
  bool IsWhereLiveIs(const Placement& placement) const {
    if (!over_.ok()) return false;
    const VersionMemory::Resident& live = MemoryOf(*request_.live)->resident();
    return std::all_of(live.begin(), live.end(), [&](const auto& weights) {
      return std::any_of(placement.devices.begin(), placement.devices.end(), [&](const auto& on) {
        return parts_.devices[on.device] == weights->device();
      });
    });
  }

  absl::StatusOr<Placement> Place() const {
    std::map<std::string, int64_t> replica_bytes = parts_.ledger->ReplicaBytes(request_.model);
    std::vector<DeviceState> states;
    for (const c10::Device device : parts_.devices) {
      DeviceState& state = states.emplace_back();
      state.name = device.str();
      state.model_bytes = parts_.ledger->WeightsBytes(request_.model, state.name);
      // Weights are cast before any is folded.
      state.weights_bytes =
          structure_.plan.weights_bytes +
          std::max(structure_.plan.scratch_bytes, structure_.folding.scratch_bytes);
      state.shared_bytes = SharedOn(device) - FoldedBesideOn(device);
      if (device.is_cpu()) {
        const std::optional<HostMemory> memory = parts_.host_memory.Free();
        if (!memory.has_value()) continue;
        state.free_bytes = memory->free_bytes;
        state.total_bytes = memory->total_bytes;
        continue;
      }
      state.is_accelerator = true;
      state.weights_bytes += structure_.constant_bytes;
      state.number = device.index();
      state.lost = parts_.health->LostBecause(state.name);
      state.replica_bytes = replica_bytes[state.name];
      // Where the device does not say what is free, the allocation itself will tell.
      const auto memory = state.lost.has_value() ? absl::UnknownError("") : FreeMemoryOf(device);
      if (!memory.ok()) continue;
      state.free_bytes = memory->free_bytes;
      state.total_bytes = memory->total_bytes;
    }
    return PlaceReplicas(states, parts_.chosen, request_.config.instances,
                         request_.config.device_memory_cap_bytes);
  }

  // What of the weights is there already, as far as it is known.
  int64_t SharedOn(c10::Device device) const {
    const auto found = std::find(surveyed_.begin(), surveyed_.end(), device);
    if (found == surveyed_.end()) return 0;
    const int64_t new_bytes =
        admitted_.survey->new_bytes(static_cast<size_t>(found - surveyed_.begin()));
    return std::max<int64_t>(structure_.plan.weights_bytes - new_bytes, 0);
  }

  // What is folded of weights that others have, too, is made beside these.
  int64_t FoldedBesideOn(c10::Device device) const {
    return std::min(structure_.folding.made_bytes, SharedOn(device));
  }

  absl::Status Survey() {
    surveyed_.clear();
    if (over_.ok()) {
      for (const auto& weights : MemoryOf(*request_.live)->resident()) {
        surveyed_.push_back(weights->device());
      }
    } else {
      for (const c10::Device device : DevicesFor(parts_, request_.config)) {
        if (!parts_.health->LostBecause(device.str()).has_value()) surveyed_.push_back(device);
      }
    }
    auto survey = SurveyWeights(*structure_.checkpoint, structure_.plan,
                                TargetsOn(surveyed_, lanes_), OptionsOf(parts_, request_.config));
    if (!survey.ok()) return survey.status();
    admitted_.survey = *std::move(survey);
    return absl::OkStatus();
  }

  // False where others were promised the memory meanwhile.
  bool Reserve(const Placement& placement) {
    for (const Placement::OnDevice& on : placement.devices) {
      const c10::Device device = parts_.devices[on.device];
      if (!device.is_cpu()) continue;
      admitted_.reserved =
          parts_.host_memory.Reserve(structure_.plan.weights_bytes - SharedOn(device));
      admitted_.reserved_to_fold =
          parts_.host_memory.Reserve(structure_.folding.scratch_bytes + FoldedBesideOn(device));
      if (!admitted_.reserved.has_value() || !admitted_.reserved_to_fold.has_value()) {
        admitted_.reserved.reset();
        admitted_.reserved_to_fold.reset();
        return false;
      }
    }
    return true;
  }

  absl::Status Refusal(const absl::StatusOr<Placement>& placement) const {
    std::string text =
        placement.ok() ? "what is free did not do" : std::string(placement.status().message());
    if (!parts_.ledger->ReplicaBytes(request_.model).empty()) {
      absl::StrAppend(&text,
                      "; the version that serves keeps its memory until the new one is there");
    }
    if (request_.config.swap != SwapMode::kBeside && request_.live != nullptr) {
      absl::StrAppend(&text,
                      "; its weights cannot be written over: ", std::string(over_.message()));
    }
    return absl::ResourceExhaustedError(text);
  }

  LoaderParts& parts_;
  const LoadRequest& request_;
  const WeightsStructure& structure_;
  const LoadLanes::Hold& lanes_;
  const absl::Status& over_;
  const bool no_room_beside_;

  bool may_release_ = request_.release_retained != nullptr;
  std::vector<c10::Device> surveyed_;
  AdmittedLoad admitted_;
};

}  // namespace

std::vector<c10::Device> DevicesFor(const LoaderParts& parts, const ModelConfig& config) {
  std::vector<InstanceGroup> groups = config.instances;
  if (groups.empty()) groups.emplace_back();
  std::vector<c10::Device> devices;
  for (size_t i = 0; i < parts.devices.size(); ++i) {
    const c10::Device device = parts.devices[i];
    const bool wanted = std::any_of(groups.begin(), groups.end(), [&](const InstanceGroup& group) {
      return Wants(group, device, i < parts.chosen);
    });
    if (wanted) devices.push_back(device);
  }
  return devices;
}

std::vector<WeightsTarget> TargetsOn(const std::vector<c10::Device>& devices,
                                     const LoadLanes::Hold& lanes) {
  std::vector<WeightsTarget> targets;
  for (const c10::Device device : devices) {
    WeightsTarget& target = targets.emplace_back(WeightsTarget{device, std::nullopt});
    if (!device.is_cpu()) target.stream = lanes.StreamOf(device);
  }
  return targets;
}

absl::StatusOr<AdmittedLoad> AdmitLoad(LoaderParts& parts, const LoadRequest& request,
                                       const WeightsStructure& structure,
                                       const LoadLanes::Hold& lanes, const absl::Status& over,
                                       bool no_room_beside) {
  return Admitting(parts, request, structure, lanes, over, no_room_beside).Run();
}

}  // namespace sconce
