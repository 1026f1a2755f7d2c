// Which processors are near a device: the NUMA node it is attached to has some of the machine's
// processors and memory, and a thread that works for the device is fastest on those.

#ifndef SCONCE_SERVER_BASE_NUMA_H_
#define SCONCE_SERVER_BASE_NUMA_H_

#include <sched.h>

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace sconce {

// The numbers in a list as the kernel writes it: "0-3,8,10-11". INVALID_ARGUMENT for anything else,
// and for processors that a cpu_set_t has no room for.
absl::StatusOr<std::vector<int>> ParseCpuList(std::string_view text);

// Keeps one thread on the processors of a NUMA node. Owned and used by that thread alone.
class NumaBinding {
 public:
  // `nodes` has a folder nodeN for each node.
  explicit NumaBinding(std::string nodes = "/sys/devices/system/node") : nodes_(std::move(nodes)) {}

  // Moves the thread to those of the node's processors that it might use before it was first moved;
  // to all of those with node -1, or where there is no such node, or none of its processors may be
  // used. Costs nothing where the thread is there already.
  void MoveTo(int node) {
    if (node != node_) Move(node);
  }

 private:
  void Move(int node);

  const std::string nodes_;
  int node_ = -1;
  bool moved_ = false;
  cpu_set_t before_{};
};

}  // namespace sconce

#endif  // SCONCE_SERVER_BASE_NUMA_H_
