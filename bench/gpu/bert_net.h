// An encoder of BERT's shape, from token ids to the pooled vector: what a transformer costs, with
// weights that mean nothing. The catalogue has none, so the benchmark brings its own.

#ifndef SCONCE_BENCH_GPU_BERT_NET_H_
#define SCONCE_BENCH_GPU_BERT_NET_H_

#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "models/net.h"

namespace sconce::bench {

struct BertShape {
  int64_t layers = 12;
  int64_t width = 768;
  int64_t heads = 12;
  int64_t tokens = 128;  // of a row
  int64_t vocabulary = 30522;
};

// Takes INT64 [tokens], gives FP32 [width]. Without memory for its weights, as
// Architecture::Create.
absl::StatusOr<std::unique_ptr<models::Net>> MakeBertNet(const BertShape& shape);

}  // namespace sconce::bench

#endif  // SCONCE_BENCH_GPU_BERT_NET_H_
