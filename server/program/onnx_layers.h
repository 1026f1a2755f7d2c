// The operators of ONNX that are layers: convolution, pooling, normalisation, recurrent nets, and
// those with more than one way to say a thing. Each sets the results of its node, or says what of
// it is not supported.
#ifndef SCONCE_SERVER_PROGRAM_ONNX_LAYERS_H_
#define SCONCE_SERVER_PROGRAM_ONNX_LAYERS_H_

#include "server/program/onnx_builder.h"

namespace sconce {

void ImportConvolution(OnnxCall& call);  // Conv, ConvTranspose
void ImportAveragePool(OnnxCall& call);
void ImportMaxPool(OnnxCall& call);
void ImportGlobalPool(OnnxCall& call);  // GlobalAveragePool, GlobalMaxPool
void ImportBatchNormalization(OnnxCall& call);
void ImportInstanceNormalization(OnnxCall& call);
void ImportLayerNormalization(OnnxCall& call);
void ImportPad(OnnxCall& call);
void ImportResize(OnnxCall& call);
void ImportRecurrent(OnnxCall& call);  // LSTM, GRU
void ImportConstant(OnnxCall& call);
void ImportConstantOfShape(OnnxCall& call);

// The values of an attribute as a tensor.
at::Tensor TensorOfValues(const OnnxValues& values);

}  // namespace sconce

#endif  // SCONCE_SERVER_PROGRAM_ONNX_LAYERS_H_
