#include "server/base/numa.h"

#include <fstream>
#include <iterator>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "server/base/printable.h"

namespace sconce {

absl::StatusOr<std::vector<int>> ParseCpuList(std::string_view text) {
  std::vector<int> cpus;
  const std::string list(absl::StripAsciiWhitespace(std::string(text)));
  if (list.empty()) return cpus;  // a node of memory alone
  for (absl::string_view range : absl::StrSplit(list, ',')) {
    const std::vector<absl::string_view> ends = absl::StrSplit(range, '-');
    int first = -1, last = -1;
    if (ends.size() > 2 || !absl::SimpleAtoi(ends.front(), &first) ||
        !absl::SimpleAtoi(ends.back(), &last) || first < 0 || last < first ||
        last >= CPU_SETSIZE) {
      return absl::InvalidArgumentError(absl::StrCat(
          "expected a list of processors such as 0-3,8, each below ", CPU_SETSIZE, ", got '",
          Printable(text), "'"));
    }
    for (int cpu = first; cpu <= last; ++cpu) cpus.push_back(cpu);
  }
  return cpus;
}

void NumaBinding::Move(int node) {
  node_ = node;
  if (!moved_ && sched_getaffinity(0, sizeof before_, &before_) != 0) return;
  moved_ = true;
  cpu_set_t wanted = before_;
  if (node >= 0) {
    std::ifstream file(absl::StrCat(nodes_, "/node", node, "/cpulist"));
    const std::string text((std::istreambuf_iterator<char>(file)), {});
    const auto cpus = ParseCpuList(text);
    cpu_set_t near{};
    if (cpus.ok()) {
      for (const int cpu : *cpus) {
        if (CPU_ISSET(cpu, &before_)) CPU_SET(cpu, &near);
      }
    }
    if (CPU_COUNT(&near) > 0) wanted = near;
  }
  // A thread that may not be moved works where it is.
  static_cast<void>(sched_setaffinity(0, sizeof wanted, &wanted));
}

}  // namespace sconce
