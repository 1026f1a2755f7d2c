// The architectures of each family, for the catalog alone to list.
#ifndef SCONCE_MODELS_FAMILIES_H_
#define SCONCE_MODELS_FAMILIES_H_

#include <vector>

#include "models/architecture.h"

namespace sconce::models {

const Architecture* Linear();
const Architecture* Mlp();
const Architecture* Digits();
const Architecture* AlexNet();
std::vector<const Architecture*> ResNets();
std::vector<const Architecture*> Vggs();

// The parameters of torchvision's classifiers: num_classes and image_size, the latter at least
// `smallest_image`.
std::vector<ParameterSpec> ImageClassifierParameters(int64_t smallest_image);

// num_classes out of the last layer's weight, [num_classes, features]; empty where there is none.
Parameters NumClasses(absl::Span<const NamedShape> state, absl::string_view last_weight);

// From `input` FP32 of `input_dims` to `output` FP32 [outputs].
Signature MakeSignature(std::vector<int64_t> input_dims, int64_t outputs);

// From [3, image_size, image_size] to [num_classes]. REQUIRES: `parameters` have both.
Signature ImageClassifierSignature(const Parameters& parameters);

}  // namespace sconce::models

#endif  // SCONCE_MODELS_FAMILIES_H_
