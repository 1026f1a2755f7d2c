// InferenceService: every RPC of the protocol but ModelInfer, answered on gRPC's own threads.
// ModelInfer is left to completion queues and raw bytes (infer_call.h).
//
// Thread-safe. Owned by GrpcServer; what it refers to outlives it.

#ifndef SCONCE_SERVER_RPC_INFERENCE_SERVICE_H_
#define SCONCE_SERVER_RPC_INFERENCE_SERVICE_H_

#include <cstdint>
#include <string>
#include <utility>

#include "proto/open_inference.grpc.pb.h"
#include "server/registry/registry.h"
#include "server/registry/repository_control.h"
#include "server/rpc/open_calls.h"
#include "server/rpc/shared_memory_regions.h"

namespace sconce {

class InferenceService final : public inference::GRPCInferenceService::WithRawMethod_ModelInfer<
                                   inference::GRPCInferenceService::Service> {
 public:
  // `version` is the server's; `inline_weights_max_bytes` what a load may bring, 0: nothing.
  InferenceService(const Registry* registry, RepositoryControl* control,
                   SharedMemoryRegions* regions, OpenCalls* calls, std::string version,
                   int64_t inline_weights_max_bytes)
      : registry_(registry),
        control_(control),
        regions_(regions),
        calls_(calls),
        version_(std::move(version)),
        inline_weights_max_bytes_(inline_weights_max_bytes) {}

  grpc::Status ServerLive(grpc::ServerContext*, const inference::ServerLiveRequest*,
                          inference::ServerLiveResponse*) override;
  grpc::Status ServerReady(grpc::ServerContext*, const inference::ServerReadyRequest*,
                           inference::ServerReadyResponse*) override;
  grpc::Status ModelReady(grpc::ServerContext*, const inference::ModelReadyRequest*,
                          inference::ModelReadyResponse*) override;
  grpc::Status ServerMetadata(grpc::ServerContext*, const inference::ServerMetadataRequest*,
                              inference::ServerMetadataResponse*) override;
  grpc::Status ModelMetadata(grpc::ServerContext*, const inference::ModelMetadataRequest*,
                             inference::ModelMetadataResponse*) override;
  grpc::Status ModelConfig(grpc::ServerContext*, const inference::ModelConfigRequest*,
                           inference::ModelConfigResponse*) override;
  grpc::Status ModelStatistics(grpc::ServerContext*, const inference::ModelStatisticsRequest*,
                               inference::ModelStatisticsResponse*) override;
  grpc::Status RepositoryIndex(grpc::ServerContext*, const inference::RepositoryIndexRequest*,
                               inference::RepositoryIndexResponse*) override;
  grpc::Status RepositoryModelLoad(grpc::ServerContext*,
                                   const inference::RepositoryModelLoadRequest*,
                                   inference::RepositoryModelLoadResponse*) override;
  grpc::Status RepositoryModelUnload(grpc::ServerContext*,
                                     const inference::RepositoryModelUnloadRequest*,
                                     inference::RepositoryModelUnloadResponse*) override;
  grpc::Status CudaSharedMemoryStatus(grpc::ServerContext*,
                                      const inference::CudaSharedMemoryStatusRequest*,
                                      inference::CudaSharedMemoryStatusResponse*) override;
  grpc::Status CudaSharedMemoryRegister(grpc::ServerContext*,
                                        const inference::CudaSharedMemoryRegisterRequest*,
                                        inference::CudaSharedMemoryRegisterResponse*) override;
  grpc::Status CudaSharedMemoryUnregister(grpc::ServerContext*,
                                          const inference::CudaSharedMemoryUnregisterRequest*,
                                          inference::CudaSharedMemoryUnregisterResponse*) override;
  grpc::Status SystemSharedMemoryUnregister(
      grpc::ServerContext*, const inference::SystemSharedMemoryUnregisterRequest*,
      inference::SystemSharedMemoryUnregisterResponse*) override;

 private:
  const Registry* const registry_;
  RepositoryControl* const control_;
  SharedMemoryRegions* const regions_;
  OpenCalls* const calls_;
  const std::string version_;
  const int64_t inline_weights_max_bytes_;
};

}  // namespace sconce

#endif  // SCONCE_SERVER_RPC_INFERENCE_SERVICE_H_
