#include "server/loader/deviation.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <limits>
#include <optional>
#include <random>
#include <utility>

#include "absl/strings/str_format.h"
#include "models/tied_sizes.h"
#include "server/checkpoint/data/half_float.h"
#include "server/registry/tensor_fill.h"

namespace sconce {
namespace {

// What a size that is not fixed is in a probe, where the network allows it.
constexpr int64_t kAnySize = 16;

template <typename T>
T LoadAs(const std::byte* at) {
  T value;
  std::memcpy(&value, at, sizeof value);
  return value;
}

std::optional<double> FloatAt(DType dtype, const std::byte* at) {
  switch (dtype) {
    case DType::kFloat32:
      return LoadAs<float>(at);
    case DType::kFloat64:
      return LoadAs<double>(at);
    case DType::kFloat16:
      return HalfToFloat(LoadAs<uint16_t>(at));
    case DType::kBFloat16:
      return BFloat16ToFloat(LoadAs<uint16_t>(at));
    default:
      return std::nullopt;
  }
}

void StoreFloat(DType dtype, double value, std::byte* at) {
  const auto narrow = static_cast<float>(value);
  const uint16_t half = dtype == DType::kFloat16 ? FloatToHalf(narrow) : FloatToBFloat16(narrow);
  if (dtype == DType::kFloat64) {
    std::memcpy(at, &value, sizeof value);
  } else if (dtype == DType::kFloat32) {
    std::memcpy(at, &narrow, sizeof narrow);
  } else {
    std::memcpy(at, &half, sizeof half);
  }
}

// Numbers in [-1, 1], pixels of any value, and of other whole numbers those that are allowed.
void FillByChance(const TensorSpec& spec, std::mt19937_64& random, absl::Span<std::byte> bytes) {
  const int64_t size = DTypeSize(spec.dtype);
  if (FloatAt(spec.dtype, bytes.data()).has_value()) {
    std::uniform_real_distribution<double> numbers(-1, 1);
    for (size_t i = 0; i < bytes.size(); i += size) {
      StoreFloat(spec.dtype, numbers(random), bytes.data() + i);
    }
    return;
  }
  if (spec.rules.absent.has_value()) {
    return FillElements(spec.dtype, *spec.rules.absent, bytes);
  }
  models::Range range = spec.rules.values.value_or(models::Range{.minimum = 0, .maximum = 0});
  if (spec.dtype == DType::kUInt8 && !spec.rules.values.has_value()) range.maximum = 255;
  std::uniform_int_distribution<int64_t> numbers(range.minimum, range.maximum);
  for (size_t i = 0; i < bytes.size(); i += size) {
    FillElements(spec.dtype, numbers(random), bytes.subspan(i, size));
  }
}

std::vector<int64_t> SizesOf(const TensorSpec& spec, const TensorSpec& native) {
  std::vector<int64_t> sizes;
  for (size_t d = 0; d < spec.dims.size(); ++d) {
    int64_t size = spec.dims[d];
    if (size == -1 && d < native.dims.size()) size = native.dims[d];
    if (size == -1) {
      const models::Range range = spec.SizesOf(d);
      size = std::clamp(kAnySize, std::max<int64_t>(range.minimum, 1), range.maximum);
    }
    sizes.push_back(size);
  }
  return sizes;
}

// Of all inputs.
std::vector<std::vector<int64_t>> ShapesOf(const Signature& signature, const Signature& native) {
  std::vector<std::vector<int64_t>> shapes;
  for (size_t i = 0; i < signature.inputs.size(); ++i) {
    shapes.push_back(SizesOf(signature.inputs[i], native.inputs[i]));
  }
  models::TieSizes(signature.inputs, shapes);
  for (std::vector<int64_t>& shape : shapes) {
    if (signature.rows.batched) shape.insert(shape.begin(), signature.rows.rows.minimum);
  }
  return shapes;
}

int64_t CountOf(const std::vector<int64_t>& shape) {
  int64_t count = 1;
  for (const int64_t size : shape) count *= size;
  return count;
}

}  // namespace

std::vector<Sample> MakeProbes(const Signature& signature, const Signature& native,
                               absl::Span<const Sample> golden) {
  std::vector<Sample> probes;
  std::mt19937_64 random;  // seeded alike every time
  Sample& by_chance = probes.emplace_back();
  by_chance.name = "numbers by chance";
  const std::vector<std::vector<int64_t>> shapes = ShapesOf(signature, native);
  for (size_t i = 0; i < signature.inputs.size(); ++i) {
    const TensorSpec& spec = signature.inputs[i];
    KeptTensor& input = by_chance.inputs.emplace_back();
    input.dtype = spec.dtype;
    input.shape = shapes[i];
    input.bytes.resize(CountOf(input.shape) * DTypeSize(spec.dtype));
    if (!input.bytes.empty()) FillByChance(spec, random, absl::MakeSpan(input.bytes));
  }
  if (golden.empty()) return probes;
  Sample first{golden[0].name, golden[0].inputs, {}};
  if (signature.rows.batched) {
    const int64_t rows = signature.rows.rows.minimum;
    for (KeptTensor& input : first.inputs) {
      if (input.shape[0] < rows) return probes;
      input.bytes.resize(input.bytes.size() / input.shape[0] * rows);
      input.shape[0] = rows;
    }
  }
  probes.push_back(std::move(first));
  return probes;
}

absl::StatusOr<Answers> AnswerProbes(Replica& replica, absl::Span<const Sample> probes) {
  Answers answers;
  for (const Sample& probe : probes) {
    std::vector<int64_t> sizes;
    for (const KeptTensor& input : probe.inputs) {
      sizes.push_back(static_cast<int64_t>(input.bytes.size()));
    }
    auto staged = replica.Stage(sizes);
    if (!staged.ok()) return staged.status();
    BatchInput batch;
    batch.inputs = *std::move(staged);
    for (size_t i = 0; i < probe.inputs.size(); ++i) {
      const KeptTensor& input = probe.inputs[i];
      std::copy(input.bytes.begin(), input.bytes.end(), batch.inputs[i].bytes.begin());
      batch.inputs[i].dtype = input.dtype;
      batch.inputs[i].shape = input.shape;
    }
    const auto outputs = replica.Run(std::move(batch));
    if (!outputs.ok()) return outputs.status();
    std::vector<KeptTensor>& answer = answers.emplace_back();
    for (const HostTensor& output : *outputs) {
      answer.push_back({output.dtype, output.shape, {output.bytes.begin(), output.bytes.end()}});
    }
  }
  return answers;
}

Deviation LargestDeviation(const Answers& expected, const Answers& got) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  Deviation largest;
  for (size_t probe = 0; probe < expected.size(); ++probe) {
    for (size_t o = 0; o < expected[probe].size(); ++o) {
      const KeptTensor& wanted = expected[probe][o];
      const KeptTensor& came = got[probe][o];
      if (wanted.dtype != came.dtype || wanted.bytes.size() != came.bytes.size()) {
        return {kInfinity, kInfinity};
      }
      double absolute = 0, magnitude = 0;
      for (size_t i = 0; i < wanted.bytes.size(); i += DTypeSize(wanted.dtype)) {
        const auto a = FloatAt(wanted.dtype, wanted.bytes.data() + i);
        const auto b = FloatAt(came.dtype, came.bytes.data() + i);
        if (!a.has_value()) break;
        if (*a == *b || (std::isnan(*a) && std::isnan(*b))) continue;
        const double apart = std::abs(*a - *b);
        absolute = std::isfinite(apart) ? std::max(absolute, apart) : kInfinity;
      }
      for (size_t i = 0; i < wanted.bytes.size(); i += DTypeSize(wanted.dtype)) {
        const auto a = FloatAt(wanted.dtype, wanted.bytes.data() + i);
        if (!a.has_value()) break;
        if (std::isfinite(*a)) magnitude = std::max(magnitude, std::abs(*a));
      }
      largest.absolute = std::max(largest.absolute, absolute);
      if (absolute > 0) {
        largest.relative =
            std::max(largest.relative, magnitude > 0 ? absolute / magnitude : kInfinity);
      }
    }
  }
  return largest;
}

std::string Text(const Deviation& deviation) {
  return absl::StrFormat("%.2g, which is %.2g of the largest output", deviation.absolute,
                         deviation.relative);
}

}  // namespace sconce
