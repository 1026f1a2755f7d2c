// That versions come and go on devices, under load and out of memory and on devices that break,
// without a byte lost, a request failed that need not, or an answer of two versions.
#include <cstdint>
#include <future>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "tests/device/serving_stack.h"
#include "tests/device/sim_test.h"

namespace sconce {
namespace {

using simdevice::StatisticsOf;
using testing::ElementsAre;
using testing::IsEmpty;

class SwapTest : public SimTest {
 protected:
  const std::vector<c10::Device> both_ = {sim0_, sim1_};
};

TEST_F(SwapTest, AThousandSwapsUnderLoadLoseNotAByteAndNoRequest) {
  ServingStack stack(both_);
  ASSERT_TRUE(stack.Load(1).ok());
  stack.Ask({1, 2, 3}).get();
  stack.Clear();  // what the first load sets up for all that follow stays
  const std::vector<int64_t> before = MemoryInUse();

  constexpr int64_t kLast = 1001;
  ASSERT_TRUE(stack.Load(2).ok());
  Clients clients(&stack, 3);
  for (int64_t number = 3; number <= kLast; ++number) {
    ASSERT_TRUE(stack.Load(number).ok());
    ASSERT_TRUE(clients.AwaitVersion(number)) << number;
  }
  clients.Stop();
  EXPECT_THAT(clients.Problems(), IsEmpty());
  EXPECT_GE(clients.answers(), kLast);
  stack.Clear();
  EXPECT_EQ(MemoryInUse(), before);
}

}  // namespace
}  // namespace sconce
