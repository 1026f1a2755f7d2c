#include "bench/load_generator/request_template.h"

#include <grpcpp/client_context.h>
#include <grpcpp/support/slice.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <random>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "proto/open_inference.grpc.pb.h"
#include "server/base/dtype.h"

namespace sconce::bench {
namespace {

constexpr auto kMetadataTimeout = std::chrono::seconds(10);
constexpr int64_t kMaxRequestBytes = int64_t{1} << 30;

struct Input {
  std::string name;
  std::string datatype;
  std::vector<int64_t> shape;  // of one row
};

absl::StatusOr<std::vector<Input>> AskInputs(const Options& options,
                                             const std::shared_ptr<grpc::Channel>& channel) {
  const auto stub = inference::GRPCInferenceService::NewStub(channel);
  inference::ModelMetadataRequest request;
  request.set_name(options.model);
  inference::ModelMetadataResponse metadata;
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + kMetadataTimeout);
  const grpc::Status status = stub->ModelMetadata(&context, request, &metadata);
  if (!status.ok()) {
    const auto code = static_cast<absl::StatusCode>(status.error_code());
    return absl::Status(
        code, absl::StrCat(options.address, ": ModelMetadata of '", options.model,
                           "': ", absl::StatusCodeToString(code), ": ", status.error_message()));
  }
  std::vector<Input> inputs;
  for (const auto& input : metadata.inputs()) {
    if (input.shape().empty()) {
      return absl::InternalError(
          absl::StrCat("input '", input.name(), "': expected a batch dimension, got no shape"));
    }
    inputs.push_back(
        {input.name(), input.datatype(), {input.shape().begin() + 1, input.shape().end()}});
  }
  return inputs;
}

absl::StatusOr<std::vector<Input>> Inputs(const Options& options,
                                          const std::shared_ptr<grpc::Channel>& channel) {
  if (!options.input.empty() && !options.datatype.empty() && !options.shape.empty()) {
    return std::vector<Input>{{options.input, options.datatype, options.shape}};
  }
  auto inputs = AskInputs(options, channel);
  if (!inputs.ok()) return inputs.status();
  const bool told = !options.input.empty() || !options.datatype.empty() || !options.shape.empty();
  if (told && inputs->size() != 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("--input, --datatype and --shape are for models with one input; '",
                     options.model, "' has ", inputs->size()));
  }
  if (!options.input.empty()) inputs->front().name = options.input;
  if (!options.datatype.empty()) inputs->front().datatype = options.datatype;
  if (!options.shape.empty()) inputs->front().shape = options.shape;
  for (const Input& input : *inputs) {
    if (std::find(input.shape.begin(), input.shape.end(), -1) != input.shape.end()) {
      return absl::InvalidArgumentError(
          absl::StrCat("input '", input.name, "' has rows of any shape [",
                       absl::StrJoin(input.shape, ","), "]: give --shape"));
    }
  }
  return inputs;
}

template <typename T>
std::string ZerosAndOnes(int64_t count, T one, std::mt19937* random) {
  std::string bytes(static_cast<size_t>(count) * sizeof(T), '\0');
  for (int64_t i = 0; i < count; ++i) {
    if (((*random)() & 1) != 0) std::memcpy(bytes.data() + i * sizeof(T), &one, sizeof(T));
  }
  return bytes;
}

std::string Elements(DType dtype, int64_t count, std::mt19937* random) {
  switch (dtype) {
    case DType::kFloat16:
      return ZerosAndOnes<uint16_t>(count, 0x3c00, random);
    case DType::kBFloat16:
      return ZerosAndOnes<uint16_t>(count, 0x3f80, random);
    case DType::kFloat32:
      return ZerosAndOnes<float>(count, 1, random);
    case DType::kFloat64:
      return ZerosAndOnes<double>(count, 1, random);
    default:
      break;
  }
  switch (DTypeSize(dtype)) {
    case 1:
      return ZerosAndOnes<uint8_t>(count, 1, random);
    case 2:
      return ZerosAndOnes<uint16_t>(count, 1, random);
    case 4:
      return ZerosAndOnes<uint32_t>(count, 1, random);
    default:
      return ZerosAndOnes<uint64_t>(count, 1, random);
  }
}

}  // namespace

absl::StatusOr<RequestTemplate> MakeRequestTemplate(const Options& options,
                                                    const std::shared_ptr<grpc::Channel>& channel) {
  const auto inputs = Inputs(options, channel);
  if (!inputs.ok()) return inputs.status();

  inference::ModelInferRequest request;
  request.set_model_name(options.model);
  std::mt19937 random;
  std::vector<std::string> descriptions;
  int64_t total = 0;
  for (const Input& input : *inputs) {
    const auto dtype = DTypeFromOip(input.datatype);
    if (!dtype.has_value() || DTypeSize(*dtype) == 0) {
      return absl::InvalidArgumentError(
          absl::StrCat("input '", input.name, "' has datatype '", input.datatype,
                       "'; expected one of fixed size, such as FP32"));
    }
    auto* declared = request.add_inputs();
    declared->set_name(input.name);
    declared->set_datatype(input.datatype);
    declared->add_shape(options.rows);
    int64_t bytes = 0;
    bool fits = !__builtin_mul_overflow(options.rows, DTypeSize(*dtype), &bytes);
    for (const int64_t size : input.shape) {
      declared->add_shape(size);
      fits = fits && !__builtin_mul_overflow(bytes, size, &bytes);
    }
    if (!fits || (total += bytes) > kMaxRequestBytes) {
      return absl::InvalidArgumentError(absl::StrCat(
          "input '", input.name, "' of ", options.rows, " rows of [",
          absl::StrJoin(input.shape, ","), "]: expected at most ", kMaxRequestBytes, " bytes"));
    }
    request.add_raw_input_contents(Elements(*dtype, bytes / DTypeSize(*dtype), &random));
    descriptions.push_back(absl::StrCat(input.name, " ", input.datatype, "[",
                                        absl::StrJoin(declared->shape(), ","), "]"));
  }
  const std::string wire = request.SerializeAsString();
  const grpc::Slice slice(wire);
  RequestTemplate made;
  made.bytes = grpc::ByteBuffer(&slice, 1);
  made.description = absl::StrCat(absl::StrJoin(descriptions, ", "), ", ", wire.size(), " bytes");
  return made;
}

}  // namespace sconce::bench
