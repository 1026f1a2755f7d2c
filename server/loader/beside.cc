#include "server/loader/beside.h"

#include <algorithm>
#include <iterator>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "server/device/device_footprint.h"
#include "server/device/execution/torch_replica.h"
#include "server/device/torch_errors.h"
#include "server/device/upload/memory_meter.h"
#include "server/device/upload/pooled_weights.h"
#include "server/loader/deviation.h"
#include "server/loader/fold_norms.h"
#include "server/loader/proofs.h"
#include "server/loader/unprepared.h"
#include "server/loader/version_memory.h"
#include "server/loader/warm_up.h"

namespace sconce {
namespace {

std::string Megabytes(int64_t bytes) {
  return absl::StrFormat("%.1f MB", static_cast<double>(bytes) / 1e6);
}

// "cuda:0 weights 102.4 MB, workspace 33.1 MB, graphs 0.0 MB, staging 9.6 MB".
std::string Text(const DeviceFootprint& footprint) {
  std::string text =
      absl::StrCat(footprint.device, " weights ", Megabytes(footprint.weights_bytes));
  if (footprint.device == "cpu") return text;
  absl::StrAppend(&text, ", workspace ", Megabytes(footprint.workspace_bytes), ", graphs ",
                  Megabytes(footprint.graphs_bytes), ", staging ",
                  Megabytes(footprint.staging_bytes));
  return text;
}

// "cuda:0 read 102.4 MB from the files by itself".
std::string Text(const DirectReads& direct, c10::Device device) {
  std::string text =
      absl::StrCat(device.str(), " read ", Megabytes(direct.bytes), " from the files by itself");
  if (!direct.why_no_more.empty()) {
    absl::StrAppend(&text, ", no more: ", direct.why_no_more);
  } else if (direct.bytes == 0) {
    absl::StrAppend(&text, ": no tensor is wanted as it lies there, or they are to be verified");
  }
  return text;
}

// What the version is on one device until its replicas are the version's.
struct Place {
  c10::Device device{c10::DeviceType::CPU};
  int32_t count = 0;
  bool named = false;
  std::shared_ptr<models::Net> net;
  std::vector<std::shared_ptr<TorchReplica>> replicas;
  // What folding changed, where it was compared on the device itself.
  std::optional<PreparedDeviation> folded;
};

class Loading {
 public:
  Loading(LoaderParts& parts, const LoadRequest& request, WeightsStructure& structure,
          AdmittedLoad admitted, const LoadLanes::Hold& lanes)
      : parts_(parts),
        request_(request),
        structure_(structure),
        admitted_(std::move(admitted)),
        lanes_(lanes),
        version_(std::move(structure.version)) {
    for (const Placement::OnDevice& on : admitted_.placement.devices) {
      Place& place = places_.emplace_back();
      place.device = parts.devices[on.device];
      place.count = on.replicas;
      place.named = on.named;
    }
    for (const std::string& line : admitted_.placement.left_out) {
      Note(absl::StrCat("without a device: ", line));
    }
  }

  // The bytes come to where they are wanted.
  absl::Status Read() {
    std::vector<c10::Device> devices;
    for (const Place& place : places_) devices.push_back(place.device);
    const auto first = std::find_if(devices.begin(), devices.end(),
                                    [](c10::Device device) { return !device.is_cpu(); });
    // Before memory is taken, so that its cache goes back where the load fails, too.
    memory_ = std::make_shared<VersionMemory>(parts_, structure_.signature,
                                              structure_.constant_bytes, first != devices.end());
    version_->resources = memory_;
    const bool direct_storage = parts_.direct_storage && first != devices.end();
    DirectReads direct;
    auto loaded =
        LoadWeights(*structure_.checkpoint, structure_.plan, TargetsOn(devices, lanes_),
                    OptionsOf(parts_, request_.config), direct_storage ? &direct : nullptr);
    if (!loaded.ok()) return loaded.status();
    if (direct_storage) Note(Text(direct, *first));
    version_->weights_id = loaded->weights_id;
    version_->weights_bytes = loaded->resident.front()->size_bytes();
    version_->shared_bytes = loaded->resident.front()->shared_bytes();
    memory_->Take(request_.model, std::move(loaded->resident), /*owned=*/true);
    // The kernel counts it from here on.
    admitted_.reserved.reset();
    return absl::OkStatus();
  }

