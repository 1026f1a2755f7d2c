#include "server/device/nvidia/pci.h"

#include <algorithm>
#include <fstream>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"

namespace sconce {

int NumaNodeOfPciDevice(const std::string& bus_id, const std::string& devices) {
  int node = -1;
  std::ifstream file(absl::StrCat(devices, "/", absl::AsciiStrToLower(bus_id), "/numa_node"));
  return file >> node ? std::max(node, -1) : -1;
}

}  // namespace sconce
