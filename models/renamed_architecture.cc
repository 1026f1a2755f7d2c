#include "models/renamed_architecture.h"

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/string_view.h"

namespace sconce::models {
namespace {

class RenamedArchitecture final : public Architecture {
 public:
  RenamedArchitecture(std::shared_ptr<const Architecture> original, Renaming renaming)
      : original_(std::move(original)), renaming_(std::move(renaming)) {}

  absl::string_view name() const override { return original_->name(); }
  absl::string_view family() const override { return original_->family(); }
  const std::vector<ParameterSpec>& parameters() const override { return original_->parameters(); }
  std::string program_id() const override { return original_->program_id(); }
  absl::StatusOr<Inference> Infer(absl::Span<const NamedShape> state,
                                  const Parameters& configured) const override {
    return original_->Infer(Renamed(state, renaming_), configured);
  }
  std::string NameOf(const std::string& saved) const override {
    const std::string name = renaming_(saved);
    return name.empty() ? "" : original_->NameOf(name);
  }
  absl::StatusOr<std::unique_ptr<Net>> Create(const Parameters& parameters) const override {
    return original_->Create(parameters);
  }

 private:
  const std::shared_ptr<const Architecture> original_;
  const Renaming renaming_;
};

}  // namespace

std::shared_ptr<const Architecture> Renamed(std::shared_ptr<const Architecture> original,
                                            Renaming renaming) {
  return std::make_shared<RenamedArchitecture>(std::move(original), std::move(renaming));
}

std::vector<NamedShape> Renamed(absl::Span<const NamedShape> state, const Renaming& renaming) {
  std::vector<NamedShape> renamed;
  renamed.reserve(state.size());
  for (const NamedShape& tensor : state) {
    std::string name = renaming(tensor.name);
    if (!name.empty()) renamed.push_back({std::move(name), tensor.dtype, tensor.shape});
  }
  return renamed;
}

Renaming WithoutPrefix(std::string prefix) {
  return [prefix = std::move(prefix)](const std::string& saved) {
    return absl::StartsWith(saved, prefix) ? saved.substr(prefix.size()) : saved;
  };
}

std::string SharedPrefix(absl::Span<const NamedShape> state) {
  absl::string_view shared = state.empty() ? "" : absl::string_view(state[0].name);
  for (const NamedShape& tensor : state) {
    const auto [end, _] =
        std::mismatch(shared.begin(), shared.end(), tensor.name.begin(), tensor.name.end());
    shared = shared.substr(0, end - shared.begin());
  }
  const absl::string_view prefix = shared.substr(0, shared.rfind('.') + 1);
  // No module is called "".
  if (absl::StartsWith(prefix, ".") || absl::StrContains(prefix, "..")) return "";
  return std::string(prefix);
}

}  // namespace sconce::models
