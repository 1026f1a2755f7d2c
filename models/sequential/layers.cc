#include "models/sequential/layers.h"

#include <algorithm>
#include <optional>
#include <type_traits>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace sconce::models {
namespace {

using Dims = std::vector<int64_t>;

constexpr int64_t kAnySize = -1;
constexpr size_t kMostLayers = 1000;
constexpr size_t kMostNameBytes = 256;
constexpr size_t kMostDims = 8;
// Of one tensor, for one row of a batch: products of sizes stay far from overflow.
constexpr int64_t kMostElements = int64_t{1} << 40;
// Of a parameter or a dimension.
constexpr int64_t kMostSize = int64_t{1} << 31;
// More stacked than that is no recurrent network that anybody trained.
constexpr int64_t kMostRecurrentLayers = 100;
// What a dimension of any size may have.
constexpr int64_t kMostAnySize = 65536;

std::string DimsText(const Dims& dims) { return absl::StrCat("[", absl::StrJoin(dims, ", "), "]"); }

absl::Status Wrong(const std::string& message) { return absl::InvalidArgumentError(message); }

absl::Status Expects(absl::string_view what, const Dims& got) {
  return Wrong(absl::StrCat("expects ", what, ", gets ", DimsText(got)));
}

absl::Status CheckRange(absl::string_view name, int64_t value, int64_t low, int64_t high) {
  if (low <= value && value <= high) return absl::OkStatus();
  return Wrong(absl::StrCat(name, ": expected ", low, " to ", high, ", got ", value));
}

absl::Status CheckEps(double eps) {
  if (eps >= 0 && eps <= 1) return absl::OkStatus();
  return Wrong(absl::StrCat("eps: expected 0 to 1, got ", eps));
}

// Only known sizes; nullopt where there are too many.
std::optional<int64_t> Elements(const Dims& dims) {
  int64_t elements = 1;
  for (const int64_t size : dims) {
    if (size == kAnySize) continue;
    if (size > 0 && elements > kMostElements / size) return std::nullopt;
    elements *= size;
  }
  return elements;
}

// What becomes of the dimensions, for each kind of layer. The input has at most kMostDims
// dimensions, each from 1 to kMostSize or kAnySize.
class ShapeRule {
 public:
  explicit ShapeRule(const Dims& in) : in_(in) {}

  absl::StatusOr<Dims> operator()(const LinearLayer& layer) const {
    if (in_.empty() || in_.back() == kAnySize)
      return Expects("a last dimension of known size", in_);
    absl::Status status = CheckRange("out_features", layer.out_features, 1, kMostSize);
    if (status.ok()) status = CheckWeight({layer.out_features, in_.back()});
    if (!status.ok()) return status;
    Dims out = in_;
    out.back() = layer.out_features;
    return out;
  }

  absl::StatusOr<Dims> operator()(const ConvolutionLayer& layer) const {
    absl::Status status = ExpectImage(layer.dimensions);
    if (status.ok()) status = CheckRange("out_channels", layer.out_channels, 1, kMostSize);
    if (status.ok()) status = CheckRange("groups", layer.groups, 1, kMostSize);
    if (!status.ok()) return status;
    if (layer.groups < 1 || in_[0] % layer.groups != 0 || layer.out_channels % layer.groups != 0) {
      return Wrong(absl::StrCat("groups: expected a divisor of ", in_[0], " and ",
                                layer.out_channels, " channels, got ", layer.groups));
    }
    Dims weight = {layer.out_channels, in_[0] / layer.groups};
    Dims out = {layer.out_channels};
    for (int i = 0; i < layer.dimensions; ++i) {
      auto window = WindowOf(layer, layer.dilation, i);
      if (!window.ok()) return window.status();
      auto size = window->Out(in_[1 + static_cast<size_t>(i)], /*ceil_mode=*/false);
      if (!size.ok()) return size.status();
      out.push_back(*size);
      weight.push_back(window->kernel);
    }
    if (status = CheckWeight(weight); !status.ok()) return status;
    return out;
  }

