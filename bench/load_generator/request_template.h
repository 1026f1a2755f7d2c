// The one request that a run sends again and again, serialised once.

#ifndef SCONCE_BENCH_LOAD_GENERATOR_REQUEST_TEMPLATE_H_
#define SCONCE_BENCH_LOAD_GENERATOR_REQUEST_TEMPLATE_H_

#include <grpcpp/channel.h>
#include <grpcpp/support/byte_buffer.h>

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "bench/load_generator/options.h"

namespace sconce::bench {

struct RequestTemplate {
  grpc::ByteBuffer bytes;
  // "input FP32[1,3,224,224], 602163 bytes"
  std::string description;
};

// Inputs that the options leave open are asked of the server. Every element is a zero or a one, at
// random but the same in each run.
absl::StatusOr<RequestTemplate> MakeRequestTemplate(const Options& options,
                                                    const std::shared_ptr<grpc::Channel>& channel);

}  // namespace sconce::bench

#endif  // SCONCE_BENCH_LOAD_GENERATOR_REQUEST_TEMPLATE_H_
