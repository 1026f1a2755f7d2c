#include "bench/gpu/workload.h"

#include <ATen/ops/randint.h>
#include <ATen/ops/randn.h>
#include <c10/core/InferenceMode.h>

#include <exception>
#include <utility>

#include "absl/strings/str_cat.h"
#include "bench/gpu/bert_net.h"
#include "models/catalog.h"
#include "server/checkpoint/checkpoint.h"
#include "server/loader/torch_version_loader.h"
#include "server/weights/load_state_dict.h"
#include "tests/support/random_weights.h"

namespace sconce::bench {
namespace {

// The benchmark's own entry beside the catalogue's.
class BertArchitecture : public models::Architecture {
 public:
  explicit BertArchitecture(const BertShape& shape) : shape_(shape) {}

  absl::string_view name() const override { return "bert"; }
  absl::string_view family() const override { return "bert"; }
  const std::vector<models::ParameterSpec>& parameters() const override { return none_; }
  absl::StatusOr<models::Inference> Infer(absl::Span<const models::NamedShape>,
                                          const models::Parameters&) const override {
    return models::Inference{};
  }
  absl::StatusOr<std::unique_ptr<models::Net>> Create(const models::Parameters&) const override {
    return MakeBertNet(shape_);
  }
  const BertShape& shape() const { return shape_; }

 private:
  const BertShape shape_;
  const std::vector<models::ParameterSpec> none_;
};

const models::Architecture* FindInCatalog(absl::string_view name) {
  for (const models::Architecture* architecture : models::Catalog()) {
    if (architecture->name() == name) return architecture;
  }
  return nullptr;
}

}  // namespace

Workload ResNet50(bool quick) {
  const int64_t size = quick ? 32 : 224;
  return {"resnet50",
          "images",
          FindInCatalog("resnet50"),
          {{"num_classes", quick ? "10" : "1000"}},
          {"input", DType::kFloat32, {3, size, size}},
          /*batch=*/quick ? 2 : 64,
          /*bound_ms=*/quick ? 2000 : 15.0};
}

Workload Bert(bool quick) {
  static const BertArchitecture base{BertShape{}};
  static const BertArchitecture tiny{
      {.layers = 2, .width = 64, .heads = 2, .tokens = 8, .vocabulary = 100}};
  const BertArchitecture& bert = quick ? tiny : base;
  return {"bert",
          "sequences",
          &bert,
          {},
          {"tokens", DType::kInt64, {bert.shape().tokens}},
          /*batch=*/quick ? 2 : 32,
          /*bound_ms=*/quick ? 2000 : 130.0};
}

at::Tensor RandomRows(const Workload& workload, int64_t rows) {
  std::vector<int64_t> shape = workload.input.dims;
  shape.insert(shape.begin(), rows);
  // Ids that the smallest vocabulary has.
  if (workload.input.dtype == DType::kInt64) return at::randint(0, 100, shape, at::kLong);
  return at::randn(shape);
}

absl::StatusOr<std::unique_ptr<models::Net>> Versions::NewNet() const {
  const auto parameters = models::ParseParameters(*workload_.architecture, workload_.parameters);
  if (!parameters.ok()) return parameters.status();
  return workload_.architecture->Create(*parameters);
}

absl::StatusOr<std::unique_ptr<Versions>> Versions::Make(const Workload& workload,
                                                         const std::string& folder,
                                                         c10::Device device) {
  std::unique_ptr<Versions> versions(new Versions(workload, device));
  for (uint64_t seed = 1; seed <= 2; ++seed) {
    const auto net = versions->NewNet();
    if (!net.ok()) return net.status();
    const StateDict weights = RandomWeights(**net, seed);
    versions->paths_.push_back(absl::StrCat(folder, "/", workload.name, seed, ".safetensors"));
    const absl::Status written = WriteSafetensors(weights, versions->paths_.back());
    if (!written.ok()) return written;
    versions->weights_bytes_ = 0;
    for (const StateEntry& entry : weights.tensors) {
      versions->weights_bytes_ += static_cast<int64_t>(entry.tensor.nbytes());
    }
  }
  return versions;
}

absl::StatusOr<std::unique_ptr<ModelVersion>> Versions::Load(const ExecutionOptions& execution,
                                                             int64_t number, bool second) {
  LoadRequest request;
  request.model = workload_.name;
  request.number = number;
  request.weights_path = paths_[second ? 1 : 0];
  request.config.architecture = std::string(workload_.architecture->name());
  request.config.architecture_parameters = workload_.parameters;
  request.config.inputs = {workload_.input};
  request.config.max_batch_size = workload_.batch;
  request.config.max_queue_size = int64_t{1} << 20;  // a queue that grows is measured, not refused
  request.config.execution = execution;
  TorchVersionLoader loader({device_}, CheckpointOptions{}, &health_, false, false,
                            {&workload_.architecture, 1});
  auto loaded = loader.Load(request);
  if (!loaded.ok()) return loaded.status();
  return std::move(loaded->version);
}

absl::StatusOr<std::unique_ptr<models::Net>> Versions::BareNet(
    const ExecutionOptions& execution) const {
  auto net = NewNet();
  if (!net.ok()) return net.status();
  const auto checkpoint = OpenCheckpoint(paths_[0]);
  if (!checkpoint.ok()) return checkpoint.status();
  const auto state = ReadStateDict(**checkpoint);
  if (!state.ok()) return state.status();
  const auto loaded = LoadStateDict(**net, *state);
  if (!loaded.ok()) return loaded.status();
  try {
    const c10::InferenceMode inference_mode;
    const std::vector<models::NamedTensor> tensors = (*net)->State();
    for (size_t i = 0; i < tensors.size(); ++i) {
      const at::Tensor& own = tensors[i].tensor;
      const bool last = execution.channels_last && own.dim() == 4;
      (*net)->Assign(
          i, own.to(own.options().device(device_).dtype(
                        own.is_floating_point() ? TypeOf(execution.precision) : own.scalar_type()),
                    /*non_blocking=*/false, /*copy=*/true,
                    last ? at::MemoryFormat::ChannelsLast : at::MemoryFormat::Contiguous));
    }
    (*net)->Eval(device_);
  } catch (const std::exception& e) {
    return absl::InternalError(absl::StrCat(device_.str(), ": ", e.what()));
  }
  return net;
}

at::ScalarType TypeOf(Precision precision) {
  switch (precision) {
    case Precision::kFp16:
      return at::kHalf;
    case Precision::kBf16:
      return at::kBFloat16;
    default:
      return at::kFloat;
  }
}

const char* NameOf(Precision precision) {
  switch (precision) {
    case Precision::kFp32:
      return "fp32";
    case Precision::kTf32:
      return "tf32";
    case Precision::kFp16:
      return "fp16";
    default:
      return "bf16";
  }
}

}  // namespace sconce::bench
