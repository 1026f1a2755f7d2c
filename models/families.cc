#include "models/families.h"

#include <utility>

namespace sconce::models {

std::vector<ParameterSpec> ImageClassifierParameters(int64_t smallest_image) {
  return {{.name = "num_classes",
           .type = ParameterSpec::Type::kInt,
           .default_value = int64_t{1000},
           .meaning = "outputs of the last layer"},
          {.name = "image_size",
           .type = ParameterSpec::Type::kInt,
           .default_value = int64_t{224},
           .meaning = "height and width of the input in pixels",
           .minimum = smallest_image}};
}

Parameters NumClasses(absl::Span<const NamedShape> state, absl::string_view last_weight) {
  const NamedShape* weight = Find(state, last_weight);
  if (weight == nullptr || weight->shape.size() != 2) return {};
  return {{"num_classes", weight->shape[0]}};
}

Signature MakeSignature(std::vector<int64_t> input_dims, int64_t outputs) {
  return {.inputs = {{"input", c10::kFloat, std::move(input_dims)}},
          .outputs = {{"output", c10::kFloat, {outputs}}}};
}

Signature ImageClassifierSignature(const Parameters& parameters) {
  const int64_t size = Get<int64_t>(parameters, "image_size");
  return MakeSignature({3, size, size}, Get<int64_t>(parameters, "num_classes"));
}

}  // namespace sconce::models
