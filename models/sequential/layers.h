// The declared sequential network: a list of layers, each with torch.nn's own parameters, and what
// becomes of a tensor's shape on its way through them. Free of torch.
//
// Values and pure functions, thread-safe.
#ifndef SCONCE_MODELS_SEQUENTIAL_LAYERS_H_
#define SCONCE_MODELS_SEQUENTIAL_LAYERS_H_

#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "models/tensor_rules.h"

namespace sconce::models {

// Sizes of convolutions and pooling have one value for each dimension (length; or height, width),
// or one for both; none: torch.nn's default.
using Sizes = std::vector<int64_t>;

struct LinearLayer {
  int64_t out_features = 0;
  bool bias = true;
  bool operator==(const LinearLayer&) const = default;
};

struct ConvolutionLayer {
  int dimensions = 2;  // 1 or 2
  int64_t out_channels = 0;
  Sizes kernel_size = {}, stride = {}, padding = {}, dilation = {};
  int64_t groups = 1;
  bool bias = true;
  bool operator==(const ConvolutionLayer&) const = default;
};

struct BatchNormLayer {
  int dimensions = 2;  // 1 or 2
  double eps = 1e-5;
  bool affine = true;
  bool operator==(const BatchNormLayer&) const = default;
};

struct LayerNormLayer {
  int64_t dimensions = 1;  // how many of the last ones are normalised together
  double eps = 1e-5;
  bool affine = true;
  bool operator==(const LayerNormLayer&) const = default;
};

struct GroupNormLayer {
  int64_t groups = 1;
  double eps = 1e-5;
  bool affine = true;
  bool operator==(const GroupNormLayer&) const = default;
};

struct EmbeddingLayer {
  int64_t num_embeddings = 0;
  int64_t embedding_dim = 0;
  bool operator==(const EmbeddingLayer&) const = default;
};

// Of [length, features], as with batch_first.
struct RecurrentLayer {
  enum class Kind { kLstm, kGru };
  // All steps of the last layer; or what a classifier takes: the last layer's state at the end,
  // with both directions beside each other.
  enum class Output { kSequence, kLast };
  Kind kind = Kind::kLstm;
  int64_t hidden_size = 0;
  int64_t num_layers = 1;
  bool bidirectional = false;
  bool bias = true;
  Output output = Output::kSequence;
  bool operator==(const RecurrentLayer&) const = default;
};

struct PoolLayer {
  enum class Kind { kMax, kAverage };
  Kind kind = Kind::kMax;
  int dimensions = 2;  // 1 or 2
  Sizes kernel_size = {}, stride = {}, padding = {};
  Sizes dilation = {};  // of kMax
  bool ceil_mode = false;
  bool count_include_pad = true;  // of kAverage
  bool operator==(const PoolLayer&) const = default;
};

struct AdaptivePoolLayer {
  PoolLayer::Kind kind = PoolLayer::Kind::kAverage;
  int dimensions = 2;  // 1 or 2
  Sizes output_size = {};
  bool operator==(const AdaptivePoolLayer&) const = default;
};

struct ActivationLayer {
  enum class Kind {
    kRelu,
    kLeakyRelu,
    kElu,
    kGelu,
    kGeluTanh,
    kSilu,
    kTanh,
    kSigmoid,
    kHardswish,
    kSoftmax
  };
  Kind kind = Kind::kRelu;
  double slope = 0;  // of kLeakyRelu its negative_slope, of kElu its alpha
  int64_t dim = -1;  // of kSoftmax, not counting the batch
  bool operator==(const ActivationLayer&) const = default;
};

// All dimensions but the batch become one.
struct FlattenLayer {
  bool operator==(const FlattenLayer&) const = default;
};

// Does nothing; it takes a place in the numbering.
struct DropoutLayer {
  bool operator==(const DropoutLayer&) const = default;
};

// The dimensions in another order, counted from 0 without the batch.
struct PermuteLayer {
  std::vector<int64_t> dims = {};
  bool operator==(const PermuteLayer&) const = default;
};

// The last element along the first dimension: the last step of [length, features].
struct LastStepLayer {
  bool operator==(const LastStepLayer&) const = default;
};

using Layer =
    std::variant<LinearLayer, ConvolutionLayer, BatchNormLayer, LayerNormLayer, GroupNormLayer,
                 EmbeddingLayer, RecurrentLayer, PoolLayer, AdaptivePoolLayer, ActivationLayer,
                 FlattenLayer, DropoutLayer, PermuteLayer, LastStepLayer>;

struct LayerSpec {
  Layer layer;
  // What stands before ".weight" in the names of its tensors; empty: its place in the list.
  std::string name = {};
  // Where it stands in the configuration, from 1; 0: nowhere.
  int line = 0;
  bool operator==(const LayerSpec&) const = default;
};

struct SequentialSpec {
  enum class InputType { kFp32, kInt32, kInt64 };

  std::string input_name = "input";
  InputType input_type = InputType::kFp32;
  // Without the batch; at most one of -1, for any size.
  std::vector<int64_t> input_dims;
  std::string output_name = "output";
  std::vector<LayerSpec> layers;
  bool operator==(const SequentialSpec&) const = default;
};

// What a SequentialSpec that is in order comes to.
struct SequentialShapes {
  // What each layer takes, and then what the network gives; without the batch.
  std::vector<std::vector<int64_t>> dims;
  // Of the input.
  TensorRules input_rules;
};

// "conv2d".
absl::string_view LayerName(const Layer& layer);

// The name of the index-th layer's module.
std::string ModuleName(const SequentialSpec& spec, size_t index);

// InvalidArgument says which layer, where it stands, what it expects and what it gets.
absl::StatusOr<SequentialShapes> CheckSequential(const SequentialSpec& spec);

}  // namespace sconce::models

#endif  // SCONCE_MODELS_SEQUENTIAL_LAYERS_H_
