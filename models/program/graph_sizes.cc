#include "models/program/graph_sizes.h"

#include <c10/util/Exception.h>

#include <algorithm>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "models/architecture.h"
#include "models/program/symbolic_ops.h"

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
    } else if (size.kind == Kind::kSymbol) {
      range = graph.symbols[static_cast<size_t>(size.symbol)].range;
      ranged = true;
    }
    spec.dims.push_back(size.kind == Kind::kConstant ? size.constant : -1);
    spec.rules.sizes.push_back(range);
  }
  if (!ranged) spec.rules.sizes.clear();
  return spec;
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
      std::vector<int32_t> symbols;
      AddSymbols(size, symbols);
      if (symbols.size() != 1 || !IsLinear(size)) continue;
      std::optional<Source>& source = sources_[static_cast<size_t>(symbols[0])];
      if (source.has_value()) continue;
      try {
        std::vector<int64_t> values(graph.symbols.size(), 0);
        const int64_t offset = Evaluate(size, values);
        values[static_cast<size_t>(symbols[0])] = 1;
        int64_t slope;
        if (__builtin_sub_overflow(Evaluate(size, values), offset, &slope) || slope < 1) continue;
        source = Source{.input = i, .dimension = d, .slope = slope, .offset = offset};
      } catch (const c10::Error&) {
        continue;
      }
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

void SizeCheck::Check(const std::vector<at::Tensor>& inputs) const {
  const Graph& graph = *graph_;
  for (size_t i = 0; i < inputs.size(); ++i) {
    const GraphInput& input = graph.inputs[i];
    // Numbers of another precision come where the weights were converted, too.
    const c10::ScalarType got = inputs[i].scalar_type();
    TORCH_CHECK(
        got == input.dtype || (c10::isFloatingType(got) && c10::isFloatingType(input.dtype)),
        "input ", Quoted(input.name), ": expected the type ", input.dtype, ", got ", got);
    TORCH_CHECK(static_cast<size_t>(inputs[i].dim()) == input.sizes.size(), "input ",
                Quoted(input.name), ": expected ", input.sizes.size(), " dimensions, got ",
                inputs[i].dim());
  }
  std::vector<int64_t> symbols(sources_.size());
  for (size_t s = 0; s < sources_.size(); ++s) {
    if (!sources_[s].has_value()) continue;
    const Source& source = *sources_[s];
    const int64_t size = inputs[source.input].size(static_cast<int64_t>(source.dimension));
    const auto place = [&] { return Place(graph.inputs[source.input], source.dimension); };
    TORCH_CHECK((size - source.offset) % source.slope == 0, place(), ": expected a multiple of ",
                source.slope, source.offset == 0 ? "" : absl::StrCat(" and ", source.offset),
                ", got ", size);
    symbols[s] = (size - source.offset) / source.slope;
    const Range& range = graph.symbols[s].range;
    if (range.Has(symbols[s])) continue;
    const bool bounded = range.maximum != std::numeric_limits<int64_t>::max();
    TORCH_CHECK(
        false, place(), ": expected ", source.slope * range.minimum + source.offset,
        bounded ? absl::StrCat(" to ", source.slope * range.maximum + source.offset) : " or more",
        ", got ", size);
  }
  for (size_t i = 0; i < inputs.size(); ++i) {
    for (size_t d = 0; d < graph.inputs[i].sizes.size(); ++d) {
      const SizeExpression& size = graph.inputs[i].sizes[d];
      const int64_t got = inputs[i].size(static_cast<int64_t>(d));
      if (size.kind == Kind::kConstant) {
        TORCH_CHECK(got == size.constant, Place(graph.inputs[i], d), ": expected ", size.constant,
                    ", got ", got);
        continue;
      }
      const int64_t expected = Evaluate(size, symbols);
      if (got == expected) continue;
      std::vector<int32_t> named;
      AddSymbols(size, named);
      TORCH_CHECK(!named.empty(), Place(graph.inputs[i], d), ": expected ", expected, ", got ",
                  got);
      const Source& source = *sources_[static_cast<size_t>(named[0])];
      TORCH_CHECK(false, Place(graph.inputs[i], d), ": expected ", expected, " as ",
                  Place(graph.inputs[source.input], source.dimension), " has it, got ", got);
    }
  }
}

}  // namespace sconce::models
