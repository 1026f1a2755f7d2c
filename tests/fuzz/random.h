// Random: the small choices of a mutator, the same for the same seed.
#ifndef SCONCE_TESTS_FUZZ_RANDOM_H_
#define SCONCE_TESTS_FUZZ_RANDOM_H_

#include <cstddef>
#include <cstdint>
#include <random>
#include <utility>

namespace sconce {

class Random {
 public:
  explicit Random(unsigned seed) : engine_(seed) {}

  // From 0 to n - 1. REQUIRES: n > 0.
  size_t Below(size_t n) { return engine_() % n; }
  bool OneIn(size_t n) { return Below(n) == 0; }

  template <typename Container>
  const auto& Pick(const Container& from) {
    return from[Below(std::size(from))];
  }

  // Part of a sequence of `size` elements: where it starts, and how many, at most `most`.
  // REQUIRES: size > 0.
  std::pair<size_t, size_t> Range(size_t size, size_t most) {
    const size_t start = Below(size);
    const size_t left = size - start;
    return {start, 1 + Below(left < most ? left : most)};
  }

  // Values at which checks tend to be wrong, and plain small ones.
  int64_t Integer() {
    constexpr int64_t kEdges[] = {0,
                                  1,
                                  2,
                                  3,
                                  4,
                                  8,
                                  63,
                                  64,
                                  65,
                                  127,
                                  128,
                                  255,
                                  256,
                                  1000,
                                  4095,
                                  65535,
                                  65536,
                                  INT32_MAX,
                                  INT64_C(1) << 31,
                                  UINT32_MAX,
                                  INT64_C(1) << 32,
                                  INT64_C(1) << 61,
                                  INT64_C(1) << 62,
                                  INT64_MAX - 1,
                                  INT64_MAX};
    const int64_t value = OneIn(3) ? static_cast<int64_t>(Below(32)) : Pick(kEdges);
    return OneIn(6) ? -value : value;
  }

 private:
  std::minstd_rand engine_;
};

}  // namespace sconce

#endif  // SCONCE_TESTS_FUZZ_RANDOM_H_
