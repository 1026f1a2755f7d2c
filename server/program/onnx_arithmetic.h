// The operators of ONNX that calculate: elementwise, reductions and products. Each sets the results
// of its node, or says what of it is not supported.
#ifndef SCONCE_SERVER_PROGRAM_ONNX_ARITHMETIC_H_
#define SCONCE_SERVER_PROGRAM_ONNX_ARITHMETIC_H_

#include "server/program/onnx_builder.h"

namespace sconce {

// The operators that are one of ATen's, of one input or of two; false: the node is none of these.
bool ImportElementwise(OnnxCall& call);
void ImportDivision(OnnxCall& call);
void ImportModulo(OnnxCall& call);
void ImportPower(OnnxCall& call);
void ImportWhere(OnnxCall& call);
void ImportClip(OnnxCall& call);
void ImportHardSigmoid(OnnxCall& call);
void ImportWithSlope(OnnxCall& call);  // Elu, LeakyRelu
void ImportGelu(OnnxCall& call);
void ImportSoftmax(OnnxCall& call);  // Softmax, LogSoftmax
void ImportReduce(OnnxCall& call);   // ReduceMax, ReduceMean, ...
void ImportArgMax(OnnxCall& call);   // ArgMax, ArgMin
void ImportCumSum(OnnxCall& call);
void ImportMatMul(OnnxCall& call);
void ImportGemm(OnnxCall& call);
void ImportEinsum(OnnxCall& call);

}  // namespace sconce

#endif  // SCONCE_SERVER_PROGRAM_ONNX_ARITHMETIC_H_
