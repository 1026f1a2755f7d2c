#include "models/prefixed_architecture.h"

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/string_view.h"

namespace sconce::models {
namespace {

class PrefixedArchitecture final : public Architecture {
 public:
  PrefixedArchitecture(std::shared_ptr<const Architecture> bare, std::string prefix)
      : bare_(std::move(bare)), prefix_(std::move(prefix)) {}

  absl::string_view name() const override { return bare_->name(); }
  absl::string_view family() const override { return bare_->family(); }
  const std::vector<ParameterSpec>& parameters() const override { return bare_->parameters(); }
  std::string program_id() const override { return bare_->program_id(); }
  absl::StatusOr<Inference> Infer(absl::Span<const NamedShape> state,
                                  const Parameters& configured) const override {
    return bare_->Infer(WithoutPrefix(prefix_, state), configured);
  }
  std::string NameOf(const std::string& saved) const override {
    return bare_->NameOf(absl::StartsWith(saved, prefix_) ? saved.substr(prefix_.size()) : saved);
  }
  absl::StatusOr<std::unique_ptr<Net>> Create(const Parameters& parameters) const override {
    return bare_->Create(parameters);
  }

 private:
  const std::shared_ptr<const Architecture> bare_;
  const std::string prefix_;
};

}  // namespace

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

std::vector<NamedShape> WithoutPrefix(const std::string& prefix,
                                      absl::Span<const NamedShape> state) {
  std::vector<NamedShape> bare(state.begin(), state.end());
  for (NamedShape& tensor : bare) {
    if (absl::StartsWith(tensor.name, prefix)) tensor.name.erase(0, prefix.size());
  }
  return bare;
}

std::shared_ptr<const Architecture> WithPrefix(std::string prefix,
                                               std::shared_ptr<const Architecture> bare) {
  return std::make_shared<PrefixedArchitecture>(std::move(bare), std::move(prefix));
}

}  // namespace sconce::models
