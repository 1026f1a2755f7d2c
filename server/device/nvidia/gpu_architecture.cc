#include "server/device/nvidia/gpu_architecture.h"

#include <algorithm>
#include <charconv>

namespace sconce {

bool IsArchitectureCovered(std::string_view compiled_for, int major, int minor) {
  int last = -1;
  while (!compiled_for.empty()) {
    const size_t end = std::min(compiled_for.find(','), compiled_for.size());
    int architecture = 0;
    std::from_chars(compiled_for.data(), compiled_for.data() + end, architecture);
    if (architecture / 10 == major && architecture % 10 <= minor) return true;
    last = architecture;
    compiled_for.remove_prefix(std::min(end + 1, compiled_for.size()));
  }
  return last >= 0 && last <= major * 10 + minor;
}

}  // namespace sconce
