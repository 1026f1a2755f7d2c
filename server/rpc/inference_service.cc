#include "server/rpc/inference_service.h"

#include <memory>

#include "absl/strings/str_cat.h"
#include "server/base/printable.h"
#include "server/rpc/describe.h"
#include "server/rpc/lookup.h"
#include "server/rpc/status.h"

namespace sconce {
namespace {

constexpr char kServerName[] = "sconce";

// Of the extensions of the protocol's and Triton's, those that are true of this server.
constexpr const char* kExtensions[] = {"model_repository", "model_configuration", "statistics",
                                       "binary_tensor_data", "parameters"};
// Where a device offers it.
constexpr char kCudaSharedMemory[] = "cuda_shared_memory";

using RepositoryParameters =
    google::protobuf::Map<std::string, inference::ModelRepositoryParameter>;

absl::StatusOr<std::shared_ptr<const ModelVersion>> FindVersion(const Registry& registry,
                                                                const std::string& name,
                                                                const std::string& version) {
  const auto wanted = ParseVersion(version);
  if (!wanted.ok()) return wanted.status();
  const auto model = FindModel(registry, name);
  if (!model.ok()) return model.status();
  return PinVersion(**model, *wanted);
}

absl::Status CheckRepositoryName(const std::string& name) {
  if (name.empty()) return absl::OkStatus();
  return absl::UnimplementedError(
      absl::StrCat("repository_name '", Printable(name),
                   "': the server has one repository, expected no repository_name"));
}

// What a client may add to a load or an unload changes nothing here, and is refused rather than
// ignored; all but `accepted`.
absl::Status CheckRepositoryParameters(const RepositoryParameters& parameters,
                                       const char* accepted) {
  for (const auto& [name, value] : parameters) {
    if (name == accepted) continue;
    return absl::UnimplementedError(
        absl::StrCat("parameter '", Printable(name),
                     "' is not supported: a model is what its folder in the repository holds"));
  }
  return absl::OkStatus();
}

}  // namespace

grpc::Status InferenceService::ServerLive(grpc::ServerContext*, const inference::ServerLiveRequest*,
                                          inference::ServerLiveResponse* response) {
  const OpenCall call(calls_);
  response->set_live(true);
  return grpc::Status::OK;
}

grpc::Status InferenceService::ServerReady(grpc::ServerContext*,
                                           const inference::ServerReadyRequest*,
                                           inference::ServerReadyResponse* response) {
  const OpenCall call(calls_);
  response->set_ready(registry_->Ready());
  return grpc::Status::OK;
}

grpc::Status InferenceService::ModelReady(grpc::ServerContext*,
                                          const inference::ModelReadyRequest* request,
                                          inference::ModelReadyResponse* response) {
  const OpenCall call(calls_);
  const auto version = FindVersion(*registry_, request->name(), request->version());
  if (absl::IsInvalidArgument(version.status())) return ToGrpcStatus(version.status());
  response->set_ready(version.ok());
  return grpc::Status::OK;
}

grpc::Status InferenceService::ServerMetadata(grpc::ServerContext*,
                                              const inference::ServerMetadataRequest*,
                                              inference::ServerMetadataResponse* response) {
  const OpenCall call(calls_);
  response->set_name(kServerName);
  response->set_version(version_);
  for (const char* extension : kExtensions) response->add_extensions(extension);
  if (regions_->available()) response->add_extensions(kCudaSharedMemory);
  return grpc::Status::OK;
}

grpc::Status InferenceService::ModelMetadata(grpc::ServerContext*,
                                             const inference::ModelMetadataRequest* request,
                                             inference::ModelMetadataResponse* response) {
  const OpenCall call(calls_);
  const auto version = FindVersion(*registry_, request->name(), request->version());
  if (!version.ok()) return ToGrpcStatus(version.status());
  *response = DescribeMetadata(**version);
  return grpc::Status::OK;
}

grpc::Status InferenceService::ModelConfig(grpc::ServerContext*,
                                           const inference::ModelConfigRequest* request,
                                           inference::ModelConfigResponse* response) {
  const OpenCall call(calls_);
  const auto version = FindVersion(*registry_, request->name(), request->version());
  if (!version.ok()) return ToGrpcStatus(version.status());
  *response->mutable_config() = DescribeConfig(**version);
  return grpc::Status::OK;
}

grpc::Status InferenceService::ModelStatistics(grpc::ServerContext*,
                                               const inference::ModelStatisticsRequest* request,
                                               inference::ModelStatisticsResponse* response) {
  const OpenCall call(calls_);
  if (!request->name().empty()) {
    const auto version = FindVersion(*registry_, request->name(), request->version());
    if (!version.ok()) return ToGrpcStatus(version.status());
    // The model may have gone since; then it has no statistics either.
    const auto model = FindModel(*registry_, request->name());
    if (!model.ok()) return ToGrpcStatus(model.status());
    *response->add_model_stats() =
        DescribeStatistics((*model)->name(), (*version)->number, (*model)->statistics().Snapshot());
    return grpc::Status::OK;
  }
  if (!request->version().empty()) {
    return ToGrpcStatus(absl::InvalidArgumentError("a version without a model name"));
  }
  for (const std::shared_ptr<Model>& model : registry_->Models()) {
    const std::shared_ptr<const ModelVersion> version = model->Pin();
    if (version == nullptr) continue;
    *response->add_model_stats() =
        DescribeStatistics(model->name(), version->number, model->statistics().Snapshot());
  }
  return grpc::Status::OK;
}

grpc::Status InferenceService::RepositoryIndex(grpc::ServerContext*,
                                               const inference::RepositoryIndexRequest* request,
                                               inference::RepositoryIndexResponse* response) {
  const OpenCall call(calls_);
  const absl::Status name = CheckRepositoryName(request->repository_name());
  if (!name.ok()) return ToGrpcStatus(name);
  for (const std::shared_ptr<Model>& model : registry_->Models()) {
    const std::shared_ptr<const ModelVersion> live = model->Pin();
    if (request->ready() && live == nullptr) continue;
    *response->add_models() = DescribeIndex(model->name(), live.get(), model->progress());
  }
  return grpc::Status::OK;
}

grpc::Status InferenceService::RepositoryModelLoad(
    grpc::ServerContext*, const inference::RepositoryModelLoadRequest* request,
    inference::RepositoryModelLoadResponse*) {
  const OpenCall call(calls_);
  absl::Status status = CheckRepositoryName(request->repository_name());
  if (status.ok()) status = CheckRepositoryParameters(request->parameters(), "");
  if (status.ok()) status = control_->Load(request->model_name(), {});
  return ToGrpcStatus(status);
}

grpc::Status InferenceService::RepositoryModelUnload(
    grpc::ServerContext*, const inference::RepositoryModelUnloadRequest* request,
    inference::RepositoryModelUnloadResponse*) {
  const OpenCall call(calls_);
  absl::Status status = CheckRepositoryName(request->repository_name());
  // No model depends on another, so that this is done by doing nothing.
  if (status.ok()) status = CheckRepositoryParameters(request->parameters(), "unload_dependents");
  if (status.ok()) status = control_->Unload(request->model_name());
  return ToGrpcStatus(status);
}

grpc::Status InferenceService::CudaSharedMemoryStatus(
    grpc::ServerContext*, const inference::CudaSharedMemoryStatusRequest* request,
    inference::CudaSharedMemoryStatusResponse* response) {
  const OpenCall call(calls_);
  const auto regions = regions_->Status(request->name());
  if (!regions.ok()) return ToGrpcStatus(regions.status());
  for (const SharedMemoryRegions::Region& region : *regions) {
    auto& status = (*response->mutable_regions())[region.name];
    status.set_name(region.name);
    status.set_device_id(static_cast<uint64_t>(region.device_id));
    status.set_byte_size(static_cast<uint64_t>(region.size_bytes));
  }
  return grpc::Status::OK;
}

grpc::Status InferenceService::CudaSharedMemoryRegister(
    grpc::ServerContext*, const inference::CudaSharedMemoryRegisterRequest* request,
    inference::CudaSharedMemoryRegisterResponse*) {
  const OpenCall call(calls_);
  return ToGrpcStatus(regions_->Register(request->name(), request->raw_handle(),
                                         request->device_id(), request->byte_size()));
}

grpc::Status InferenceService::CudaSharedMemoryUnregister(
    grpc::ServerContext*, const inference::CudaSharedMemoryUnregisterRequest* request,
    inference::CudaSharedMemoryUnregisterResponse*) {
  const OpenCall call(calls_);
  if (request->name().empty()) {
    regions_->UnregisterAll();
  } else {
    regions_->Unregister(request->name());
  }
  return grpc::Status::OK;
}

grpc::Status InferenceService::SystemSharedMemoryUnregister(
    grpc::ServerContext*, const inference::SystemSharedMemoryUnregisterRequest*,
    inference::SystemSharedMemoryUnregisterResponse*) {
  const OpenCall call(calls_);
  return grpc::Status::OK;
}

}  // namespace sconce
