// AdminService: the RPCs of proto/admin.proto, answered on gRPC's own threads; each call that
// changes something holds its thread until that is done.
//
// Thread-safe. Owned by GrpcServer; what it refers to outlives it.

#ifndef SCONCE_SERVER_RPC_ADMIN_SERVICE_H_
#define SCONCE_SERVER_RPC_ADMIN_SERVICE_H_

#include <string>
#include <utility>

#include "proto/admin.grpc.pb.h"
#include "server/registry/repository_control.h"
#include "server/rpc/open_calls.h"

namespace sconce {

class AdminService final : public admin::v1::Admin::Service {
 public:
  // `control_mode` is the server's --control.
  AdminService(RepositoryControl* control, OpenCalls* calls, std::string control_mode)
      : control_(control), calls_(calls), control_mode_(std::move(control_mode)) {}

  grpc::Status Status(grpc::ServerContext*, const admin::v1::StatusRequest*,
                      admin::v1::StatusResponse*) override;
  grpc::Status Rollback(grpc::ServerContext*, const admin::v1::RollbackRequest*,
                        admin::v1::RollbackResponse*) override;
  grpc::Status Promote(grpc::ServerContext*, const admin::v1::PromoteRequest*,
                       admin::v1::PromoteResponse*) override;
  grpc::Status Reload(grpc::ServerContext*, const admin::v1::ReloadRequest*,
                      admin::v1::ReloadResponse*) override;
  grpc::Status Pin(grpc::ServerContext*, const admin::v1::PinRequest*,
                   admin::v1::PinResponse*) override;
  grpc::Status Unpin(grpc::ServerContext*, const admin::v1::UnpinRequest*,
                     admin::v1::UnpinResponse*) override;

 private:
  // What is left to answer once the request is checked and what it asks for is done.
  template <typename Response>
  void TellModel(const std::string& name, Response* response);

  RepositoryControl* const control_;
  OpenCalls* const calls_;
  const std::string control_mode_;
};

}  // namespace sconce

#endif  // SCONCE_SERVER_RPC_ADMIN_SERVICE_H_