  absl::StatusOr<Dims> operator()(const BatchNormLayer& layer) const {
    // batch_norm1d takes [features], too.
    const bool features = layer.dimensions == 1 && in_.size() == 1 && in_[0] != kAnySize;
    absl::Status status = features ? absl::OkStatus() : ExpectImage(layer.dimensions);
    if (status.ok()) status = CheckEps(layer.eps);
    if (!status.ok()) return status;
    return in_;
  }

  absl::StatusOr<Dims> operator()(const LayerNormLayer& layer) const {
    absl::Status status = CheckEps(layer.eps);
    if (status.ok()) status = CheckRange("dimensions", layer.dimensions, 1, kMostDims);
    if (!status.ok()) return status;
    const auto count = static_cast<size_t>(layer.dimensions);
    if (in_.size() < count ||
        std::count(in_.end() - static_cast<ptrdiff_t>(count), in_.end(), kAnySize) != 0) {
      return Expects(absl::StrCat("at least ", count, " dimensions, the last of known size"), in_);
    }
    return in_;
  }

  absl::StatusOr<Dims> operator()(const GroupNormLayer& layer) const {
    if (in_.empty() || in_[0] == kAnySize) return Expects("[channels, ...]", in_);
    if (const absl::Status status = CheckEps(layer.eps); !status.ok()) return status;
    if (layer.groups < 1 || in_[0] % layer.groups != 0) {
      return Wrong(absl::StrCat("num_groups: expected a divisor of ", in_[0], " channels, got ",
                                layer.groups));
    }
    return in_;
  }

  absl::StatusOr<Dims> operator()(const EmbeddingLayer& layer) const {
    absl::Status status = CheckRange("num_embeddings", layer.num_embeddings, 1, kMostSize);
    if (status.ok()) status = CheckRange("embedding_dim", layer.embedding_dim, 1, kMostSize);
    if (status.ok()) status = CheckWeight({layer.num_embeddings, layer.embedding_dim});
    if (!status.ok()) return status;
    Dims out = in_;
    out.push_back(layer.embedding_dim);
    return out;
  }

  absl::StatusOr<Dims> operator()(const RecurrentLayer& layer) const {
    if (in_.size() != 2 || in_[1] == kAnySize) {
      return Expects("2 dimensions [length, features]", in_);
    }
    absl::Status status = CheckRange("hidden_size", layer.hidden_size, 1, kMostSize);
    if (status.ok()) {
      status = CheckRange("num_layers", layer.num_layers, 1, kMostRecurrentLayers);
    }
    const int64_t directions = layer.bidirectional ? 2 : 1;
    const int64_t out = directions * layer.hidden_size;
    const int64_t gates = layer.kind == RecurrentLayer::Kind::kLstm ? 4 : 3;
    if (status.ok()) {
      status = CheckWeight({gates * layer.hidden_size, std::max({in_[1], out, layer.hidden_size})});
    }
    if (!status.ok()) return status;
    if (layer.output == RecurrentLayer::Output::kLast) return Dims{out};
    return Dims{in_[0], out};
  }

  absl::StatusOr<Dims> operator()(const PoolLayer& layer) const {
    absl::Status status = ExpectImage(layer.dimensions);
    if (!status.ok()) return status;
    Dims out = {in_[0]};
    for (int i = 0; i < layer.dimensions; ++i) {
      auto window = WindowOf(layer, layer.dilation, i);
      if (!window.ok()) return window.status();
      if (2 * window->padding > window->kernel) {
        return Wrong(absl::StrCat("padding: expected at most half of kernel_size ", window->kernel,
                                  ", got ", window->padding));
      }
      auto size = window->Out(in_[1 + static_cast<size_t>(i)], layer.ceil_mode);
      if (!size.ok()) return size.status();
      out.push_back(*size);
    }
    return out;
  }

  absl::StatusOr<Dims> operator()(const AdaptivePoolLayer& layer) const {
    const absl::Status status = ExpectImage(layer.dimensions);
    if (!status.ok()) return status;
    Dims out = {in_[0]};
    for (int i = 0; i < layer.dimensions; ++i) {
      auto size = SizeAt("output_size", layer.output_size, layer.dimensions, i, std::nullopt, 1);
      if (!size.ok()) return size.status();
      out.push_back(*size);
    }
    return out;
  }

