// What is free of the host's memory, as files of the kernel's say it in and out of containers.
#include "server/base/host_memory_budget.h"

#include <gtest/gtest.h>

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "tests/support/temp_dir.h"

namespace sconce {
namespace {

class HostMemoryTest : public testing::Test {
 protected:
  HostMemoryTest() {
    dir_.Write("proc/meminfo",
               "MemTotal:       2000 kB\nMemFree:          10 kB\nMemAvailable:   1000 kB\n");
  }

  void ExpectFree(int64_t free_bytes, int64_t total_bytes) const {
    const auto memory = ReadHostMemory(dir_.path());
    ASSERT_TRUE(memory.has_value());
    EXPECT_EQ(memory->free_bytes, free_bytes);
    EXPECT_EQ(memory->total_bytes, total_bytes);
  }

  const TempDir dir_;
};

TEST_F(HostMemoryTest, WithoutGroupsItIsWhatTheKernelHasAvailable) {
  ExpectFree(1'024'000, 2'048'000);
  dir_.Write("proc/self/cgroup", "0::/\n");
  ExpectFree(1'024'000, 2'048'000);
}

TEST_F(HostMemoryTest, NothingIsKnownWhereNothingIsSaid) {
  dir_.Remove("proc/meminfo");
  EXPECT_FALSE(ReadHostMemory(dir_.path()).has_value());
  dir_.Write("proc/meminfo", "MemAvailable: many\n");
  EXPECT_FALSE(ReadHostMemory(dir_.path()).has_value());
}

TEST_F(HostMemoryTest, ALimitOfVersion2BindsAndItsFilesCountAsFree) {
  dir_.Write("proc/self/cgroup", "0::/pod/c\n");
  dir_.Write("sys/fs/cgroup/pod/c/memory.max", "500000\n");
  dir_.Write("sys/fs/cgroup/pod/c/memory.current", "400000\n");
  ExpectFree(100'000, 500'000);
  dir_.Write("sys/fs/cgroup/pod/c/memory.stat",
             "anon 100\nfile 300000\ninactive_file 100000\nactive_file 50000\n");
  ExpectFree(250'000, 500'000);
  // A group above may leave less.
  dir_.Write("sys/fs/cgroup/pod/memory.max", "600000\n");
  dir_.Write("sys/fs/cgroup/pod/memory.current", "590000\n");
  ExpectFree(10'000, 600'000);
  dir_.Write("sys/fs/cgroup/pod/memory.max", "max\n");
  ExpectFree(250'000, 500'000);
}

TEST_F(HostMemoryTest, ALimitOfVersion1BindsWhereverTheGroupIsMounted) {
  dir_.Write("proc/self/cgroup", "9:cpu:/\n4:memory:/docker/abc\n0::/\n");
  // In a container the host's path is not there; its own group is on top.
  dir_.Write("sys/fs/cgroup/memory/memory.limit_in_bytes", "300000\n");
  dir_.Write("sys/fs/cgroup/memory/memory.usage_in_bytes", "250000\n");
  dir_.Write("sys/fs/cgroup/memory/memory.stat",
             "inactive_file 1\ntotal_inactive_file 20000\ntotal_active_file 10000\n");
  ExpectFree(80'000, 300'000);
  dir_.Write("sys/fs/cgroup/memory/docker/abc/memory.limit_in_bytes", "9223372036854771712\n");
  dir_.Write("sys/fs/cgroup/memory/docker/abc/memory.usage_in_bytes", "250000\n");
  ExpectFree(80'000, 300'000);
}

TEST_F(HostMemoryTest, UsageBeyondTheLimitLeavesNothing) {
  dir_.Write("proc/self/cgroup", "0::/../above\n");
  dir_.Write("sys/fs/cgroup/memory.max", "1000\n");
  dir_.Write("sys/fs/cgroup/memory.current", "2000\n");
  ExpectFree(0, 1000);
}

TEST_F(HostMemoryTest, WhatIsPromisedIsNotFreeUntilItIsGivenBack) {
  HostMemoryBudget budget(dir_.path());
  std::optional<HostMemoryBudget::Reservation> first = budget.Reserve(1'000'000);
  ASSERT_TRUE(first.has_value());
  EXPECT_EQ(budget.Free()->free_bytes, 24'000);
  EXPECT_FALSE(budget.Reserve(24'001).has_value());
  {
    HostMemoryBudget::Reservation moved = *std::move(first);
    first.reset();
    EXPECT_FALSE(budget.Reserve(24'001).has_value());
    EXPECT_TRUE(budget.Reserve(24'000).has_value());
  }
  EXPECT_TRUE(budget.Reserve(1'024'000).has_value());
}

TEST_F(HostMemoryTest, ThisMachineSaysSomething) {
  const auto memory = ReadHostMemory();
  ASSERT_TRUE(memory.has_value());
  EXPECT_GT(memory->free_bytes, 0);
  EXPECT_GE(memory->total_bytes, memory->free_bytes);
}

}  // namespace
}  // namespace sconce
