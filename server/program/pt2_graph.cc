#include "server/program/pt2_graph.h"

#include <algorithm>
#include <cstdint>
#include <limits>
#include <map>
#include <optional>
#include <set>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"
#include "server/base/printable.h"
#include "server/program/pt2_arguments.h"
#include "server/program/pt2_expression.h"
#include "server/program/pt2_json.h"
#include "server/program/pt2_module.h"
#include "server/program/pt2_tree.h"

namespace sconce {
namespace {

using models::Graph;
using models::GraphNode;
using models::NodeOutput;
using models::SizeExpression;
using models::ValueId;

constexpr int64_t kSchema = 8;

bool IsNumber(const std::string& kind) {
  const std::set<std::string_view> kinds = {"as_int",     "as_float",     "as_bool",
                                            "as_sym_int", "as_sym_float", "as_sym_bool"};
  return kinds.count(kind) > 0;
}

class Importer {
 public:
  Importer(const Json& program, const ConstantSource& constants)
      : program_(program),
        module_(Member(program, "graph_module")),
        constants_(constants),
        tensor_values_(Member(Member(module_, "graph"), "tensor_values")) {}

  Graph Run() {
    const int64_t schema = Integer(Member(Member(program_, "schema_version"), "major"));
    if (schema != kSchema) {
      Unsupported("expected a program of schema version ", kSchema, " (PyTorch 2.8 or later), got ",
                  schema);
    }
    ReadSymbols();
    const Json& signature = Member(module_, "signature");
    const Json& graph = Member(module_, "graph");
    ReadInputs(List(Member(signature, "input_specs")));
    ReadNodes(graph, scope_, 0);
    ReadOutputs(List(Member(signature, "output_specs")));
    graph_.class_name = ClassNameOf(module_);
    graph_.module_names = SubmoduleNamesOf(module_);
    return std::move(graph_);
  }

 private:
  void ReadSymbols() {
    for (const auto& [name, range] : Object(Member(program_, "range_constraints")).items()) {
      models::Symbol symbol{.name = Printable(name)};
      const Json& minimum = Member(range, "min_val");
      const Json& maximum = Member(range, "max_val");
      if (!minimum.is_null()) symbol.range.minimum = std::max<int64_t>(0, Integer(minimum));
      if (!maximum.is_null()) symbol.range.maximum = Integer(maximum);
      symbols_[name] = static_cast<int32_t>(graph_.symbols.size());
      graph_.symbols.push_back(std::move(symbol));
    }
  }

  SizeExpression Size(const Json& size) {
    const auto [kind, value] = Alternative(size);
    if (kind == "as_int") return SizeExpression::Constant(Integer(*value));
    if (kind != "as_expr") Bad("expected a size, got '", Printable(kind), "'");
    absl::StatusOr<SizeExpression> expression =
        ParseSizeExpression(Text(Member(*value, "expr_str")), [this](const std::string& name) {
          const auto [symbol, is_new] =
              symbols_.try_emplace(name, static_cast<int32_t>(graph_.symbols.size()));
          if (is_new) graph_.symbols.push_back({.name = Printable(name)});
          return symbol->second;
        });
    if (!expression.ok()) Fail(expression.status());
    return *std::move(expression);
  }

  const Json& MetaOf(const std::string& value) const {
    const auto meta = tensor_values_.find(value);
    if (meta == tensor_values_.end()) {
      Bad("expected a description of the tensor '", Printable(value), "', got none");
    }
    return *meta;
  }

  // Defines a value in a scope.
  ValueId Define(const std::string& name, ValueScope& scope) {
    const ValueId value = graph_.AddValue(name);
    Bind(name, value, scope);
    return value;
  }

  static void Bind(const std::string& name, ValueId value, ValueScope& scope) {
    if (!scope.emplace(name, value).second) {
      Bad("expected each value to be made once, got '", Printable(name), "' twice");
    }
  }

  void ReadInputs(const Json& specs) {
    std::vector<std::string> user_names;
    size_t users = 0;
    for (const Json& spec : specs) {
      const auto [kind, body] = Alternative(spec);
      if (kind == "user_input") {
        ++users;
        ReadUserInput(Member(*body, "arg"), users - 1);
      } else if (kind == "constant_input") {
        ++users;
      } else if (kind == "parameter") {
        ReadWeight(*body, "parameter_name", true);
      } else if (kind == "buffer") {
        if (Boolean(Member(*body, "persistent"))) {
          ReadWeight(*body, "buffer_name", false);
        } else {
          ReadConstant(*body, "buffer_name");
        }
      } else if (kind == "tensor_constant") {
        ReadConstant(*body, "tensor_constant_name");
      } else {
        Unsupported("inputs of the kind '", Printable(kind), "' are not supported");
      }
    }
    NameInputs(users);
  }

