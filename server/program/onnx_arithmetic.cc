#include "server/program/onnx_arithmetic.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <string>
#include <utility>

#include "server/base/printable.h"

namespace sconce {
namespace {

using models::Argument;
using models::ValueId;

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

}  // namespace

bool ImportElementwise(OnnxCall& call) {
  const std::string& type = call.node().op_type;
  if (const auto unary = Unaries().find(type); unary != Unaries().end()) {
    Unary(call, unary->second);
    return true;
  }
  if (const auto binary = Binaries().find(type); binary != Binaries().end()) {
    Binary(call, binary->second.first, binary->second.second);
    return true;
  }
  return false;
}

void ImportDivision(OnnxCall& call) {
  if (!c10::isIntegralType(call.In(0).dtype, false)) return Binary(call, "aten::div.Tensor", false);
  const ValueId result = call.Emit("aten::div.Tensor_mode", {call.Tensor(0), call.Tensor(1)},
                                   {{"rounding_mode", Argument(std::string("trunc"))}});
  call.SetTensor(0, result, std::max(call.In(0).rank, call.In(1).rank), Promoted(call));
}

void ImportModulo(OnnxCall& call) {
  Binary(call, call.Int("fmod", 0) != 0 ? "aten::fmod.Tensor" : "aten::remainder.Tensor", false);
}

void ImportPower(OnnxCall& call) {
  if (const std::optional<double> exponent = call.Number(1)) {
    const ValueId x = call.Tensor(0);
    return call.SetTensor(0, call.Emit("aten::pow.Tensor_Scalar", {x, *exponent}), call.In(0).rank,
                          call.In(0).dtype);
  }
  Binary(call, "aten::pow.Tensor_Tensor", false);
}

void ImportWhere(OnnxCall& call) {
  const ValueId result =
      call.Emit("aten::where.self", {call.Tensor(0), call.Tensor(1), call.Tensor(2)});
  int64_t rank = 0;
  for (size_t i = 0; i < 3; ++i) rank = std::max(rank, call.In(i).rank);
  call.SetTensor(0, result, rank, call.In(1).dtype);
}

void ImportClip(OnnxCall& call) {
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

void ImportHardSigmoid(OnnxCall& call) {
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

void ImportWithSlope(OnnxCall& call) {
  const bool leaky = call.node().op_type == "LeakyRelu";
  const double alpha = call.Float("alpha", leaky ? 0.01 : 1.0);
  const ValueId x = call.Tensor(0);
  call.SetTensor(0, call.Emit(leaky ? "aten::leaky_relu" : "aten::elu", {x, alpha}),
                 call.In(0).rank, call.In(0).dtype);
}

void ImportGelu(OnnxCall& call) {
  const ValueId x = call.Tensor(0);
  const ValueId y =
      call.Emit("aten::gelu", {x}, {{"approximate", Argument(call.Text("approximate", "none"))}});
  call.SetTensor(0, y, call.In(0).rank, call.In(0).dtype);
}

void ImportSoftmax(OnnxCall& call) {
  const bool log = call.node().op_type == "LogSoftmax";
  const ValueId x = call.Tensor(0);
  call.SetTensor(0,
                 call.Emit(log ? "aten::log_softmax.int" : "aten::softmax.int",
                           {x, call.Axis(call.Int("axis", -1), call.In(0).rank), Argument()}),
                 call.In(0).rank, call.In(0).dtype);
}

void ImportReduce(OnnxCall& call) {
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
  std::vector<int64_t> sizes = call.KnownSizes(0);
  for (const int64_t axis : *axes) sizes[static_cast<size_t>(call.Axis(axis, rank))] = 1;
  if (!keep) sizes.assign(sizes.size() - std::min(axes->size(), sizes.size()), -1);
  call.SetSized(0, call.Emit(operators->at(type), std::move(arguments)), std::move(sizes),
                call.In(0).dtype);
}

void ImportArgMax(OnnxCall& call) {
  const bool keep = call.Int("keepdims", 1) != 0;
  if (call.Int("select_last_index", 0) != 0) return call.Unsupported("select_last_index");
  const std::string op = call.node().op_type == "ArgMax" ? "aten::argmax" : "aten::argmin";
  const int64_t rank = call.In(0).rank;
  const ValueId result =
      call.Emit(op, {call.Tensor(0), call.Axis(call.Int("axis", 0), rank), keep});
  call.SetTensor(0, result, keep ? rank : rank - 1, c10::ScalarType::Long);
}

void ImportCumSum(OnnxCall& call) {
  const std::optional<double> axis = call.Number(1);
  if (!axis.has_value() || call.Int("exclusive", 0) != 0 || call.Int("reverse", 0) != 0) {
    return call.Unsupported("this kind of sum");
  }
  call.SetTensor(0, call.Emit("aten::cumsum", {call.Tensor(0), static_cast<int64_t>(*axis)}),
                 call.In(0).rank, call.In(0).dtype);
}

void ImportMatMul(OnnxCall& call) {
  const ValueId result = call.Emit("aten::matmul", {call.Tensor(0), call.Tensor(1)});
  const int64_t a = call.In(0).rank, b = call.In(1).rank;
  const int64_t rank = a == 1 && b == 1 ? 0 : a == 1 ? b - 1 : b == 1 ? a - 1 : std::max(a, b);
  call.SetTensor(0, result, rank, call.In(0).dtype);
}

void ImportGemm(OnnxCall& call) {
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

void ImportEinsum(OnnxCall& call) {
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

}  // namespace sconce
