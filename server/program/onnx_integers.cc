// Arithmetic on sizes: nodes whose inputs are all integers that are known, or that the graph knows
// when it runs.
#include <ATen/ops/arange.h>
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
  if (steps[0] == 0) return call.Wrong("expected a step, got 0");
  OnnxIntegers result;
  const auto size = static_cast<int64_t>(in[0].size());
  for (const int64_t place : SlicedPlaces(size, starts[0], ends[0], steps[0])) {
    result.push_back(in[0][static_cast<size_t>(place)]);
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

// False: it is longer than any shape, and a tensor.
bool Range(OnnxCall& call, const std::vector<OnnxIntegers>& in) {
  const int64_t start = *AsNumber(in[0][0]), limit = *AsNumber(in[1][0]),
                step = *AsNumber(in[2][0]);
  if (step != 1 || start < 0 || limit > kMaxOnnxIntegers) return false;
  OnnxIntegers result;
  for (int64_t i = start; i < limit; ++i) result.emplace_back(i);
  call.SetIntegers(0, std::move(result), 1);
  return true;
}

void Product(OnnxCall& call, const std::vector<OnnxIntegers>& in) {
  Argument product = int64_t{1};
  for (const Argument& integer : in[0]) product = call.Calculate("mul", product, integer);
  call.SetIntegers(0, {product}, call.Int("keepdims", 1) != 0 ? 1 : 0);
}

// The numbers in an input, where all are known.
std::optional<std::vector<int64_t>> KnownNumbers(OnnxCall& call, size_t input) {
  const std::optional<OnnxIntegers> integers = IntegersOf(call.In(input));
  return integers.has_value() ? AsNumbers(*integers) : std::nullopt;
}

// `places` as the node leaves them: nullopt where it is for others to say how.
std::optional<at::Tensor> Rearranged(OnnxCall& call, at::Tensor places) {
  const std::string& op = call.node().op_type;
  if (op == "Transpose") {
    std::vector<int64_t> order = call.Ints("perm");
    for (int64_t i = places.dim(); call.Find("perm") == nullptr && i > 0;) order.push_back(--i);
    return places.permute(order);
  }
  if (op == "Reshape") {
    const std::optional<std::vector<int64_t>> shape = KnownNumbers(call, 1);
    if (!shape.has_value() || std::find(shape->begin(), shape->end(), 0) != shape->end()) {
      return std::nullopt;
    }
    return places.reshape(*shape);
  }
  std::vector<std::vector<int64_t>> given;
  for (size_t i = 1; i < 5 && call.Has(i); ++i) {
    std::optional<std::vector<int64_t>> numbers = KnownNumbers(call, i);
    if (!numbers.has_value() || (i > 1 && numbers->size() != given[0].size())) return std::nullopt;
    given.push_back(*std::move(numbers));
  }
  if (given.size() < 3) return std::nullopt;
  for (size_t i = 0; i < given[0].size(); ++i) {
    const int64_t axis = call.Axis(given[2][i], places.dim());
    const int64_t step = given.size() > 3 ? given[3][i] : 1;
    if (!call.status().ok() || step == 0) return std::nullopt;
    const at::Tensor picked =
        at::tensor(SlicedPlaces(places.size(axis), given[0][i], given[1][i], step), at::kLong);
    places = places.index_select(axis, picked);
  }
  return places;
}

// Integers that are only put in another order or shape. In more dimensions than one there are few:
// the older exporter turns the pads of a tensor round by way of a matrix.
bool Rearrange(OnnxCall& call) {
  const std::string& op = call.node().op_type;
  if (op != "Reshape" && op != "Slice" && op != "Transpose") return false;
  const OnnxValue value = call.In(0);
  if (!IsIntegerType(value.dtype)) return false;
  std::vector<int64_t> shape;
  int64_t count;
  if (value.constant.has_value()) {
    count = value.constant->numel();
    shape = value.constant->sizes().vec();
  } else if (value.integers.has_value()) {
    count = static_cast<int64_t>(value.integers->size());
    if (value.rank == 1) shape = {count};
    if (value.rank > 1) shape = *value.shape;
  } else {
    return false;
  }
  if (count > kMaxOnnxIntegers) return false;
  const std::optional<at::Tensor> places =
      Rearranged(call, at::arange(count, at::kLong).reshape(shape));
  if (!places.has_value()) return false;
  const at::Tensor flat = places->reshape({-1});
  OnnxValue result{.dtype = value.dtype, .rank = places->dim(), .shape = places->sizes().vec()};
  if (value.constant.has_value()) {
    result.constant = value.constant->reshape({-1}).index_select(0, flat).reshape(places->sizes());
  } else {
    result.integers.emplace();
    for (int64_t i = 0; i < flat.numel(); ++i) {
      result.integers->push_back((*value.integers)[static_cast<size_t>(flat[i].item<int64_t>())]);
    }
  }
  call.Set(0, std::move(result));
  return true;
}

bool OneNumberEach(const std::vector<OnnxIntegers>& in) {
  return std::all_of(in.begin(), in.end(), [](const OnnxIntegers& integers) {
    return integers.size() == 1 && AsNumber(integers[0]) != nullptr;
  });
}

}  // namespace

bool ImportIntegers(OnnxCall& call) {
  const std::string& op = call.node().op_type;
  if (!call.Has(0)) return false;
  if (Rearrange(call)) return true;
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
  std::vector<OnnxIntegers> in;  // as far as none is left out
  for (size_t i = 0; call.Has(i); ++i) {
    const OnnxValue& value = call.In(i);
    if (value.rank > 1 || !IsIntegerType(value.dtype)) return false;
    std::optional<OnnxIntegers> integers = IntegersOf(value);
    if (!integers.has_value()) return false;
    in.push_back(*std::move(integers));
  }
  const auto arithmetic = Arithmetic().find(op);
  if (arithmetic != Arithmetic().end() && in.size() == 2) {
    Combine(call, arithmetic->second, in);
  } else if (op == "Concat" && in.size() == call.inputs()) {
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
  } else if (op == "Expand" && in.size() == 2 && in[0].size() == 1 && OneNumberEach({in[1]}) &&
             *AsNumber(in[1][0]) >= 1 && *AsNumber(in[1][0]) <= kMaxOnnxIntegers) {
    call.SetIntegers(0, OnnxIntegers(static_cast<size_t>(*AsNumber(in[1][0])), in[0][0]), 1);
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
  } else if (op == "Range" && in.size() == 3 && OneNumberEach(in)) {
    return Range(call, in);
  } else if (op == "ConstantOfShape" && in.size() == 1 && OneNumberEach(in) &&
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
