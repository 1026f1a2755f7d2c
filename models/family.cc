#include "models/family.h"

#include <algorithm>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace sconce::models {
namespace {

// What of `inferred` is not as the variant has it; empty: nothing.
std::string Contradiction(const Variant& variant, const Parameters& inferred) {
  for (const auto& [name, value] : variant.fixed) {
    const auto it = inferred.find(name);
    if (it != inferred.end() && it->second != value) {
      return absl::StrCat(variant.name, " has ", name, "=", ToString(value), ", the weights ", name,
                          "=", ToString(it->second));
    }
  }
  return "";
}

class VariantArchitecture final : public Architecture {
 public:
  VariantArchitecture(const Family& family, const Variant& variant)
      : family_(family), variant_(variant) {
    for (const ParameterSpec& spec : family.parameters()) {
      if (!variant.fixed.contains(spec.name)) parameters_.push_back(spec);
    }
  }

  absl::string_view name() const override { return variant_.name; }
  absl::string_view family() const override { return family_.name(); }
  const std::vector<ParameterSpec>& parameters() const override { return parameters_; }

  absl::StatusOr<Inference> Infer(absl::Span<const NamedShape> state,
                                  const Parameters& configured) const override {
    Parameters known = configured;
    known.insert(variant_.fixed.begin(), variant_.fixed.end());
    absl::StatusOr<Inference> inference = family_.Infer(state, known);
    if (!inference.ok()) return inference;
    if (inference->contradiction.empty()) {
      inference->contradiction = Contradiction(variant_, inference->parameters);
    }
    for (const auto& [name, value] : variant_.fixed) inference->parameters.erase(name);
    return inference;
  }

  std::string NameOf(const std::string& saved) const override { return family_.NameOf(saved); }

  absl::StatusOr<std::unique_ptr<Net>> Create(const Parameters& parameters) const override {
    absl::StatusOr<Parameters> complete = CompleteParameters(*this, parameters);
    if (!complete.ok()) return complete.status();
    complete->insert(variant_.fixed.begin(), variant_.fixed.end());
    return family_.Build(*complete);
  }

 private:
  const Family& family_;
  const Variant& variant_;
  std::vector<ParameterSpec> parameters_;
};

class FamilyArchitecture final : public Architecture {
 public:
  explicit FamilyArchitecture(const Family& family) : family_(family) {}

  absl::string_view name() const override { return family_.name(); }
  absl::string_view family() const override { return family_.name(); }
  const std::vector<ParameterSpec>& parameters() const override { return family_.parameters(); }

  absl::StatusOr<Inference> Infer(absl::Span<const NamedShape> state,
                                  const Parameters& configured) const override {
    absl::StatusOr<Inference> inference = family_.Infer(state, configured);
    if (!inference.ok() || !inference->contradiction.empty()) return inference;
    const auto& variants = family_.variants();
    const auto named = std::find_if(variants.begin(), variants.end(), [&](const Variant& variant) {
      return Contradiction(variant, inference->parameters).empty();
    });
    if (named != variants.end()) {
      inference->contradiction =
          absl::StrCat("of this ", family_.name(), ", ", named->name, " is the name");
    }
    return inference;
  }

  std::string NameOf(const std::string& saved) const override { return family_.NameOf(saved); }

  absl::StatusOr<std::unique_ptr<Net>> Create(const Parameters& parameters) const override {
    absl::StatusOr<Parameters> complete = CompleteParameters(*this, parameters);
    if (!complete.ok()) return complete.status();
    return family_.Build(*complete);
  }

 private:
  const Family& family_;
};

}  // namespace

std::vector<const Architecture*> ArchitecturesOf(const Family& family) {
  std::vector<const Architecture*> all;
  for (const Variant& variant : family.variants()) {
    all.push_back(new VariantArchitecture(family, variant));
  }
  all.push_back(new FamilyArchitecture(family));
  return all;
}

}  // namespace sconce::models
