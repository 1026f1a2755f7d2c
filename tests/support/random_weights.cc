#include "tests/support/random_weights.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>

#include <cmath>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "server/checkpoint/safetensors/safetensors_writer.h"
#include "server/weights/scalar_type.h"

namespace sconce {

StateDict RandomWeights(const models::Net& net, uint64_t seed) {
  StateDict weights;
  at::Generator generator = at::detail::createCPUGenerator(seed);
  for (const models::NamedTensor& own : net.State()) {
    const at::IntArrayRef sizes = own.tensor.sizes();
    at::Tensor values;
    if (!own.tensor.is_floating_point()) {
      values = at::zeros(sizes, own.tensor.scalar_type());
    } else if (sizes.size() >= 2) {
      const double fan_in = static_cast<double>(own.tensor.numel() / sizes[0]);
      values = at::randn(sizes, generator).mul_(std::sqrt(2 / fan_in));
    } else if (absl::EndsWith(own.name, "running_var")) {
      values = at::rand(sizes, generator).add_(0.5);
    } else if (absl::EndsWith(own.name, "weight")) {
      values = at::randn(sizes, generator).mul_(0.1).add_(1);
    } else {
      values = at::randn(sizes, generator).mul_(0.1);
    }
    weights.tensors.push_back({own.name, std::move(values)});
  }
  return weights;
}

absl::Status WriteSafetensors(const StateDict& weights, const std::string& path) {
  std::vector<SafetensorsWriter::Tensor> tensors;
  for (const StateEntry& entry : weights.tensors) {
    tensors.push_back(
        {entry.name, *FromScalarType(entry.tensor.scalar_type()), entry.tensor.sizes().vec()});
  }
  auto writer = SafetensorsWriter::Create(path, tensors, {});
  if (!writer.ok()) return writer.status();
  for (const size_t index : writer->order()) {
    const at::Tensor values = weights.tensors[index].tensor.contiguous();
    const absl::Status appended =
        writer->Append({static_cast<const std::byte*>(values.const_data_ptr()), values.nbytes()});
    if (!appended.ok()) return appended;
  }
  return writer->Commit();
}

}  // namespace sconce