  void ReadUserInput(const Json& argument, size_t place) {
    const auto [kind, body] = Alternative(argument);
    if (kind == "as_sym_int" || kind == "as_sym_float" || kind == "as_sym_bool") {
      Unsupported("input ", place,
                  ": expected a tensor, got a number that differs from call to call, which is not "
                  "supported");
    }
    // Whatever else came was fixed when the program was exported.
    if (kind != "as_tensor") return;
    const std::string name = Text(Member(*body, "name"));
    const Json& meta = MetaOf(name);
    models::GraphInput input{.name = Printable(name),
                             .value = Define(name, scope_),
                             .dtype = ScalarTypeOf(Member(meta, "dtype")),
                             .sizes = {}};
    for (const Json& size : List(Member(meta, "sizes"))) {
      try {
        input.sizes.push_back(Size(size));
      } catch (const BadProgram& bad) {
        Fail({bad.status.code(), absl::StrCat("input '", input.name, "': ", bad.status.message())});
      }
    }
    input_places_.push_back(place);
    graph_.inputs.push_back(std::move(input));
  }

  // As the module's forward() calls them, where that is known.
  void NameInputs(size_t users) {
    const Json* signature = ForwardSignature(module_);
    if (signature == nullptr) return;
    const auto names = signature->find("forward_arg_names");
    if (names == signature->end() || !names->is_array() || names->size() != users) return;
    std::set<std::string> seen;
    for (const Json& name : *names) {
      if (!name.is_string() || !seen.insert(Printable(name.get<std::string>())).second) return;
    }
    for (size_t i = 0; i < graph_.inputs.size(); ++i) {
      graph_.inputs[i].name = Printable((*names)[input_places_[i]].get<std::string>());
    }
  }

  std::string OwnName(const Json& body, const char* key) {
    const std::string name = Text(Member(body, key));
    if (name.empty() || Printable(name) != name) {
      Bad("expected a name of printable characters, got '", Printable(name), "'");
    }
    if (!own_names_.insert(name).second) {
      Bad("expected each name once, got '", Printable(name), "' twice");
    }
    return name;
  }

  void ReadWeight(const Json& body, const char* key, bool is_parameter) {
    const std::string value = Text(Member(Member(body, "arg"), "name"));
    models::GraphWeight weight{.name = OwnName(body, key),
                               .value = Define(value, scope_),
                               .dtype = ScalarTypeOf(Member(MetaOf(value), "dtype")),
                               .shape = {},
                               .is_parameter = is_parameter};
    int64_t elements = 1;
    for (const Json& size : List(Member(MetaOf(value), "sizes"))) {
      const SizeExpression known = Size(size);
      if (known.kind != SizeExpression::Kind::kConstant || known.constant < 0 ||
          __builtin_mul_overflow(elements, std::max<int64_t>(known.constant, 1), &elements) ||
          elements > std::numeric_limits<int64_t>::max() / 16) {
        Bad("expected '", weight.name, "' to have a size that can be, got another");
      }
      weight.shape.push_back(known.constant);
    }
    graph_.weights.push_back(std::move(weight));
  }

  void ReadConstant(const Json& body, const char* key) {
    const std::string value = Text(Member(Member(body, "arg"), "name"));
    models::GraphConstant constant{
        .name = OwnName(body, key), .value = Define(value, scope_), .tensor = {}};
    absl::StatusOr<at::Tensor> tensor = constants_(constant.name);
    if (!tensor.ok()) Fail(tensor.status());
    constant.tensor = *std::move(tensor);
    graph_.constants.push_back(std::move(constant));
  }

  void ReadNodes(const Json& graph, ValueScope& scope, int depth) {
    for (const Json& node : List(Member(graph, "nodes"))) {
      const std::string target = Text(Member(node, "target"));
      const auto given = node.find("name");
      const std::string name =
          given != node.end() && given->is_string() ? given->get<std::string>() : "";
      try {
        if (target == "torch.ops.higher_order.wrap_with_set_grad_enabled") {
          ReadInlined(node, scope, depth);
        } else {
          ReadNode(node, target, name, scope);
        }
      } catch (const BadProgram& bad) {
        // What is within another node has been named.
        if (bad.named) throw;
        throw BadProgram{.status = {bad.status.code(),
                                    absl::StrCat("node '", Printable(name), "' ('",
                                                 Printable(target), "'): ", bad.status.message())},
                         .named = true};
      }
    }
  }

  void ReadNode(const Json& node, const std::string& target, const std::string& name,
                ValueScope& scope) {
    GraphNode made{.name = name, .op = "", .overload = "", .arguments = {}, .outputs = {}};
    std::tie(made.op, made.overload) = OperatorOf(target);
    const bool is_symbolic = made.op.starts_with("sym::");
    for (const Json& input : List(Member(node, "inputs"))) {
      made.arguments.push_back({.name = is_symbolic ? "" : Text(Member(input, "name")),
                                .value = ReadArgument(Member(input, "arg"), scope)});
    }
    for (const Json& output : List(Member(node, "outputs"))) {
      const auto [kind, body] = Alternative(output);
      NodeOutput result{.values = {}, .is_list = kind == "as_tensors"};
      if (result.is_list) {
        for (const Json& element : List(*body)) {
          result.values.push_back(Define(Text(Member(element, "name")), scope));
        }
      } else if (kind == "as_none") {
        result.values.push_back({});
      } else {
        result.values.push_back(Define(ResultName(output), scope));
      }
      made.outputs.push_back(std::move(result));
    }
    graph_.nodes.push_back(std::move(made));
  }

