#include "bench/gpu/measuring.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <utility>

namespace sconce::bench {
namespace {

// Between the two values beside it where it falls between them.
double Quantile(const std::vector<double>& sorted, double quantile) {
  const double place = quantile * static_cast<double>(sorted.size() - 1);
  const size_t below = static_cast<size_t>(std::floor(place));
  const size_t above = std::min(below + 1, sorted.size() - 1);
  return sorted[below] + (place - std::floor(place)) * (sorted[above] - sorted[below]);
}

}  // namespace

Spread SpreadOf(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return {Quantile(values, 0.25), Quantile(values, 0.5), Quantile(values, 0.75)};
}

Spread Comparison::Ratio() const {
  std::vector<double> ratios;
  for (size_t i = 0; i < b.size(); ++i) {
    ratios.push_back(2 * b[i].per_second / (a[i].per_second + a[i + 1].per_second));
  }
  return SpreadOf(std::move(ratios));
}

Spread Comparison::SameAgainstItself() const {
  std::vector<double> ratios;
  for (size_t i = 0; i + 1 < a.size(); ++i) {
    ratios.push_back(a[i + 1].per_second / a[i].per_second);
  }
  return SpreadOf(std::move(ratios));
}

Spread Comparison::P99OfB() const {
  std::vector<double> p99;
  for (const Window& window : b) p99.push_back(window.p99_ms);
  return SpreadOf(std::move(p99));
}

bool Comparison::StaysBelowBound() const {
  return !bound_ms.has_value() || P99OfB().median <= *bound_ms;
}

bool Comparison::MeetsAim() const {
  return aim.has_value() && Ratio().median >= *aim && StaysBelowBound() && Failed() == 0;
}

int64_t Comparison::Failed() const {
  int64_t failed = 0;
  for (const Window& window : a) failed += window.failed;
  for (const Window& window : b) failed += window.failed;
  return failed;
}

void InTurn(const Measure& measure_a, const Measure& measure_b, int pairs, Comparison* comparison) {
  comparison->a = {measure_a()};
  comparison->b.clear();
  for (int i = 0; i < pairs; ++i) {
    comparison->b.push_back(measure_b());
    comparison->a.push_back(measure_a());
  }
}

}  // namespace sconce::bench
