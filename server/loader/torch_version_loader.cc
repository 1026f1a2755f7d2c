#include "server/loader/torch_version_loader.h"

#include <algorithm>
#include <iterator>
#include <optional>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "models/net.h"
#include "server/base/printable.h"
#include "server/device/device_footprint.h"
#include "server/device/execution/torch_replica.h"
#include "server/device/upload/memory_meter.h"
#include "server/device/upload/weights_upload.h"
#include "server/loader/version_signature.h"
#include "server/loader/warm_up.h"
#include "server/weights/load_state_dict.h"
#include "server/weights/state_dict.h"

namespace sconce {
namespace {

// A status that names the file.
absl::Status About(const LoadRequest& request, const absl::Status& status) {
  return absl::Status(status.code(), absl::StrCat(Printable(request.weights_path), ": ",
                                                  std::string(status.message())));
}

std::string Provenance(const Checkpoint& checkpoint, const StateLayout& layout,
                       const std::string& why, const IncompatibleKeys& incompatible) {
  std::string text = absl::StrCat(checkpoint.format(), ", ", layout.tensors.size(), " tensors");
  if (!checkpoint.wrapper().empty()) {
    absl::StrAppend(&text, " under '", Printable(checkpoint.wrapper()), "'");
  }
  if (!layout.stripped_prefix.empty()) {
    absl::StrAppend(&text, ", prefix '", Printable(layout.stripped_prefix), "' stripped");
  }
  absl::StrAppend(&text, "; ", why);
  if (!incompatible.missing.empty() || !incompatible.unexpected.empty()) {
    absl::StrAppend(&text, "; not strict: ", incompatible.missing.size(), " names missing, ",
                    incompatible.unexpected.size(), " unexpected");
  }
  return text;
}

WeightsForm FormOf(const ExecutionOptions& options) {
  WeightsForm form;
  form.channels_last = options.channels_last;
  if (options.precision == Precision::kFp16) form.floating = at::kHalf;
  if (options.precision == Precision::kBf16) form.floating = at::kBFloat16;
  return form;
}

// "cuda:0 weights 102.4 MB, workspace 33.1 MB, graphs 0.0 MB, staging 9.6 MB".
std::string Text(const DeviceFootprint& footprint) {
  const auto megabytes = [](int64_t bytes) {
    return absl::StrFormat("%.1f MB", static_cast<double>(bytes) / 1e6);
  };
  std::string text =
      absl::StrCat(footprint.device, " weights ", megabytes(footprint.weights_bytes));
  if (footprint.device == "cpu") return text;
  absl::StrAppend(&text, ", workspace ", megabytes(footprint.workspace_bytes), ", graphs ",
                  megabytes(footprint.graphs_bytes), ", staging ",
                  megabytes(footprint.staging_bytes));
  return text;
}

// "cuda:0 read 102.4 MB from the files by itself".
std::string Text(const DirectReads& direct, c10::Device device) {
  std::string text = absl::StrFormat("%s read %.1f MB from the files by itself", device.str(),
                                     static_cast<double>(direct.bytes) / 1e6);
  if (!direct.why_no_more.empty()) {
    absl::StrAppend(&text, ", no more: ", direct.why_no_more);
  } else if (direct.bytes == 0) {
    absl::StrAppend(&text, ": no tensor is wanted as it lies there, or they are to be verified");
  }
  return text;
}

// Calls on_phase with the time since the call before.
class PhaseClock {
 public:
  explicit PhaseClock(const LoadRequest& request)
      : request_(request), since_(Clock::Real()->Now()) {}
  void End(VersionState step) {
    const TimePoint now = Clock::Real()->Now();
    if (request_.on_step) request_.on_step(step, now - since_);
    since_ = now;
  }
  // What was waited for counts for no phase.
  void Skip() { since_ = Clock::Real()->Now(); }

 private:
  const LoadRequest& request_;
  TimePoint since_;
};

// What a version on devices leaves goes back to them.
class OnDevices final : public VersionResources {
 public:
  explicit OnDevices(std::shared_ptr<LoadLanes> lanes) : lanes_(std::move(lanes)) {}
  ~OnDevices() override { lanes_->ReturnCaches(); }

