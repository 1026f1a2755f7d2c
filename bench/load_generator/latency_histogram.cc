#include "bench/load_generator/latency_histogram.h"

#include <algorithm>
#include <bit>
#include <chrono>
#include <cmath>

namespace sconce::bench {
namespace {

// Each power of two of nanoseconds is cut into 2^kBits buckets of one width.
constexpr int kBits = 7;

size_t BucketOf(uint64_t nanos) {
  const int width = std::bit_width(nanos);
  if (width <= kBits + 1) return nanos;
  const int shift = width - kBits - 1;
  return (static_cast<size_t>(shift) << kBits) + (nanos >> shift);
}

uint64_t LargestIn(size_t bucket) {
  if (bucket < size_t{2} << kBits) return bucket;
  const size_t shift = (bucket >> kBits) - 1;
  const uint64_t top = (bucket & ((size_t{1} << kBits) - 1)) + (uint64_t{1} << kBits);
  return ((top + 1) << shift) - 1;
}

}  // namespace

void LatencyHistogram::Record(Duration duration) {
  duration = std::max(duration, Duration::zero());
  const size_t bucket = BucketOf(static_cast<uint64_t>(ToNanos(duration).count()));
  if (bucket >= counts_.size()) counts_.resize(bucket + 1);
  ++counts_[bucket];
  ++count_;
  max_ = std::max(max_, duration);
}

Duration LatencyHistogram::Quantile(double quantile) const {
  auto left = static_cast<int64_t>(std::ceil(quantile * static_cast<double>(count_)));
  for (size_t bucket = 0; bucket < counts_.size(); ++bucket) {
    left -= counts_[bucket];
    if (left <= 0) return std::min<Duration>(std::chrono::nanoseconds(LargestIn(bucket)), max_);
  }
  return max_;
}

}  // namespace sconce::bench
