// That the simulated devices catch what goes wrong between streams, and only that.
#include <ATen/ops/from_blob.h>
#include <ATen/ops/zeros.h>
#include <c10/core/Event.h>
#include <c10/core/StreamGuard.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <latch>
#include <utility>
#include <vector>

#include "tests/device/sim_test.h"

namespace sconce {
namespace {

using simdevice::Hold;
using simdevice::IsBlocked;
using simdevice::Release;

class SimStreams : public SimTest {
 protected:
  // `source` as seen by `reader` without waiting for anything else; the memory is pinned.
  static at::Tensor CopyOn(c10::Stream reader, const at::Tensor& source) {
    const c10::StreamGuard on(reader);
    at::Tensor host = PinnedFloats(-1, source.numel());
    host.copy_(source, /*non_blocking=*/true);
    return host;
  }

  const c10::Stream a_ = simdevice::NewStream(sim0_);
  const c10::Stream b_ = simdevice::NewStream(sim0_);
};

TEST_F(SimStreams, WorkIsQueuedAndDoneLater) {
  const at::Tensor x = Floats(1).to(sim0_);
  Hold(a_);
  const at::Tensor host = CopyOn(a_, x);
  EXPECT_TRUE(IsBlocked(a_));
  EXPECT_FALSE(a_.query());
  EXPECT_EQ(First(host), -1);
  Release(a_);
  a_.synchronize();
  EXPECT_TRUE(a_.query());
  EXPECT_EQ(First(host), 1);
}

TEST_F(SimStreams, AnotherStreamWithoutAnEventReadsStaleData) {
  const at::Tensor x = Floats(1).to(sim0_);
  Hold(a_);
  {
    const c10::StreamGuard on(a_);
    x.fill_(2);
  }
  const at::Tensor host = CopyOn(b_, x);
  b_.synchronize();
  EXPECT_EQ(First(host), 1);
}

TEST_F(SimStreams, AnotherStreamWithAnEventReadsTheNewData) {
  const at::Tensor x = Floats(1).to(sim0_);
  c10::Event written(sim0_.type());
  Hold(a_);
  {
    const c10::StreamGuard on(a_);
    x.fill_(2);
    written.record(a_);
  }
  written.block(b_);
  const at::Tensor host = CopyOn(b_, x);
  EXPECT_TRUE(IsBlocked(b_));
  EXPECT_EQ(First(host), -1);
  Release(a_);
  b_.synchronize();
  EXPECT_EQ(First(host), 2);
}

TEST_F(SimStreams, AnEventIsThatOfItsLastRecord) {
  c10::Event event(sim0_.type());
  EXPECT_TRUE(event.query());  // never recorded
  event.record(a_);
  event.synchronize();
  EXPECT_TRUE(event.query());
  Hold(a_);
  event.record(a_);
  EXPECT_FALSE(event.query());
  event.block(b_);
  Release(a_);
  event.synchronize();
  EXPECT_TRUE(event.query());
  b_.synchronize();
}

TEST_F(SimStreams, AStreamDoesNotWaitForALaterRecord) {
  c10::Event event(sim0_.type());
  std::latch first_is_seen(1);
  event.record(a_);
  event.block(b_);
  simdevice::Launch(a_, [&first_is_seen] { first_is_seen.wait(); });
  event.record(a_);
  b_.synchronize();  // for ever, if it waited for the second record
  EXPECT_FALSE(event.query());
  first_is_seen.count_down();
  a_.synchronize();
}

TEST_F(SimStreams, EventsMeasureTime) {
  c10::Event begin(sim0_.type(), c10::EventFlag::BACKEND_DEFAULT);
  c10::Event end(sim0_.type(), c10::EventFlag::BACKEND_DEFAULT);
  begin.record(a_);
  simdevice::Launch(a_, [] {
    const auto now = std::chrono::steady_clock::now();
    while (std::chrono::steady_clock::now() == now) {
    }
  });
  end.record(a_);
  end.synchronize();
  EXPECT_GT(begin.elapsedTime(end), 0);
}

TEST_F(SimStreams, TwoStreamsOverlap) {
  // Each piece of work ends only once the other has begun.
  std::latch both(2);
  simdevice::Launch(a_, [&both] { both.arrive_and_wait(); });
  simdevice::Launch(b_, [&both] { both.arrive_and_wait(); });
  a_.synchronize();
  b_.synchronize();
  EXPECT_TRUE(both.try_wait());
}

TEST_F(SimStreams, WorkOfOneStreamIsDoneInOrder) {
  std::vector<int> order;
  for (int i = 0; i < 100; ++i) simdevice::Launch(a_, [&order, i] { order.push_back(i); });
  a_.synchronize();
  ASSERT_EQ(order.size(), 100u);
  EXPECT_TRUE(std::is_sorted(order.begin(), order.end()));
}

TEST_F(SimStreams, AHeldDeviceHoldsStreamsThatComeLater) {
  const at::Tensor x = Floats(1).to(sim0_);
  Hold(sim0_);
  const c10::Stream late = simdevice::NewStream(sim0_);
  const at::Tensor host = CopyOn(late, x);
  // The other device goes on.
  EXPECT_EQ(First(Floats(3).to(sim1_)), 3);
  EXPECT_TRUE(IsBlocked(late));
  EXPECT_EQ(First(host), -1);
  Release(sim0_);
  late.synchronize();
  EXPECT_EQ(First(host), 1);
}

TEST_F(SimStreams, MemoryUsedByAnotherStreamWithoutRecordStreamShowsAsNaN) {
  at::Tensor x = Floats(1).to(sim0_);  // allocated on the default stream
  Hold(b_);
  const at::Tensor host = CopyOn(b_, x);
  x.reset();
  c10::Stream(c10::Stream::DEFAULT, sim0_).synchronize();
  Release(b_);
  b_.synchronize();
  EXPECT_TRUE(std::isnan(First(host)));
}

TEST_F(SimStreams, MemoryUsedByAnotherStreamWithRecordStreamIsRight) {
  at::Tensor x = Floats(1).to(sim0_);
  Hold(b_);
  const at::Tensor host = CopyOn(b_, x);
  x.record_stream(b_);
  x.reset();
  c10::Stream(c10::Stream::DEFAULT, sim0_).synchronize();
  Release(b_);
  b_.synchronize();
  EXPECT_EQ(First(host), 1);
}

TEST_F(SimStreams, MemoryFreedOnItsOwnStreamIsRight) {
  Hold(a_);
  at::Tensor host;
  {
    const c10::StreamGuard on(a_);
    at::Tensor x = PinnedFloats(1).to(sim0_, /*non_blocking=*/true);
    host = CopyOn(a_, x.add(1));
  }
  Release(a_);
  a_.synchronize();
  EXPECT_EQ(First(host), 2);
}

TEST_F(SimStreams, StagingReusedTooEarlyIsSeen) {
  const at::Tensor staging = PinnedFloats(1);
  const c10::StreamGuard on(a_);
  Hold(a_);
  const at::Tensor x = staging.to(sim0_, /*non_blocking=*/true);
  staging.fill_(2);
  Release(a_);
  EXPECT_EQ(First(x), 2);
}

TEST_F(SimStreams, StagingReusedAfterItsEventIsRight) {
  const at::Tensor staging = PinnedFloats(1);
  const c10::StreamGuard on(a_);
  const at::Tensor x = staging.to(sim0_, /*non_blocking=*/true);
  c10::Event copied(sim0_.type());
  copied.record(a_);
  copied.synchronize();
  staging.fill_(2);
  EXPECT_EQ(First(x), 1);
}

TEST_F(SimStreams, PageableMemoryIsStagedAtTheCall) {
  const at::Tensor pageable = Floats(1);
  const c10::StreamGuard on(a_);
  Hold(a_);
  const at::Tensor x = pageable.to(sim0_, /*non_blocking=*/true);
  pageable.fill_(2);
  Release(a_);
  EXPECT_EQ(First(x), 1);
}

TEST_F(SimStreams, PinnedMemoryFreedTooEarlyIsSeen) {
  at::Tensor staging = PinnedFloats(1);
  const c10::StreamGuard on(a_);
  Hold(a_);
  // Known to the allocator by neither its context nor its first byte, so the use is not recorded.
  const at::Tensor rows = at::from_blob(staging.data_ptr<float>() + 1, {8}, at::kFloat);
  const at::Tensor x = rows.to(sim0_, /*non_blocking=*/true);
  staging.reset();
  Release(a_);
  EXPECT_TRUE(std::isnan(First(x)));
}

TEST_F(SimStreams, PinnedMemoryOfATensorLivesUntilItsCopyIsDone) {
  at::Tensor staging = PinnedFloats(1);
  const c10::StreamGuard on(a_);
  Hold(a_);
  const at::Tensor x = staging.to(sim0_, /*non_blocking=*/true);
  staging.reset();
  Release(a_);
  EXPECT_EQ(First(x), 1);
}

TEST_F(SimStreams, ACopyBetweenDevicesIsOrderedWithBothCurrentStreams) {
  const c10::Stream other = simdevice::NewStream(sim1_);
  const at::Tensor x = Floats(1).to(sim0_);
  const at::Tensor y = Floats(0).to(sim1_);
  const c10::StreamGuard on_other(other);
  const c10::StreamGuard on(a_);
  Hold(other);
  y.copy_(x);
  EXPECT_TRUE(IsBlocked(a_));  // it waits for what the other device still does with y
  Hold(a_);
  Release(other);
  const at::Tensor host = CopyOn(other, y);
  EXPECT_TRUE(IsBlocked(other));
  Release(a_);
  other.synchronize();
  EXPECT_EQ(First(host), 1);
}

}  // namespace
}  // namespace sconce
