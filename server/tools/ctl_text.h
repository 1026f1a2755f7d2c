// What `sconce ctl` says: the admin service's messages as tables, lines and JSON, and failures with
// what to do about them. Pure functions, callable from any thread.
#ifndef SCONCE_SERVER_TOOLS_CTL_TEXT_H_
#define SCONCE_SERVER_TOOLS_CTL_TEXT_H_

#include <grpcpp/support/status.h>

#include <chrono>
#include <string>

#include "proto/admin.pb.h"
#include "server/tools/console.h"

namespace sconce::tools {

// Of each model what answers, and a table of its last versions, the newest first. Colours are the
// console's.
std::string StatusText(const admin::v1::StatusResponse& status,
                       std::chrono::system_clock::time_point now, const Console& console);

std::string StatusJson(const admin::v1::StatusResponse& status);

// "version 7 answers, version 8 as a canary 10.0% of the batches; pinned".
std::string StandingText(const admin::v1::ModelStatus& model);

// Why a call was not answered, and what can be done. `connected`: whether there was a server to
// answer it.
std::string FailureText(const std::string& server, const grpc::Status& status, bool connected);

}  // namespace sconce::tools

#endif  // SCONCE_SERVER_TOOLS_CTL_TEXT_H_
