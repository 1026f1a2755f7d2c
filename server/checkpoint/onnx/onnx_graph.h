// The graph of an ONNX model as data: nodes with their attributes, inputs and outputs with their
// types. Its initialisers are a checkpoint's tensors (containers.h) and are named here only.
//
//   ModelProto  = graph(7) opset_import(8)* functions(25)*
//   GraphProto  = node(1)* input(11)* output(12)*
//   NodeProto   = input(1)* output(2)* name(3) op_type(4) attribute(5)* domain(7)
//   AttributeProto = name(1) f(2) i(3) s(4) t(5) g(6) floats(7)* ints(8)* strings(9)* type(20)
//
// Nothing nests: of a graph in an attribute (the branches of an If) it is only noted that it is
// one.
#ifndef SCONCE_SERVER_CHECKPOINT_ONNX_ONNX_GRAPH_H_
#define SCONCE_SERVER_CHECKPOINT_ONNX_ONNX_GRAPH_H_

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "server/base/dtype.h"
#include "server/base/file.h"

namespace sconce {

// A tensor in an attribute.
struct OnnxValues {
  DType dtype = DType::kFloat32;
  std::vector<int64_t> shape;
  std::string bytes;  // contiguous, in this machine's order
};

struct OnnxAttribute {
  std::optional<int64_t> i;
  std::optional<float> f;
  std::optional<std::string> s;
  std::vector<int64_t> ints;
  std::vector<float> floats;
  std::optional<OnnxValues> t;
  bool is_graph = false;
};

struct OnnxNode {
  std::string name;
  std::string op_type;
  std::string domain;
  std::vector<std::string> inputs;  // "": one that is left out
  std::vector<std::string> outputs;
  std::map<std::string, OnnxAttribute> attributes;
};

// A size: a number, or a name that stands for the same number wherever it is; neither: any.
struct OnnxDim {
  std::optional<int64_t> value;
  std::string parameter;
};

struct OnnxValueInfo {
  std::string name;
  std::optional<DType> dtype;  // none: not a tensor, or of a type that PyTorch does not have
  std::string type_name;       // for messages
  std::optional<std::vector<OnnxDim>> dims;
};

struct OnnxGraph {
  std::string name;
  std::map<std::string, int64_t> opsets;  // by domain; "" is ONNX's own
  std::vector<std::string> functions;     // the model's own operators
  std::vector<OnnxNode> nodes;
  std::vector<OnnxValueInfo> inputs;
  std::vector<OnnxValueInfo> outputs;
};

// Names are as the file has them, untrusted. What is read is at most `max_bytes`. Errors leave out
// the path.
absl::StatusOr<OnnxGraph> ReadOnnxGraph(const File& file, int64_t max_bytes);

}  // namespace sconce

#endif  // SCONCE_SERVER_CHECKPOINT_ONNX_ONNX_GRAPH_H_
