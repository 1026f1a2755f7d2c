#include "server/loader/fold_norms.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty_like.h>
#include <c10/core/DeviceGuard.h>
#include <c10/core/InferenceMode.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <algorithm>
#include <vector>

#include "server/device/upload/upload_plan.h"

namespace sconce {
namespace {

struct Folded {
  at::Tensor weight;
  at::Tensor bias;
};

std::vector<size_t> TensorsOf(const models::NormPair& pair) {
  std::vector<size_t> tensors = {pair.weight, pair.mean, pair.variance};
  for (const auto& index : {pair.bias, pair.scale, pair.shift}) {
    if (index.has_value()) tensors.push_back(*index);
  }
  return tensors;
}

// The layout in memory is that of the weights.
Folded Fold(const models::NormPair& pair, const std::vector<models::NamedTensor>& state,
            std::optional<c10::ScalarType> floating) {
  const auto number = [&](size_t i) { return state[i].tensor.to(at::kDouble); };
  const at::Tensor& weight = state[pair.weight].tensor;
  at::Tensor scale = number(pair.variance).add(pair.epsilon).rsqrt();
  if (pair.scale.has_value()) scale = scale.mul(number(*pair.scale));
  std::vector<int64_t> by_channel(weight.dim(), 1);
  by_channel[0] = -1;
  at::Tensor bias = number(pair.mean).neg();
  if (pair.bias.has_value()) bias = bias.add(number(*pair.bias));
  bias = bias.mul(scale);
  if (pair.shift.has_value()) bias = bias.add(number(*pair.shift));
  const c10::ScalarType type = floating.value_or(weight.scalar_type());
  at::Tensor folded = at::empty_like(weight, weight.options().dtype(type));
  folded.copy_(
      weight.to(at::kDouble, /*non_blocking=*/false, /*copy=*/true).mul_(scale.view(by_channel)));
  return {folded, bias.to(type)};
}

void Await(c10::Device device) {
  if (device.is_cpu()) return;
  const c10::impl::VirtualGuardImpl guard(device.type());
  guard.getStream(device).synchronize();
}

}  // namespace

FoldingMemory MemoryToFold(const models::Net& net, std::optional<c10::ScalarType> floating) {
  FoldingMemory memory;
  const std::vector<models::NamedTensor> state = net.State();
  for (const models::NormPair& pair : net.NormPairs()) {
    const at::Tensor& weight = state[pair.weight].tensor;
    const auto size =
        static_cast<int64_t>(c10::elementSize(floating.value_or(weight.scalar_type())));
    const int64_t made =
        UploadPlan::Align(weight.numel() * size) + UploadPlan::Align(weight.size(0) * size);
    memory.made_bytes += made;
    memory.scratch_bytes = std::max(memory.scratch_bytes,
                                    made + weight.numel() * static_cast<int64_t>(sizeof(double)));
  }
  return memory;
}

std::vector<size_t> FoldedTensors(const models::Net& net) {
  std::vector<size_t> tensors;
  for (const models::NormPair& pair : net.NormPairs()) {
    const std::vector<size_t> own = TensorsOf(pair);
    tensors.insert(tensors.end(), own.begin(), own.end());
  }
  return tensors;
}

void FoldBatchNorms(models::Net& net, const ResidentWeights& weights,
                    std::optional<c10::ScalarType> floating) {
  // What a module has as its parameter cannot be an inference tensor.
  const c10::InferenceMode normal(false);
  const c10::OptionalDeviceGuard on_device(weights.device());
  const std::vector<models::NormPair> pairs = net.NormPairs();
  for (size_t i = 0; i < pairs.size(); ++i) {
    const models::NormPair& pair = pairs[i];
    const Folded folded = Fold(pair, net.State(), floating);
    // Other streams run the network, and what was folded is given back.
    Await(weights.device());
    net.Fold(i, folded.weight, folded.bias);
    weights.LetGo(TensorsOf(pair));
  }
}

}  // namespace sconce