 private:
  const std::shared_ptr<LoadLanes> lanes_;
};

std::vector<c10::Device> WithCpu(std::vector<c10::Device> devices) {
  const c10::Device cpu(c10::DeviceType::CPU);
  if (std::count(devices.begin(), devices.end(), cpu) == 0) devices.push_back(cpu);
  return devices;
}

}  // namespace

// One load, from the weights' structure to replicas that run.
class TorchVersionLoader::Loading {
 public:
  Loading(const TorchVersionLoader& loader, const LoadRequest& request,
          const Checkpoint& checkpoint, const StateLayout& layout,
          const models::Detection& detection)
      : loader_(loader),
        request_(request),
        checkpoint_(checkpoint),
        layout_(layout),
        detection_(detection),
        options_{.strict = request.config.strict, .form = FormOf(request.config.execution)} {}

  // Everything that can be said before a weight is read.
  absl::Status Prepare() {
    if (absl::Status status = NewNet(&first_net_); !status.ok()) return status;
    auto fit = FitStateDict(*first_net_, OutlineStateDict(checkpoint_), options_);
    if (!fit.ok()) return About(request_, fit.status());
    auto signature = SignatureOf(first_net_->signature(), request_.config);
    if (!signature.ok()) return signature.status();
    signature_ = *std::move(signature);
    auto plan = PlanUpload(checkpoint_, *first_net_, *fit, options_.form);
    if (!plan.ok()) return plan.status();
    plan_ = *std::move(plan);

    version_ = std::make_unique<ModelVersion>();
    version_->model = request_.model;
    version_->number = request_.number;
    version_->architecture =
        models::ToString(detection_.architecture->name(), detection_.parameters);
    version_->provenance = Provenance(checkpoint_, layout_, detection_.why, fit->keys);
    version_->weights_path = request_.weights_path;
    version_->weights_bytes = layout_.size_bytes;
    version_->signature = signature_.served;
    version_->config = request_.config;
    return absl::OkStatus();
  }

  const UploadPlan& plan() const { return plan_; }

  // Brings the weights to where `placement` says.
  absl::Status Read(const Placement& placement, const LoadLanes::Hold& lanes) {
    for (const std::string& line : placement.left_out) {
      absl::StrAppend(&version_->provenance, "; without a device: ", line);
    }
    std::vector<UploadTarget> targets;
    for (const Placement::OnDevice& on : placement.devices) {
      OnDevice& place = places_.emplace_back();
      place.device = loader_.all_devices_[on.device];
      place.replicas = on.replicas;
      place.named = on.named;
      place.net = std::move(first_net_);
      if (place.net == nullptr) {
        if (absl::Status status = NewNet(&place.net); !status.ok()) return status;
      }
      if (!place.device.is_cpu()) {
        targets.push_back({lanes.StreamOf(place.device), place.net.get()});
      } else if (absl::Status status = ReadForCpu(*place.net); !status.ok()) {
        return status;
      }
    }
    if (!targets.empty()) {
      // Memory that the version gives back, also where this load fails.
      version_->resources = std::make_shared<OnDevices>(loader_.lanes_);
      DirectReads direct;
      const auto id = UploadWeights(checkpoint_, plan_, targets, loader_.health_,
                                    loader_.direct_storage_ ? &direct : nullptr);
      if (!id.ok()) return id.status();
      if (loader_.direct_storage_) {
        absl::StrAppend(&version_->provenance, "; ", Text(direct, targets[0].stream.device()));
      }
      if (absl::Status status = TakeId(*id); !status.ok()) return status;
    }
    for (OnDevice& place : places_) place.net->Eval();
    return absl::OkStatus();
  }

  // Makes the replicas and lets them run. A device that nobody named and that has memory for the
  // weights but for no batch is left out where others serve.
  absl::Status WarmUpAll() {
    absl::Status refused;
    for (OnDevice& place : places_) {
      absl::Status warm = WarmUpOn(place);
      if (warm.ok()) continue;
      if (!absl::IsResourceExhausted(warm) || place.named) return warm;
      absl::StrAppend(&version_->provenance, "; without a device: ", std::string(warm.message()));
      if (refused.ok()) refused = std::move(warm);
    }
    return version_->replicas.empty() ? refused : absl::OkStatus();
  }

  std::unique_ptr<ModelVersion> Take() { return std::move(version_); }

