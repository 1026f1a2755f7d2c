#include "server/base/numa.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <thread>

#include "tests/support/temp_dir.h"

namespace sconce {
namespace {

using Cpus = std::vector<int>;

TEST(CpuListTest, RangesAndSingleProcessors) {
  EXPECT_EQ(*ParseCpuList("0-3,8,10-11\n"), (Cpus{0, 1, 2, 3, 8, 10, 11}));
  EXPECT_EQ(*ParseCpuList("5"), Cpus{5});
  EXPECT_EQ(*ParseCpuList("\n"), Cpus{}) << "a node of memory alone";
}

TEST(CpuListTest, AnythingElseIsRefused) {
  for (const char* text : {"a", "1,", ",1", "3-1", "1-2-3", "-1", "1-", "0-99999999", "99999999999"}) {
    EXPECT_EQ(ParseCpuList(text).status().code(), absl::StatusCode::kInvalidArgument) << text;
  }
}

Cpus CpusOfThisThread() {
  cpu_set_t set;
  EXPECT_EQ(sched_getaffinity(0, sizeof set, &set), 0);
  Cpus cpus;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (CPU_ISSET(cpu, &set)) cpus.push_back(cpu);
  }
  return cpus;
}

class NumaBindingTest : public ::testing::Test {
 protected:
  void Node(int number, const std::string& cpus) {
    const auto folder = std::filesystem::path(nodes_.path()) / ("node" + std::to_string(number));
    std::filesystem::create_directories(folder);
    std::ofstream(folder / "cpulist") << cpus << "\n";
  }
  // Where a thread runs after each of these moves.
  std::vector<Cpus> After(const std::vector<int>& moves) {
    std::vector<Cpus> seen;
    std::thread([&] {
      NumaBinding binding(nodes_.path());
      for (const int node : moves) {
        binding.MoveTo(node);
        seen.push_back(CpusOfThisThread());
      }
    }).join();
    return seen;
  }

  TempDir nodes_;
  const Cpus all_ = CpusOfThisThread();
};

TEST_F(NumaBindingTest, AThreadRunsOnItsNodeAlone) {
  Node(0, std::to_string(all_.front()));
  Node(1, std::to_string(all_.back()));
  EXPECT_EQ(After({0, 1, -1}), (std::vector<Cpus>{{all_.front()}, {all_.back()}, all_}));
}

TEST_F(NumaBindingTest, ANodeThatIsNotThereOrMayNotBeUsedChangesNothing) {
  Node(0, std::to_string(all_.front()));
  Node(1, "1000");  // not among the thread's
  Node(2, "nonsense");
  EXPECT_EQ(After({7, 0, 1, 0, 2}),
            (std::vector<Cpus>{all_, {all_.front()}, all_, {all_.front()}, all_}));
}

}  // namespace
}  // namespace sconce
