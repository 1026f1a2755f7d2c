// One Linear layer, saved by itself ("weight", "bias") or as the only layer of a module
// ("fc.weight").
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "models/families.h"
#include "models/module_net.h"

namespace sconce::models {
namespace {

constexpr absl::string_view kWeight = "weight";

// Names that each end in a dot, or nothing.
bool IsPrefix(absl::string_view prefix) {
  return prefix.empty() ||
         (prefix.back() == '.' && !absl::StrContains(absl::StrCat(".", prefix), ".."));
}

// A Linear under a dotted name such as "fc." or "model.head."; "" for the Linear itself.
class PrefixedLinear final : public torch::nn::Module {
 public:
  PrefixedLinear(absl::string_view prefix, int64_t in_features, int64_t out_features, bool bias)
      : linear_(torch::nn::LinearOptions(in_features, out_features).bias(bias)) {
    const size_t dot = prefix.find('.');
    const std::string child(prefix.substr(0, dot));
    const absl::string_view rest = prefix.substr(dot + 1);
    if (rest.empty()) {
      register_module(child, linear_);
    } else {
      auto inner = std::make_shared<PrefixedLinear>(rest, in_features, out_features, bias);
      linear_ = inner->linear_;
      register_module(child, std::move(inner));
    }
  }

  at::Tensor forward(const at::Tensor& input) { return linear_->forward(input); }

 private:
  torch::nn::Linear linear_;
};

class LinearArchitecture final : public Architecture {
 public:
  absl::string_view name() const override { return "linear"; }
  absl::string_view family() const override { return "linear"; }
  const std::vector<ParameterSpec>& parameters() const override { return parameters_; }

  absl::StatusOr<Inference> Infer(absl::Span<const NamedShape> state,
                                  const Parameters& /*configured*/) const override {
    if (state.empty() || state.size() > 2) {
      return absl::NotFoundError("a linear layer is a weight and at most a bias");
    }
    const bool weight_first = absl::EndsWith(state[0].name, kWeight);
    const NamedShape& weight = weight_first ? state.front() : state.back();
    const absl::string_view name = weight.name;
    absl::string_view prefix = name;
    if (!absl::ConsumeSuffix(&prefix, kWeight) || !IsPrefix(prefix)) {
      return absl::NotFoundError("no tensor is called weight or NAME.weight");
    }
    if (weight.shape.size() != 2) {
      return absl::NotFoundError(absl::StrCat(Quoted(name), " is ", ShapeText(weight.shape),
                                              ", expected [out_features, in_features]"));
    }
    const NamedShape& other = weight_first ? state.back() : state.front();
    if (state.size() == 2 && other.name != absl::StrCat(prefix, "bias")) {
      return absl::NotFoundError(
          absl::StrCat(Quoted(other.name), " stands where a bias was expected"));
    }
    Parameters parameters = {{"in_features", weight.shape[1]},
                             {"out_features", weight.shape[0]},
                             {"bias", state.size() == 2}};
    if (!prefix.empty()) parameters["prefix"] = std::string(prefix);
    return Inference{std::move(parameters), ""};
  }

  absl::StatusOr<std::unique_ptr<Net>> Create(const Parameters& parameters) const override {
    absl::StatusOr<Parameters> complete = CompleteParameters(*this, parameters);
    if (!complete.ok()) return complete.status();
    const auto& prefix = Get<std::string>(*complete, "prefix");
    const auto in_features = Get<int64_t>(*complete, "in_features");
    const auto out_features = Get<int64_t>(*complete, "out_features");
    const bool bias = Get<bool>(*complete, "bias");
    Signature signature = MakeSignature({in_features}, out_features);
    if (!IsPrefix(prefix)) {
      return absl::InvalidArgumentError(absl::StrCat(
          "architecture linear: parameter prefix: expected names that each end in a dot, got ",
          Quoted(prefix)));
    }
    if (prefix.empty()) {
      return BuildModuleNet<torch::nn::LinearImpl>(
          name(), "Linear", std::move(signature),
          torch::nn::LinearOptions(in_features, out_features).bias(bias));
    }
    return BuildModuleNet<PrefixedLinear>(name(), "Linear", std::move(signature), prefix,
                                          in_features, out_features, bias);
  }

 private:
  const std::vector<ParameterSpec> parameters_ = {
      {.name = "in_features", .type = ParameterSpec::Type::kInt, .meaning = "length of the input"},
      {.name = "out_features",
       .type = ParameterSpec::Type::kInt,
       .meaning = "length of the output"},
      {.name = "bias",
       .type = ParameterSpec::Type::kBool,
       .default_value = true,
       .meaning = "whether a bias is added"},
      {.name = "prefix",
       .type = ParameterSpec::Type::kString,
       .default_value = "",
       .meaning = "what stands before weight and bias, such as fc."},
  };
};

}  // namespace

const Architecture* Linear() {
  static const auto* const architecture = new LinearArchitecture;
  return architecture;
}

}  // namespace sconce::models
