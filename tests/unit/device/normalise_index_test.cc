#include "server/device/execution/normalise_index.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <tuple>
#include <vector>

namespace sconce {
namespace {

constexpr uint64_t kUnset = ~uint64_t{0};

// Walks every run and checks, for each element it names, that its place, source and channel are
// those of the definition.
template <typename Index>
void ExpectEveryElementOnce(const NormalisePlan<Index>& plan) {
  const uint64_t channels = plan.channels, pixels = plan.pixels;
  std::vector<uint64_t> source_of(plan.images * channels * pixels, kUnset);
  const Index runs = CountRuns(plan);
  for (Index i = 0; i < runs; ++i) {
    const NormaliseRun<Index> run = RunAt(plan, i);
    ASSERT_GE(run.length, 1u);
    ASSERT_LE(run.length, plan.run_length);
    for (Index k = 0; k < run.length; ++k) {
      const uint64_t target = run.target + k * run.target_step;
      const uint64_t source = run.source + k * run.source_step;
      ASSERT_LT(target, source_of.size());
      ASSERT_EQ(source_of[target], kUnset) << "element " << target << " is visited twice";
      source_of[target] = source;

      uint64_t image = 0, channel = 0, pixel = 0;
      if (plan.target_channels_last) {
        channel = target % channels;
        pixel = target / channels % pixels;
        image = target / channels / pixels;
      } else {
        pixel = target % pixels;
        channel = target / pixels % channels;
        image = target / pixels / channels;
      }
      ASSERT_EQ((run.channel + k * run.channel_step) % channels, channel);
      ASSERT_EQ(source, plan.source_channels_last ? (image * pixels + pixel) * channels + channel
                                                  : (image * channels + channel) * pixels + pixel);
    }
  }
  for (size_t target = 0; target < source_of.size(); ++target) {
    ASSERT_NE(source_of[target], kUnset) << "element " << target << " is left out";
  }
}

using Sizes = std::tuple<int, int, int>;

class NormaliseIndex : public testing::TestWithParam<Sizes> {};

TEST_P(NormaliseIndex, VisitsEveryElementOnceFromItsPlace) {
  const auto [images, channels, pixels] = GetParam();
  for (const bool source_last : {false, true}) {
    for (const bool target_last : {false, true}) {
      for (const int length : {1, 3, 8, 1000}) {
        SCOPED_TRACE(testing::Message() << source_last << target_last << " runs of " << length);
        ExpectEveryElementOnce<uint32_t>({static_cast<uint32_t>(images),
                                          static_cast<uint32_t>(channels),
                                          static_cast<uint32_t>(pixels), source_last, target_last,
                                          static_cast<uint32_t>(length)});
        ExpectEveryElementOnce<uint64_t>({static_cast<uint64_t>(images),
                                          static_cast<uint64_t>(channels),
                                          static_cast<uint64_t>(pixels), source_last, target_last,
                                          static_cast<uint64_t>(length)});
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Sizes, NormaliseIndex,
                         testing::Values(Sizes{1, 1, 1}, Sizes{1, 3, 8}, Sizes{2, 3, 64},
                                         Sizes{3, 3, 35}, Sizes{5, 1, 17}, Sizes{1, 4, 9},
                                         Sizes{2, 13, 7}, Sizes{7, 2, 1}, Sizes{0, 3, 8},
                                         Sizes{2, 3, 0}));

// 5 billion elements: beyond what 32 bits can number, too many to walk.
TEST(NormaliseIndexWide, TheLastRunOfABatchBeyond32Bits) {
  for (const bool source_last : {false, true}) {
    for (const bool target_last : {false, true}) {
      SCOPED_TRACE(testing::Message() << source_last << target_last);
      const NormalisePlan<uint64_t> plan{1'700, 3, 1'000'003, source_last, target_last, 8};
      const uint64_t elements = plan.images * plan.channels * plan.pixels;
      const NormaliseRun<uint64_t> run = RunAt(plan, CountRuns(plan) - 1);
      const uint64_t last = run.length - 1;
      EXPECT_EQ(run.target + last * run.target_step, elements - 1);
      EXPECT_EQ(run.source + last * run.source_step, elements - 1);
      EXPECT_EQ((run.channel + last * run.channel_step) % 3, 2u);
    }
  }
}

}  // namespace
}  // namespace sconce