  // Networks get the weights.
  absl::Status Assign() {
    for (size_t i = 0; i < places_.size(); ++i) {
      Place& place = places_[i];
      auto net = structure_.NewNet();
      if (!net.ok()) return net.status();
      place.net = *std::move(net);
      absl::Status assigned = Guarded(place.device.str(), [&] {
        memory_->resident()[i]->AssignTo(*place.net);
        return absl::OkStatus();
      });
      if (!assigned.ok()) return assigned;
    }
    return absl::OkStatus();
  }

  absl::Status Prepare() {
    const ExecutionOptions& execution = structure_.signature.execution;
    unprepared_ = AnswerUnprepared(structure_, request_.config.strict, parts_.host_memory,
                                   parts_.lanes.get());
    for (Place& place : places_) {
      absl::Status prepared = Guarded(place.device.str(), [&] {
        place.net->Eval(place.device);
        if (execution.fold_batch_norm) Fold(place);
        const std::shared_ptr<const models::Net> net = std::move(place.net);
        for (int32_t i = 0; i < place.count; ++i) {
          place.replicas.push_back(
              std::make_shared<TorchReplica>(net, place.device, execution, parts_.health));
        }
        return absl::OkStatus();
      });
      if (!prepared.ok()) return prepared;
    }
    admitted_.reserved_to_fold.reset();
    const ResidentWeights& weights = *memory_->resident().front();
    version_->weights_bytes = weights.size_bytes() + structure_.folding.made_bytes;
    version_->shared_bytes = weights.shared_bytes();
    return absl::OkStatus();
  }

  // Lets the replicas run. A device that nobody named and that has memory for the weights but for
  // no batch is left out where others serve.
  absl::Status WarmUpAll() {
    absl::Status refused;
    for (Place& place : places_) {
      absl::Status warm = WarmUpOn(place);
      if (warm.ok()) continue;
      if (!absl::IsResourceExhausted(warm) || place.named) return warm;
      Note(absl::StrCat("without a device: ", std::string(warm.message())));
      place.replicas.clear();
      memory_->LeaveOut(place.device);
      if (refused.ok()) refused = std::move(warm);
    }
    if (version_->replicas.empty()) return refused;
    if (unprepared_.has_value()) CompareWithFile();
    return absl::OkStatus();
  }

  absl::Status Check() {
    std::optional<LoadLanes::Hold> computing;
    if (IsOnCpu()) computing.emplace(parts_.lanes.get(), Cpu());
    return CheckAnswers(request_, structure_, version_->replicas, [&computing] {
      if (computing.has_value()) computing->Yield();
    });
  }

  std::unique_ptr<ModelVersion> Take() { return std::move(version_); }

 private:
  static std::vector<c10::Device> Cpu() { return {c10::Device(c10::DeviceType::CPU)}; }

  void Note(const std::string& text) { absl::StrAppend(&version_->provenance, "; ", text); }

  // What the network answers before and after is compared, on its device, where it can be run
  // before; the load goes on without.
  void Fold(Place& place) {
    const size_t pairs = place.net->NormPairs().size();
    if (pairs == 0) {
      if (&place == &places_.front()) Note("no batch norm follows a convolution: none folded");
      return;
    }
    const bool alone = !unprepared_.has_value();
    const std::vector<Sample> probes = alone ? ProbesFor(structure_) : std::vector<Sample>();
    const absl::StatusOr<Answers> before = alone ? AnswersOf(place, probes) : Answers();
    FoldBatchNorms(*place.net, ResidentOn(place.device), structure_.form.floating);
    memory_->AddMade(place.device, structure_.folding.made_bytes);
    std::string text = absl::StrCat(place.device.str(), " folded ", pairs, " batch norms");
    if (alone) {
      place.folded = Compare(place.device.str(), before, [&] { return AnswersOf(place, probes); });
      const PreparedDeviation& by = *place.folded;
      absl::StrAppend(&text, by.not_measured.empty()
                                 ? absl::StrCat(", which changes outputs by at most ",
                                                Text(Deviation{by.absolute, by.relative}))
                                 : absl::StrCat(", not compared: ", by.not_measured));
    }
    Note(text);
  }

