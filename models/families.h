// The architectures of each family, for the catalog alone to list, and what several families use to
// describe themselves and to read shapes.
#ifndef SCONCE_MODELS_FAMILIES_H_
#define SCONCE_MODELS_FAMILIES_H_

#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "models/architecture.h"
#include "models/family.h"

namespace sconce::models {

const Architecture* Linear();
const Architecture* Mlp();
const Architecture* Digits();
const Family& AlexNet();
const Family& ConvNext();
const Family& DenseNet();
const Family& EfficientNet();
const Family& GoogLeNet();
const Family& Inception();
const Family& MaxVit();
const Family& MnasNet();
const Family& MobileNetV2();
const Family& MobileNetV3();
const Family& RegNet();
const Family& ResNet();
const Family& ShuffleNetV2();
const Family& SqueezeNet();
const Family& Swin();
const Family& SwinV2();
const Family& Vgg();
const Family& Vit();

const Family& Bert();
const Family& DistilBert();
const Family& Mpnet();
const Family& Roberta();

// A family's own parameters and those of every classifier of torchvision: num_classes and
// image_size, the latter at least `smallest_image`.
std::vector<ParameterSpec> WithImageClassifierParameters(int64_t smallest_image,
                                                         std::vector<ParameterSpec> own,
                                                         int64_t default_image = 224);

// How many of prefix + "0.", prefix + "1.", ... begin names, up to the first that begins none.
int64_t CountBlocks(absl::Span<const NamedShape> state, absl::string_view prefix);

// num_classes out of the last layer's weight, [num_classes, features]; empty where there is none.
Parameters NumClasses(absl::Span<const NamedShape> state, absl::string_view last_weight);

// The weight of a 2-D convolution.
struct ConvolutionShape {
  int64_t out;
  int64_t in;  // of one group
  int64_t height;
  int64_t width;
};

// Names and shapes of many layers, read from a state that is looked at more than a few times.
class LayerShapes {
 public:
  // `state` must outlive the object.
  explicit LayerShapes(absl::Span<const NamedShape> state);

  bool Has(const std::string& name) const { return tensors_.contains(name); }

  // What `layer` + ".weight" is; none where it is no such weight or its sizes make no sense.
  std::optional<ConvolutionShape> Convolution(const std::string& layer) const;

 private:
  std::unordered_map<std::string_view, const NamedShape*> tensors_;
};

// For the strides of a stack of blocks of these widths, which no shape tells: 2 where the width
// changes, 1 in the first block and elsewhere.
std::vector<int64_t> StridesByWidth(const std::vector<int64_t>& widths);

// "WHAT not in the file: VALUE is assumed; ...", and what to write into config.pbtxt to say
// otherwise.
std::string Assumption(absl::string_view family, absl::string_view what, absl::string_view key,
                       const ParameterValue& value);

// InvalidArgument where the lists, which describe the same blocks, differ in length or are longer
// than any network is deep.
absl::Status CheckLists(absl::string_view family, const Parameters& parameters,
                        const std::vector<std::string>& lists);

// From `input` FP32 of `input_dims` to `output` FP32 [outputs].
Signature MakeSignature(std::vector<int64_t> input_dims, int64_t outputs);

// From [3, image_size, image_size] to [num_classes]. REQUIRES: `parameters` have both.
Signature ImageClassifierSignature(const Parameters& parameters);

}  // namespace sconce::models

#endif  // SCONCE_MODELS_FAMILIES_H_
