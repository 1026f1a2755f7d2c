#include "server/device/execution/forward_pass.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/tensor.h>
#include <c10/core/ScalarType.h>
#include <c10/util/accumulate.h>

#include <algorithm>
#include <optional>
#include <utility>

#include "models/net.h"
#include "server/device/execution/normalise.h"

namespace sconce {
namespace {

// What floating-point numbers are computed in; none: as they come.
std::optional<at::ScalarType> ComputeType(Precision precision) {
  switch (precision) {
    case Precision::kFp16:
      return at::kHalf;
    case Precision::kBf16:
      return at::kBFloat16;
    case Precision::kFp32:
    case Precision::kTf32:
      break;
  }
  return std::nullopt;
}

// A shape of the dimensions `from`, with or without a batch dimension before them, as one of the
// dimensions `to`; as it is where it is no such shape.
std::vector<int64_t> Reshaped(at::IntArrayRef shape, const std::vector<int64_t>& from,
                              const std::vector<int64_t>& to) {
  const size_t rows = shape.size() - std::min(shape.size(), from.size());
  if (rows > 1 || shape.size() < from.size()) return shape.vec();
  std::vector<int64_t> reshaped = shape.slice(0, rows).vec();
  size_t at = 0;
  for (const int64_t dim : to) {
    if (dim == -1) {
      while (at < from.size() && from[at] != -1) ++at;
      if (at == from.size()) return shape.vec();
      reshaped.push_back(shape[rows + at++]);
    } else {
      reshaped.push_back(dim);
    }
  }
  return c10::multiply_integers(reshaped) == c10::multiply_integers(shape) ? reshaped : shape.vec();
}

const Reshape* Find(const std::vector<std::optional<Reshape>>& reshapes, size_t index) {
  return index < reshapes.size() && reshapes[index].has_value() ? &*reshapes[index] : nullptr;
}

}  // namespace

ForwardPass::ForwardPass(std::shared_ptr<const models::Net> net, c10::Device device,
                         const ExecutionOptions& options)
    : net_(std::move(net)), device_(device), options_(options) {}

const Normalisation* ForwardPass::NormalisationOf(size_t input) const {
  if (input >= options_.normalise.size() || !options_.normalise[input].has_value()) return nullptr;
  return &*options_.normalise[input];
}

at::ScalarType ForwardPass::TypeOf(size_t input, at::ScalarType sent_type) const {
  const at::ScalarType native =
      NormalisationOf(input) == nullptr ? sent_type : net_->signature().inputs.at(input).dtype;
  if (!c10::isFloatingType(native)) return native;
  return ComputeType(options_.precision).value_or(native);
}

at::Tensor ForwardPass::NewInput(size_t input, at::IntArrayRef sent_shape,
                                 at::ScalarType sent_type) const {
  std::vector<int64_t> shape = sent_shape.vec();
  const Reshape* const reshape = Find(options_.reshape_inputs, input);
  if (reshape != nullptr) shape = Reshaped(shape, reshape->served, reshape->network);
  const Normalisation* const normalisation = NormalisationOf(input);
  if (normalisation != nullptr && normalisation->layout == ImageLayout::kNhwc) {
    TORCH_CHECK(shape.size() == 4, "expected pixels [N, H, W, C], got ", sent_shape);
    shape = {shape[0], shape[3], shape[1], shape[2]};
  }
  const bool channels_last = options_.channels_last && shape.size() == 4;
  return at::empty(shape, at::TensorOptions().dtype(TypeOf(input, sent_type)).device(device_),
                   channels_last ? at::MemoryFormat::ChannelsLast : at::MemoryFormat::Contiguous);
}

void ForwardPass::PrepareInto(size_t input, const at::Tensor& sent, at::Tensor& prepared) {
  const Normalisation* const normalisation = NormalisationOf(input);
  if (normalisation == nullptr) {
    // Another shape has as many elements, in the same order.
    const bool same_shape = sent.sizes() == prepared.sizes();
    prepared.copy_(same_shape ? sent : sent.view(prepared.sizes()), /*non_blocking=*/true);
    return;
  }
  constants_.resize(options_.normalise.size());
  Constants& constants = constants_[input];
  if (!constants.bias.defined()) {
    constants.scale = at::tensor(normalisation->scale).to(device_);
    constants.bias = at::tensor(normalisation->bias).to(device_);
  }
  Normalise(sent, normalisation->layout, constants.scale, constants.bias, prepared);
}

at::Tensor ForwardPass::Prepare(size_t input, const at::Tensor& sent) {
  const Reshape* const reshape = Find(options_.reshape_inputs, input);
  const at::Tensor shaped =
      reshape == nullptr ? sent
                         : sent.view(Reshaped(sent.sizes(), reshape->served, reshape->network));
  const bool same = NormalisationOf(input) == nullptr &&
                    TypeOf(input, sent.scalar_type()) == sent.scalar_type() &&
                    !(options_.channels_last && shaped.dim() == 4);
  if (same) return shaped;
  at::Tensor prepared = NewInput(input, sent.sizes(), sent.scalar_type());
  PrepareInto(input, sent, prepared);
  return prepared;
}

int64_t ForwardPass::FillerOf(size_t input) const {
  return models::FillerOf(net_->signature().inputs.at(input).rules);
}

int64_t ForwardPass::least_rows() const { return net_->signature().rows.rows.minimum; }

std::vector<at::Tensor> ForwardPass::Run(const std::vector<at::Tensor>& prepared) const {
  std::vector<at::Tensor> outputs = net_->Forward(prepared);
  const std::vector<models::TensorSpec>& specs = net_->signature().outputs;
  for (size_t i = 0; i < outputs.size(); ++i) {
    // A network that gives another type than its signature says is refused later, unless it is the
    // precision that was asked for.
    if (i < specs.size() && outputs[i].scalar_type() == ComputeType(options_.precision)) {
      outputs[i] = outputs[i].to(specs[i].dtype);
    }
    outputs[i] = outputs[i].contiguous();
    if (const Reshape* const reshape = Find(options_.reshape_outputs, i); reshape != nullptr) {
      outputs[i] = outputs[i].view(Reshaped(outputs[i].sizes(), reshape->network, reshape->served));
    }
  }
  return outputs;
}

}  // namespace sconce
