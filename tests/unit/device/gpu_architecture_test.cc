#include "server/device/nvidia/gpu_architecture.h"

#include <gtest/gtest.h>

namespace sconce {
namespace {

constexpr char kList[] = "75,80,90,120";

TEST(GpuArchitecture, MachineCodeRunsOnItsOwnAndOnLaterMinorVersions) {
  EXPECT_TRUE(IsArchitectureCovered(kList, 7, 5));
  EXPECT_TRUE(IsArchitectureCovered(kList, 8, 0));
  EXPECT_TRUE(IsArchitectureCovered(kList, 8, 9));
  EXPECT_TRUE(IsArchitectureCovered("80,103,120", 10, 3));
  EXPECT_FALSE(IsArchitectureCovered("80,103,120", 10, 0));
}

TEST(GpuArchitecture, OlderOnesAndThoseBetweenAreNotCovered) {
  EXPECT_FALSE(IsArchitectureCovered(kList, 7, 0));
  EXPECT_FALSE(IsArchitectureCovered(kList, 6, 1));
  EXPECT_FALSE(IsArchitectureCovered(kList, 10, 0));
  EXPECT_FALSE(IsArchitectureCovered(kList, 11, 0));
}

TEST(GpuArchitecture, PtxOfTheLastRunsOnNewerOnes) {
  EXPECT_TRUE(IsArchitectureCovered(kList, 12, 1));
  EXPECT_TRUE(IsArchitectureCovered(kList, 13, 0));
  EXPECT_FALSE(IsArchitectureCovered("", 13, 0));
}

}  // namespace
}  // namespace sconce
