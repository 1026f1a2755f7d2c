#include <algorithm>
#include <cmath>
#include <map>
#include <utility>

#include "server/base/printable.h"
#include "server/checkpoint/onnx/onnx_tensor.h"
#include "server/program/onnx_builder.h"
#include "server/program/onnx_layers.h"
#include "server/weights/scalar_type.h"

namespace sconce {
namespace {

using models::Argument;
using models::ValueId;
using Handler = void (*)(OnnxCall&);

std::vector<Argument> AsList(const std::vector<int64_t>& numbers) {
  return std::vector<Argument>(numbers.begin(), numbers.end());
}

// One tensor in, one of the same kind out.
void Unary(OnnxCall& call, const std::string& op) {
  const ValueId x = call.Tensor(0);
  call.SetTensor(0, call.Emit(op, {x}), call.In(0).rank, call.In(0).dtype);
}

c10::ScalarType Promoted(OnnxCall& call) { return call.In(0).dtype; }

void Binary(OnnxCall& call, const std::string& op, bool gives_truths) {
  ValueId result = call.Tensor(0);
  int64_t rank = call.In(0).rank;
  for (size_t i = 1; i < call.inputs(); ++i) {
    result = call.Emit(op, {result, call.Tensor(i)});
    rank = std::max(rank, call.In(i).rank);
  }
  call.SetTensor(0, result, rank, gives_truths ? c10::ScalarType::Bool : Promoted(call));
}

void Divide(OnnxCall& call) {
  if (!c10::isIntegralType(call.In(0).dtype, false)) return Binary(call, "aten::div.Tensor", false);
  const ValueId result = call.Emit("aten::div.Tensor_mode", {call.Tensor(0), call.Tensor(1)},
                                   {{"rounding_mode", Argument(std::string("trunc"))}});
  call.SetTensor(0, result, std::max(call.In(0).rank, call.In(1).rank), Promoted(call));
}

void Modulo(OnnxCall& call) {
  Binary(call, call.Int("fmod", 0) != 0 ? "aten::fmod.Tensor" : "aten::remainder.Tensor", false);
}

void Power(OnnxCall& call) {
  if (const std::optional<double> exponent = call.Number(1)) {
    const ValueId x = call.Tensor(0);
    return call.SetTensor(0, call.Emit("aten::pow.Tensor_Scalar", {x, *exponent}), call.In(0).rank,
                          call.In(0).dtype);
  }
  Binary(call, "aten::pow.Tensor_Tensor", false);
}

void Where(OnnxCall& call) {
  const ValueId result =
      call.Emit("aten::where.self", {call.Tensor(0), call.Tensor(1), call.Tensor(2)});
  int64_t rank = 0;
  for (size_t i = 0; i < 3; ++i) rank = std::max(rank, call.In(i).rank);
  call.SetTensor(0, result, rank, call.In(1).dtype);
}

void Clip(OnnxCall& call) {
  const ValueId x = call.Tensor(0);
  Argument low, high;
  for (size_t i = 1; i < 3; ++i) {
    if (!call.Has(i)) continue;
    const std::optional<double> bound = call.Number(i);
    if (!bound.has_value()) return call.Unsupported("a bound that is not constant");
    (i == 1 ? low : high) = *bound;
  }
  call.SetTensor(0, call.Emit("aten::clamp", {x, low, high}), call.In(0).rank, call.In(0).dtype);
}

void HardSigmoid(OnnxCall& call) {
  const double alpha = call.Float("alpha", 0.2), beta = call.Float("beta", 0.5);
  ValueId x = call.Tensor(0);
  if (std::abs(alpha - 1.0 / 6.0) < 1e-6 && beta == 0.5) {
    x = call.Emit("aten::hardsigmoid", {x});
  } else {
    x = call.Emit("aten::mul.Scalar", {x, alpha});
    x = call.Emit("aten::add.Scalar", {x, beta});
    x = call.Emit("aten::clamp", {x, int64_t{0}, int64_t{1}});
  }
  call.SetTensor(0, x, call.In(0).rank, call.In(0).dtype);
}

void WithSlope(OnnxCall& call) {
  const bool leaky = call.node().op_type == "LeakyRelu";
  const double alpha = call.Float("alpha", leaky ? 0.01 : 1.0);
  const ValueId x = call.Tensor(0);
  call.SetTensor(0, call.Emit(leaky ? "aten::leaky_relu" : "aten::elu", {x, alpha}),
                 call.In(0).rank, call.In(0).dtype);
}

void Gelu(OnnxCall& call) {
  const ValueId x = call.Tensor(0);
  const ValueId y =
      call.Emit("aten::gelu", {x}, {{"approximate", Argument(call.Text("approximate", "none"))}});
  call.SetTensor(0, y, call.In(0).rank, call.In(0).dtype);
}

void Softmax(OnnxCall& call) {
  const bool log = call.node().op_type == "LogSoftmax";
  const ValueId x = call.Tensor(0);
  call.SetTensor(0,
                 call.Emit(log ? "aten::log_softmax.int" : "aten::softmax.int",
                           {x, call.Axis(call.Int("axis", -1), call.In(0).rank), Argument()}),
                 call.In(0).rank, call.In(0).dtype);
}

void Reduce(OnnxCall& call) {
  static const auto* const operators =
      new std::map<std::string, std::string>{{"ReduceMean", "aten::mean.dim"},
                                             {"ReduceSum", "aten::sum.dim_IntList"},
                                             {"ReduceMax", "aten::amax"},
                                             {"ReduceMin", "aten::amin"},
                                             {"ReduceL2", "aten::linalg_vector_norm"}};
  const std::string& type = call.node().op_type;
  const int64_t rank = call.In(0).rank;
  std::optional<std::vector<int64_t>> axes = call.Axes(type == "ReduceSum" ? 13 : 18, 1);
  if (!axes.has_value() || axes->empty()) {
    if (call.Int("noop_with_empty_axes", 0) != 0) {
      return call.SetTensor(0, call.Tensor(0), rank, call.In(0).dtype);
    }
    axes.emplace();
    for (int64_t i = 0; i < rank; ++i) axes->push_back(i);
  }
  const bool keep = call.Int("keepdims", 1) != 0;
  std::vector<Argument> arguments = {call.Tensor(0)};
  if (type == "ReduceL2") arguments.emplace_back(int64_t{2});
  arguments.emplace_back(AsList(*axes));
  arguments.emplace_back(keep);
  const auto removed = static_cast<int64_t>(keep ? 0 : axes->size());
  call.SetTensor(0, call.Emit(operators->at(type), std::move(arguments)), rank - removed,
                 call.In(0).dtype);
}

void ArgMax(OnnxCall& call) {
  const bool keep = call.Int("keepdims", 1) != 0;
  if (call.Int("select_last_index", 0) != 0) return call.Unsupported("select_last_index");
  const std::string op = call.node().op_type == "ArgMax" ? "aten::argmax" : "aten::argmin";
  const int64_t rank = call.In(0).rank;
  const ValueId result =
      call.Emit(op, {call.Tensor(0), call.Axis(call.Int("axis", 0), rank), keep});
  call.SetTensor(0, result, keep ? rank : rank - 1, c10::ScalarType::Long);
}

void MatMul(OnnxCall& call) {
  const ValueId result = call.Emit("aten::matmul", {call.Tensor(0), call.Tensor(1)});
  const int64_t a = call.In(0).rank, b = call.In(1).rank;
  const int64_t rank = a == 1 && b == 1 ? 0 : a == 1 ? b - 1 : b == 1 ? a - 1 : std::max(a, b);
  call.SetTensor(0, result, rank, call.In(0).dtype);
}

void Gemm(OnnxCall& call) {
  const double alpha = call.Float("alpha", 1), beta = call.Float("beta", 1);
  ValueId a = call.Tensor(0), b = call.Tensor(1);
  if (call.Int("transA", 0) != 0) a = call.Emit("aten::t", {a});
  ValueId result;
  if (call.Int("transB", 0) != 0 && alpha == 1 && beta == 1 &&
      (!call.Has(2) || call.In(2).rank == 1)) {
    result = call.Emit("aten::linear", {a, b, call.Optional(2)});
  } else {
    if (call.Int("transB", 0) != 0) b = call.Emit("aten::t", {b});
    if (call.Has(2)) {
      result = call.Emit("aten::addmm", {call.Tensor(2), a, b},
                         {{"beta", Argument(beta)}, {"alpha", Argument(alpha)}});
    } else {
      result = call.Emit("aten::mm", {a, b});
      if (alpha != 1) result = call.Emit("aten::mul.Scalar", {result, alpha});
    }
  }
  call.SetTensor(0, result, 2, call.In(0).dtype);
}

void Einsum(OnnxCall& call) {
  std::vector<Argument> tensors;
  for (size_t i = 0; i < call.inputs(); ++i) tensors.emplace_back(call.Tensor(i));
  std::string equation = call.Text("equation", "");
  std::erase(equation, ' ');
  const size_t arrow = equation.find("->");
  if (arrow == std::string::npos || equation.find('.') != std::string::npos) {
    return call.Unsupported("the equation '", Printable(equation), "'");
  }
  call.SetTensor(0, call.Emit("aten::einsum", {equation, tensors}),
                 static_cast<int64_t>(equation.size() - arrow - 2), call.In(0).dtype);
}

void Flatten(OnnxCall& call) {
  const int64_t rank = call.In(0).rank;
  const int64_t axis = call.Int("axis", 1) == rank ? rank : call.Axis(call.Int("axis", 1), rank);
  ValueId x = call.Tensor(0);
  if (axis == 0) {
    x = call.Emit("aten::reshape", {x, AsList({1, -1})});
  } else if (axis == rank) {
    x = call.Emit("aten::reshape", {x, AsList({-1, 1})});
  } else {
    x = call.Emit("aten::flatten.using_ints", {x, axis, int64_t{-1}});
    if (axis > 1) x = call.Emit("aten::flatten.using_ints", {x, int64_t{0}, axis - 1});
  }
  call.SetTensor(0, x, 2, call.In(0).dtype);
}

void Reshape(OnnxCall& call) {
  OnnxIntegers shape = call.Integers(1);
  for (size_t i = 0; i < shape.size() && call.Int("allowzero", 0) == 0; ++i) {
    const int64_t* number = AsNumber(shape[i]);
    if (number != nullptr && *number == 0) shape[i] = call.Size(0, static_cast<int64_t>(i));
  }
  const auto rank = static_cast<int64_t>(shape.size());
  call.SetTensor(0, call.Emit("aten::reshape", {call.Tensor(0), std::move(shape)}), rank,
                 call.In(0).dtype);
}

void Transpose(OnnxCall& call) {
  const int64_t rank = call.In(0).rank;
  std::vector<int64_t> order = call.Ints("perm");
  for (int64_t i = rank; order.empty() && i > 0;) {
    while (i > 0) order.push_back(--i);
  }
  call.SetTensor(0, call.Emit("aten::permute", {call.Tensor(0), AsList(order)}), rank,
                 call.In(0).dtype);
}

void Concat(OnnxCall& call) {
  std::vector<Argument> tensors;
  for (size_t i = 0; i < call.inputs(); ++i) tensors.emplace_back(call.Tensor(i));
  const int64_t rank = call.In(0).rank;
  call.SetTensor(0, call.Emit("aten::cat", {tensors, call.Axis(call.Int("axis", 0), rank)}), rank,
                 call.In(0).dtype);
}

void Split(OnnxCall& call) {
  const int64_t rank = call.In(0).rank, axis = call.Axis(call.Int("axis", 0), rank);
  const size_t count = call.outputs();
  const ValueId x = call.Tensor(0);
  std::vector<ValueId> parts;
  if (call.Has(1)) {
    OnnxIntegers sizes = call.Integers(1);
    if (sizes.size() != count) return call.Wrong("expected one size for each output");
    parts = call.EmitList("aten::split_with_sizes", {x, std::move(sizes), axis}, count);
  } else {
    parts = call.EmitList("aten::chunk", {x, static_cast<int64_t>(count), axis}, count);
  }
  for (size_t i = 0; i < count; ++i) call.SetTensor(i, parts[i], rank, call.In(0).dtype);
}

void Slice(OnnxCall& call) {
  ValueId x = call.Tensor(0);
  const int64_t rank = call.In(0).rank;
  const OnnxIntegers starts = call.Integers(1), ends = call.Integers(2);
  const std::vector<int64_t> steps =
      call.Has(4) ? call.Numbers(4) : std::vector<int64_t>(starts.size(), 1);
  std::vector<int64_t> axes;
  for (int64_t i = 0; i < static_cast<int64_t>(starts.size()); ++i) axes.push_back(i);
  if (call.Has(3)) axes = call.Numbers(3);
  if (ends.size() != starts.size() || axes.size() != starts.size() ||
      steps.size() != starts.size()) {
    return call.Wrong("expected as many ends, axes and steps as starts");
  }
  for (size_t i = 0; i < starts.size(); ++i) {
    if (steps[i] < 1) return call.Unsupported("a step of ", steps[i]);
    x = call.Emit("aten::slice.Tensor",
                  {x, call.Axis(axes[i], rank), starts[i], ends[i], steps[i]});
  }
  call.SetTensor(0, x, rank, call.In(0).dtype);
}

// Row by row along `axis`, with indices of any rank.
void Gather(OnnxCall& call) {
  const int64_t rank = call.In(0).rank, index_rank = call.In(1).rank;
  const int64_t axis = call.Axis(call.Int("axis", 0), rank);
  const ValueId x = call.Tensor(0);
  const std::optional<OnnxIntegers> known = IntegersOf(call.In(1));
  ValueId result;
  if (index_rank == 0 && known.has_value() && known->size() == 1) {
    result = call.Emit("aten::select.int", {x, axis, (*known)[0]});
  } else if (axis == 0 && rank == 2 && call.In(0).is_weight) {
    result = call.Emit("aten::embedding", {x, call.Tensor(1)});
  } else {
    if (call.In(1).constant.has_value() && call.In(1).constant->lt(0).any().item<bool>()) {
      return call.Unsupported("an index that counts from the end");
    }
    std::vector<Argument> shape;
    for (int64_t i = 0; i < axis; ++i) shape.push_back(call.Size(0, i));
    for (int64_t i = 0; i < index_rank; ++i) shape.push_back(call.Size(1, i));
    for (int64_t i = axis + 1; i < rank; ++i) shape.push_back(call.Size(0, i));
    const ValueId indices = call.Emit("aten::reshape", {call.Tensor(1), AsList({-1})});
    result = call.Emit("aten::index_select", {x, axis, indices});
    if (index_rank != 1) result = call.Emit("aten::reshape", {result, std::move(shape)});
  }
  call.SetTensor(0, result, rank + index_rank - 1, call.In(0).dtype);
}

void GatherElements(OnnxCall& call) {
  const int64_t rank = call.In(0).rank;
  call.SetTensor(0,
                 call.Emit("aten::gather",
                           {call.Tensor(0), call.Axis(call.Int("axis", 0), rank), call.Tensor(1)}),
                 call.In(1).rank, call.In(0).dtype);
}

// Each of the last dimension's rows of indices is the place of one update.
void ScatterNd(OnnxCall& call) {
  const OnnxValue& where = call.In(1);
  if (call.Text("reduction", "none") != "none") return call.Unsupported("a reduction");
  if (!where.shape.has_value() || where.shape->empty()) {
    return call.Unsupported("indices whose shape is not known");
  }
  const int64_t depth = where.shape->back();
  if (depth < 1 || depth > call.In(0).rank) {
    return call.Wrong("expected 1 to ", call.In(0).rank, " indices for an update, got ", depth);
  }
  std::vector<Argument> indices;
  for (int64_t i = 0; i < depth; ++i) {
    indices.emplace_back(call.Emit("aten::select.int", {call.Tensor(1), int64_t{-1}, i}));
  }
  call.SetTensor(0, call.Emit("aten::index_put", {call.Tensor(0), indices, call.Tensor(2)}),
                 call.In(0).rank, call.In(0).dtype);
}

void Unsqueeze(OnnxCall& call) {
  std::vector<int64_t> axes = call.Axes(13, 1).value_or(std::vector<int64_t>());
  const int64_t rank = call.In(0).rank + static_cast<int64_t>(axes.size());
  for (int64_t& axis : axes) axis = call.Axis(axis, rank);
  std::sort(axes.begin(), axes.end());
  ValueId x = call.Tensor(0);
  for (const int64_t axis : axes) x = call.Emit("aten::unsqueeze", {x, axis});
  call.SetTensor(0, x, rank, call.In(0).dtype);
}

void Squeeze(OnnxCall& call) {
  const std::optional<std::vector<int64_t>> axes = call.Axes(13, 1);
  if (!axes.has_value()) return call.Unsupported("squeezing without axes");
  call.SetTensor(0, call.Emit("aten::squeeze.dims", {call.Tensor(0), AsList(*axes)}),
                 call.In(0).rank - static_cast<int64_t>(axes->size()), call.In(0).dtype);
}

// To a shape that the input is broadcast to, and the other way round.
void Expand(OnnxCall& call) {
  OnnxIntegers shape = call.Integers(1);
  const int64_t rank = call.In(0).rank;
  while (static_cast<int64_t>(shape.size()) < rank) shape.insert(shape.begin(), int64_t{1});
  const auto target = static_cast<int64_t>(shape.size());
  for (int64_t i = target - rank; i < target; ++i) {
    Argument& size = shape[static_cast<size_t>(i)];
    const int64_t* number = AsNumber(size);
    if (number != nullptr && *number == 1) size = int64_t{-1};
  }
  call.SetTensor(0, call.Emit("aten::expand", {call.Tensor(0), std::move(shape)}), target,
                 call.In(0).dtype);
}

void Tile(OnnxCall& call) {
  OnnxIntegers repeats = call.Integers(1);
  call.SetTensor(0, call.Emit("aten::repeat", {call.Tensor(0), std::move(repeats)}),
                 call.In(0).rank, call.In(0).dtype);
}

std::optional<c10::ScalarType> TypeOfCast(OnnxCall& call) {
  const int64_t to = call.Int("to", 0);
  const std::optional<DType> dtype = OnnxDType(to);
  if (dtype.has_value()) return ToScalarType(*dtype);
  call.Unsupported("a cast to ", OnnxTypeName(to));
  return std::nullopt;
}

void Cast(OnnxCall& call) {
  const std::optional<c10::ScalarType> type = TypeOfCast(call);
  if (!type.has_value()) return;
  const ValueId x = call.Tensor(0);
  call.SetTensor(0, call.In(0).dtype == *type ? x : call.Emit("aten::to.dtype", {x, *type}),
                 call.In(0).rank, *type);
}

void CastLike(OnnxCall& call) {
  const c10::ScalarType type = call.In(1).dtype;
  const ValueId x = call.Tensor(0);
  call.SetTensor(0, call.In(0).dtype == type ? x : call.Emit("aten::to.dtype", {x, type}),
                 call.In(0).rank, type);
}

void Same(OnnxCall& call) {
  OnnxValue value = call.In(0);
  value.tensor = call.Tensor(0);
  call.Set(0, std::move(value));
  if (call.Wants(1)) call.Unsupported("a second output");
}

void Range(OnnxCall& call) {
  std::vector<Argument> bounds;
  for (size_t i = 0; i < 3; ++i) {
    const std::optional<OnnxIntegers> integers = IntegersOf(call.In(i));
    if (integers.has_value() && integers->size() == 1) {
      bounds.push_back((*integers)[0]);
    } else if (const std::optional<double> number = call.Number(i)) {
      bounds.emplace_back(*number);
    } else {
      return call.Unsupported("a range whose bounds are calculated from values");
    }
  }
  const c10::ScalarType type = call.In(0).dtype;
  const ValueId result =
      call.Emit("aten::arange.start_step", std::move(bounds),
                {{"dtype", Argument(type)}, {"device", Argument(c10::Device(c10::kCPU))}});
  call.SetTensor(0, result, 1, type);
}

void Trilu(OnnxCall& call) {
  const int64_t diagonal = call.Has(1) ? static_cast<int64_t>(call.Number(1).value_or(0)) : 0;
  const std::string op = call.Int("upper", 1) != 0 ? "aten::triu" : "aten::tril";
  call.SetTensor(0, call.Emit(op, {call.Tensor(0), diagonal}), call.In(0).rank, call.In(0).dtype);
}

void CumSum(OnnxCall& call) {
  const std::optional<double> axis = call.Number(1);
  if (!axis.has_value() || call.Int("exclusive", 0) != 0 || call.Int("reverse", 0) != 0) {
    return call.Unsupported("this kind of sum");
  }
  call.SetTensor(0, call.Emit("aten::cumsum", {call.Tensor(0), static_cast<int64_t>(*axis)}),
                 call.In(0).rank, call.In(0).dtype);
}

const std::map<std::string, std::string>& Unaries() {
  static const auto* const names =
      new std::map<std::string, std::string>{{"Abs", "aten::abs"},
                                             {"Ceil", "aten::ceil"},
                                             {"Cos", "aten::cos"},
                                             {"Erf", "aten::erf"},
                                             {"Exp", "aten::exp"},
                                             {"Floor", "aten::floor"},
                                             {"HardSwish", "aten::hardswish"},
                                             {"Log", "aten::log"},
                                             {"Mish", "aten::mish"},
                                             {"Neg", "aten::neg"},
                                             {"Not", "aten::logical_not"},
                                             {"Reciprocal", "aten::reciprocal"},
                                             {"Relu", "aten::relu"},
                                             {"Round", "aten::round"},
                                             {"Sigmoid", "aten::sigmoid"},
                                             {"Sign", "aten::sign"},
                                             {"Sin", "aten::sin"},
                                             {"Softplus", "aten::softplus"},
                                             {"Sqrt", "aten::sqrt"},
                                             {"Tan", "aten::tan"},
                                             {"Tanh", "aten::tanh"}};
  return *names;
}

const std::map<std::string, std::pair<std::string, bool>>& Binaries() {
  static const auto* const names = new std::map<std::string, std::pair<std::string, bool>>{
      {"Add", {"aten::add.Tensor", false}},   {"Sub", {"aten::sub.Tensor", false}},
      {"Mul", {"aten::mul.Tensor", false}},   {"Max", {"aten::maximum", false}},
      {"Min", {"aten::minimum", false}},      {"Equal", {"aten::eq.Tensor", true}},
      {"Greater", {"aten::gt.Tensor", true}}, {"GreaterOrEqual", {"aten::ge.Tensor", true}},
      {"Less", {"aten::lt.Tensor", true}},    {"LessOrEqual", {"aten::le.Tensor", true}},
      {"And", {"aten::logical_and", true}},   {"Or", {"aten::logical_or", true}},
      {"Xor", {"aten::logical_xor", true}}};
  return *names;
}

const std::map<std::string, Handler>& Handlers() {
  static const auto* const handlers = new std::map<std::string, Handler>{
      {"ArgMax", ArgMax},
      {"ArgMin", ArgMax},
      {"AveragePool", ImportAveragePool},
      {"BatchNormalization", ImportBatchNormalization},
      {"Cast", Cast},
      {"CastLike", CastLike},
      {"Clip", Clip},
      {"Concat", Concat},
      {"Constant", ImportConstant},
      {"ConstantOfShape", ImportConstantOfShape},
      {"Conv", ImportConvolution},
      {"ConvTranspose", ImportConvolution},
      {"CumSum", CumSum},
      {"Div", Divide},
      {"Dropout", Same},
      {"Einsum", Einsum},
      {"Elu", WithSlope},
      {"Expand", Expand},
      {"Flatten", Flatten},
      {"GRU", ImportRecurrent},
      {"Gather", Gather},
      {"GatherElements", GatherElements},
      {"Gelu", Gelu},
      {"Gemm", Gemm},
      {"GlobalAveragePool", ImportGlobalPool},
      {"GlobalMaxPool", ImportGlobalPool},
      {"HardSigmoid", HardSigmoid},
      {"Identity", Same},
      {"InstanceNormalization", ImportInstanceNormalization},
      {"LSTM", ImportRecurrent},
      {"LayerNormalization", ImportLayerNormalization},
      {"LeakyRelu", WithSlope},
      {"LogSoftmax", Softmax},
      {"MatMul", MatMul},
      {"MaxPool", ImportMaxPool},
      {"Mod", Modulo},
      {"Pad", ImportPad},
      {"Pow", Power},
      {"Range", Range},
      {"ReduceL2", Reduce},
      {"ReduceMax", Reduce},
      {"ReduceMean", Reduce},
      {"ReduceMin", Reduce},
      {"ReduceSum", Reduce},
      {"Reshape", Reshape},
      {"Resize", ImportResize},
      {"ScatterND", ScatterNd},
      {"Slice", Slice},
      {"Softmax", Softmax},
      {"Split", Split},
      {"Squeeze", Squeeze},
      {"Tile", Tile},
      {"Transpose", Transpose},
      {"Trilu", Trilu},
      {"Unsqueeze", Unsqueeze},
      {"Where", Where},
  };
  return *handlers;
}

}  // namespace

void ImportOperator(OnnxCall& call) {
  const std::string& type = call.node().op_type;
  if (!call.node().domain.empty() && call.node().domain != "ai.onnx") {
    return call.Unsupported("the operator, of the domain '", Printable(call.node().domain), "',");
  }
  for (const auto& [name, attribute] : call.node().attributes) {
    if (attribute.is_graph) return call.Unsupported("control flow");
  }
  if (ImportIntegers(call) || !call.status().ok()) return;
  if (const auto unary = Unaries().find(type); unary != Unaries().end()) {
    return Unary(call, unary->second);
  }
  if (const auto binary = Binaries().find(type); binary != Binaries().end()) {
    return Binary(call, binary->second.first, binary->second.second);
  }
  const auto handler = Handlers().find(type);
  if (handler == Handlers().end()) return call.Unsupported("the operator");
  handler->second(call);
}

}  // namespace sconce
