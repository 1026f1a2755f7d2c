// A multilayer perceptron: Linear layers in a chain with one activation between them, as written
// with nn.Sequential ("0.weight", "2.weight"; "net.0.weight") or by hand ("fc1.weight").
#include <ATen/ops/gelu.h>
#include <ATen/ops/relu.h>
#include <ATen/ops/sigmoid.h>
#include <ATen/ops/silu.h>
#include <ATen/ops/tanh.h>

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "models/families.h"
#include "models/module_net.h"

namespace sconce::models {
namespace {

// More is no perceptron that anybody trained, and each costs a module.
constexpr size_t kMostLayers = 1000;

at::Tensor Activate(absl::string_view activation, const at::Tensor& x) {
  if (activation == "relu") return at::relu(x);
  if (activation == "gelu") return at::gelu(x);
  if (activation == "tanh") return at::tanh(x);
  if (activation == "sigmoid") return at::sigmoid(x);
  if (activation == "silu") return at::silu(x);
  return x;  // "none"
}

// "net.2" = "net." and 2.
struct NumberedName {
  absl::string_view stem;
  int64_t number = 0;

  // Numbers of an nn.Sequential count its activations too.
  bool in_sequential() const { return stem.empty() || stem.back() == '.'; }
};

std::optional<NumberedName> SplitNumber(absl::string_view name) {
  size_t digits = name.size();
  while (digits > 0 && absl::ascii_isdigit(static_cast<unsigned char>(name[digits - 1]))) --digits;
  NumberedName split{.stem = name.substr(0, digits)};
  const absl::string_view number = name.substr(digits);
  if (!absl::SimpleAtoi(number, &split.number) || absl::StrCat(split.number) != number) {
    return std::nullopt;
  }
  return split;
}

// Whether an activation stands after layers[i], for all but the last: in a Sequential where its
// numbering leaves a gap, elsewhere always. Nullopt where the numbering of a Sequential leaves no
// gap at all: the names are then those of a ModuleList, of which forward() may make anything.
std::optional<std::vector<bool>> ActivationsBetween(const std::vector<std::string>& layers) {
  std::vector<bool> between(layers.size() - 1, true);
  std::optional<NumberedName> previous = SplitNumber(layers[0]);
  for (size_t i = 0; i < between.size(); ++i) {
    std::optional<NumberedName> next = SplitNumber(layers[i + 1]);
    if (previous && next && previous->in_sequential() && previous->stem == next->stem) {
      between[i] = next->number != previous->number + 1;
    }
    previous = next;
  }
  if (std::find(between.begin(), between.end(), true) == between.end()) return std::nullopt;
  return between;
}

class MlpModule final : public torch::nn::Module {
 public:
  MlpModule(const std::vector<std::string>& layers, const std::vector<int64_t>& features, bool bias,
            std::string activation)
      : activation_(std::move(activation)),
        between_(ActivationsBetween(layers).value_or(std::vector<bool>(layers.size() - 1, true))) {
    for (size_t i = 0; i < layers.size(); ++i) {
      layers_.emplace_back(torch::nn::LinearOptions(features[i], features[i + 1]).bias(bias));
      RegisterNested(*this, layers[i], layers_.back());
    }
  }

  at::Tensor forward(at::Tensor x) {
    for (size_t i = 0; i < layers_.size(); ++i) {
      x = layers_[i]->forward(x);
      if (i < between_.size() && between_[i]) x = Activate(activation_, x);
    }
    return x;
  }

 private:
  const std::string activation_;
  const std::vector<bool> between_;
  std::vector<torch::nn::Linear> layers_;
};

class MlpArchitecture final : public Architecture {
 public:
  absl::string_view name() const override { return "mlp"; }
  absl::string_view family() const override { return "mlp"; }
  const std::vector<ParameterSpec>& parameters() const override { return parameters_; }