  absl::StatusOr<Dims> operator()(const ActivationLayer& layer) const {
    if (layer.kind == ActivationLayer::Kind::kSoftmax) {
      const auto rank = static_cast<int64_t>(in_.size());
      const absl::Status status = CheckRange("dim", layer.dim, -rank, rank - 1);
      if (!status.ok()) return status;
    }
    return in_;
  }

  absl::StatusOr<Dims> operator()(const FlattenLayer&) const {
    if (std::count(in_.begin(), in_.end(), kAnySize) != 0) return Dims{kAnySize};
    return Dims{Elements(in_).value_or(kMostElements)};
  }

  absl::StatusOr<Dims> operator()(const DropoutLayer&) const { return in_; }

  absl::StatusOr<Dims> operator()(const PermuteLayer& layer) const {
    Dims sorted = layer.dims, out;
    std::sort(sorted.begin(), sorted.end());
    for (size_t i = 0; i < sorted.size(); ++i) {
      if (sorted[i] != static_cast<int64_t>(i)) sorted.clear();
    }
    if (sorted.size() != in_.size()) {
      return Wrong(absl::StrCat("dims: expected each of 0 to ", in_.size() - 1, " once, got ",
                                DimsText(layer.dims), ", for an input of ", DimsText(in_)));
    }
    for (const int64_t dim : layer.dims) out.push_back(in_[static_cast<size_t>(dim)]);
    return out;
  }

  absl::StatusOr<Dims> operator()(const LastStepLayer&) const {
    if (in_.size() < 2) return Expects("at least 2 dimensions [length, ...]", in_);
    return Dims(in_.begin() + 1, in_.end());
  }

 private:
  // What a convolution or a pooling looks at along one dimension.
  struct Window {
    int64_t kernel, stride, padding, dilation;

    absl::StatusOr<int64_t> Out(int64_t in, bool ceil_mode) const {
      if (in == kAnySize) return kAnySize;
      const int64_t left = in + 2 * padding - dilation * (kernel - 1) - 1;
      if (left < 0) {
        return Wrong(absl::StrCat("kernel_size ", kernel, " is larger than what it is over, ", in,
                                  " and a padding of ", padding));
      }
      int64_t out = (left + (ceil_mode ? stride - 1 : 0)) / stride + 1;
      // The last window begins inside the input or its left padding.
      if (ceil_mode && (out - 1) * stride >= in + padding) --out;
      return out;
    }
  };

  template <typename LayerType>
  static absl::StatusOr<Window> WindowOf(const LayerType& layer, const Sizes& dilations, int i) {
    constexpr bool kPooling = std::is_same_v<LayerType, PoolLayer>;
    const int n = layer.dimensions;
    const auto kernel = SizeAt("kernel_size", layer.kernel_size, n, i, std::nullopt, 1);
    if (!kernel.ok()) return kernel.status();
    const auto stride = SizeAt("stride", layer.stride, n, i, kPooling ? *kernel : 1, 1);
    if (!stride.ok()) return stride.status();
    const auto padding = SizeAt("padding", layer.padding, n, i, 0, 0);
    if (!padding.ok()) return padding.status();
    const auto dilation = SizeAt("dilation", dilations, n, i, 1, 1);
    if (!dilation.ok()) return dilation.status();
    return Window{*kernel, *stride, *padding, *dilation};
  }

  // The value for the i-th dimension.
  static absl::StatusOr<int64_t> SizeAt(absl::string_view name, const Sizes& sizes, int dimensions,
                                        int i, std::optional<int64_t> absent, int64_t low) {
    if (sizes.empty() && absent) return *absent;
    if (sizes.size() != 1 && sizes.size() != static_cast<size_t>(dimensions)) {
      return Wrong(absl::StrCat(name, ": expected ", dimensions == 1 ? "1 value" : "1 or 2 values",
                                ", got ", sizes.size()));
    }
    const int64_t size = sizes[sizes.size() == 1 ? 0 : static_cast<size_t>(i)];
    constexpr int64_t kMostWindow = int64_t{1} << 20;
    if (const absl::Status status = CheckRange(name, size, low, kMostWindow); !status.ok()) {
      return status;
    }
    return size;
  }