  // A part of the module that ran with gradients off, or on: here they are always off.
  void ReadInlined(const Json& node, ValueScope& scope, int depth) {
    constexpr int kMaxDepth = 16;
    const Json& inputs = List(Member(node, "inputs"));
    if (depth == kMaxDepth || inputs.size() < 2) Bad("expected a switch and a graph");
    const auto [kind, body] = Alternative(Member(inputs[1], "arg"));
    if (kind != "as_graph") Bad("expected a graph, got '", Printable(kind), "'");
    const Json& inner = Member(*body, "graph");
    const Json& inner_inputs = List(Member(inner, "inputs"));
    if (inner_inputs.size() + 2 != inputs.size()) {
      Bad("expected ", inner_inputs.size(), " inputs, got ", inputs.size() - 2);
    }
    ValueScope inner_scope;
    for (size_t i = 0; i < inner_inputs.size(); ++i) {
      Bind(ResultName(inner_inputs[i]), ReadValue(Member(inputs[i + 2], "arg"), scope),
           inner_scope);
    }
    ReadNodes(inner, inner_scope, depth + 1);
    std::vector<std::string> results;
    for (const Json& output : List(Member(node, "outputs"))) {
      const auto [result_kind, result] = Alternative(output);
      if (result_kind != "as_tensors") {
        results.push_back(ResultName(output));
        continue;
      }
      for (const Json& element : List(*result)) results.push_back(Text(Member(element, "name")));
    }
    const Json& inner_outputs = List(Member(inner, "outputs"));
    if (inner_outputs.size() != results.size()) {
      Bad("expected ", inner_outputs.size(), " outputs, got ", results.size());
    }
    for (size_t i = 0; i < results.size(); ++i) {
      Bind(results[i], ReadValue(inner_outputs[i], inner_scope), scope);
    }
  }

  void ReadOutputs(const Json& specs) {
    const Json* signature = ForwardSignature(module_);
    std::string tree;
    if (signature != nullptr && signature->contains("out_spec") &&
        (*signature)["out_spec"].is_string()) {
      tree = (*signature)["out_spec"].get<std::string>();
    }
    for (const Json& spec : specs) {
      const auto [kind, body] = Alternative(spec);
      if (kind == "user_output") continue;
      if (kind == "buffer_mutation") {
        Unsupported("it changes its buffer '", Printable(Text(Member(*body, "buffer_name"))),
                    "' when it runs, which is not supported (a module in training mode does it: "
                    "call eval() before exporting)");
      }
      if (kind == "parameter_mutation") {
        Unsupported("it changes its parameter '", Printable(Text(Member(*body, "parameter_name"))),
                    "' when it runs, which is not supported");
      }
      if (kind == "user_input_mutation") {
        Unsupported("it changes the input '", Printable(Text(Member(*body, "user_input_name"))),
                    "' when it runs, which is not supported");
      }
      Unsupported("results of the kind '", Printable(kind), "' are not supported");
    }
    const std::vector<std::string> names =
        LeafNames(tree, specs.size(), "output",
                  [this](const std::string& type) { return TupleFieldsOf(module_, type); });
    for (size_t i = 0; i < specs.size(); ++i) {
      const Json& argument = Member(*Alternative(specs[i]).second, "arg");
      const auto [kind, body] = Alternative(argument);
      if (kind == "as_none") continue;
      if (kind != "as_tensor") {
        Unsupported("output '", Printable(names[i]), "': expected a tensor, got ",
                    IsNumber(kind) ? "a number" : absl::StrCat("'", Printable(kind), "'"),
                    "; what is no tensor cannot be answered");
      }
      const std::string value = Text(Member(*body, "name"));
      models::GraphOutput output{.name = Printable(names[i]),
                                 .value = ReadValue(argument, scope_),
                                 .dtype = ScalarTypeOf(Member(MetaOf(value), "dtype")),
                                 .sizes = {}};
      for (const Json& size : List(Member(MetaOf(value), "sizes"))) {
        try {
          output.sizes.push_back(Size(size));
        } catch (const BadProgram& bad) {
          if (!absl::IsUnimplemented(bad.status)) throw;
          output.sizes.push_back(SizeExpression::Unknown());
        }
      }
      graph_.outputs.push_back(std::move(output));
    }
    if (graph_.outputs.empty()) Unsupported("expected a program with results, got one without");
  }

  const Json& program_;
  const Json& module_;
  const ConstantSource& constants_;
  const Json& tensor_values_;
  Graph graph_;
  ValueScope scope_;
  std::map<std::string, int32_t> symbols_;
  std::set<std::string> own_names_;   // of weights and constants
  std::vector<size_t> input_places_;  // among all that the module's forward() takes
};

}  // namespace

absl::StatusOr<Graph> ParseExportedGraph(const std::string& text, const ConstantSource& constants) {
  try {
    const Json program = ParseJson(text);
    return Importer(program, constants).Run();
  } catch (const BadProgram& bad) {
    return bad.status;
  }
}

}  // namespace sconce
