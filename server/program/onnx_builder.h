// OnnxBuilder: the graph that an ONNX model is being turned into, and what is known of its values;
// OnnxCall: one of its nodes while that is done.
//
// ONNX calculates with sizes as it does with anything else, by operators on tensors. Here they are
// integers of the graph from the start (sizes of inputs, numbers, arithmetic on them), and become
// tensors only where an operator wants one.
//
// Used by one thread while a file is opened.
#ifndef SCONCE_SERVER_PROGRAM_ONNX_BUILDER_H_
#define SCONCE_SERVER_PROGRAM_ONNX_BUILDER_H_

#include <ATen/core/Tensor.h>
#include <c10/core/ScalarType.h>

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "models/program/graph.h"
#include "server/checkpoint/onnx/onnx_graph.h"

namespace sconce {

// More integers than any shape or matrix of pads has are data.
inline constexpr int64_t kMaxOnnxIntegers = 1024;

// Each a number (int64_t) or a value of the graph.
using OnnxIntegers = std::vector<models::Argument>;

// A sequence of a tensor's parts, each `size` long but for the last.
struct OnnxParts {
  models::ValueId whole;
  int64_t axis = 0;
  int64_t size = 0;
};

struct OnnxValue {
  models::ValueId tensor = {};                // index -1: it has not been needed as a tensor
  std::optional<OnnxIntegers> integers = {};  // in order, of as many dimensions as `rank` says
  std::optional<at::Tensor> constant = {};
  c10::ScalarType dtype = c10::ScalarType::Float;
  int64_t rank = 0;
  // Of weights, constants, and integers of two dimensions or more; of others where an operator
  // tells, with -1 for sizes that are not known.
  std::optional<std::vector<int64_t>> shape = {};
  std::optional<OnnxParts> parts = {};  // then it is no tensor
  bool is_weight = false;
  // The input of the graph that this is, or is with another type of integers; index -1: none.
  models::ValueId input = {};
};

class OnnxBuilder {
 public:
  explicit OnnxBuilder(models::Graph& graph) : graph_(graph) {}

  models::Graph& graph() { return graph_; }

  // Null where there is none of that name.
  OnnxValue* Find(const std::string& name);
  // False where there already is one.
  bool Define(const std::string& name, OnnxValue value);

  // Adds a node; names are made of `node`'s. `op` without overload: "aten::relu", or with:
  // "aten::add.Tensor", or "sym::add".
  models::ValueId Emit(const std::string& node, const std::string& op,
                       std::vector<models::NamedArgument> arguments);
  // The first `count` of an operator's `results`, of which others are not used.
  std::vector<models::ValueId> EmitSome(const std::string& node, const std::string& op,
                                        std::vector<models::NamedArgument> arguments, size_t count,
                                        size_t results);
  // The elements of an operator's one result, a list of `count`.
  std::vector<models::ValueId> EmitList(const std::string& node, const std::string& op,
                                        std::vector<models::NamedArgument> arguments, size_t count);

  // The value as a tensor of the graph.
  models::ValueId TensorOf(const std::string& node, OnnxValue& value);

  // Arithmetic on integers, calculated at once where both are numbers ("add", "floordiv").
  models::Argument Calculate(const std::string& node, const std::string& op,
                             const models::Argument& a, const models::Argument& b);

 private:
  models::Graph& graph_;
  std::map<std::string, OnnxValue> values_;
};

// What is known of the integers in a value; none where it has others or too many.
std::optional<OnnxIntegers> IntegersOf(const OnnxValue& value);

std::vector<models::Argument> AsList(const std::vector<int64_t>& numbers);

// None where one of them is not known before the graph runs.
std::optional<std::vector<int64_t>> AsNumbers(const OnnxIntegers& integers);

// The places that a Slice picks of a dimension of `size`.
// REQUIRES: `step` is not 0.
std::vector<int64_t> SlicedPlaces(int64_t size, int64_t start, int64_t end, int64_t step);

inline const int64_t* AsNumber(const models::Argument& argument) {
  return std::get_if<int64_t>(&argument.variant);
}

// The first thing that is wrong is kept, and all that follows it has no meaning.
class OnnxCall {
 public:
  OnnxCall(OnnxBuilder& builder, const OnnxNode& node, int64_t opset);

