// The operators of ONNX that move elements, pick some, or change their type. Each sets the results
// of its node, or says what of it is not supported.
#ifndef SCONCE_SERVER_PROGRAM_ONNX_SHAPES_H_
#define SCONCE_SERVER_PROGRAM_ONNX_SHAPES_H_

#include "server/program/onnx_builder.h"

namespace sconce {

void ImportFlatten(OnnxCall& call);
void ImportReshape(OnnxCall& call);
void ImportTranspose(OnnxCall& call);
void ImportConcat(OnnxCall& call);
void ImportSplit(OnnxCall& call);
void ImportSplitToSequence(OnnxCall& call);
void ImportSequenceAt(OnnxCall& call);
void ImportSlice(OnnxCall& call);
void ImportGather(OnnxCall& call);
void ImportGatherElements(OnnxCall& call);
void ImportGatherNd(OnnxCall& call);
void ImportScatterNd(OnnxCall& call);
void ImportNonZero(OnnxCall& call);
void ImportUnsqueeze(OnnxCall& call);
void ImportSqueeze(OnnxCall& call);
void ImportExpand(OnnxCall& call);
void ImportTile(OnnxCall& call);
void ImportTrilu(OnnxCall& call);
void ImportCast(OnnxCall& call);
void ImportCastLike(OnnxCall& call);
void ImportIdentity(OnnxCall& call);  // Identity, Dropout
void ImportRange(OnnxCall& call);

}  // namespace sconce

#endif  // SCONCE_SERVER_PROGRAM_ONNX_SHAPES_H_
