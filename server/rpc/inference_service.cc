#include "server/rpc/inference_service.h"

#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "server/base/printable.h"
#include "server/rpc/describe.h"
#include "server/rpc/load_overrides.h"
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

struct Found {
  std::shared_ptr<Model> model;
  std::shared_ptr<const ModelVersion> version;
};

absl::StatusOr<Found> FindVersion(const Registry& registry, const std::string& name,
                                  const std::string& version) {
  const auto wanted = ParseVersion(version);
  if (!wanted.ok()) return wanted.status();
  auto model = FindModel(registry, name);
  if (!model.ok()) return model.status();
  auto pinned = PinVersion(**model, *wanted);
  if (!pinned.ok()) return pinned.status();
  return Found{*std::move(model), *std::move(pinned)};
}

absl::Status CheckRepositoryName(const std::string& name) {
  if (name.empty()) return absl::OkStatus();
  return absl::UnimplementedError(
      absl::StrCat("repository_name '", Printable(name),
                   "': the server has one repository, expected no repository_name"));
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
  const auto found = FindVersion(*registry_, request->name(), request->version());
  if (absl::IsInvalidArgument(found.status())) return ToGrpcStatus(found.status());
  response->set_ready(found.ok());
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
  const auto found = FindVersion(*registry_, request->name(), request->version());
  if (!found.ok()) return ToGrpcStatus(found.status());
  std::vector<int64_t> numbers = AnsweringNumbers(found->model->serving());
  // It may have ceased to answer since.
  const int64_t number = found->version->number;
  const auto at = std::lower_bound(numbers.begin(), numbers.end(), number);
  if (at == numbers.end() || *at != number) numbers.insert(at, number);
  *response = DescribeMetadata(*found->version, numbers);
  return grpc::Status::OK;
}

grpc::Status InferenceService::ModelConfig(grpc::ServerContext*,
                                           const inference::ModelConfigRequest* request,
                                           inference::ModelConfigResponse* response) {
  const OpenCall call(calls_);
  const auto found = FindVersion(*registry_, request->name(), request->version());
  if (!found.ok()) return ToGrpcStatus(found.status());
  *response->mutable_config() = DescribeConfig(*found->version);
  return grpc::Status::OK;
}

grpc::Status InferenceService::ModelStatistics(grpc::ServerContext*,
                                               const inference::ModelStatisticsRequest* request,
                                               inference::ModelStatisticsResponse* response) {
  const OpenCall call(calls_);
  if (!request->name().empty()) {
    const auto found = FindVersion(*registry_, request->name(), request->version());
    if (!found.ok()) return ToGrpcStatus(found.status());
    *response->add_model_stats() = DescribeStatistics(found->model->name(), found->version->number,
                                                      found->model->statistics().Snapshot());
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
    const IndexedModel indexed{model->name(), model->serving(), model->progress(),
                               model->records()};
    for (auto& entry : DescribeIndex(indexed, request->ready())) {
      *response->add_models() = std::move(entry);
    }
  }
  return grpc::Status::OK;
}

grpc::Status InferenceService::RepositoryModelLoad(
    grpc::ServerContext*, const inference::RepositoryModelLoadRequest* request,
    inference::RepositoryModelLoadResponse*) {
  const OpenCall call(calls_);
  const absl::Status name = CheckRepositoryName(request->repository_name());
  if (!name.ok()) return ToGrpcStatus(name);
  // The message is this call's alone, and gRPC has no further use of it: up to 2 GiB of weights
  // are not copied.
  auto overrides = TakeLoadOverrides(const_cast<inference::RepositoryModelLoadRequest*>(request),
                                     inline_weights_max_bytes_);
  if (!overrides.ok()) return ToGrpcStatus(overrides.status());
  return ToGrpcStatus(control_->Load(request->model_name(), *std::move(overrides)));
}

grpc::Status InferenceService::RepositoryModelUnload(
    grpc::ServerContext*, const inference::RepositoryModelUnloadRequest* request,
    inference::RepositoryModelUnloadResponse*) {
  const OpenCall call(calls_);
  absl::Status status = CheckRepositoryName(request->repository_name());
  for (const auto& [name, value] : request->parameters()) {
    // No model depends on another, so that this is done by doing nothing.
    if (name == "unload_dependents" || !status.ok()) continue;
    status = absl::UnimplementedError(
        absl::StrCat("parameter '", Printable(name), "' is not supported, expected none"));
  }
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
