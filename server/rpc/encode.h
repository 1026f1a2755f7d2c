// The answer to a ModelInfer call as bytes for the wire: small fields through the generated class,
// large outputs as slices that keep the batch's memory alive instead of copying it.
//
// Pure functions, callable from any thread.

#ifndef SCONCE_SERVER_RPC_ENCODE_H_
#define SCONCE_SERVER_RPC_ENCODE_H_

#include <grpcpp/support/byte_buffer.h>

#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "server/batching/request.h"
#include "server/rpc/shared_memory_regions.h"

namespace sconce {

// What the request said about its answer.
struct AnswerFormat {
  std::string id;
  // Names, in the order wanted; empty: all, in the signature's order.
  std::vector<std::string> outputs;
  // raw_output_contents instead of typed contents.
  bool raw = true;
  bool mark_final = false;
  // By name, the outputs that are in a region of shared memory and not in the answer.
  std::map<std::string, RegionPlace> places = {};
};

// The positions in `signature.outputs` of the outputs asked for. INVALID_ARGUMENT for one that is
// not there or is named twice; the message begins with `model_version` ("resnet50/7").
absl::StatusOr<std::vector<size_t>> SelectOutputs(const std::string& model_version,
                                                  const Signature& signature,
                                                  const std::vector<std::string>& names);

// Where one of the outputs has a datatype without typed contents (FP16, BF16), all are raw.
absl::StatusOr<grpc::ByteBuffer> EncodeInfer(const InferResponse& response,
                                             const AnswerFormat& format);

}  // namespace sconce

#endif  // SCONCE_SERVER_RPC_ENCODE_H_