  absl::StatusOr<Inference> Infer(absl::Span<const NamedShape> state,
                                  const Parameters& configured) const override {
    absl::StatusOr<std::vector<std::string>> layers = Layers(state, configured);
    if (!layers.ok()) return layers.status();

    std::vector<int64_t> features;
    size_t biases = 0;
    for (const std::string& layer : *layers) {
      const NamedShape* weight = Find(state, layer + ".weight");
      if (weight == nullptr || weight->shape.size() != 2) {
        return absl::NotFoundError(absl::StrCat(Quoted(layer), " has no weight of two dimensions"));
      }
      if (features.empty()) features.push_back(weight->shape[1]);
      if (features.back() != weight->shape[1]) {
        return absl::NotFoundError(absl::StrCat(Quoted(layer), " takes ", weight->shape[1],
                                                " values where the layer before it gives ",
                                                features.back()));
      }
      features.push_back(weight->shape[0]);
      if (Find(state, layer + ".bias") != nullptr) ++biases;
    }
    if (biases != 0 && biases != layers->size()) {
      return absl::NotFoundError(absl::StrCat(biases, " of ", layers->size(),
                                              " layers have a bias, expected all or none"));
    }

    Inference inference;
    inference.parameters = {{"layers", absl::StrJoin(*layers, ",")},
                            {"features", std::move(features)},
                            {"bias", biases != 0}};
    if (configured.contains("activation")) return inference;
    if (!ActivationsBetween(*layers)) {
      return absl::FailedPreconditionError(absl::StrCat(
          "the layers ", Quoted(absl::StrJoin(*layers, ",")),
          " are numbered without a gap, so the file does not tell whether or which activation "
          "stands between them. Write it into config.pbtxt, ",
          ActivationLine("relu"), " (or gelu, tanh, sigmoid, silu, none)"));
    }
    inference.assumed = absl::StrCat(
        "the activation is not in the file: relu is assumed; another is set in config.pbtxt with ",
        ActivationLine("gelu"));
    return inference;
  }

  absl::StatusOr<std::unique_ptr<Net>> Create(const Parameters& parameters) const override {
    absl::StatusOr<Parameters> complete = CompleteParameters(*this, parameters);
    if (!complete.ok()) return complete.status();
    const std::vector<std::string> layers =
        absl::StrSplit(Get<std::string>(*complete, "layers"), ',');
    const auto& features = Get<std::vector<int64_t>>(*complete, "features");
    if (layers.size() < 2 || layers.size() > kMostLayers || features.size() != layers.size() + 1) {
      return absl::InvalidArgumentError(
          absl::StrCat("architecture mlp: expected 2 to ", kMostLayers,
                       " layers and one more features than layers, got ", layers.size(),
                       " layers and ", features.size(), " features"));
    }
    return BuildModuleNet<MlpModule>(
        name(),
        SplitNumber(layers[0]) && SplitNumber(layers[0])->stem.empty() ? "Sequential" : "MLP",
        MakeSignature({features.front()}, features.back()), layers, features,
        Get<bool>(*complete, "bias"), Get<std::string>(*complete, "activation"));
  }

 private:
  static std::string ActivationLine(absl::string_view activation) {
    return absl::StrCat("architecture { name: \"mlp\" parameters { key: \"activation\" value: \"",
                        activation, "\" } }");
  }

  // The names of the layers in the order they are run: as configured, or by their numbers.
  static absl::StatusOr<std::vector<std::string>> Layers(absl::Span<const NamedShape> state,
                                                         const Parameters& configured) {
    const auto given = configured.find("layers");
    if (given != configured.end()) {
      return std::vector<std::string>(absl::StrSplit(std::get<std::string>(given->second), ','));
    }
    std::vector<std::pair<NumberedName, std::string>> layers;
    for (const NamedShape& tensor : state) {
      absl::string_view name = tensor.name;
      if (absl::EndsWith(name, ".bias")) continue;
      std::optional<NumberedName> number;
      if (absl::EndsWith(name, ".weight")) {
        name.remove_suffix(absl::string_view(".weight").size());
        number = SplitNumber(name);
      }
      if (!number || absl::StrContains(name, ',') || layers.size() == kMostLayers) {
        return absl::NotFoundError(absl::StrCat(
            Quoted(tensor.name), " is no weight or bias of a numbered layer such as 0 or fc1"));
      }
      if (!layers.empty() && layers[0].first.stem != number->stem) {
        return absl::NotFoundError(absl::StrCat(Quoted(name), " and ", Quoted(layers[0].second),
                                                " are not numbers of one series"));
      }
      layers.emplace_back(*number, name);
    }
    if (layers.size() < 2) return absl::NotFoundError("fewer than two layers");
    std::sort(layers.begin(), layers.end(),
              [](const auto& a, const auto& b) { return a.first.number < b.first.number; });
    std::vector<std::string> names;
    for (auto& layer : layers) names.push_back(std::move(layer.second));
    return names;
  }

  const std::vector<ParameterSpec> parameters_ = {
      {.name = "layers",
       .type = ParameterSpec::Type::kString,
       .meaning = "names of the layers in order, between commas"},
      {.name = "features",
       .type = ParameterSpec::Type::kInts,
       .meaning = "length of the input, then of each layer's output"},
      {.name = "bias",
       .type = ParameterSpec::Type::kBool,
       .default_value = true,
       .meaning = "whether the layers add a bias"},
      {.name = "activation",
       .type = ParameterSpec::Type::kString,
       .default_value = "relu",
       .meaning = "what stands between the layers",
       .choices = {"relu", "gelu", "tanh", "sigmoid", "silu", "none"}},
  };
};

}  // namespace

const Architecture* Mlp() {
  static const auto* const architecture = new MlpArchitecture;
  return architecture;
}

}  // namespace sconce::models
