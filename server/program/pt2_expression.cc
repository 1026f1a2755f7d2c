#include "server/program/pt2_expression.h"

#include <charconv>
#include <optional>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "server/base/printable.h"

namespace sconce {
namespace {

using models::SizeExpression;
using Kind = SizeExpression::Kind;

constexpr int kMaxDepth = 32;
constexpr size_t kMaxOperands = 64;
constexpr int64_t kMaxPower = 8;

struct Function {
  std::string_view name;
  Kind kind;
  size_t least_operands;
  size_t most_operands;
};

constexpr Function kFunctions[] = {
    {"Add", Kind::kAdd, 1, kMaxOperands},     {"Mul", Kind::kMultiply, 1, kMaxOperands},
    {"FloorDiv", Kind::kFloorDivide, 2, 2},   {"Mod", Kind::kModulo, 2, 2},
    {"PythonMod", Kind::kModulo, 2, 2},       {"Max", Kind::kMaximum, 1, kMaxOperands},
    {"Min", Kind::kMinimum, 1, kMaxOperands},
};

class Parser {
 public:
  Parser(std::string_view text, const std::function<int32_t(const std::string&)>& symbol_of)
      : rest_(text), symbol_of_(symbol_of) {}

  std::optional<SizeExpression> Run() {
    std::optional<SizeExpression> size = Size(0);
    if (!rest_.empty()) return std::nullopt;
    return size;
  }

 private:
  bool Take(std::string_view expected) {
    while (rest_.starts_with(' ')) rest_.remove_prefix(1);
    if (!rest_.starts_with(expected)) return false;
    rest_.remove_prefix(expected.size());
    return true;
  }

  std::string_view TakeUntil(std::string_view ends) {
    const std::string_view taken = rest_.substr(0, rest_.find_first_of(ends));
    rest_.remove_prefix(taken.size());
    return taken;
  }

  std::optional<SizeExpression> Size(int depth) {
    if (depth > kMaxDepth) return std::nullopt;
    Take("");
    const std::string_view name = TakeUntil("(");
    if (!Take("(")) return std::nullopt;
    if (name == "Symbol") return Symbol();
    if (name == "Integer") return Integer();
    std::vector<SizeExpression> operands;
    do {
      std::optional<SizeExpression> operand = Size(depth + 1);
      if (!operand.has_value() || operands.size() == kMaxOperands) return std::nullopt;
      operands.push_back(*std::move(operand));
    } while (Take(","));
    if (!Take(")")) return std::nullopt;
    if (name == "Pow") return Power(std::move(operands));
    for (const Function& function : kFunctions) {
      if (function.name != name) continue;
      if (operands.size() < function.least_operands || operands.size() > function.most_operands) {
        return std::nullopt;
      }
      return SizeExpression{.kind = function.kind, .operands = std::move(operands)};
    }
    return std::nullopt;
  }

  std::optional<SizeExpression> Symbol() {
    if (!Take("'")) return std::nullopt;
    const std::string_view name = TakeUntil("'");
    if (!Take("'")) return std::nullopt;
    TakeUntil("()");
    if (name.empty() || !Take(")")) return std::nullopt;
    return SizeExpression::OfSymbol(symbol_of_(std::string(name)));
  }

  std::optional<SizeExpression> Integer() {
    const std::string_view text = TakeUntil(")");
    int64_t value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc() || end != text.data() + text.size() || !Take(")")) return std::nullopt;
    return SizeExpression::Constant(value);
  }

  static std::optional<SizeExpression> Power(std::vector<SizeExpression> operands) {
    if (operands.size() != 2 || operands[1].kind != Kind::kConstant) return std::nullopt;
    const int64_t power = operands[1].constant;
    if (power < 1 || power > kMaxPower || operands[0].kind != Kind::kSymbol) return std::nullopt;
    return SizeExpression{
        .kind = Kind::kMultiply,
        .operands = std::vector<SizeExpression>(static_cast<size_t>(power), operands[0])};
  }

  std::string_view rest_;
  const std::function<int32_t(const std::string&)>& symbol_of_;
};

}  // namespace

absl::StatusOr<models::SizeExpression> ParseSizeExpression(
    std::string_view text, const std::function<int32_t(const std::string& name)>& symbol_of) {
  std::optional<SizeExpression> size = Parser(text, symbol_of).Run();
  if (size.has_value()) return *std::move(size);
  return absl::UnimplementedError(
      absl::StrCat("sizes of the form '", Printable(text), "' are not supported"));
}

}  // namespace sconce
