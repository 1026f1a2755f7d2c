#include "server/tools/layer_importance.h"

#include <ATen/ops/abs.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <set>

namespace sconce::tools {
namespace {

std::vector<double> Values(const at::Tensor& tensor) {
  const at::Tensor flat = tensor.to(at::kDouble).contiguous();
  return {flat.const_data_ptr<double>(), flat.const_data_ptr<double>() + flat.numel()};
}

double Sum(const std::vector<double>& values) {
  return std::accumulate(values.begin(), values.end(), 0.0);
}

}  // namespace

std::vector<size_t> LayerImportance::Ranked(const std::vector<double>& values) {
  std::vector<size_t> order(values.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return values[a] < values[b]; });
  return order;
}

std::vector<LayerImportance> MeasureImportance(const models::Net& net, const LayerTrace& trace) {
  const c10::InferenceMode inference;
  const std::vector<models::NamedTensor> state = net.State();
  std::vector<LayerImportance> all;
  std::set<size_t> seen;
  for (const Layer& layer : trace.layers) {
    const auto matrix = std::find_if(layer.weights.begin(), layer.weights.end(), [&](size_t i) {
      const at::Tensor& tensor = state[i].tensor;
      return state[i].is_parameter && tensor.dim() >= 2 && tensor.numel() > 0 &&
             c10::isFloatingType(tensor.scalar_type());
    });
    if (matrix == layer.weights.end() || !seen.insert(*matrix).second) continue;
    const at::Tensor& weight = state[*matrix].tensor;
    LayerImportance importance;
    importance.name = layer.name;
    importance.weight = state[*matrix].name;
    const at::Tensor channels = weight.transpose(0, layer.channel_of_weight).to(at::kDouble);
    const at::Tensor rows = channels.reshape({channels.size(0), -1});
    importance.l1 = Values(at::abs(rows).sum(1));
    importance.l2 = Values(rows.pow(2).sum(1).sqrt());
    const auto count = static_cast<double>(weight.numel());
    importance.mean_magnitude = Sum(importance.l1) / count;
    importance.root_mean_square = std::sqrt(
        std::inner_product(importance.l2.begin(), importance.l2.end(), importance.l2.begin(), 0.0) /
        count);
    if (layer.activation.size() == importance.l1.size()) {
      importance.activation = layer.activation;
      importance.mean_activation =
          Sum(layer.activation) / static_cast<double>(layer.activation.size());
    }
    all.push_back(std::move(importance));
  }
  return all;
}

}  // namespace sconce::tools
