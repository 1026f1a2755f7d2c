#include "server/device/nvidia/pci.h"

#include <gtest/gtest.h>

#include <string>

#include "tests/support/temp_dir.h"

namespace sconce {
namespace {

TEST(Pci, TheNumaNodeIsFoundWhateverTheCaseOfTheBusId) {
  const TempDir dir;
  dir.Write("0000:3b:00.0/numa_node", "1\n");
  dir.Write("0000:af:00.0/numa_node", "-1\n");
  dir.Write("0000:b0:00.0/numa_node", "none\n");
  const std::string& devices = dir.path();
  EXPECT_EQ(NumaNodeOfPciDevice("0000:3b:00.0", devices), 1);
  EXPECT_EQ(NumaNodeOfPciDevice("0000:3B:00.0", devices), 1);
  EXPECT_EQ(NumaNodeOfPciDevice("0000:AF:00.0", devices), -1);
  EXPECT_EQ(NumaNodeOfPciDevice("0000:b0:00.0", devices), -1);
  EXPECT_EQ(NumaNodeOfPciDevice("0000:ff:00.0", devices), -1);
}

}  // namespace
}  // namespace sconce
