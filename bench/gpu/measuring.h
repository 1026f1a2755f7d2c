// How things are compared: two of them measured in turn, A B A B ... A, each B against the mean of
// the As beside it and each A against the A before it. The second spread is what the machine alone
// does to a ratio of one.
//
// Values and pure functions, but for InTurn, which calls what it is given.

#ifndef SCONCE_BENCH_GPU_MEASURING_H_
#define SCONCE_BENCH_GPU_MEASURING_H_

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace sconce::bench {

// What one stretch of time gave.
struct Window {
  double per_second = 0;  // in the comparison's unit
  double p50_ms = 0;      // of single requests, or of batches where there are no requests
  double p99_ms = 0;
  int64_t failed = 0;
};

struct Spread {
  double low = 0;  // the middle half
  double median = 0;
  double high = 0;
};

// REQUIRES: not empty.
Spread SpreadOf(std::vector<double> values);

struct Comparison {
  std::string name;    // "offline resnet50 bf16, graphs"
  std::string unit;    // "images/s"
  std::string a_name;  // what is compared with: "bare LibTorch"
  std::string b_name;
  std::vector<Window> a;  // one more than b
  std::vector<Window> b;
  // The least ratio that is aimed at.
  std::optional<double> aim;
  // What B's 99th percentile has to stay below, as the median of its windows.
  std::optional<double> bound_ms;

  // REQUIRES, of both: a.size() == b.size() + 1, b not empty.
  Spread Ratio() const;
  Spread SameAgainstItself() const;

  Spread P99OfB() const;
  bool StaysBelowBound() const;
  bool MeetsAim() const;
  int64_t Failed() const;
};

using Measure = std::function<Window()>;

// Fills a and b.
void InTurn(const Measure& measure_a, const Measure& measure_b, int pairs, Comparison* comparison);

}  // namespace sconce::bench

#endif  // SCONCE_BENCH_GPU_MEASURING_H_
