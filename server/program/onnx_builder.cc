#include "server/program/onnx_builder.h"

#include <ATen/ops/tensor.h>

#include <algorithm>
#include <utility>

#include "server/base/printable.h"

namespace sconce {
namespace {

using models::Argument;
using models::NamedArgument;
using models::ValueId;

// More integers that are calculated from data than a shape has.
constexpr int64_t kMaxReadOut = 16;

std::vector<NamedArgument> InOrder(std::vector<Argument> arguments) {
  std::vector<NamedArgument> named;
  for (Argument& argument : arguments) named.push_back({"", std::move(argument)});
  return named;
}

std::optional<int64_t> CalculateNow(const std::string& op, int64_t a, int64_t b) {
  int64_t result = 0;
  if (op == "add" && !__builtin_add_overflow(a, b, &result)) return result;
  if (op == "sub" && !__builtin_sub_overflow(a, b, &result)) return result;
  if (op == "mul" && !__builtin_mul_overflow(a, b, &result)) return result;
  if (op == "max") return std::max(a, b);
  if (op == "min") return std::min(a, b);
  if (op == "eq") return a == b ? 1 : 0;
  if (op == "lt") return a < b ? 1 : 0;
  if (op == "gt") return a > b ? 1 : 0;
  if (op == "and") return a != 0 && b != 0 ? 1 : 0;
  if (op == "or") return a != 0 || b != 0 ? 1 : 0;
  if (b > 0 && op == "floordiv") return a / b - (a % b < 0 ? 1 : 0);
  if (b > 0 && op == "mod") return ((a % b) + b) % b;
  return std::nullopt;
}

}  // namespace

OnnxValue* OnnxBuilder::Find(const std::string& name) {
  const auto found = values_.find(name);
  return found == values_.end() ? nullptr : &found->second;
}

bool OnnxBuilder::Define(const std::string& name, OnnxValue value) {
  return values_.emplace(name, std::move(value)).second;
}

std::vector<ValueId> OnnxBuilder::EmitSome(const std::string& node, const std::string& op,
                                           std::vector<NamedArgument> arguments, size_t count,
                                           size_t results) {
  models::GraphNode added;
  added.name = node;
  const size_t dot = op.find('.');
  added.op = op.substr(0, dot);
  if (dot != std::string::npos) added.overload = op.substr(dot + 1);
  added.arguments = std::move(arguments);
  std::vector<ValueId> values;
  for (size_t i = 0; i < results; ++i) {
    const ValueId value =
        i < count ? graph_.AddValue(absl::StrCat(node, "#", graph_.value_names.size())) : ValueId{};
    added.outputs.push_back({.values = {value}});
    if (i < count) values.push_back(value);
  }
  graph_.nodes.push_back(std::move(added));
  return values;
}

ValueId OnnxBuilder::Emit(const std::string& node, const std::string& op,
                          std::vector<NamedArgument> arguments) {
  return EmitSome(node, op, std::move(arguments), 1, 1)[0];
}

std::vector<ValueId> OnnxBuilder::EmitList(const std::string& node, const std::string& op,
                                           std::vector<NamedArgument> arguments, size_t count) {
  Emit(node, op, std::move(arguments));
  models::NodeOutput& output = graph_.nodes.back().outputs[0];
  output.is_list = true;
  while (output.values.size() < count) {
    output.values.push_back(graph_.AddValue(absl::StrCat(node, "#", graph_.value_names.size())));
  }
  return output.values;
}

ValueId OnnxBuilder::TensorOf(const std::string& node, OnnxValue& value) {
  if (value.tensor.index >= 0) return value.tensor;
  const std::optional<std::vector<int64_t>> numbers =
      value.integers.has_value() ? AsNumbers(*value.integers) : std::nullopt;
  if (!value.constant.has_value() && numbers.has_value()) {
    at::Tensor tensor = at::tensor(*numbers, at::kLong).to(value.dtype);
    value.constant = value.rank == 0 ? tensor.reshape({}) : tensor;
  }
  if (value.constant.has_value()) {
    value.tensor = graph_.AddValue(absl::StrCat(node, "#", graph_.value_names.size()));
    graph_.constants.push_back({graph_.value_names[static_cast<size_t>(value.tensor.index)],
                                value.tensor, *value.constant});
    return value.tensor;
  }
  std::vector<Argument> elements;
  for (const Argument& integer : value.integers.value_or(OnnxIntegers())) {
    elements.emplace_back(Emit(node, "aten::scalar_tensor",
                               {{"s", integer},
                                {"dtype", Argument(value.dtype)},
                                {"device", Argument(c10::Device(c10::kCPU))}}));
  }
  if (value.rank == 0 && elements.size() == 1) {
    value.tensor = std::get<ValueId>(elements[0].variant);
  } else {
    value.tensor = Emit(node, "aten::stack", InOrder({elements, int64_t{0}}));
  }
  if (value.rank > 1) {
    value.tensor = Emit(node, "aten::reshape", InOrder({value.tensor, AsList(*value.shape)}));
  }
  return value.tensor;
}

Argument OnnxBuilder::Calculate(const std::string& node, const std::string& op, const Argument& a,
                                const Argument& b) {
  const int64_t* left = AsNumber(a);
  const int64_t* right = AsNumber(b);
  if (left != nullptr && right != nullptr) {
    if (const std::optional<int64_t> now = CalculateNow(op, *left, *right)) return *now;
  }
  // A size is never negative, and what is added to it here is none.
  if (op == "mul" && right != nullptr && *right == 1) return a;
  if (op == "mul" && left != nullptr && *left == 1) return b;
  if (op == "add" && right != nullptr && *right == 0) return a;
  if (op == "floordiv" && right != nullptr && *right == 1) return a;
  return Emit(node, absl::StrCat("sym::", op), InOrder({a, b}));
}

std::vector<Argument> AsList(const std::vector<int64_t>& numbers) {
  return std::vector<Argument>(numbers.begin(), numbers.end());
}

std::optional<std::vector<int64_t>> AsNumbers(const OnnxIntegers& integers) {
  std::vector<int64_t> numbers;
  for (const Argument& integer : integers) {
    if (AsNumber(integer) == nullptr) return std::nullopt;
    numbers.push_back(*AsNumber(integer));
  }
  return numbers;
}

std::vector<int64_t> SlicedPlaces(int64_t size, int64_t start, int64_t end, int64_t step) {
  const auto bounded = [size](int64_t at, int64_t lowest, int64_t highest) {
    return std::clamp(at < 0 ? at + size : at, lowest, highest);
  };
  std::vector<int64_t> places;
  if (size == 0) return places;
  // A longer step leaves after the first place, too, and cannot overflow.
  step = std::clamp(step, -size, size);
  if (step > 0) {
    const int64_t stop = bounded(end, 0, size);
    for (int64_t i = bounded(start, 0, size); i < stop; i += step) places.push_back(i);
  } else {
    const int64_t stop = bounded(end, -1, size - 1);
    for (int64_t i = bounded(start, -1, size - 1); i > stop; i += step) places.push_back(i);
  }
  return places;
}

std::optional<OnnxIntegers> IntegersOf(const OnnxValue& value) {
  if (value.integers.has_value()) return value.integers;
  if (!value.constant.has_value() || value.rank > 1) return std::nullopt;
  const at::Tensor& tensor = *value.constant;
  if (!c10::isIntegralType(tensor.scalar_type(), /*includeBool=*/true) ||
      tensor.numel() > kMaxOnnxIntegers) {
    return std::nullopt;
  }
  const at::Tensor whole = tensor.to(at::kLong).contiguous();
  OnnxIntegers integers;
  for (int64_t i = 0; i < whole.numel(); ++i) {
    integers.emplace_back(whole.const_data_ptr<int64_t>()[i]);
  }
  return integers;
}

OnnxCall::OnnxCall(OnnxBuilder& builder, const OnnxNode& node, int64_t opset)
    : builder_(builder),
      node_(node),
      opset_(opset),
      name_(node.name.empty() && !node.outputs.empty() ? node.outputs[0] : node.name) {}

void OnnxCall::Fail(absl::Status status) {
  if (status_.ok()) status_ = std::move(status);
}

bool OnnxCall::Has(size_t input) const {
  return input < node_.inputs.size() && !node_.inputs[input].empty();
}

std::string OnnxCall::Named(size_t input) const {
  if (!Has(input)) return absl::StrCat("input ", input);
  return absl::StrCat("input ", input, " '", Printable(node_.inputs[input]), "'");
}

OnnxValue& OnnxCall::In(size_t input) {
  OnnxValue* value = Has(input) ? builder_.Find(node_.inputs[input]) : nullptr;
  if (value != nullptr) return *value;
  Wrong("expected input ", input, Has(input) ? " to be made before" : ", got none",
        Has(input) ? absl::StrCat(", got '", Printable(node_.inputs[input]), "'") : "");
  nothing_ = OnnxValue{.constant = at::tensor({0.0f}).reshape({})};
  return nothing_;
}

ValueId OnnxCall::Tensor(size_t input) { return builder_.TensorOf(name_, In(input)); }

Argument OnnxCall::Optional(size_t input) {
  return Has(input) ? Argument(Tensor(input)) : Argument();
}

OnnxIntegers OnnxCall::Integers(size_t input) {
  if (std::optional<OnnxIntegers> integers = IntegersOf(In(input))) return *std::move(integers);
  const std::vector<int64_t> sizes = KnownSizes(input);
  const bool few = sizes.empty() || (sizes.size() == 1 && sizes[0] >= 0 && sizes[0] <= kMaxReadOut);
  if (!few || !c10::isIntegralType(In(input).dtype, /*includeBool=*/false)) {
    Unsupported(Named(input), " that is neither constant nor calculated from sizes");
    return {};
  }
  // Sizes that depend on data are read while the graph runs.
  const ValueId tensor = Tensor(input);
  OnnxIntegers integers;
  for (int64_t i = 0; i < (sizes.empty() ? 1 : sizes[0]); ++i) {
    const ValueId element =
        sizes.empty() ? tensor : Emit("aten::select.int", {tensor, int64_t{0}, i});
    integers.emplace_back(Emit("aten::_local_scalar_dense", {element}));
  }
  return integers;
}

std::vector<int64_t> OnnxCall::Numbers(size_t input) {
  std::vector<int64_t> numbers;
  for (const Argument& argument : Integers(input)) {
    const int64_t* number = AsNumber(argument);
    if (number == nullptr) {
      Unsupported(Named(input), " that is not constant");
      return {};
    }
    numbers.push_back(*number);
  }
  return numbers;
}

std::optional<double> OnnxCall::Number(size_t input) {
  const OnnxValue& value = In(input);
  if (value.constant.has_value() && value.constant->numel() == 1) {
    return value.constant->to(at::kDouble).item<double>();
  }
  const std::optional<OnnxIntegers> integers = IntegersOf(value);
  if (integers.has_value() && integers->size() == 1 && AsNumber((*integers)[0])) {
    return static_cast<double>(*AsNumber((*integers)[0]));
  }
  return std::nullopt;
}

const OnnxAttribute* OnnxCall::Find(const std::string& name) const {
  const auto found = node_.attributes.find(name);
  return found == node_.attributes.end() ? nullptr : &found->second;
}

int64_t OnnxCall::Int(const std::string& name, int64_t otherwise) {
  const OnnxAttribute* attribute = Find(name);
  return attribute == nullptr ? otherwise : attribute->i.value_or(otherwise);
}

double OnnxCall::Float(const std::string& name, double otherwise) {
  const OnnxAttribute* attribute = Find(name);
  if (attribute == nullptr || !attribute->f.has_value()) return otherwise;
  return static_cast<double>(*attribute->f);
}

std::string OnnxCall::Text(const std::string& name, const std::string& otherwise) {
  const OnnxAttribute* attribute = Find(name);
  return attribute == nullptr ? otherwise : attribute->s.value_or(otherwise);
}

std::vector<int64_t> OnnxCall::Ints(const std::string& name, std::vector<int64_t> otherwise) {
  const OnnxAttribute* attribute = Find(name);
  return attribute == nullptr ? std::move(otherwise) : attribute->ints;
}

std::optional<std::vector<int64_t>> OnnxCall::Axes(int64_t since, size_t input) {
  if (opset_ < since) {
    if (Find("axes") == nullptr) return std::nullopt;
    return Ints("axes");
  }
  if (!Has(input)) return std::nullopt;
  return Numbers(input);
}

int64_t OnnxCall::Axis(int64_t axis, int64_t rank) {
  if (axis < -rank || axis >= rank) {
    Wrong("expected an axis of ", rank, " dimensions, got ", axis);
    return 0;
  }
  return axis < 0 ? axis + rank : axis;
}

ValueId OnnxCall::Emit(const std::string& op, std::vector<Argument> arguments,
                       std::vector<NamedArgument> named) {
  std::vector<NamedArgument> all = InOrder(std::move(arguments));
  for (NamedArgument& argument : named) all.push_back(std::move(argument));
  return builder_.Emit(name_, op, std::move(all));
}

std::vector<ValueId> OnnxCall::EmitList(const std::string& op, std::vector<Argument> arguments,
                                        size_t count) {
  return builder_.EmitList(name_, op, InOrder(std::move(arguments)), count);
}

std::vector<ValueId> OnnxCall::EmitSome(const std::string& op, std::vector<Argument> arguments,
                                        size_t count, size_t results) {
  return builder_.EmitSome(name_, op, InOrder(std::move(arguments)), count, results);
}

Argument OnnxCall::Size(size_t input, int64_t dim) {
  const OnnxValue& value = In(input);
  const std::vector<int64_t> sizes = KnownSizes(input);
  if (dim < value.rank && sizes[static_cast<size_t>(dim)] >= 0) {
    return sizes[static_cast<size_t>(dim)];
  }
  return SizeOf(Tensor(input), dim);
}

Argument OnnxCall::SizeOf(ValueId tensor, int64_t dim) {
  return Emit("aten::sym_size.int", {tensor, dim});
}

std::vector<int64_t> OnnxCall::KnownSizes(size_t input) {
  const OnnxValue& value = In(input);
  if (value.shape.has_value()) return *value.shape;
  if (value.integers.has_value() && value.rank == 1) {
    return {static_cast<int64_t>(value.integers->size())};
  }
  return std::vector<int64_t>(static_cast<size_t>(value.rank), -1);
}

Argument OnnxCall::Calculate(const std::string& op, const Argument& a, const Argument& b) {
  return builder_.Calculate(name_, op, a, b);
}

bool OnnxCall::Wants(size_t output) const {
  return output < node_.outputs.size() && !node_.outputs[output].empty();
}

void OnnxCall::Set(size_t output, OnnxValue value) {
  if (!Wants(output) || !status_.ok()) return;
  if (!builder_.Define(node_.outputs[output], std::move(value))) {
    Wrong("expected each value to be made once, got '", Printable(node_.outputs[output]),
          "' twice");
  }
}

void OnnxCall::SetTensor(size_t output, ValueId tensor, int64_t rank, c10::ScalarType dtype) {
  Set(output, {.tensor = tensor, .dtype = dtype, .rank = rank});
}

void OnnxCall::SetSized(size_t output, ValueId tensor, std::vector<int64_t> sizes,
                        c10::ScalarType dtype) {
  const auto rank = static_cast<int64_t>(sizes.size());
  Set(output, {.tensor = tensor, .dtype = dtype, .rank = rank, .shape = std::move(sizes)});
}

void OnnxCall::SetIntegers(size_t output, OnnxIntegers integers, int64_t rank) {
  if (static_cast<int64_t>(integers.size()) > kMaxOnnxIntegers) Unsupported("a shape that long");
  Set(output, {.integers = std::move(integers), .dtype = c10::ScalarType::Long, .rank = rank});
}

}  // namespace sconce
