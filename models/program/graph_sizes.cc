#include "models/program/graph_sizes.h"

#include <c10/util/Exception.h>

#include <algorithm>
#include <limits>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "models/architecture.h"
#include "models/program/symbolic_ops.h"
#include "models/tied_sizes.h"

namespace sconce::models {
namespace {

using Kind = SizeExpression::Kind;

bool Names(const SizeExpression& size, int32_t symbol) {
  if (size.kind == Kind::kSymbol) return size.symbol == symbol;
  return std::any_of(size.operands.begin(), size.operands.end(),
                     [symbol](const SizeExpression& part) { return Names(part, symbol); });
}

void AddSymbols(const SizeExpression& size, std::vector<int32_t>& symbols) {
  if (size.kind == Kind::kSymbol &&
      std::find(symbols.begin(), symbols.end(), size.symbol) == symbols.end()) {
    symbols.push_back(size.symbol);
  }
  for (const SizeExpression& part : size.operands) AddSymbols(part, symbols);
}

// Whether the size is a multiple of a symbol and a constant beside it.
bool IsLinear(const SizeExpression& size) {
  switch (size.kind) {
    case Kind::kConstant:
    case Kind::kSymbol:
      return true;
    case Kind::kAdd:
      return std::all_of(size.operands.begin(), size.operands.end(), IsLinear);
    case Kind::kMultiply:
      return std::all_of(size.operands.begin(), size.operands.end(), IsLinear) &&
             std::count_if(
                 size.operands.begin(), size.operands.end(),
                 [](const SizeExpression& part) { return part.kind != Kind::kConstant; }) <= 1;
    default:
      return false;
  }
}

// A size that is a multiple, at least 1, of a symbol and an offset: its tie is the symbol. None: it
// tells no symbol's value.
std::optional<TiedSize> LinearOf(const Graph& graph, const SizeExpression& size) {
  std::vector<int32_t> symbols;
  AddSymbols(size, symbols);
  if (symbols.size() != 1 || !IsLinear(size)) return std::nullopt;
  const auto symbol = static_cast<size_t>(symbols[0]);
  if (symbol >= graph.symbols.size()) return std::nullopt;
  try {
    std::vector<int64_t> values(graph.symbols.size(), 0);
    TiedSize linear{.tie = symbols[0], .offset = Evaluate(size, values)};
    values[symbol] = 1;
    if (__builtin_sub_overflow(Evaluate(size, values), linear.offset, &linear.multiple) ||
        linear.multiple < 1) {
      return std::nullopt;
    }
    return linear;
  } catch (const c10::Error&) {
    return std::nullopt;
  }
}

// The size for a symbol's value, as near as it can be counted.
int64_t SizeFor(const TiedSize& linear, int64_t value) {
  return SizeAt(linear, value).value_or(std::numeric_limits<int64_t>::max());
}

std::string Place(const GraphInput& input, size_t dimension) {
  return absl::StrCat("input ", Quoted(input.name), ", dimension ", dimension);
}

// What all tensors have as dimension 0, and which makes that the batch.
std::optional<SizeExpression> BatchSize(const Graph& graph) {
  if (graph.inputs.empty() || graph.inputs[0].sizes.empty()) return std::nullopt;
  const SizeExpression& batch = graph.inputs[0].sizes[0];
  if (batch.kind != Kind::kSymbol && (batch.kind != Kind::kConstant || batch.constant < 1)) {
    return std::nullopt;
  }
  const auto fits = [&batch](const auto& tensor) {
    if (tensor.sizes.empty() || tensor.sizes[0] != batch) return false;
    if (batch.kind == Kind::kConstant) return true;
    return std::none_of(tensor.sizes.begin() + 1, tensor.sizes.end(),
                        [&batch](const SizeExpression& size) { return Names(size, batch.symbol); });
  };
  if (!std::all_of(graph.inputs.begin(), graph.inputs.end(), fits)) return std::nullopt;
  if (!std::all_of(graph.outputs.begin(), graph.outputs.end(), fits)) return std::nullopt;
  return batch;
}

template <typename GraphTensor>
TensorSpec SpecOf(const Graph& graph, const GraphTensor& tensor, bool batched) {
  TensorSpec spec{.name = tensor.name, .dtype = tensor.dtype, .dims = {}};
  bool ranged = false;
  for (size_t i = batched ? 1 : 0; i < tensor.sizes.size(); ++i) {
    const SizeExpression& size = tensor.sizes[i];
    Range range;
    if (size.kind == Kind::kConstant) {
      range = {.minimum = size.constant, .maximum = size.constant};
    } else if (const auto linear = LinearOf(graph, size); linear.has_value()) {
      const Range& values = graph.symbols[static_cast<size_t>(linear->tie)].range;
      range.minimum = std::max<int64_t>(0, SizeFor(*linear, values.minimum));
      range.maximum = SizeFor(*linear, values.maximum);
      ranged = true;
    }
    spec.dims.push_back(size.kind == Kind::kConstant ? size.constant : -1);
    spec.rules.sizes.push_back(range);
  }
  if (!ranged) spec.rules.sizes.clear();
  return spec;
}

// What the symbols say of dimensions that the specs have. A symbol that says no more than a range
// would ties nothing.
void TieInputs(const Graph& graph, bool batched, std::vector<TensorSpec>& specs) {
  const size_t rows = batched ? 1 : 0;
  const auto for_each_linear = [&](const auto& visit) {
    for (size_t i = 0; i < specs.size(); ++i) {
      for (size_t d = 0; d < specs[i].dims.size(); ++d) {
        const auto linear = LinearOf(graph, graph.inputs[i].sizes[d + rows]);
        if (linear.has_value()) visit(*linear, specs[i], d);
      }
    }
  };
  std::map<int32_t, bool> ties;
  for_each_linear([&](const TiedSize& linear, const TensorSpec&, size_t) {
    const bool is_new = ties.emplace(linear.tie, linear.multiple != 1).second;
    if (!is_new) ties[linear.tie] = true;
  });
  std::map<int32_t, int32_t> numbers;
  for_each_linear([&](const TiedSize& linear, TensorSpec& spec, size_t dimension) {
    if (!ties[linear.tie]) return;
    const auto next = static_cast<int32_t>(numbers.size());
    const int32_t tie = numbers.emplace(linear.tie, next).first->second;
    spec.rules.ties.resize(spec.dims.size());
    spec.rules.ties[dimension] = {.tie = tie, .multiple = linear.multiple, .offset = linear.offset};
  });
}

// Ids that are looked up in a table as they come have to be rows of it: beyond its end, a device is
// lost.
std::optional<Range> RowsLookedUp(const Graph& graph, const GraphInput& input) {
  std::optional<Range> rows;
  for (const GraphNode& node : graph.nodes) {
    if (node.op != "aten::embedding" || node.arguments.size() < 2) continue;
    const auto* table = std::get_if<ValueId>(&node.arguments[0].value.variant);
    const auto* ids = std::get_if<ValueId>(&node.arguments[1].value.variant);
    if (table == nullptr || ids == nullptr || *ids != input.value) continue;
    for (const GraphWeight& weight : graph.weights) {
      if (weight.value != *table || weight.shape.empty()) continue;
      const int64_t last = weight.shape[0] - 1;
      rows =
          Range{.minimum = 0, .maximum = rows.has_value() ? std::min(rows->maximum, last) : last};
    }
  }
  return rows;
}

}  // namespace

Signature SignatureOf(const Graph& graph) {
  Signature signature;
  const std::optional<SizeExpression> batch = BatchSize(graph);
  signature.rows.batched = batch.has_value();
  if (batch.has_value()) {
    signature.rows.rows = batch->kind == Kind::kConstant
                              ? Range{.minimum = batch->constant, .maximum = batch->constant}
                              : graph.symbols[static_cast<size_t>(batch->symbol)].range;
    signature.rows.rows.minimum = std::max<int64_t>(1, signature.rows.rows.minimum);
  }
  for (const GraphInput& input : graph.inputs) {
    signature.inputs.push_back(SpecOf(graph, input, batch.has_value()));
    signature.inputs.back().rules.values = RowsLookedUp(graph, input);
  }
  TieInputs(graph, batch.has_value(), signature.inputs);
  for (const GraphOutput& output : graph.outputs) {
    signature.outputs.push_back(SpecOf(graph, output, batch.has_value()));
    signature.outputs.back().rules = {};
  }
  return signature;
}

int64_t Evaluate(const SizeExpression& size, const std::vector<int64_t>& symbols) {
  const auto fold = [&](absl::string_view op) {
    const SymbolicOp& calculate = *FindSymbolicOp(op);
    c10::IValue result = Evaluate(size.operands[0], symbols);
    for (size_t i = 1; i < size.operands.size(); ++i) {
      const c10::IValue operands[] = {result, Evaluate(size.operands[i], symbols)};
      result = calculate.calculate(absl::MakeConstSpan(operands));
    }
    return result.toInt();
  };
  switch (size.kind) {
    case Kind::kConstant:
      return size.constant;
    case Kind::kSymbol:
      return symbols[static_cast<size_t>(size.symbol)];
    case Kind::kAdd:
      return fold("add");
    case Kind::kMultiply:
      return fold("mul");
    case Kind::kFloorDivide:
      return fold("floordiv");
    case Kind::kModulo:
      return fold("mod");
    case Kind::kMaximum:
      return fold("max");
    case Kind::kMinimum:
      return fold("min");
    case Kind::kUnknown:
      break;
  }
  TORCH_CHECK(false, "a size that is not known was asked for");
}

namespace {

absl::Status CheckExpression(const Graph& graph, const SizeExpression& size, bool may_be_unknown) {
  if (size.kind == Kind::kUnknown && !may_be_unknown) {
    return absl::UnimplementedError("expected a size that is known, got one that is not");
  }
  if (size.kind == Kind::kSymbol &&
      (size.symbol < 0 || static_cast<size_t>(size.symbol) >= graph.symbols.size())) {
    return absl::InvalidArgumentError("expected a symbol of the program, got another");
  }
  const bool is_leaf =
      size.kind == Kind::kConstant || size.kind == Kind::kSymbol || size.kind == Kind::kUnknown;
  if (is_leaf != size.operands.empty()) {
    return absl::InvalidArgumentError("expected arithmetic with operands, got some without");
  }
  for (const SizeExpression& part : size.operands) {
    if (absl::Status good = CheckExpression(graph, part, may_be_unknown); !good.ok()) return good;
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<SizeCheck> SizeCheck::Make(const Graph& graph) {
  SizeCheck check(graph);
  if (absl::Status found = check.FindSources(); !found.ok()) return found;
  return check;
}

absl::Status SizeCheck::FindSources() {
  const Graph& graph = *graph_;
  sources_.resize(graph.symbols.size());
  std::vector<int32_t> named;
  for (size_t i = 0; i < graph.inputs.size(); ++i) {
    for (size_t d = 0; d < graph.inputs[i].sizes.size(); ++d) {
      const SizeExpression& size = graph.inputs[i].sizes[d];
      if (absl::Status good = CheckExpression(graph, size, false); !good.ok()) {
        return {good.code(), absl::StrCat(Place(graph.inputs[i], d), ": ", good.message())};
      }
      AddSymbols(size, named);
      if (size.kind != Kind::kSymbol) continue;
      std::optional<Source>& source = sources_[static_cast<size_t>(size.symbol)];
      if (!source.has_value()) source = Source{.input = i, .dimension = d};
    }
  }
  for (const GraphOutput& output : graph.outputs) {
    for (const SizeExpression& size : output.sizes) {
      if (absl::Status good = CheckExpression(graph, size, true); !good.ok()) {
        return {good.code(), absl::StrCat("output ", Quoted(output.name), ": ", good.message())};
      }
    }
  }
  // A symbol that only derived sizes have ("2 * s0") is solved for.
  for (size_t i = 0; i < graph.inputs.size(); ++i) {
    for (size_t d = 0; d < graph.inputs[i].sizes.size(); ++d) {
      const SizeExpression& size = graph.inputs[i].sizes[d];
      const auto linear = LinearOf(graph, size);
      if (!linear.has_value()) continue;
      std::optional<Source>& source = sources_[static_cast<size_t>(linear->tie)];
      if (source.has_value()) continue;
      source = Source{.input = i, .dimension = d, .size = *linear};
    }
  }
  for (const int32_t symbol : named) {
    if (sources_[static_cast<size_t>(symbol)].has_value()) continue;
    return absl::UnimplementedError(absl::StrCat(
        "expected sizes that tell what ", Quoted(graph.symbols[static_cast<size_t>(symbol)].name),
        " is, got only arithmetic that cannot be solved"));
  }
  return absl::OkStatus();
}

namespace {

template <typename... Parts>
[[noreturn]] void Refuse(const Parts&... parts) {
  throw InvalidInput(c10::SourceLocation{__func__, __FILE__, __LINE__}, absl::StrCat(parts...));
}

void CheckKind(const GraphInput& input, const at::Tensor& tensor) {
  // Numbers of another precision come where the weights were converted, too.
  const c10::ScalarType got = tensor.scalar_type();
  if (got != input.dtype && !(c10::isFloatingType(got) && c10::isFloatingType(input.dtype))) {
    Refuse("input ", Quoted(input.name), ": expected the type ", c10::toString(input.dtype),
           ", got ", c10::toString(got));
  }
  if (static_cast<size_t>(tensor.dim()) != input.sizes.size()) {
    Refuse("input ", Quoted(input.name), ": expected ", input.sizes.size(), " dimensions, got ",
           tensor.dim());
  }
}

}  // namespace

int64_t SizeCheck::ValueOf(const Source& source, const Range& range, int64_t size) const {
  const auto place = [&] { return Place(graph_->inputs[source.input], source.dimension); };
  const TiedSize& linear = source.size;
  int64_t multiples = 0;
  if (__builtin_sub_overflow(size, linear.offset, &multiples) || multiples % linear.multiple != 0) {
    Refuse(place(), ": expected a multiple of ", linear.multiple,
           linear.offset == 0 ? "" : absl::StrCat(" and ", linear.offset), ", got ", size);
  }
  const int64_t value = multiples / linear.multiple;
  if (range.Has(value)) return value;
  const bool bounded = range.maximum != std::numeric_limits<int64_t>::max();
  Refuse(place(), ": expected ", SizeFor(linear, range.minimum),
         bounded ? absl::StrCat(" to ", SizeFor(linear, range.maximum)) : " or more", ", got ",
         size);
}

void SizeCheck::Check(const std::vector<at::Tensor>& inputs) const {
  const Graph& graph = *graph_;
  for (size_t i = 0; i < inputs.size(); ++i) CheckKind(graph.inputs[i], inputs[i]);
  std::vector<int64_t> symbols(sources_.size());
  const auto size_at = [&inputs](const Source& source) {
    return inputs[source.input].size(static_cast<int64_t>(source.dimension));
  };
  for (size_t s = 0; s < sources_.size(); ++s) {
    if (!sources_[s].has_value()) continue;
    symbols[s] = ValueOf(*sources_[s], graph.symbols[s].range, size_at(*sources_[s]));
  }
  for (size_t i = 0; i < inputs.size(); ++i) {
    for (size_t d = 0; d < graph.inputs[i].sizes.size(); ++d) {
      const SizeExpression& size = graph.inputs[i].sizes[d];
      const int64_t got = inputs[i].size(static_cast<int64_t>(d));
      if (size.kind == Kind::kConstant) {
        if (got == size.constant) continue;
        Refuse(Place(graph.inputs[i], d), ": expected ", size.constant, ", got ", got);
      }
      const int64_t expected = [&] {
        try {
          return Evaluate(size, symbols);
        } catch (const c10::Error& error) {
          Refuse(Place(graph.inputs[i], d), ": ", error.what_without_backtrace());
        }
      }();
      if (got == expected) continue;
      std::vector<int32_t> named;
      AddSymbols(size, named);
      if (named.empty()) {
        Refuse(Place(graph.inputs[i], d), ": expected ", expected, ", got ", got);
      }
      const Source& source = *sources_[static_cast<size_t>(named[0])];
      Refuse(Place(graph.inputs[i], d), ": expected ", expected, " because ",
             Place(graph.inputs[source.input], source.dimension), " is ", size_at(source), ", got ",
             got);
    }
  }
}

}  // namespace sconce::models
