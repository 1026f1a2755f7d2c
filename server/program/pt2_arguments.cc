#include "server/program/pt2_arguments.h"

#include <c10/core/Layout.h>
#include <c10/core/MemoryFormat.h>

#include <cstdint>
#include <limits>
#include <string_view>
#include <vector>

#include "server/base/printable.h"

namespace sconce {
namespace {

using models::Argument;
using models::ValueId;

struct NumberedType {
  int64_t number;
  c10::ScalarType type;
};

// torch.export numbers them by itself.
constexpr NumberedType kTypes[] = {
    {1, c10::ScalarType::Byte},
    {2, c10::ScalarType::Char},
    {3, c10::ScalarType::Short},
    {4, c10::ScalarType::Int},
    {5, c10::ScalarType::Long},
    {6, c10::ScalarType::Half},
    {7, c10::ScalarType::Float},
    {8, c10::ScalarType::Double},
    {9, c10::ScalarType::ComplexHalf},
    {10, c10::ScalarType::ComplexFloat},
    {11, c10::ScalarType::ComplexDouble},
    {12, c10::ScalarType::Bool},
    {13, c10::ScalarType::BFloat16},
    {28, c10::ScalarType::UInt16},
    {29, c10::ScalarType::Float8_e4m3fn},
    {30, c10::ScalarType::Float8_e5m2},
    {31, c10::ScalarType::Float8_e4m3fnuz},
    {32, c10::ScalarType::Float8_e5m2fnuz},
};

struct SymbolicName {
  std::string_view target;
  const char* op;
};

constexpr SymbolicName kSymbolic[] = {
    {"_operator.add", "sym::add"},       {"_operator.sub", "sym::sub"},
    {"_operator.mul", "sym::mul"},       {"_operator.floordiv", "sym::floordiv"},
    {"_operator.mod", "sym::mod"},       {"_operator.truediv", "sym::truediv"},
    {"_operator.pow", "sym::pow"},       {"_operator.neg", "sym::neg"},
    {"_operator.pos", "sym::pos"},       {"_operator.eq", "sym::eq"},
    {"_operator.ne", "sym::ne"},         {"_operator.lt", "sym::lt"},
    {"_operator.le", "sym::le"},         {"_operator.gt", "sym::gt"},
    {"_operator.ge", "sym::ge"},         {"_operator.and_", "sym::and"},
    {"_operator.or_", "sym::or"},        {"_operator.lshift", "sym::lshift"},
    {"_operator.rshift", "sym::rshift"}, {"math.trunc", "sym::trunc"},
    {"math.floor", "sym::floor"},        {"math.ceil", "sym::ceil"},
    {"torch.sym_not", "sym::not"},       {"torch.sym_int", "sym::int"},
    {"torch.sym_float", "sym::float"},   {"torch.sym_ite", "sym::ite"},
    {"torch.sym_max", "sym::max"},       {"torch.sym_min", "sym::min"},
    {"torch.sym_sqrt", "sym::sqrt"},     {"torch._sym_sqrt", "sym::sqrt"},
};

ValueId Find(const std::string& name, const ValueScope& scope) {
  const auto value = scope.find(name);
  if (value == scope.end()) {
    Bad("expected a value that is made before, got '", Printable(name), "'");
  }
  return value->second;
}

ValueId TensorOf(const Json& tensor, const ValueScope& scope) {
  return Find(Text(Member(tensor, "name")), scope);
}

// {"as_name": ...} or the number itself.
template <typename Read>
Argument Symbolic(const Json& argument, const ValueScope& scope, const Read& read) {
  const auto [kind, value] = Alternative(argument);
  if (kind == "as_name") return Find(Text(*value), scope);
  return read(*value);
}

template <typename Read>
Argument ListOf(const Json& list, const Read& read) {
  std::vector<Argument> elements;
  for (const Json& element : List(list)) elements.emplace_back(read(element));
  return elements;
}

Argument OptionalTensor(const Json& argument, const ValueScope& scope) {
  const auto [kind, value] = Alternative(argument);
  if (kind == "as_none") return {};
  return TensorOf(*value, scope);
}

Argument MemoryFormatOf(const Json& number) {
  switch (Integer(number)) {
    case 1:
      return c10::MemoryFormat::Contiguous;
    case 2:
      return c10::MemoryFormat::ChannelsLast;
    case 3:
      return c10::MemoryFormat::ChannelsLast3d;
    case 4:
      return c10::MemoryFormat::Preserve;
    default:
      Bad("expected the number of a memory format, got ", Integer(number));
  }
}

Argument LayoutOf(const Json& number) {
  constexpr int64_t kStrided = 7;
  if (Integer(number) != kStrided) {
    Unsupported("expected the layout of a dense tensor, ", kStrided, ", got ", Integer(number));
  }
  return c10::kStrided;
}

// Which device it was does not matter: the program runs where it is told to.
Argument DeviceOf(const Json& device) {
  Object(device);
  return c10::Device(c10::kCPU);
}

}  // namespace

std::pair<std::string, std::string> OperatorOf(const std::string& target) {
  constexpr std::string_view kOps = "torch.ops.";
  if (!target.starts_with(kOps)) {
    for (const SymbolicName& symbolic : kSymbolic) {
      if (symbolic.target == target) return {symbolic.op, ""};
    }
    Unsupported("is not supported");
  }
  const std::string rest = target.substr(kOps.size());
  const size_t space = rest.find('.');
  const size_t name = space == std::string::npos ? space : rest.find('.', space + 1);
  if (rest.starts_with("higher_order.") || name == std::string::npos) {
    Unsupported("is not supported: it runs graphs within the graph");
  }
  std::string overload = rest.substr(name + 1);
  if (overload == "default") overload.clear();
  return {absl::StrCat(rest.substr(0, space), "::", rest.substr(space + 1, name - space - 1)),
          std::move(overload)};
}

Argument ReadArgument(const Json& argument, const ValueScope& scope) {
  const auto [kind, body] = Alternative(argument);
  const Json& value = *body;
  const auto symbolic_int = [&](const Json& given) { return Symbolic(given, scope, Integer); };
  const auto symbolic_real = [&](const Json& given) { return Symbolic(given, scope, Real); };
  const auto symbolic_bool = [&](const Json& given) { return Symbolic(given, scope, Boolean); };
  const auto tensor = [&](const Json& given) { return TensorOf(given, scope); };
  if (kind == "as_none") return {};
  if (kind == "as_tensor") return tensor(value);
  if (kind == "as_int") return Integer(value);
  if (kind == "as_ints") return ListOf(value, Integer);
  if (kind == "as_float") return Real(value);
  if (kind == "as_bool") return Boolean(value);
  if (kind == "as_tensors") return ListOf(value, tensor);
  if (kind == "as_sym_int") return symbolic_int(value);
  if (kind == "as_sym_ints") return ListOf(value, symbolic_int);
  if (kind == "as_floats") return ListOf(value, Real);
  if (kind == "as_string") return Text(value);
  if (kind == "as_scalar_type") return ScalarTypeOf(value);
  if (kind == "as_memory_format") return MemoryFormatOf(value);
  if (kind == "as_layout") return LayoutOf(value);
  if (kind == "as_device") return DeviceOf(value);
  if (kind == "as_bools") return ListOf(value, Boolean);
  if (kind == "as_sym_bool") return symbolic_bool(value);
  if (kind == "as_sym_float") return symbolic_real(value);
  if (kind == "as_sym_floats") return ListOf(value, symbolic_real);
  if (kind == "as_optional_tensor") return OptionalTensor(value, scope);
  if (kind == "as_optional_tensors") {
    return ListOf(value, [&](const Json& given) { return OptionalTensor(given, scope); });
  }
  if (kind == "as_complex") {
    return c10::complex<double>(Real(Member(value, "real")), Real(Member(value, "imag")));
  }
  Unsupported("arguments of the kind '", Printable(kind), "' are not supported");
}

ValueId ReadValue(const Json& argument, const ValueScope& scope) {
  return Find(ResultName(argument), scope);
}

std::string ResultName(const Json& argument) {
  const auto [kind, body] = Alternative(argument);
  if (kind == "as_tensor") return Text(Member(*body, "name"));
  if (kind == "as_sym_int" || kind == "as_sym_float" || kind == "as_sym_bool") {
    return Text(Member(*body, "as_name"));
  }
  Unsupported("results of the kind '", Printable(kind), "' are not supported");
}

c10::ScalarType ScalarTypeOf(const Json& number) {
  const int64_t wanted = Integer(number);
  for (const NumberedType& type : kTypes) {
    if (type.number == wanted) return type.type;
  }
  Bad("expected the number of a dtype, got ", wanted);
}

}  // namespace sconce