 private:
  struct OnDevice {
    c10::Device device{c10::DeviceType::CPU};
    int32_t replicas = 0;
    bool named = false;
    std::shared_ptr<models::Net> net;
  };

  absl::Status WarmUpOn(OnDevice& place) {
    DeviceFootprint footprint;
    footprint.device = place.device.str();
    footprint.weights_bytes = place.device.is_cpu() ? layout_.size_bytes : plan_.weights_bytes;
    std::optional<MemoryMeter> meter;
    if (!place.device.is_cpu()) meter.emplace(place.device);
    const std::shared_ptr<const models::Net> net = std::move(place.net);
    std::vector<std::shared_ptr<Replica>> replicas;
    for (int32_t i = 0; i < place.replicas; ++i) {
      auto replica = std::make_unique<TorchReplica>(net, place.device, request_.config.execution,
                                                    loader_.health_);
      const auto warm =
          WarmUp(*replica, signature_.served, signature_.native, request_.config.max_batch_size);
      if (!warm.ok()) return warm.status();
      if (!warm->empty()) absl::StrAppend(&version_->provenance, "; ", *warm);
      footprint.graphs_bytes += replica->graph_bytes();
      footprint.staging_bytes += replica->staging_bytes();
      replicas.push_back(std::move(replica));
    }
    if (meter.has_value()) footprint.workspace_bytes = meter->peak_bytes();
    const int64_t cap = request_.config.device_memory_cap_bytes;
    if (!place.device.is_cpu() && cap > 0 && footprint.on_device_bytes() > cap) {
      return absl::FailedPreconditionError(
          absl::StrCat(Text(footprint), ": ", footprint.on_device_bytes(),
                       " bytes were measured, device_memory_cap_bytes is ", cap,
                       "; a smaller max_batch_size or fewer instances take less"));
    }
    absl::StrAppend(&version_->provenance, "; ", Text(footprint));
    version_->footprints.push_back(footprint);
    std::move(replicas.begin(), replicas.end(), std::back_inserter(version_->replicas));
    return absl::OkStatus();
  }

  absl::Status NewNet(std::shared_ptr<models::Net>* net) const {
    auto created = detection_.architecture->Create(detection_.parameters);
    if (!created.ok()) return created.status();
    *net = *std::move(created);
    return absl::OkStatus();
  }

  absl::Status ReadForCpu(models::Net& net) {
    const auto state = ReadStateDict(checkpoint_);
    if (!state.ok()) return state.status();
    const auto loaded = LoadStateDict(net, *state, options_);
    if (!loaded.ok()) return About(request_, loaded.status());
    return TakeId(state->weights_id);
  }

  absl::Status TakeId(const std::string& id) {
    if (version_->weights_id.empty()) version_->weights_id = id;
    if (version_->weights_id == id) return absl::OkStatus();
    return About(request_, absl::AbortedError("the file changed while it was read"));
  }

  const TorchVersionLoader& loader_;
  const LoadRequest& request_;
  const Checkpoint& checkpoint_;
  const StateLayout& layout_;
  const models::Detection& detection_;
  const LoadOptions options_;

