#include "models/program/symbolic_ops.h"

#include <c10/util/Exception.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <string>

namespace sconce::models {
namespace {

using c10::IValue;
using Operands = absl::Span<const IValue>;

bool IsWhole(const IValue& value) { return value.isInt() || value.isBool(); }

int64_t Whole(const IValue& value) {
  if (value.isBool()) return value.toBool() ? 1 : 0;
  TORCH_CHECK(value.isInt(), "expected an integer, got ", value.tagKind());
  return value.toInt();
}

double Real(const IValue& value) {
  if (value.isDouble()) return value.toDouble();
  return static_cast<double>(Whole(value));
}

bool Truth(const IValue& value) {
  return value.isDouble() ? value.toDouble() != 0 : Whole(value) != 0;
}

[[noreturn]] void Overflow() { TORCH_CHECK(false, "expected a size within 64 bits, got more"); }

// A whole number made of a real one.
IValue ToWhole(double value) {
  constexpr double kLimit = 9223372036854775808.0;  // 2^63
  if (!(value >= -kLimit && value < kLimit)) Overflow();
  return static_cast<int64_t>(value);
}

int64_t FloorDivide(int64_t a, int64_t b) {
  TORCH_CHECK(b != 0, "expected a divisor, got 0");
  if (b == -1 && a == std::numeric_limits<int64_t>::min()) Overflow();
  const int64_t quotient = a / b;
  return quotient - (a % b != 0 && (a < 0) != (b < 0) ? 1 : 0);
}

int64_t Modulo(int64_t a, int64_t b) {
  if (b == -1) return 0;
  return a - FloorDivide(a, b) * b;
}

int64_t Power(int64_t base, int64_t exponent) {
  int64_t result = 1;
  // What does not overflow within 63 factors is 0, 1 or -1.
  if (exponent > 63 && base != 0 && base != 1 && base != -1) Overflow();
  if (exponent > 63) exponent = 62 + exponent % 2;
  for (; exponent > 0; --exponent) {
    if (__builtin_mul_overflow(result, base, &result)) Overflow();
  }
  return result;
}

IValue Add(Operands x) {
  if (!IsWhole(x[0]) || !IsWhole(x[1])) return Real(x[0]) + Real(x[1]);
  int64_t sum;
  if (__builtin_add_overflow(Whole(x[0]), Whole(x[1]), &sum)) Overflow();
  return sum;
}

IValue Subtract(Operands x) {
  if (!IsWhole(x[0]) || !IsWhole(x[1])) return Real(x[0]) - Real(x[1]);
  int64_t difference;
  if (__builtin_sub_overflow(Whole(x[0]), Whole(x[1]), &difference)) Overflow();
  return difference;
}

IValue Multiply(Operands x) {
  if (!IsWhole(x[0]) || !IsWhole(x[1])) return Real(x[0]) * Real(x[1]);
  int64_t product;
  if (__builtin_mul_overflow(Whole(x[0]), Whole(x[1]), &product)) Overflow();
  return product;
}

IValue FloorDivideOp(Operands x) {
  if (IsWhole(x[0]) && IsWhole(x[1])) return FloorDivide(Whole(x[0]), Whole(x[1]));
  TORCH_CHECK(Real(x[1]) != 0, "expected a divisor, got 0");
  return std::floor(Real(x[0]) / Real(x[1]));
}

IValue TrueDivide(Operands x) {
  TORCH_CHECK(Real(x[1]) != 0, "expected a divisor, got 0");
  return Real(x[0]) / Real(x[1]);
}

IValue ModuloOp(Operands x) {
  if (IsWhole(x[0]) && IsWhole(x[1])) {
    TORCH_CHECK(Whole(x[1]) != 0, "expected a divisor, got 0");
    return Modulo(Whole(x[0]), Whole(x[1]));
  }
  TORCH_CHECK(Real(x[1]) != 0, "expected a divisor, got 0");
  return Real(x[0]) - std::floor(Real(x[0]) / Real(x[1])) * Real(x[1]);
}

IValue PowerOp(Operands x) {
  if (IsWhole(x[0]) && IsWhole(x[1]) && Whole(x[1]) >= 0) return Power(Whole(x[0]), Whole(x[1]));
  return std::pow(Real(x[0]), Real(x[1]));
}

IValue Negate(Operands x) {
  if (!IsWhole(x[0])) return -Real(x[0]);
  int64_t negative;
  if (__builtin_sub_overflow(int64_t{0}, Whole(x[0]), &negative)) Overflow();
  return negative;
}

IValue Same(Operands x) {
  if (IsWhole(x[0])) return Whole(x[0]);
  return Real(x[0]);
}

// Whole numbers are compared as such: two that differ may be the same in double precision.
template <typename Compare>
IValue CompareWith(Operands x, Compare compare) {
  if (IsWhole(x[0]) && IsWhole(x[1])) return compare(Whole(x[0]), Whole(x[1]));
  return compare(Real(x[0]), Real(x[1]));
}

IValue Equal(Operands x) {
  return CompareWith(x, [](auto a, auto b) { return a == b; });
}
IValue NotEqual(Operands x) {
  return CompareWith(x, [](auto a, auto b) { return a != b; });
}
IValue Less(Operands x) {
  return CompareWith(x, [](auto a, auto b) { return a < b; });
}
IValue LessOrEqual(Operands x) {
  return CompareWith(x, [](auto a, auto b) { return a <= b; });
}
IValue Greater(Operands x) {
  return CompareWith(x, [](auto a, auto b) { return a > b; });
}
IValue GreaterOrEqual(Operands x) {
  return CompareWith(x, [](auto a, auto b) { return a >= b; });
}

IValue And(Operands x) {
  if (x[0].isBool() && x[1].isBool()) return x[0].toBool() && x[1].toBool();
  return Whole(x[0]) & Whole(x[1]);
}

IValue Or(Operands x) {
  if (x[0].isBool() && x[1].isBool()) return x[0].toBool() || x[1].toBool();
  return Whole(x[0]) | Whole(x[1]);
}

IValue Not(Operands x) { return !Truth(x[0]); }

IValue Maximum(Operands x) {
  return CompareWith(x, [](auto a, auto b) { return a < b ? b : a; });
}
IValue Minimum(Operands x) {
  return CompareWith(x, [](auto a, auto b) { return b < a ? b : a; });
}

IValue IfThenElse(Operands x) { return Truth(x[0]) ? x[1] : x[2]; }

IValue ToInt(Operands x) { return IsWhole(x[0]) ? IValue(Whole(x[0])) : ToWhole(Real(x[0])); }
IValue ToFloat(Operands x) { return Real(x[0]); }

IValue SquareRoot(Operands x) {
  TORCH_CHECK(Real(x[0]) >= 0, "expected a number of 0 or more, got ", Real(x[0]));
  return std::sqrt(Real(x[0]));
}

IValue Floor(Operands x) { return IsWhole(x[0]) ? Same(x) : ToWhole(std::floor(Real(x[0]))); }
IValue Ceiling(Operands x) { return IsWhole(x[0]) ? Same(x) : ToWhole(std::ceil(Real(x[0]))); }

int64_t Distance(const IValue& value) {
  const int64_t distance = Whole(value);
  TORCH_CHECK(distance >= 0 && distance < 63, "expected a shift by 0 to 62, got ", distance);
  return distance;
}

IValue ShiftLeft(Operands x) {
  int64_t product;
  if (__builtin_mul_overflow(Whole(x[0]), int64_t{1} << Distance(x[1]), &product)) Overflow();
  return product;
}

IValue ShiftRight(Operands x) { return Whole(x[0]) >> Distance(x[1]); }

constexpr SymbolicOp kSymbolicOps[] = {
    {"add", 2, Add},
    {"sub", 2, Subtract},
    {"mul", 2, Multiply},
    {"floordiv", 2, FloorDivideOp},
    {"truediv", 2, TrueDivide},
    {"mod", 2, ModuloOp},
    {"pow", 2, PowerOp},
    {"neg", 1, Negate},
    {"pos", 1, Same},
    {"eq", 2, Equal},
    {"ne", 2, NotEqual},
    {"lt", 2, Less},
    {"le", 2, LessOrEqual},
    {"gt", 2, Greater},
    {"ge", 2, GreaterOrEqual},
    {"and", 2, And},
    {"or", 2, Or},
    {"not", 1, Not},
    {"max", 2, Maximum},
    {"min", 2, Minimum},
    {"ite", 3, IfThenElse},
    {"int", 1, ToInt},
    {"float", 1, ToFloat},
    {"sqrt", 1, SquareRoot},
    {"trunc", 1, ToInt},
    {"floor", 1, Floor},
    {"ceil", 1, Ceiling},
    {"lshift", 2, ShiftLeft},
    {"rshift", 2, ShiftRight},
};

}  // namespace

const SymbolicOp* FindSymbolicOp(absl::string_view name) {
  for (const SymbolicOp& op : kSymbolicOps) {
    if (op.name == name) return &op;
  }
  return nullptr;
}

}  // namespace sconce::models
