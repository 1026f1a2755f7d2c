#include "server/loader/in_place.h"

#include <algorithm>
#include <chrono>
#include <functional>
#include <future>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "server/device/torch_errors.h"
#include "server/loader/admitted_load.h"
#include "server/loader/proofs.h"
#include "server/loader/unprepared.h"
#include "server/loader/warm_up.h"

namespace sconce {
namespace {

// Requests wait as long.
constexpr std::chrono::seconds kPatience{5};

// What is left to the rest of the process while bytes are kept.
constexpr int64_t kHostMargin = int64_t{64} << 20;

absl::Status Not(const std::string& why) { return absl::FailedPreconditionError(why); }

class Change final : public InPlaceChange {
 public:
  Change(const LoadRequest& request, std::unique_ptr<BatchHold> batches)
      : live_(request.live), retire_live_(request.retire_live), batches_(std::move(batches)) {}

  ~Change() override {
    if (overwrite_ == nullptr) return;
    if (absl::Status undone = overwrite_->Undo(); !undone.ok()) Retire(undone);
  }

  void Commit() override {
    overwrite_.reset();
    batches_.reset();
    lanes_.reset();
  }

  void Take(std::unique_ptr<Overwrite> overwrite) { overwrite_ = std::move(overwrite); }

  void Retire(const absl::Status& because) const {
    if (!retire_live_) return;
    retire_live_(absl::StrCat("its weights were written over and cannot be brought back: ",
                              std::string(because.message())));
  }

  void Take(std::unique_ptr<LoadLanes::Hold> lanes) { lanes_ = std::move(lanes); }

