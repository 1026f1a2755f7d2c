#include "server/tools/arithmetic.h"

#include <ATen/Parallel.h>
#include <ATen/ops/abs.h>
#include <ATen/ops/aminmax.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/isinf.h>
#include <ATen/ops/isnan.h>
#include <ATen/ops/view_as_real.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <cmath>

#include "server/weights/scalar_type.h"

namespace sconce::tools {
namespace {

double SumOfSquares(const at::Tensor& values) { return values.square().sum().item<double>(); }

int64_t Count(const at::Tensor& mask) { return mask.sum().item<int64_t>(); }

}  // namespace

void UseOneThread() { at::set_num_threads(1); }

bool HasArithmetic(DType dtype) {
  return !IsQuantized(dtype) && dtype != DType::kFloat4E2M1FNX2 && dtype != DType::kBytes;
}

bool IsFloatingPoint(DType dtype) {
  return !IsQuantized(dtype) && dtype != DType::kBytes && c10::isFloatingType(ToScalarType(dtype));
}

at::Tensor VectorOf(absl::Span<const std::byte> bytes, DType dtype) {
  const auto count = static_cast<int64_t>(bytes.size()) / DTypeSize(dtype);
  return at::from_blob(const_cast<std::byte*>(bytes.data()), {count},
                       at::TensorOptions().dtype(ToScalarType(dtype)));
}

absl::Span<const std::byte> BytesOf(const at::Tensor& contiguous) {
  return {static_cast<const std::byte*>(contiguous.const_data_ptr()), contiguous.nbytes()};
}

at::Tensor Widened(absl::Span<const std::byte> bytes, DType dtype) {
  return VectorOf(bytes, dtype).to(IsComplex(dtype) ? at::kComplexDouble : at::kDouble);
}

at::Tensor Cast(const at::Tensor& values, DType dtype) { return values.to(ToScalarType(dtype)); }

void StatisticsGatherer::Add(absl::Span<const std::byte> piece) {
  if (piece.empty()) return;
  c10::InferenceMode no_gradients;
  at::Tensor values = Widened(piece, dtype_);
  if (values.is_complex()) values = values.abs();
  statistics_.zeros += values.numel() - Count(values.ne(0));
  const at::Tensor finite = values.isfinite();
  if (const int64_t count = Count(finite); count < values.numel()) {
    statistics_.nans += Count(values.isnan());
    statistics_.infinities += Count(values.isinf());
    values = values.masked_select(finite);
    if (count == 0) return;
  }
  const auto [least, most] = values.aminmax();
  const double min = least.item<double>();
  const double max = most.item<double>();
  statistics_.min = std::min(statistics_.min.value_or(min), min);
  statistics_.max = std::max(statistics_.max.value_or(max), max);
  // Chan's rule for the moments of two sets taken together.
  const auto count = static_cast<double>(values.numel());
  const auto before = static_cast<double>(finite_);
  const double mean = values.mean().item<double>();
  const double distance = mean - mean_;
  squares_ +=
      SumOfSquares(values.sub(mean)) + distance * distance * before * count / (before + count);
  mean_ += distance * count / (before + count);
  finite_ += values.numel();
}

Statistics StatisticsGatherer::Finish() const {
  Statistics statistics = statistics_;
  if (finite_ > 0) statistics.mean = mean_;
  if (finite_ > 1) statistics.deviation = std::sqrt(squares_ / static_cast<double>(finite_ - 1));
  return statistics;
}

NonFinite CountNonFinite(absl::Span<const std::byte> piece, DType dtype) {
  if (piece.empty() || !HasArithmetic(dtype) || !(IsFloatingPoint(dtype) || IsComplex(dtype))) {
    return {};
  }
  c10::InferenceMode no_gradients;
  at::Tensor values = VectorOf(piece, dtype);
  if (dtype != DType::kFloat64 && dtype != DType::kFloat32) {
    values = values.to(IsComplex(dtype) ? at::kComplexDouble : at::kFloat);
  }
  // A sum that is finite has no part that is not.
  if (!IsComplex(dtype) && std::isfinite(values.sum().item<double>())) return {};
  const int64_t finite = Count(values.isfinite());
  if (finite == values.numel()) return {};
  const int64_t nans = Count(values.isnan());
  return {nans, values.numel() - finite - nans};
}

void DistanceGatherer::Add(const at::Tensor& before, const at::Tensor& after) {
  c10::InferenceMode no_gradients;
  const auto real = [](const at::Tensor& values) {
    return values.is_complex() ? at::view_as_real(values) : values;
  };
  // Of a real and a complex one, the difference is complex.
  difference_ += SumOfSquares(real(after.sub(before)));
  before_ += SumOfSquares(real(before));
}

double DistanceGatherer::Relative() const {
  if (difference_ == 0) return 0;
  return std::sqrt(difference_) / std::sqrt(before_);
}

}  // namespace sconce::tools
