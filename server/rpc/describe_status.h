// What the repository's control says about its models, as the admin service's messages. Pure
// functions, callable from any thread.

#ifndef SCONCE_SERVER_RPC_DESCRIBE_STATUS_H_
#define SCONCE_SERVER_RPC_DESCRIBE_STATUS_H_

#include "proto/admin.pb.h"
#include "server/registry/repository_control.h"

namespace sconce {

// Names and paths may hold any byte: what is not UTF-8 is escaped.
admin::v1::ModelStatus DescribeStatus(const ModelStatus& status);

}  // namespace sconce

#endif  // SCONCE_SERVER_RPC_DESCRIBE_STATUS_H_
