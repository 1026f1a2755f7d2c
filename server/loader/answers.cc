#include "server/loader/answers.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <optional>
#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "server/base/element_index.h"
#include "server/base/printable.h"
#include "server/checkpoint/data/half_float.h"
#include "server/registry/tensor_fill.h"

namespace sconce {
namespace {

// Exact for every 64-bit integer, so that two that differ are not taken for equal.
using Wide = long double;

template <typename T>
T Load(const std::byte* at) {
  T value;
  std::memcpy(&value, at, sizeof value);
  return value;
}

// None of what is no real number.
std::optional<Wide> ValueAt(DType dtype, const std::byte* at) {
  switch (dtype) {
    case DType::kFloat32:
      return Load<float>(at);
    case DType::kFloat64:
      return Load<double>(at);
    case DType::kFloat16:
      return HalfToFloat(Load<uint16_t>(at));
    case DType::kBFloat16:
      return BFloat16ToFloat(Load<uint16_t>(at));
    case DType::kInt8:
      return Load<int8_t>(at);
    case DType::kInt16:
      return Load<int16_t>(at);
    case DType::kInt32:
      return Load<int32_t>(at);
    case DType::kInt64:
      return static_cast<Wide>(Load<int64_t>(at));
    case DType::kUInt8:
    case DType::kBool:
      return Load<uint8_t>(at);
    case DType::kUInt16:
      return Load<uint16_t>(at);
    case DType::kUInt32:
      return Load<uint32_t>(at);
    case DType::kUInt64:
      return static_cast<Wide>(Load<uint64_t>(at));
    default:
      return std::nullopt;
  }
}

Wide Allowed(Wide expected, const Tolerance& tolerance) {
  if (!std::isfinite(expected)) return 0;
  return tolerance.absolute + tolerance.relative * std::abs(expected);
}

bool Agree(Wide expected, Wide got, const Tolerance& tolerance) {
  if (expected == got) return true;
  if (std::isnan(expected) || std::isnan(got)) return std::isnan(expected) && std::isnan(got);
  if (std::isinf(expected) || std::isinf(got)) return false;
  return std::abs(got - expected) <= Allowed(expected, tolerance);
}

int64_t RowsOf(const Sample& sample, const Signature& signature) {
  if (sample.inputs.empty()) return 0;
  return signature.rows.batched ? sample.inputs[0].shape[0] : 1;
}

int64_t BytesPerRow(const KeptTensor& tensor, const Signature& signature) {
  const auto bytes = static_cast<int64_t>(tensor.bytes.size());
  if (!signature.rows.batched) return bytes;
  return tensor.shape[0] == 0 ? 0 : bytes / tensor.shape[0];
}

// Rows [first, first + rows) of the sample's inputs, in the replica's memory, with as many rows
// after them as the network wants.
absl::StatusOr<BatchInput> Stage(Replica& replica, const Signature& signature, const Sample& sample,
                                 int64_t first, int64_t rows) {
  const int64_t filled = std::max(rows, signature.rows.rows.minimum);
  std::vector<int64_t> sizes;
  for (const KeptTensor& input : sample.inputs) {
    sizes.push_back(filled * BytesPerRow(input, signature));
  }
  auto staged = replica.Stage(sizes);
  if (!staged.ok()) return staged.status();
  BatchInput batch;
  batch.inputs = *std::move(staged);
  for (size_t i = 0; i < sample.inputs.size(); ++i) {
    const KeptTensor& input = sample.inputs[i];
    HostTensor& target = batch.inputs[i];
    const int64_t row_bytes = BytesPerRow(input, signature);
    std::copy_n(input.bytes.data() + first * row_bytes, rows * row_bytes, target.bytes.begin());
    FillElements(input.dtype, models::FillerOf(signature.inputs[i].rules),
                 target.bytes.subspan(static_cast<size_t>(rows * row_bytes)));
    target.dtype = input.dtype;
    target.shape = input.shape;
    if (signature.rows.batched) target.shape[0] = filled;
  }
  return batch;
}

// A sample that the network cannot run will not run at the next try either.
absl::Status About(const Sample& sample, const absl::Status& error) {
  const absl::StatusCode code =
      absl::IsInternal(error) ? absl::StatusCode::kInvalidArgument : error.code();
  return absl::Status(code, absl::StrCat(sample.name, ": ", std::string(error.message())));
}

}  // namespace

absl::Status CompareAnswers(const Sample& sample, const Signature& signature, int64_t first_row,
                            absl::Span<const HostTensor> outputs, const Tolerance& tolerance) {
  for (size_t i = 0; i < outputs.size(); ++i) {
    const KeptTensor& expected = sample.outputs[i];
    const HostTensor& got = outputs[i];
    const std::string name =
        absl::StrCat(sample.name, ": output '", Printable(signature.outputs[i].name), "'");
    std::vector<int64_t> shape = got.shape;
    if (signature.rows.batched) shape[0] = expected.shape[0];
    if (expected.dtype != got.dtype || expected.shape != shape) {
      return absl::InvalidArgumentError(
          absl::StrCat(name, ": expected ", std::string(OipDatatype(expected.dtype)),
                       ShapeString(expected.shape), ", got ", std::string(OipDatatype(got.dtype)),
                       ShapeString(shape)));
    }
    const int64_t size = DTypeSize(got.dtype);
    const int64_t count = static_cast<int64_t>(got.bytes.size()) / size;
    const std::byte* const from =
        expected.bytes.data() + first_row * BytesPerRow(expected, signature);
    for (int64_t e = 0; e < count; ++e) {
      const std::optional<Wide> wanted = ValueAt(expected.dtype, from + e * size);
      const std::optional<Wide> came = ValueAt(got.dtype, got.bytes.data() + e * size);
      const bool agree = wanted.has_value()
                             ? Agree(*wanted, *came, tolerance)
                             : std::memcmp(from + e * size, got.bytes.data() + e * size, size) == 0;
      if (agree) continue;
      const int64_t element = first_row * (count / std::max<int64_t>(got.shape[0], 1)) + e;
      const std::string where =
          absl::StrCat(name, ", element ", ElementIndexText(element, expected.shape), ": ");
      if (!wanted.has_value())
        return absl::InvalidArgumentError(where + "other bytes than expected");
      return absl::InvalidArgumentError(
          absl::StrCat(where, absl::StrFormat("expected %.9g, got %.9g, tolerance %.3g", *wanted,
                                              *came, Allowed(*wanted, tolerance))));
    }
  }
  return absl::OkStatus();
}

absl::Status AskSample(Replica& replica, const Signature& signature, const Sample& sample,
                       const Tolerance& tolerance) {
  const int64_t most = std::min(replica.max_rows(), signature.rows.rows.maximum);
  const int64_t all = RowsOf(sample, signature);
  for (int64_t first = 0; first < all;) {
    const int64_t rows = std::min(all - first, most);
    auto batch = Stage(replica, signature, sample, first, rows);
    if (!batch.ok()) return About(sample, batch.status());
    const int64_t filled = std::max(rows, signature.rows.rows.minimum);
    auto outputs = replica.Run(*std::move(batch));
    if (!outputs.ok()) return About(sample, outputs.status());
    absl::Status fits =
        CheckOutputs(signature, filled, *outputs, OpenSizes(signature, sample.inputs[0].shape));
    if (!fits.ok()) return About(sample, fits);
    if (filled != rows) {
      for (HostTensor& output : *outputs) {
        output.bytes = output.bytes.subspan(0, output.bytes.size() / filled * rows);
        output.shape[0] = rows;
      }
    }
    absl::Status same = CompareAnswers(sample, signature, first, *outputs, tolerance);
    if (!same.ok()) return same;
    first += rows;
  }
  return absl::OkStatus();
}

}  // namespace sconce
