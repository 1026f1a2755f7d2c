#include "server/reload/torch_version_loader.h"

#include <algorithm>
#include <exception>
#include <map>
#include <new>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "models/catalog.h"
#include "models/net.h"
#include "server/base/printable.h"
#include "server/checkpoint/checkpoint.h"
#include "server/device/torch_replica.h"
#include "server/weights/load_state_dict.h"
#include "server/weights/scalar_type.h"
#include "server/weights/state_dict.h"

namespace sconce {
namespace {

absl::StatusOr<std::vector<TensorSpec>> ToSpecs(const std::vector<models::TensorSpec>& specs) {
  std::vector<TensorSpec> converted;
  for (const models::TensorSpec& spec : specs) {
    const auto dtype = FromScalarType(spec.dtype);
    if (!dtype.has_value()) {
      return absl::InvalidArgumentError(absl::StrCat("'", spec.name, "' has a type that cannot be ",
                                                     "served: ", c10::toString(spec.dtype)));
    }
    converted.push_back({spec.name, *dtype, spec.dims});
  }
  return converted;
}

// The architecture's inputs or outputs under the names and sizes the configuration gives them, in
// the same order. That the network bears the sizes is proven by the warm-up.
absl::StatusOr<std::vector<TensorSpec>> Override(absl::string_view what,
                                                 std::vector<TensorSpec> native,
                                                 const std::vector<TensorSpec>& configured) {
  if (configured.empty()) return native;
  const auto describe = [](const std::vector<TensorSpec>& specs) {
    return absl::StrJoin(specs, ", ", [](std::string* out, const TensorSpec& spec) {
      absl::StrAppend(out, "'", Printable(spec.name), "' ", SpecString(spec));
    });
  };
  bool fits = configured.size() == native.size();
  for (size_t i = 0; fits && i < native.size(); ++i) {
    fits = configured[i].dtype == native[i].dtype &&
           configured[i].dims.size() == native[i].dims.size();
  }
  if (!fits) {
    return absl::InvalidArgumentError(absl::StrCat("config.pbtxt: ", what, ": expected the ",
                                                   "datatypes and ranks of ", describe(native),
                                                   ", got ", describe(configured)));
  }
  return configured;
}

// One row of zeros through the replica; says what the network does with the signature's sizes.
absl::Status WarmUp(Replica& replica, const Signature& signature, const Signature& native) {
  BatchInput batch;
  std::vector<std::vector<int64_t>> shapes;
  std::vector<int64_t> sizes;
  for (size_t i = 0; i < signature.inputs.size(); ++i) {
    std::vector<int64_t> shape = {1};
    int64_t elements = 1;
    for (size_t d = 0; d < signature.inputs[i].dims.size(); ++d) {
      int64_t size = signature.inputs[i].dims[d];
      if (size == -1) size = std::max<int64_t>(native.inputs[i].dims[d], 1);
      shape.push_back(size);
      elements *= size;
    }
    shapes.push_back(std::move(shape));
    sizes.push_back(elements * DTypeSize(signature.inputs[i].dtype));
  }
  auto staged = replica.Stage(sizes);
  if (!staged.ok()) return staged.status();
  for (size_t i = 0; i < staged->size(); ++i) {
    HostTensor& input = (*staged)[i];
    std::fill(input.bytes.begin(), input.bytes.end(), std::byte{0});
    input.dtype = signature.inputs[i].dtype;
    input.shape = std::move(shapes[i]);
  }
  batch.inputs = *std::move(staged);
  auto outputs = replica.Run(std::move(batch));
  if (!outputs.ok()) {
    // The network refused its own signature; no later try will be different, unless memory ran out.
    if (absl::IsResourceExhausted(outputs.status())) return outputs.status();
    return absl::InvalidArgumentError(
        absl::StrCat("the network does not run: ", std::string(outputs.status().message())));
  }
  const absl::Status fits = CheckOutputs(signature, 1, *outputs);
  return fits.ok() ? fits : absl::InvalidArgumentError(fits.message());
}

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

// Calls on_phase with the time since the call before.
class PhaseClock {
 public:
  explicit PhaseClock(const LoadRequest& request)
      : request_(request), since_(Clock::Real()->Now()) {}
  void End(LoadPhase phase) {
    const TimePoint now = Clock::Real()->Now();
    if (request_.on_phase) request_.on_phase(phase, now - since_);
    since_ = now;
  }