  // With what the file's own weights answer.
  void CompareWithFile() {
    std::optional<LoadLanes::Hold> computing;
    if (IsOnCpu()) computing.emplace(parts_.lanes.get(), Cpu());
    CompareReplicas(*unprepared_, *version_);
  }

  bool IsOnCpu() const {
    return std::any_of(version_->replicas.begin(), version_->replicas.end(),
                       [](const auto& replica) { return replica->device() == "cpu"; });
  }

  const ResidentWeights& ResidentOn(c10::Device device) const {
    const VersionMemory::Resident& resident = memory_->resident();
    return **std::find_if(resident.begin(), resident.end(),
                          [&](const auto& weights) { return weights->device() == device; });
  }

  absl::StatusOr<Answers> AnswersOf(const Place& place, absl::Span<const Sample> probes) {
    std::optional<LoadLanes::Hold> computing;
    if (place.device.is_cpu()) computing.emplace(parts_.lanes.get(), Cpu());
    TorchReplica replica(place.net, place.device, structure_.signature.execution, parts_.health);
    return AnswerProbes(replica, probes);
  }

  absl::Status WarmUpOn(Place& place) {
    DeviceFootprint footprint;
    footprint.device = place.device.str();
    footprint.weights_bytes = memory_->BytesOf(ResidentOn(place.device));
    std::optional<LoadLanes::Hold> computing;
    std::optional<MemoryMeter> meter;
    if (place.device.is_cpu()) {
      computing.emplace(parts_.lanes.get(), Cpu());
    } else {
      meter.emplace(place.device);
    }
    for (const auto& replica : place.replicas) {
      CpuWarmUp on_cpu;
      on_cpu.known = parts_.seen.Has(*version_);
      on_cpu.between = [&computing] { computing->Yield(); };
      const auto warm = WarmUp(*replica, structure_.signature.served, structure_.signature.native,
                               version_->max_batch_rows(), on_cpu);
      if (!warm.ok()) return warm.status();
      if (!warm->empty()) Note(*warm);
      if (place.device.is_cpu()) parts_.seen.Add(*version_);
      footprint.graphs_bytes += replica->graph_bytes();
      footprint.staging_bytes += replica->staging_bytes();
    }
    if (meter.has_value()) footprint.workspace_bytes = meter->peak_bytes();
    const int64_t cap = request_.config.device_memory_cap_bytes;
    if (cap > 0 && footprint.on_device_bytes() > cap) {
      return absl::FailedPreconditionError(
          absl::StrCat(Text(footprint), ": ", footprint.on_device_bytes(),
                       " bytes were measured, device_memory_cap_bytes is ", cap,
                       "; a smaller max_batch_size or fewer instances take less"));
    }
    Note(Text(footprint));
    version_->footprints.push_back(footprint);
    if (place.folded.has_value()) version_->deviations.push_back(*place.folded);
    std::move(place.replicas.begin(), place.replicas.end(), std::back_inserter(version_->replicas));
    return absl::OkStatus();
  }

  LoaderParts& parts_;
  const LoadRequest& request_;
  WeightsStructure& structure_;
  AdmittedLoad admitted_;
  const LoadLanes::Hold& lanes_;
  // Before what lies in it, so that it goes last.
  std::shared_ptr<VersionMemory> memory_;
  std::unique_ptr<ModelVersion> version_;
  std::vector<Place> places_;
  // Of the file's weights, FP32 on the CPU; none: what is prepared is compared on its device.
  std::optional<Unprepared> unprepared_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<ModelVersion>> LoadBeside(
    LoaderParts& parts, const LoadRequest& request, WeightsStructure& structure,
    AdmittedLoad admitted, const LoadLanes::Hold& lanes, StepClock& steps) {
  Loading loading(parts, request, structure, std::move(admitted), lanes);
  const std::pair<absl::Status (Loading::*)(), VersionState> taken[] = {
      {&Loading::Read, VersionState::kRead},
      {&Loading::Assign, VersionState::kLoaded},
      {&Loading::Prepare, VersionState::kPrepared},
      {&Loading::WarmUpAll, VersionState::kWarmed},
      {&Loading::Check, VersionState::kChecked}};
  for (const auto& [step, state] : taken) {
    if (absl::Status status = (loading.*step)(); !status.ok()) return status;
    steps.End(state);
  }
  return loading.Take();
}

}  // namespace sconce