  std::shared_ptr<models::Net> first_net_;
  VersionSignature signature_;
  UploadPlan plan_;
  std::vector<OnDevice> places_;
  std::unique_ptr<ModelVersion> version_;
};

TorchVersionLoader::TorchVersionLoader(std::vector<c10::Device> devices,
                                       const CheckpointOptions& checkpoint_options,
                                       DeviceHealth* health, bool direct_storage,
                                       absl::Span<const models::Architecture* const> catalog)
    : all_devices_(WithCpu(devices)),
      chosen_(devices.size()),
      checkpoint_options_(checkpoint_options),
      health_(health),
      direct_storage_(direct_storage),
      catalog_(catalog),
      lanes_(std::make_shared<LoadLanes>()) {}

std::vector<c10::Device> TorchVersionLoader::AcceleratorsFor(const ModelConfig& config) const {
  std::vector<InstanceGroup> groups = config.instances;
  if (groups.empty()) groups.emplace_back();
  std::vector<c10::Device> accelerators;
  for (const c10::Device device : all_devices_) {
    const bool wanted =
        !device.is_cpu() &&
        std::any_of(groups.begin(), groups.end(), [device](const InstanceGroup& group) {
          return group.kind != InstanceGroup::Kind::kCpu &&
                 (group.gpus.empty() || std::count(group.gpus.begin(), group.gpus.end(),
                                                   static_cast<int32_t>(device.index())) > 0);
        });
    if (wanted) accelerators.push_back(device);
  }
  return accelerators;
}

absl::StatusOr<Placement> TorchVersionLoader::Place(const LoadRequest& request,
                                                    const UploadPlan& plan) const {
  std::map<std::string, int64_t> replica_bytes;
  {
    MutexLock lock(&mutex_);
    if (const auto known = replica_bytes_.find(request.model); known != replica_bytes_.end()) {
      replica_bytes = known->second;
    }
  }
  std::vector<DeviceState> states;
  for (const c10::Device device : all_devices_) {
    DeviceState& state = states.emplace_back();
    state.name = device.str();
    if (device.is_cpu()) continue;
    state.is_accelerator = true;
    state.number = device.index();
    state.lost = health_->LostBecause(state.name);
    state.weights_bytes = plan.weights_bytes + plan.scratch_bytes;
    state.replica_bytes = replica_bytes[state.name];
    // Where the device does not say what is free, the allocation itself will tell.
    const auto memory = state.lost.has_value() ? absl::UnknownError("") : FreeMemoryOf(device);
    if (!memory.ok()) continue;
    state.free_bytes = memory->free_bytes;
    state.total_bytes = memory->total_bytes;
  }
  auto placement = PlaceReplicas(states, chosen_, request.config.instances,
                                 request.config.device_memory_cap_bytes);
  if (absl::IsResourceExhausted(placement.status()) && !replica_bytes.empty()) {
    return absl::ResourceExhaustedError(
        absl::StrCat(std::string(placement.status().message()),
                     "; the version that serves keeps its memory until the new one is there"));
  }
  return placement;
}

void TorchVersionLoader::Remember(const ModelVersion& version) {
  std::map<std::string, int64_t> replica_bytes;
  for (const DeviceFootprint& footprint : version.footprints) {
    int64_t replicas = 0;
    bool limited = false;
    for (const auto& replica : version.replicas) {
      if (replica->device() != footprint.device) continue;
      ++replicas;
      limited = limited || replica->max_rows() < version.config.max_batch_size;
    }
    // Where batches were made to fit what was there, they took all of it, and the next version's
    // can do with less, too.
    replica_bytes[footprint.device] =
        limited
            ? 0
            : (footprint.workspace_bytes + footprint.graphs_bytes) / std::max<int64_t>(replicas, 1);
  }
  MutexLock lock(&mutex_);
  replica_bytes_[version.model] = std::move(replica_bytes);
}

absl::StatusOr<LoadedVersion> TorchVersionLoader::Load(const LoadRequest& request) {
  PhaseClock phases(request);
  auto checkpoint = OpenCheckpoint(request.weights_path, checkpoint_options_);
  if (!checkpoint.ok()) return checkpoint.status();
  const auto layout = DescribeState(**checkpoint);
  if (!layout.ok()) return layout.status();
  const auto detection = models::Detect(
      layout->tensors, {request.config.architecture, request.config.architecture_parameters},
      catalog_);
  if (!detection.ok()) return About(request, detection.status());
  phases.End(VersionState::kStructureChecked);

  // Held until everything of a load that failed is gone.
  const LoadLanes::Hold lanes(lanes_.get(), AcceleratorsFor(request.config));
  phases.Skip();
  Loading loading(*this, request, **checkpoint, *layout, *detection);
  if (absl::Status status = loading.Prepare(); !status.ok()) return status;
  const auto placement = Place(request, loading.plan());
  if (!placement.ok()) return placement.status();
  phases.End(VersionState::kAdmitted);
  if (absl::Status status = loading.Read(*placement, lanes); !status.ok()) return status;
  phases.End(VersionState::kRead);
  if (absl::Status status = loading.WarmUpAll(); !status.ok()) return status;
  phases.End(VersionState::kWarmed);
  std::unique_ptr<ModelVersion> version = loading.Take();
  Remember(*version);
  return LoadedVersion{std::move(version), nullptr};
}

}  // namespace sconce
