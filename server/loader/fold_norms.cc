#include "server/loader/fold_norms.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty_like.h>
#include <c10/core/DeviceGuard.h>
#include <c10/core/InferenceMode.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <vector>

namespace sconce {
namespace {

struct Folded {
  at::Tensor weight;
  at::Tensor bias;
};

Folded Fold(const models::NormPair& pair, const std::vector<models::NamedTensor>& state) {
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
  // The type and the layout in memory are those of the weights.
  at::Tensor folded = at::empty_like(weight);
  folded.copy_(
      weight.to(at::kDouble, /*non_blocking=*/false, /*copy=*/true).mul_(scale.view(by_channel)));
  return {folded, bias.to(weight.scalar_type())};
}

void Await(c10::Device device) {
  if (device.is_cpu()) return;
  const c10::impl::VirtualGuardImpl guard(device.type());
  guard.getStream(device).synchronize();
}

}  // namespace

size_t FoldBatchNorms(models::Net& net, const ResidentWeights& weights) {
  // What a module has as its parameter cannot be an inference tensor.
  const c10::InferenceMode normal(false);
  const c10::OptionalDeviceGuard on_device(weights.device());
  const std::vector<models::NormPair> pairs = net.NormPairs();
  for (size_t i = 0; i < pairs.size(); ++i) {
    const models::NormPair& pair = pairs[i];
    const Folded folded = Fold(pair, net.State());
    // Other streams run the network, and what was folded is given back.
    Await(weights.device());
    net.Fold(i, folded.weight, folded.bias);
    std::vector<size_t> gone = {pair.weight, pair.mean, pair.variance};
    for (const auto& index : {pair.bias, pair.scale, pair.shift}) {
      if (index.has_value()) gone.push_back(*index);
    }
    weights.LetGo(gone);
  }
  return pairs.size();
}

}  // namespace sconce