  absl::Status ExpectImage(int dimensions) const {
    if (in_.size() == static_cast<size_t>(dimensions) + 1 && in_[0] != kAnySize) {
      return absl::OkStatus();
    }
    return Expects(dimensions == 1 ? "2 dimensions [channels, length]"
                                   : "3 dimensions [channels, height, width]",
                   in_);
  }

  static absl::Status CheckWeight(const Dims& weight) {
    if (Elements(weight)) return absl::OkStatus();
    return Wrong(absl::StrCat("its weight would be ", DimsText(weight), ", more than ",
                              kMostElements, " numbers"));
  }

  const Dims& in_;
};

absl::Status About(const SequentialSpec& spec, size_t index, const absl::Status& status) {
  const LayerSpec& layer = spec.layers[index];
  const std::string line = layer.line > 0 ? absl::StrCat(", line ", layer.line) : "";
  return Wrong(absl::StrCat("layers[", index, "]", line, ": ", LayerName(layer.layer), " ",
                            std::string(status.message())));
}

// The dimensions on the way through the layers, with `length` for the one that has any size.
absl::StatusOr<std::vector<Dims>> Walk(const SequentialSpec& spec, int64_t length) {
  std::vector<Dims> all = {spec.input_dims};
  std::replace(all[0].begin(), all[0].end(), kAnySize, length);
  for (size_t i = 0; i < spec.layers.size(); ++i) {
    const Layer& layer = spec.layers[i].layer;
    const bool embedding = std::holds_alternative<EmbeddingLayer>(layer);
    const bool integers = spec.input_type != SequentialSpec::InputType::kFp32 && i == 0;
    if (embedding != integers) {
      return About(spec, i,
                   Wrong(embedding ? "expects integers, which only the network's input can be "
                                     "(data_type: TYPE_INT64)"
                                   : "expects numbers of TYPE_FP32, gets integers"));
    }
    auto out = std::visit(ShapeRule(all.back()), layer);
    if (!out.ok()) return About(spec, i, out.status());
    if (!Elements(*out) || out->size() > kMostDims) {
      return About(spec, i,
                   Wrong(absl::StrCat("gives ", DimsText(*out), ", more than ", kMostElements,
                                      " numbers or ", kMostDims, " dimensions")));
    }
    all.push_back(*std::move(out));
  }
  return all;
}

absl::Status CheckNames(const SequentialSpec& spec) {
  std::vector<std::string> names;
  for (size_t i = 0; i < spec.layers.size(); ++i) {
    const std::string& name = spec.layers[i].name;
    const bool plain = std::all_of(name.begin(), name.end(), [](unsigned char c) {
      return c == '_' || c == '.' || ('0' <= c && c <= '9') || ('a' <= (c | 32) && (c | 32) <= 'z');
    });
    if (!plain || name.size() > kMostNameBytes ||
        (!name.empty() && absl::StrCat(".", name, ".").find("..") != std::string::npos)) {
      return About(spec, i,
                   Wrong("name: expected letters, digits and '_', with dots between them, as in "
                         "features.0"));
    }
    const std::string module = ModuleName(spec, i);
    for (const std::string& before : names) {
      if (absl::StartsWith(absl::StrCat(module, "."), absl::StrCat(before, ".")) ||
          absl::StartsWith(before, absl::StrCat(module, "."))) {
        return About(spec, i,
                     Wrong(absl::StrCat("name: ", module, " and ", before,
                                        ", a layer before it, are the same or one in the other")));
      }
    }
    names.push_back(module);
  }
  return absl::OkStatus();
}

}  // namespace

