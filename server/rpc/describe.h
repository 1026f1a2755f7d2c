// What the server says about its models, as the protocol's messages. Pure functions of what they
// are given; callable from any thread.

#ifndef SCONCE_SERVER_RPC_DESCRIBE_H_
#define SCONCE_SERVER_RPC_DESCRIBE_H_

#include <cstdint>
#include <string>
#include <vector>

#include "proto/open_inference.pb.h"
#include "server/registry/model.h"
#include "server/registry/model_statistics.h"
#include "server/registry/model_version.h"

namespace sconce {

// `numbers`: of the versions that answer, of which `version` is one.
inference::ModelMetadataResponse DescribeMetadata(const ModelVersion& version,
                                                  const std::vector<int64_t>& numbers);

inference::ModelConfig DescribeConfig(const ModelVersion& version);

// `number`: the version the counts are shown under; they belong to the model, whatever version
// answered.
inference::ModelStatistics DescribeStatistics(const std::string& model, int64_t number,
                                              const StatisticsSnapshot& counts);

// What a repository index says of one model: what it is now, first; then the other versions that
// answer, and those that may: on their way, held, or the last one where it was rejected.
struct IndexedModel {
  std::string name;
  Serving serving;
  Model::Progress progress;
  std::vector<VersionRecord> records;
};
std::vector<inference::RepositoryIndexResponse::ModelIndex> DescribeIndex(const IndexedModel& model,
                                                                          bool only_ready);

}  // namespace sconce

#endif  // SCONCE_SERVER_RPC_DESCRIBE_H_
