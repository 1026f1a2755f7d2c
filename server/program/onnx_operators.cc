#include <map>
#include <string>

#include "server/base/printable.h"
#include "server/program/onnx_arithmetic.h"
#include "server/program/onnx_builder.h"
#include "server/program/onnx_layers.h"
#include "server/program/onnx_shapes.h"

namespace sconce {
namespace {

using Handler = void (*)(OnnxCall&);

const std::map<std::string, Handler>& Handlers() {
  static const auto* const handlers = new std::map<std::string, Handler>{
      {"ArgMax", ImportArgMax},
      {"ArgMin", ImportArgMax},
      {"AveragePool", ImportAveragePool},
      {"BatchNormalization", ImportBatchNormalization},
      {"Cast", ImportCast},
      {"CastLike", ImportCastLike},
      {"Clip", ImportClip},
      {"Concat", ImportConcat},
      {"Constant", ImportConstant},
      {"ConstantOfShape", ImportConstantOfShape},
      {"Conv", ImportConvolution},
      {"ConvTranspose", ImportConvolution},
      {"CumSum", ImportCumSum},
      {"Div", ImportDivision},
      {"Dropout", ImportIdentity},
      {"Einsum", ImportEinsum},
      {"Elu", ImportWithSlope},
      {"Expand", ImportExpand},
      {"Flatten", ImportFlatten},
      {"GRU", ImportRecurrent},
      {"Gather", ImportGather},
      {"GatherElements", ImportGatherElements},
      {"GatherND", ImportGatherNd},
      {"Gelu", ImportGelu},
      {"Gemm", ImportGemm},
      {"GlobalAveragePool", ImportGlobalPool},
      {"GlobalMaxPool", ImportGlobalPool},
      {"HardSigmoid", ImportHardSigmoid},
      {"Identity", ImportIdentity},
      {"InstanceNormalization", ImportInstanceNormalization},
      {"LSTM", ImportRecurrent},
      {"LayerNormalization", ImportLayerNormalization},
      {"LeakyRelu", ImportWithSlope},
      {"LogSoftmax", ImportSoftmax},
      {"MatMul", ImportMatMul},
      {"MaxPool", ImportMaxPool},
      {"Mod", ImportModulo},
      {"NonZero", ImportNonZero},
      {"Pad", ImportPad},
      {"Pow", ImportPower},
      {"Range", ImportRange},
      {"ReduceL2", ImportReduce},
      {"ReduceMax", ImportReduce},
      {"ReduceMean", ImportReduce},
      {"ReduceMin", ImportReduce},
      {"ReduceSum", ImportReduce},
      {"Reshape", ImportReshape},
      {"Resize", ImportResize},
      {"ScatterND", ImportScatterNd},
      {"SequenceAt", ImportSequenceAt},
      {"Slice", ImportSlice},
      {"Softmax", ImportSoftmax},
      {"Split", ImportSplit},
      {"SplitToSequence", ImportSplitToSequence},
      {"Squeeze", ImportSqueeze},
      {"Tile", ImportTile},
      {"Transpose", ImportTranspose},
      {"Trilu", ImportTrilu},
      {"Unsqueeze", ImportUnsqueeze},
      {"Where", ImportWhere},
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
  if (ImportIntegers(call) || !call.status().ok() || ImportElementwise(call)) return;
  const auto handler = Handlers().find(type);
  if (handler == Handlers().end()) return call.Unsupported("the operator");
  handler->second(call);
}

}  // namespace sconce
