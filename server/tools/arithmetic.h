// The arithmetic of the commands, by way of LibTorch: pieces of tensors as tensors, casts, and
// statistics gathered piece by piece.
//
// Functions are thread-safe; the classes are used by one thread.
#ifndef SCONCE_SERVER_TOOLS_ARITHMETIC_H_
#define SCONCE_SERVER_TOOLS_ARITHMETIC_H_

#include <ATen/core/Tensor.h>

#include <cstddef>
#include <cstdint>
#include <optional>

#include "absl/types/span.h"
#include "server/base/dtype.h"

namespace sconce::tools {

// Has LibTorch compute on the calling thread: pieces are too small to be worth sharing, and threads
// that wait for each other lose most where others want the processors too.
void UseOneThread();

// Whether LibTorch computes with this type: not with the 4-bit ones, nor with quantised ones.
bool HasArithmetic(DType dtype);
bool IsFloatingPoint(DType dtype);  // real: float64 to float8

// The bytes as a vector, not copied. REQUIRES: whole elements of `dtype`, and that they outlive the
// result; not quantised.
at::Tensor VectorOf(absl::Span<const std::byte> bytes, DType dtype);
absl::Span<const std::byte> BytesOf(const at::Tensor& contiguous);

// In float64, or complex128. REQUIRES: HasArithmetic.
at::Tensor Widened(absl::Span<const std::byte> bytes, DType dtype);

// As tensor.to(dtype) does.
at::Tensor Cast(const at::Tensor& values, DType dtype);

// Of a tensor's values in float64; of complex ones, their magnitudes.
struct Statistics {
  int64_t zeros = 0;
  int64_t nans = 0;
  int64_t infinities = 0;
  // Of the finite values; none where there are none.
  std::optional<double> min;
  std::optional<double> max;
  std::optional<double> mean;
  std::optional<double> deviation;  // with n - 1, as torch.std; none for a single value
};

class StatisticsGatherer {
 public:
  explicit StatisticsGatherer(DType dtype) : dtype_(dtype) {}
  void Add(absl::Span<const std::byte> piece);
  Statistics Finish() const;

 private:
  const DType dtype_;
  Statistics statistics_;
  int64_t finite_ = 0;
  double mean_ = 0;
  double squares_ = 0;  // the sum of squared distances from the mean
};

struct NonFinite {
  int64_t nans = 0;
  int64_t infinities = 0;
};
// Of real and complex floating-point values; of others none.
NonFinite CountNonFinite(absl::Span<const std::byte> piece, DType dtype);

// How far one tensor is from another, piece by piece.
class DistanceGatherer {
 public:
  void Add(const at::Tensor& before, const at::Tensor& after);  // from Widened
  // ||after - before|| / ||before||: NaN where a value is no number, infinite from nothing but
  // zeros.
  double Relative() const;

 private:
  double difference_ = 0;  // squared
  double before_ = 0;
};

}  // namespace sconce::tools

#endif  // SCONCE_SERVER_TOOLS_ARITHMETIC_H_
