// That loads take turns on each device, in their order, and wait for nobody else.
#include "server/device/upload/load_lanes.h"

#include <atomic>
#include <cstddef>
#include <future>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "tests/device/sim_test.h"

namespace sconce {
namespace {

class LoadLanesTest : public SimTest {
 protected:
  using Hold = LoadLanes::Hold;

  std::unique_ptr<Hold> Take(std::vector<c10::Device> devices) {
    return std::make_unique<Hold>(&lanes_, std::move(devices));
  }
  // On a thread of its own.
  std::future<std::unique_ptr<Hold>> Ask(std::vector<c10::Device> devices) {
    return std::async(std::launch::async, [this, devices] { return Take(devices); });
  }
  // Whoever has asked by then and has no lane yet has to wait for it.
  void AwaitWaiting(size_t loads) {
    while (lanes_.waiting() != loads) std::this_thread::yield();
  }

  const c10::Device cpu_{c10::kCPU};
  LoadLanes lanes_;
};

TEST_F(LoadLanesTest, OneLoadAtATimeOnADeviceAndOthersBesideIt) {
  auto first = Take({sim0_});
  auto second = Ask({sim0_});
  AwaitWaiting(1);
  Ask({sim1_}).get();
  Ask({cpu_}).get();
  EXPECT_EQ(lanes_.waiting(), 1u);
  first.reset();
  EXPECT_NE(second.get(), nullptr);
}

TEST_F(LoadLanesTest, WhoWantsSeveralIsNotOvertaken) {
  auto holding = Take({sim0_});
  auto both = Ask({sim0_, sim1_});
  AwaitWaiting(1);
  auto late = Ask({sim1_});
  AwaitWaiting(2);  // sim:1 is free, but somebody came before
  holding.reset();
  auto held = both.get();
  AwaitWaiting(1);
  held.reset();
  EXPECT_NE(late.get(), nullptr);
}

TEST_F(LoadLanesTest, WhoYieldsComesAfterThoseWhoWaited) {
  auto first = Take({cpu_});
  std::atomic<int> turn = 0;
  auto second = std::async(std::launch::async, [&] {
    const auto hold = Take({cpu_});
    return ++turn;
  });
  AwaitWaiting(1);
  first->Yield();
  EXPECT_EQ(++turn, 2);
  EXPECT_EQ(second.get(), 1);
}

TEST_F(LoadLanesTest, CachesGoBackAfterTheLoadsThatAreUnderWay) {
  const auto emptied = [this] { return simdevice::StatisticsOf(sim0_).emptied_caches; };
  const int64_t before = emptied();
  auto load = Take({sim0_});
  lanes_.ReturnCaches();
  EXPECT_EQ(emptied(), before);
  load.reset();
  EXPECT_EQ(emptied(), before + 1);
  // The CPU has no cache that would be disturbed.
  load = Take({cpu_});
  lanes_.ReturnCaches();
  EXPECT_EQ(emptied(), before + 2);
}

}  // namespace
}  // namespace sconce