  const OnnxNode& node() const { return node_; }
  int64_t opset() const { return opset_; }
  const absl::Status& status() const { return status_; }

  template <typename... Parts>
  void Unsupported(const Parts&... parts) {
    Fail(absl::UnimplementedError(absl::StrCat(parts..., " is not supported")));
  }
  template <typename... Parts>
  void Wrong(const Parts&... parts) {
    Fail(absl::InvalidArgumentError(absl::StrCat(parts...)));
  }

  // Inputs. Asking for one that is not there is wrong; Has tells.
  size_t inputs() const { return node_.inputs.size(); }
  bool Has(size_t input) const;
  OnnxValue& In(size_t input);
  models::ValueId Tensor(size_t input);
  models::ValueId TensorOf(OnnxValue& value) { return builder_.TensorOf(name_, value); }
  // None where the input is left out.
  models::Argument Optional(size_t input);
  // The integers of an input that the operator is shaped by: known, calculated from sizes, or a few
  // calculated from data.
  OnnxIntegers Integers(size_t input);
  // The same where all must be numbers.
  std::vector<int64_t> Numbers(size_t input);
  // The value of a constant of one element.
  std::optional<double> Number(size_t input);

  // Attributes, with ONNX's defaults.
  int64_t Int(const std::string& name, int64_t otherwise);
  double Float(const std::string& name, double otherwise);
  std::string Text(const std::string& name, const std::string& otherwise);
  std::vector<int64_t> Ints(const std::string& name, std::vector<int64_t> otherwise = {});
  const OnnxAttribute* Find(const std::string& name) const;
  // Axes, given by an attribute before `since` and by an input from then on; none: not given.
  std::optional<std::vector<int64_t>> Axes(int64_t since, size_t input);
  // `axis` counted from the front; wrong where it is not within `rank`.
  int64_t Axis(int64_t axis, int64_t rank);

  // Nodes. Arguments in the schema's order.
  models::ValueId Emit(const std::string& op, std::vector<models::Argument> arguments,
                       std::vector<models::NamedArgument> named = {});
  std::vector<models::ValueId> EmitList(const std::string& op,
                                        std::vector<models::Argument> arguments, size_t count);
  std::vector<models::ValueId> EmitSome(const std::string& op,
                                        std::vector<models::Argument> arguments, size_t count,
                                        size_t results);
  // The size of a tensor's dimension: a number where it is known.
  models::Argument Size(size_t input, int64_t dim);
  models::Argument SizeOf(models::ValueId tensor, int64_t dim);
  // As many as the input's rank; -1: not known here.
  std::vector<int64_t> KnownSizes(size_t input);
  models::Argument Calculate(const std::string& op, const models::Argument& a,
                             const models::Argument& b);

  // Results.
  size_t outputs() const { return node_.outputs.size(); }
  bool Wants(size_t output) const;
  void Set(size_t output, OnnxValue value);
  void SetTensor(size_t output, models::ValueId tensor, int64_t rank, c10::ScalarType dtype);
  // With sizes, of which -1 are not known.
  void SetSized(size_t output, models::ValueId tensor, std::vector<int64_t> sizes,
                c10::ScalarType dtype);
  // rank: 0 or 1.
  void SetIntegers(size_t output, OnnxIntegers integers, int64_t rank);

 private:
  void Fail(absl::Status status);
  std::string Named(size_t input) const;  // for messages

  OnnxBuilder& builder_;
  const OnnxNode& node_;
  const int64_t opset_;
  const std::string name_;
  absl::Status status_;
  OnnxValue nothing_;
};

// Whether the node only calculates with integers; if so, its results are set.
bool ImportIntegers(OnnxCall& call);
// Sets the results of a node, or says what of it is not supported.
void ImportOperator(OnnxCall& call);

}  // namespace sconce

#endif  // SCONCE_SERVER_PROGRAM_ONNX_BUILDER_H_
