// Arithmetic on sizes: nodes whose inputs are all integers that are known, or that the graph knows
// when it runs.
#include <ATen/ops/tensor.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <optional>
#include <utility>

#include "server/program/onnx_builder.h"

namespace sconce {
namespace {

using models::Argument;

const std::map<std::string, std::string>& Arithmetic() {
  static const auto* const names = new std::map<std::string, std::string>{
      {"Add", "add"},    {"Sub", "sub"}, {"Mul", "mul"}, {"Div", "floordiv"},
      {"Mod", "mod"},    {"Max", "max"}, {"Min", "min"}, {"Equal", "eq"},
      {"Greater", "gt"}, {"Less", "lt"}, {"And", "and"}, {"Or", "or"},
  };
  return *names;
}

bool IsIntegerType(c10::ScalarType type) { return c10::isIntegralType(type, /*includeBool=*/true); }

int64_t AtLeast(const OnnxIntegers& a, const OnnxIntegers& b) {
  return static_cast<int64_t>(std::max(a.size(), b.size()));
}

// Elementwise, where one may be repeated.
void Combine(OnnxCall& call, const std::string& op, const std::vector<OnnxIntegers>& in) {
  const OnnxIntegers &a = in[0], &b = in[1];
  if (a.size() != b.size() && a.size() != 1 && b.size() != 1) {
    return call.Wrong("expected as many integers on both sides, got ", a.size(), " and ", b.size());
  }
  OnnxIntegers result;
  const bool empty = a.empty() || b.empty();
  for (size_t i = 0; !empty && i < static_cast<size_t>(AtLeast(a, b)); ++i) {
    result.push_back(call.Calculate(op, a[a.size() == 1 ? 0 : i], b[b.size() == 1 ? 0 : i]));
  }
  const bool truths = op == "eq" || op == "gt" || op == "lt" || op == "and" || op == "or";
  call.Set(0, {.integers = std::move(result),
               .dtype = truths ? c10::ScalarType::Bool : c10::ScalarType::Long,
               .rank = std::max(call.In(0).rank, call.In(1).rank)});
}

void Gather(OnnxCall& call, const std::vector<OnnxIntegers>& in) {
  OnnxIntegers result;
  const auto size = static_cast<int64_t>(in[0].size());
  for (const int64_t index : call.Numbers(1)) {
    if (index < -size || index >= size) {
      return call.Wrong("expected an index into ", size, " integers, got ", index);
    }
    result.push_back(in[0][static_cast<size_t>(index < 0 ? index + size : index)]);
  }
  call.SetIntegers(0, std::move(result), call.In(1).rank);
}

void Slice(OnnxCall& call, const std::vector<OnnxIntegers>& in) {
  const std::vector<int64_t> starts = call.Numbers(1), ends = call.Numbers(2);
  const std::vector<int64_t> steps = call.Has(4) ? call.Numbers(4) : std::vector<int64_t>{1};
  if (starts.size() != 1 || ends.size() != 1 || steps.size() != 1) {
    return call.Wrong("expected one start, end and step for a list of integers");
  }
  const auto size = static_cast<int64_t>(in[0].size());
  const auto bounded = [size](int64_t at, int64_t lowest, int64_t highest) {
    return std::clamp(at < 0 ? at + size : at, lowest, highest);
  };
  OnnxIntegers result;
  if (steps[0] > 0) {
    const int64_t end = bounded(ends[0], 0, size);
    for (int64_t i = bounded(starts[0], 0, size); i < end; i += std::min(steps[0], size + 1)) {
      result.push_back(in[0][static_cast<size_t>(i)]);
    }
  } else if (steps[0] == -1) {
    const int64_t end = ends[0] < -size ? -1 : bounded(ends[0], -1, size - 1);
    for (int64_t i = bounded(starts[0], -1, size - 1); i > end; --i) {
      result.push_back(in[0][static_cast<size_t>(i)]);
    }
  } else {
    return call.Unsupported("a step of ", steps[0]);
  }
  call.SetIntegers(0, std::move(result), 1);
}

void Where(OnnxCall& call, const std::vector<OnnxIntegers>& in) {
  const size_t size = std::max({in[0].size(), in[1].size(), in[2].size()});
  for (const OnnxIntegers& part : in) {
    if (part.size() != size && part.size() != 1) {
      return call.Wrong("expected as many integers in all inputs, got ", part.size(), " and ",
                        size);
    }
  }
  OnnxIntegers result;
  int64_t rank = 0;
  for (size_t i = 0; i < 3; ++i) rank = std::max(rank, call.In(i).rank);
  for (size_t i = 0; i < size; ++i) {
    const auto at = [&](size_t input) { return in[input][in[input].size() == 1 ? 0 : i]; };
    const Argument condition = at(0);
    if (const int64_t* known = AsNumber(condition)) {
      result.push_back(*known != 0 ? at(1) : at(2));
    } else {
      result.emplace_back(call.Emit("sym::ite", {condition, at(1), at(2)}));
    }
  }
  call.SetIntegers(0, std::move(result), rank);
}

void Range(OnnxCall& call, const std::vector<OnnxIntegers>& in) {
  const int64_t start = *AsNumber(in[0][0]), limit = *AsNumber(in[1][0]),
                step = *AsNumber(in[2][0]);
  OnnxIntegers result;
  constexpr int64_t kMost = 1024;
  if (step != 1 || start < 0 || limit > kMost) return call.Unsupported("a range that long");
  for (int64_t i = start; i < limit; ++i) result.emplace_back(i);
  call.SetIntegers(0, std::move(result), 1);
}

void Product(OnnxCall& call, const std::vector<OnnxIntegers>& in) {
  Argument product = int64_t{1};
  for (const Argument& integer : in[0]) product = call.Calculate("mul", product, integer);
  call.SetIntegers(0, {product}, call.Int("keepdims", 1) != 0 ? 1 : 0);
}

bool AllNumbers(const OnnxIntegers& integers) {
  return std::all_of(integers.begin(), integers.end(),
                     [](const Argument& argument) { return AsNumber(argument) != nullptr; });
}

// Integers in more dimensions than one are few and known: the older exporter turns the pads of a
// tensor round by way of a matrix.
std::optional<at::Tensor> Known(OnnxValue& value) {
  constexpr int64_t kMost = 1024;
  if (!IsIntegerType(value.dtype)) return std::nullopt;
  if (value.constant.has_value()) {
    if (value.constant->numel() > kMost) return std::nullopt;
    return value.constant;
  }
  if (!value.integers.has_value() || !AllNumbers(*value.integers)) return std::nullopt;
  std::vector<int64_t> numbers;
  for (const Argument& argument : *value.integers) numbers.push_back(*AsNumber(argument));
  const at::Tensor tensor = at::tensor(numbers, at::kLong).to(value.dtype);
  return value.rank == 0 ? tensor.reshape({}) : tensor;
}

bool FoldMatrix(OnnxCall& call) {
  const std::string& op = call.node().op_type;
  if (op != "Reshape" && op != "Slice" && op != "Transpose") return false;
  const std::optional<at::Tensor> known = Known(call.In(0));
  if (!known.has_value()) return false;
  at::Tensor result = *known;
  if (op == "Reshape") {
    if (!Known(call.In(1)).has_value()) return false;
    const std::vector<int64_t> shape = call.Numbers(1);
    if (std::find(shape.begin(), shape.end(), 0) != shape.end()) return false;
    result = result.reshape(shape);
  } else if (op == "Transpose") {
    std::vector<int64_t> order = call.Ints("perm");
    for (int64_t i = result.dim(); call.Find("perm") == nullptr && i > 0;) order.push_back(--i);
    result = result.permute(order);
  } else {
    // Only turning a dimension round; else as any other.
    if (!call.Has(4) || call.Numbers(4) != std::vector<int64_t>{-1} || !call.Has(3) ||
        call.Numbers(1) != std::vector<int64_t>{-1} || call.Numbers(2).size() != 1 ||
        call.Numbers(3).size() != 1) {
      return false;
    }
    const int64_t axis = call.Axis(call.Numbers(3)[0], result.dim());
    if (call.Numbers(2)[0] >= -result.size(axis)) return false;
    result = result.flip({axis});
  }
  result = result.contiguous();
  call.Set(0, {.constant = result,
               .dtype = result.scalar_type(),
               .rank = result.dim(),
               .shape = result.sizes().vec()});
  return true;
}

}  // namespace

bool ImportIntegers(OnnxCall& call) {
  const std::string& op = call.node().op_type;
  if (FoldMatrix(call)) return true;
  // Those that need no tensor, whatever their input is.
  if (op == "Shape" || op == "Size") {
    const int64_t rank = call.In(0).rank;
    OnnxIntegers sizes;
    if (op == "Shape") {
      const auto bounded = [rank](int64_t at) {
        return std::clamp<int64_t>(at < 0 ? at + rank : at, 0, rank);
      };
      const int64_t end = bounded(call.Int("end", rank));
      for (int64_t i = bounded(call.Int("start", 0)); i < end; ++i) {
        sizes.push_back(call.Size(0, i));
      }
      call.SetIntegers(0, std::move(sizes), 1);
    } else {
      Argument product = int64_t{1};
      for (int64_t i = 0; i < rank; ++i) product = call.Calculate("mul", product, call.Size(0, i));
      call.SetIntegers(0, {product}, 0);
    }
    return true;
  }
  std::vector<OnnxIntegers> in;
  for (size_t i = 0; i < call.inputs(); ++i) {
    if (!call.Has(i)) continue;
    const OnnxValue& value = call.In(i);
    if (value.rank > 1 || !IsIntegerType(value.dtype)) return false;
    std::optional<OnnxIntegers> integers = IntegersOf(value);
    if (!integers.has_value()) return false;
    in.push_back(*std::move(integers));
  }
  const auto arithmetic = Arithmetic().find(op);
  if (arithmetic != Arithmetic().end() && in.size() == 2) {
    Combine(call, arithmetic->second, in);
  } else if (op == "Concat") {
    OnnxIntegers all;
    for (const OnnxIntegers& part : in) all.insert(all.end(), part.begin(), part.end());
    call.SetIntegers(0, std::move(all), 1);
  } else if (op == "Gather" && in.size() == 2 && call.In(0).rank == 1) {
    Gather(call, in);
  } else if (op == "Slice" && in.size() >= 3) {
    Slice(call, in);
  } else if ((op == "Unsqueeze" && call.In(0).rank == 0) ||
             (op == "Squeeze" && !in.empty() && in[0].size() == 1)) {
    call.SetIntegers(0, in[0], op == "Squeeze" ? 0 : 1);
  } else if (op == "Reshape" && in.size() == 2 && in[1].size() <= 1) {
    call.SetIntegers(0, in[0], static_cast<int64_t>(in[1].size()));
  } else if (op == "Identity" && in.size() == 1) {
    call.SetIntegers(0, in[0], call.In(0).rank);
  } else if (op == "Cast" && in.size() == 1 && (call.Int("to", 0) == 7 || call.Int("to", 0) == 6)) {
    call.SetIntegers(0, in[0], call.In(0).rank);
  } else if (op == "Neg" && in.size() == 1 && in[0].size() == 1) {
    call.SetIntegers(0, {call.Calculate("sub", int64_t{0}, in[0][0])}, call.In(0).rank);
  } else if (op == "Where" && in.size() == 3) {
    Where(call, in);
  } else if (op == "ReduceProd" && !in.empty() && call.In(0).rank == 1) {
    Product(call, in);
  } else if (op == "Range" && in.size() == 3 && AllNumbers(in[0]) && AllNumbers(in[1]) &&
             AllNumbers(in[2]) && in[0].size() == 1 && in[1].size() == 1 && in[2].size() == 1) {
    Range(call, in);
  } else if (op == "ConstantOfShape" && in.size() == 1 && in[0].size() == 1 && AllNumbers(in[0]) &&
             call.Find("value") != nullptr && call.Find("value")->t &&
             call.Find("value")->t->dtype == DType::kInt64 && *AsNumber(in[0][0]) <= 64) {
    int64_t value = 0;
    const std::string& bytes = call.Find("value")->t->bytes;
    if (bytes.size() == sizeof(value)) std::memcpy(&value, bytes.data(), sizeof(value));
    call.SetIntegers(0,
                     OnnxIntegers(static_cast<size_t>(std::max<int64_t>(0, *AsNumber(in[0][0]))),
                                  Argument(value)),
                     1);
  } else {
    return false;
  }
  return true;
}

}  // namespace sconce
