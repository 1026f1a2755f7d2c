#include "server/weights/key_normalisation.h"

#include <algorithm>
#include <string_view>

namespace sconce {
namespace {

constexpr std::string_view kWrappers[] = {"module.", "_orig_mod.", "model."};

}  // namespace

std::string WrapperPrefix(absl::Span<const std::string> names) {
  if (names.empty()) return "";
  size_t stripped = 0;
  for (bool again = true; again;) {
    again = false;
    for (const std::string_view wrapper : kWrappers) {
      const bool shared = std::all_of(names.begin(), names.end(), [&](const std::string& name) {
        const std::string_view rest = std::string_view(name).substr(stripped);
        return rest.size() > wrapper.size() && rest.starts_with(wrapper);
      });
      if (shared) {
        stripped += wrapper.size();
        again = true;
      }
    }
  }
  return names[0].substr(0, stripped);
}

bool StripModuleName(const std::string& prefix, std::string& name) {
  if (prefix.empty()) return true;
  if (name + "." == prefix) {
    name.clear();
    return true;
  }
  if (!name.starts_with(prefix)) return false;
  name.erase(0, prefix.size());
  return true;
}

}  // namespace sconce
