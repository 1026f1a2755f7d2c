#include "server/rpc/encode.h"

#include <grpcpp/support/slice.h>

#include <algorithm>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "proto/open_inference.pb.h"
#include "server/base/printable.h"
#include "server/rpc/contents.h"
#include "server/rpc/wire_reader.h"

namespace sconce {
namespace {

// Copying this little costs less than a slice of its own.
constexpr size_t kCopiedBytes = 4096;

grpc::Slice SliceOf(const HostTensor& tensor) {
  auto* owner = new std::shared_ptr<void>(tensor.owner);
  return grpc::Slice(
      tensor.bytes.data(), tensor.bytes.size(),
      [](void* held) { delete static_cast<std::shared_ptr<void>*>(held); }, owner);
}

void DescribePlace(const RegionPlace& place, const HostTensor& tensor,
                   google::protobuf::Map<std::string, inference::InferParameter>* parameters) {
  (*parameters)["shared_memory_region"].set_string_param(place.region);
  (*parameters)["shared_memory_byte_size"].set_int64_param(
      static_cast<int64_t>(tensor.bytes.size()));
  if (place.offset_bytes != 0) {
    (*parameters)["shared_memory_offset"].set_int64_param(place.offset_bytes);
  }
}

}  // namespace

absl::StatusOr<std::vector<size_t>> SelectOutputs(const std::string& model_version,
                                                  const Signature& signature,
                                                  const std::vector<std::string>& names) {
  std::vector<size_t> selected;
  if (names.empty()) {
    for (size_t i = 0; i < signature.outputs.size(); ++i) selected.push_back(i);
    return selected;
  }
  for (const std::string& name : names) {
    size_t at = 0;
    while (at < signature.outputs.size() && signature.outputs[at].name != name) ++at;
    if (at == signature.outputs.size()) {
      return absl::InvalidArgumentError(absl::StrCat(
          model_version, ": has no output '", Printable(name), "', expected ",
          absl::StrJoin(signature.outputs, ", ", [](std::string* out, const TensorSpec& spec) {
            absl::StrAppend(out, "'", spec.name, "'");
          })));
    }
    if (std::find(selected.begin(), selected.end(), at) != selected.end()) {
      return absl::InvalidArgumentError(
          absl::StrCat(model_version, ": output '", Printable(name), "' is asked for twice"));
    }
    selected.push_back(at);
  }
  return selected;
}

absl::StatusOr<grpc::ByteBuffer> EncodeInfer(const InferResponse& response,
                                             const AnswerFormat& format) {
  const ModelVersion& version = *response.version;
  const auto selected = SelectOutputs(version.Label(), version.signature, format.outputs);
  if (!selected.ok()) return selected.status();
  std::vector<const RegionPlace*> places;  // null: the output is in the answer
  bool raw = format.raw;
  for (const size_t i : *selected) {
    const auto place = format.places.find(version.signature.outputs[i].name);
    places.push_back(place == format.places.end() ? nullptr : &place->second);
    raw = raw || (places.back() == nullptr && !HasContentsField(response.outputs[i].dtype));
  }

  inference::ModelInferResponse header;
  header.set_model_name(version.model);
  header.set_model_version(absl::StrCat(version.number));
  header.set_id(format.id);
  (*header.mutable_parameters())["weights_id"].set_string_param(version.weights_id);
  if (format.mark_final) {
    (*header.mutable_parameters())["triton_final_response"].set_bool_param(true);
  }
  for (size_t k = 0; k < selected->size(); ++k) {
    const HostTensor& tensor = response.outputs[(*selected)[k]];
    auto* output = header.add_outputs();
    output->set_name(version.signature.outputs[(*selected)[k]].name);
    output->set_datatype(std::string(OipDatatype(tensor.dtype)));
    output->mutable_shape()->Add(tensor.shape.begin(), tensor.shape.end());
    if (places[k] != nullptr) {
      DescribePlace(*places[k], tensor, output->mutable_parameters());
    } else if (!raw) {
      EncodeContents(tensor, output->mutable_contents());
    }
  }

  // raw_output_contents is the message's last field: what follows the header is written by hand.
  std::vector<grpc::Slice> slices;
  std::string small = header.SerializeAsString();
  if (raw) {
    for (size_t k = 0; k < selected->size(); ++k) {
      const HostTensor& tensor = response.outputs[(*selected)[k]];
      AppendTag({inference::ModelInferResponse::kRawOutputContentsFieldNumber, WireType::kBytes},
                &small);
      if (places[k] != nullptr) {
        // Clients find an output's bytes by its position among the outputs.
        AppendVarint(0, &small);
        continue;
      }
      AppendVarint(tensor.bytes.size(), &small);
      if (tensor.bytes.size() <= kCopiedBytes) {
        small.append(reinterpret_cast<const char*>(tensor.bytes.data()), tensor.bytes.size());
      } else {
        slices.emplace_back(std::exchange(small, {}));
        slices.push_back(SliceOf(tensor));
      }
    }
  }
  if (!small.empty()) slices.emplace_back(small);
  return grpc::ByteBuffer(slices.data(), slices.size());
}

}  // namespace sconce
