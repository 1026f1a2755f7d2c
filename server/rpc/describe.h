// What the server says about its models, as the protocol's messages. Pure functions of what they
// are given; callable from any thread.

#ifndef SCONCE_SERVER_RPC_DESCRIBE_H_
#define SCONCE_SERVER_RPC_DESCRIBE_H_

#include <cstdint>

#include "proto/open_inference.pb.h"
#include "server/registry/model.h"
#include "server/registry/model_statistics.h"
#include "server/registry/model_version.h"

namespace sconce {

inference::ModelMetadataResponse DescribeMetadata(const ModelVersion& version);

inference::ModelConfig DescribeConfig(const ModelVersion& version);

// `number`: the version the counts are shown under; they belong to the model, whatever version
// answered.
inference::ModelStatistics DescribeStatistics(const std::string& model, int64_t number,
                                              const StatisticsSnapshot& counts);

// `live` may be null.
inference::RepositoryIndexResponse::ModelIndex DescribeIndex(const std::string& model,
                                                             const ModelVersion* live,
                                                             const Model::Progress& progress);

}  // namespace sconce

#endif  // SCONCE_SERVER_RPC_DESCRIBE_H_