 private:
  const LoadRequest& request_;
  TimePoint since_;
};

}  // namespace

absl::StatusOr<std::vector<c10::Device>> TorchVersionLoader::DevicesFor(
    const ModelConfig& config) const {
  std::vector<c10::Device> devices;
  for (const std::string& wanted : config.instances.devices) {
    const size_t before = devices.size();
    for (const c10::Device device : devices_) {
      // "cuda" is every GPU of this server.
      if (device.str() == wanted || (device.is_cuda() && wanted == "cuda")) {
        devices.push_back(device);
      }
    }
    if (devices.size() > before) continue;
    if (wanted == "cpu") {
      devices.emplace_back(c10::DeviceType::CPU);
      continue;
    }
    return absl::InvalidArgumentError(absl::StrCat(
        "config.pbtxt: instance_group: there is no device '", Printable(wanted),
        "', this server has ",
        absl::StrJoin(devices_, ", ", [](std::string* out, c10::Device device) {
          absl::StrAppend(out, device.str());
        })));
  }
  return devices.empty() ? devices_ : devices;
}

absl::StatusOr<std::unique_ptr<ModelVersion>> TorchVersionLoader::Load(
    const LoadRequest& request) {
  PhaseClock phases(request);
  auto devices = DevicesFor(request.config);
  if (!devices.ok()) return devices.status();

  auto checkpoint = OpenCheckpoint(request.weights_path, checkpoint_options_);
  if (!checkpoint.ok()) return checkpoint.status();
  const auto layout = DescribeState(**checkpoint);
  if (!layout.ok()) return layout.status();
  const auto detection = models::Detect(
      layout->tensors, {request.config.architecture, request.config.architecture_parameters});
  if (!detection.ok()) {
    return About(request, detection.status());
  }
  phases.End(LoadPhase::kOpen);

  auto state_dict = ReadStateDict(**checkpoint);
  if (!state_dict.ok()) return state_dict.status();
  phases.End(LoadPhase::kRead);

  auto version = std::make_unique<ModelVersion>();
  version->model = request.model;
  version->number = request.number;
  version->weights_id = state_dict->weights_id;
  version->architecture = models::ToString(detection->architecture->name(), detection->parameters);
  version->weights_path = request.weights_path;
  version->config = request.config;

  Signature native;
  std::map<std::string, std::shared_ptr<const models::Net>> nets;  // by device
  for (const c10::Device device : *devices) {
    if (nets.count(device.str()) > 0) continue;
    auto created = detection->architecture->Create(detection->parameters);
    if (!created.ok()) return created.status();
    std::shared_ptr<models::Net> net = *std::move(created);
    const auto loaded = LoadStateDict(*net, *state_dict, {request.config.strict});
    if (!loaded.ok()) return About(request, loaded.status());
    version->provenance = Provenance(**checkpoint, *layout, detection->why, *loaded);
    try {
      net->Eval();
      net->To(device);
    } catch (const std::exception& e) {
      return absl::ResourceExhaustedError(
          absl::StrCat(device.str(), ": the weights cannot be placed: ", e.what()));
    }
    auto inputs = ToSpecs(net->signature().inputs);
    if (!inputs.ok()) return inputs.status();
    auto outputs = ToSpecs(net->signature().outputs);
    if (!outputs.ok()) return outputs.status();
    native = {*std::move(inputs), *std::move(outputs)};
    nets[device.str()] = std::move(net);
  }
  auto inputs = Override("input", native.inputs, request.config.inputs);
  if (!inputs.ok()) return inputs.status();
  auto outputs = Override("output", native.outputs, request.config.outputs);
  if (!outputs.ok()) return outputs.status();
  version->signature = {*std::move(inputs), *std::move(outputs)};
  version->weights_bytes = layout->size_bytes;
  for (const c10::Device device : *devices) {
    for (int32_t i = 0; i < request.config.instances.count; ++i) {
      version->replicas.push_back(
          std::make_unique<TorchReplica>(
          nets.at(device.str()), device, request.config.execution, health_));
    }
  }
  phases.End(LoadPhase::kBuild);

  for (const auto& replica : version->replicas) {
    const absl::Status warm = WarmUp(*replica, version->signature, native);
    if (!warm.ok()) return warm;
  }
  phases.End(LoadPhase::kWarmUp);
  return version;
}

}  // namespace sconce