absl::string_view LayerName(const Layer& layer) {
  struct Name {
    absl::string_view operator()(const LinearLayer&) const { return "linear"; }
    absl::string_view operator()(const ConvolutionLayer& layer) const {
      return layer.dimensions == 1 ? "conv1d" : "conv2d";
    }
    absl::string_view operator()(const BatchNormLayer& layer) const {
      return layer.dimensions == 1 ? "batch_norm1d" : "batch_norm2d";
    }
    absl::string_view operator()(const LayerNormLayer&) const { return "layer_norm"; }
    absl::string_view operator()(const GroupNormLayer&) const { return "group_norm"; }
    absl::string_view operator()(const EmbeddingLayer&) const { return "embedding"; }
    absl::string_view operator()(const RecurrentLayer& layer) const {
      return layer.kind == RecurrentLayer::Kind::kLstm ? "lstm" : "gru";
    }
    absl::string_view operator()(const PoolLayer& layer) const {
      if (layer.kind == PoolLayer::Kind::kMax) {
        return layer.dimensions == 1 ? "max_pool1d" : "max_pool2d";
      }
      return layer.dimensions == 1 ? "avg_pool1d" : "avg_pool2d";
    }
    absl::string_view operator()(const AdaptivePoolLayer& layer) const {
      if (layer.kind == PoolLayer::Kind::kMax) {
        return layer.dimensions == 1 ? "adaptive_max_pool1d" : "adaptive_max_pool2d";
      }
      return layer.dimensions == 1 ? "adaptive_avg_pool1d" : "adaptive_avg_pool2d";
    }
    absl::string_view operator()(const ActivationLayer& layer) const {
      switch (layer.kind) {
        case ActivationLayer::Kind::kRelu:
          return "relu";
        case ActivationLayer::Kind::kLeakyRelu:
          return "leaky_relu";
        case ActivationLayer::Kind::kElu:
          return "elu";
        case ActivationLayer::Kind::kGelu:
        case ActivationLayer::Kind::kGeluTanh:
          return "gelu";
        case ActivationLayer::Kind::kSilu:
          return "silu";
        case ActivationLayer::Kind::kTanh:
          return "tanh";
        case ActivationLayer::Kind::kSigmoid:
          return "sigmoid";
        case ActivationLayer::Kind::kHardswish:
          return "hardswish";
        case ActivationLayer::Kind::kSoftmax:
          return "softmax";
      }
      return "activation";
    }
    absl::string_view operator()(const FlattenLayer&) const { return "flatten"; }
    absl::string_view operator()(const DropoutLayer&) const { return "dropout"; }
    absl::string_view operator()(const PermuteLayer&) const { return "permute"; }
    absl::string_view operator()(const LastStepLayer&) const { return "last_step"; }
  };
  return std::visit(Name{}, layer);
}

std::string ModuleName(const SequentialSpec& spec, size_t index) {
  const std::string& name = spec.layers[index].name;
  return name.empty() ? absl::StrCat(index) : name;
}

absl::StatusOr<SequentialShapes> CheckSequential(const SequentialSpec& spec) {
  if (spec.layers.empty() || spec.layers.size() > kMostLayers) {
    return Wrong(absl::StrCat("layers: expected 1 to ", kMostLayers, ", got ", spec.layers.size()));
  }
  const auto any = std::count(spec.input_dims.begin(), spec.input_dims.end(), kAnySize);
  const bool sizes_fit = std::all_of(
      spec.input_dims.begin(), spec.input_dims.end(),
      [](int64_t size) { return size == kAnySize || (1 <= size && size <= kMostSize); });
  if (spec.input_dims.empty() || spec.input_dims.size() > kMostDims || any > 1 || !sizes_fit ||
      !Elements(spec.input_dims)) {
    return Wrong(absl::StrCat("input: expected dims of 1 to ", kMostSize,
                              ", or at most one -1 for any size, got ", DimsText(spec.input_dims)));
  }
  if (absl::Status status = CheckNames(spec); !status.ok()) return status;

  SequentialShapes shapes;
  auto dims = Walk(spec, kAnySize);
  if (!dims.ok()) return dims.status();
  shapes.dims = *std::move(dims);
  if (any == 1) {
    // The smallest size that goes all the way: what is larger does, too.
    int64_t low = 1, high = kMostAnySize;
    if (const auto longest = Walk(spec, high); !longest.ok()) return longest.status();
    while (low < high) {
      const int64_t middle = (low + high) / 2;
      if (Walk(spec, middle).ok()) {
        high = middle;
      } else {
        low = middle + 1;
      }
    }
    for (const int64_t size : spec.input_dims) {
      shapes.input_rules.sizes.push_back(
          size == kAnySize ? Range{.minimum = high, .maximum = kMostAnySize} : Range{size, size});
    }
  }
  if (const auto* table = std::get_if<EmbeddingLayer>(&spec.layers[0].layer)) {
    shapes.input_rules.values = Range{0, table->num_embeddings - 1};
  }
  return shapes;
}

}  // namespace sconce::models