 private:
  // What was written over; batches go on before it may go, and other loads after them.
  const std::shared_ptr<const ModelVersion> live_;
  const std::function<void(const std::string&)> retire_live_;
  std::unique_ptr<LoadLanes::Hold> lanes_;
  std::unique_ptr<BatchHold> batches_;
  std::unique_ptr<Overwrite> overwrite_;
};

std::vector<c10::Device> DevicesOf(const VersionMemory& memory) {
  std::vector<c10::Device> devices;
  for (const auto& weights : memory.resident()) devices.push_back(weights->device());
  return devices;
}

// What may be kept of the bytes that are written over.
int64_t KeepBytes(const LoaderParts& parts, const WeightsStructure& structure, size_t devices) {
  const int64_t all = structure.plan.weights_bytes * static_cast<int64_t>(devices);
  const std::optional<HostMemory> memory = parts.host_memory.Free();
  if (!memory.has_value()) return all;
  return std::clamp<int64_t>(memory->free_bytes - kHostMargin, 0, all);
}

// That what was written over runs and answers as it should.
absl::Status Prove(const LoadRequest& request, const WeightsStructure& structure,
                   StepClock& steps) {
  const VersionSignature& signature = structure.signature;
  for (const auto& replica : request.live->replicas) {
    absl::Status runs = RunOneRow(*replica, signature.served, signature.native);
    if (!runs.ok()) return runs;
  }
  steps.End(VersionState::kWarmed);
  absl::Status answers = CheckAnswers(request, structure, request.live->replicas, nullptr);
  if (answers.ok()) steps.End(VersionState::kChecked);
  return answers;
}

// The version that has the live one's replicas.
std::unique_ptr<ModelVersion> MakeVersion(const LoaderParts& parts, const LoadRequest& request,
                                          WeightsStructure& structure, const Overwrite& overwrite,
                                          const WeightsSurvey& survey) {
  std::unique_ptr<ModelVersion> version = std::move(structure.version);
  const std::vector<c10::Device> devices = DevicesOf(*MemoryOf(*request.live));
  const bool on_accelerators = std::any_of(devices.begin(), devices.end(),
                                           [](c10::Device device) { return !device.is_cpu(); });
  auto memory = std::make_shared<VersionMemory>(parts, structure.signature,
                                                structure.constant_bytes, on_accelerators);
  memory->Take(request.model, overwrite.resident(), /*owned=*/false);
  version->weights_id = survey.weights_id();
  version->weights_bytes = overwrite.resident().front()->size_bytes();
  version->shared_bytes = std::max<int64_t>(version->weights_bytes - survey.new_bytes(0), 0);
  version->footprints = request.live->footprints;
  version->resources = std::move(memory);
  version->replicas = request.live->replicas;
  absl::StrAppend(&version->provenance, "; written over the weights of version ",
                  request.live->number);
  return version;
}

}  // namespace

const VersionMemory* MemoryOf(const ModelVersion& version) {
  return dynamic_cast<const VersionMemory*>(version.resources.get());
}

absl::Status CanWriteOver(const LoadRequest& request, const WeightsStructure& structure) {
  if (request.live == nullptr || request.gate == nullptr) return Not("no version answers");
  const ModelVersion& live = *request.live;
  if (MemoryOf(live) == nullptr || MemoryOf(live)->resident().empty()) {
    return Not("they are not this loader's");
  }
  if (live.architecture != structure.version->architecture ||
      live.signature != structure.version->signature) {
    return Not(absl::StrCat("they are of another network, ", live.architecture));
  }
  const ModelConfig& before = live.config;
  const ModelConfig& now = request.config;
  if (before.execution != now.execution || before.max_batch_size != now.max_batch_size ||
      before.instances != now.instances || before.sequential != now.sequential) {
    return Not("the configuration has them run in another way");
  }
  for (const auto& replica : live.replicas) {
    if (const absl::Status health = replica->health(); !health.ok()) {
      return Not(std::string(health.message()));
    }
  }
  return absl::OkStatus();
}

namespace {

absl::StatusOr<LoadedVersion> WriteOver(LoaderParts& parts, const LoadRequest& request,
                                        WeightsStructure& structure, const WeightsSurvey& survey,
                                        const std::optional<Unprepared>& unprepared,
                                        std::unique_ptr<LoadLanes::Hold>* lanes, StepClock& steps,
                                        bool* shared) {
  const VersionMemory& live = *MemoryOf(*request.live);
  const std::vector<c10::Device> devices = DevicesOf(live);
  auto batches = request.gate->HoldBatches(request.model, kPatience);
  if (!batches.ok()) {
    return absl::UnavailableError(
        absl::StrCat("the batches of the version that answers could not ",
                     "be held: ", std::string(batches.status().message())));
  }
  auto change = std::make_unique<Change>(request, *std::move(batches));
  bool destroyed = false;
  auto overwrite = OverwriteWeights(
      *structure.checkpoint, structure.plan, TargetsOn(devices, **lanes), live.resident(), survey,
      OptionsOf(parts, request.config), KeepBytes(parts, structure, devices.size()), &destroyed);
  if (!overwrite.ok()) {
    if (destroyed) change->Retire(overwrite.status());
    *shared = absl::IsFailedPrecondition(overwrite.status());
    return overwrite.status();
  }
  const Overwrite& written = **overwrite;
  change->Take(*std::move(overwrite));
  steps.End(VersionState::kRead);
  steps.End(VersionState::kLoaded);
  steps.End(VersionState::kPrepared);
  if (absl::Status proven = Prove(request, structure, steps); !proven.ok()) return proven;
  LoadedVersion loaded;
  loaded.version = MakeVersion(parts, request, structure, written, survey);
  if (unprepared.has_value()) CompareReplicas(*unprepared, *loaded.version);
  change->Take(std::move(*lanes));
  loaded.in_place = std::move(change);
  return loaded;
}

}  // namespace

absl::StatusOr<LoadedVersion> LoadInPlace(LoaderParts& parts, const LoadRequest& request,
                                          WeightsStructure& structure, const WeightsSurvey& survey,
                                          std::unique_ptr<LoadLanes::Hold>* lanes, StepClock& steps,
                                          bool* shared) {
  // Before batches are held: no request is to wait for other loads.
  const std::optional<Unprepared> unprepared =
      AnswerUnprepared(structure, request.config.strict, parts.host_memory, parts.lanes.get());
  std::optional<LoadLanes::Hold> computing;
  const std::vector<c10::Device> devices = DevicesOf(*MemoryOf(*request.live));
  const c10::Device cpu(c10::DeviceType::CPU);
  if (std::count(devices.begin(), devices.end(), cpu) > 0) {
    computing.emplace(parts.lanes.get(), std::vector<c10::Device>{cpu});
  }
  steps.Skip();
  std::promise<absl::StatusOr<LoadedVersion>> written;
  parts.while_held.Run([&] {
    written.set_value(Guarded(request.model, [&] {
      return WriteOver(parts, request, structure, survey, unprepared, lanes, steps, shared);
    }));
  });
  return written.get_future().get();
}

}  // namespace sconce
