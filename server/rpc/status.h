// The one place where the status of a gRPC answer is made. Pure; callable from any thread.

#ifndef SCONCE_SERVER_RPC_STATUS_H_
#define SCONCE_SERVER_RPC_STATUS_H_

#include <grpcpp/support/status.h>

#include <string>
#include <string_view>

#include "absl/status/status.h"

namespace sconce {

// The same code; the message as MessageForWire makes it.
grpc::Status ToGrpcStatus(const absl::Status& status);

// A message travels in HTTP/2 trailers, which peers limit to 8 KiB after escaping: it is cut to
// 2000 bytes between two characters, and one that is not UTF-8 is escaped.
std::string MessageForWire(std::string_view message);

}  // namespace sconce

#endif  // SCONCE_SERVER_RPC_STATUS_H_
