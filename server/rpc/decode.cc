#include "server/rpc/decode.h"

#include <cstdint>

#include "absl/strings/str_cat.h"

namespace sconce {
namespace {

// Field numbers of ModelInferRequest and its InferInputTensor.
constexpr uint32_t kInputs = inference::ModelInferRequest::kInputsFieldNumber;
constexpr uint32_t kOutputs = inference::ModelInferRequest::kOutputsFieldNumber;
constexpr uint32_t kRawInputContents = inference::ModelInferRequest::kRawInputContentsFieldNumber;
constexpr uint32_t kContents = inference::ModelInferRequest::InferInputTensor::kContentsFieldNumber;

absl::Status Malformed(const char* why) {
  return absl::InvalidArgumentError(absl::StrCat("malformed ModelInferRequest: ", why));
}

absl::Status TooMany(const char* what) {
  return absl::InvalidArgumentError(
      absl::StrCat("the request has more than ", kMaxTensors, " ", what));
}

absl::Status HeaderTooLarge() {
  return absl::InvalidArgumentError(absl::StrCat("the request has more than ", kMaxHeaderBytes,
                                                 " bytes of names, shapes and parameters"));
}

// Moves one InferInputTensor to `header`, all but its contents.
absl::Status DecodeInput(absl::Span<const Piece> message, std::string* header,
                         std::optional<InputBytes>* contents) {
  std::string small;
  WireReader reader(message);
  while (!reader.AtEnd()) {
    WireTag tag;
    if (!reader.ReadTag(&tag)) return Malformed("an input breaks off");
    if (tag.number == kContents && tag.type == WireType::kBytes) {
      // A message field that comes twice is merged, which for contents means: appended.
      if (!contents->has_value()) contents->emplace();
      if (!reader.ReadBytesValue(&(*contents)->pieces)) {
        return Malformed("the contents of an input break off");
      }
    } else if (!reader.CopyField(tag, &small)) {
      return Malformed("an input breaks off");
    }
    if (small.size() > kMaxHeaderBytes) return HeaderTooLarge();
  }
  AppendTag({kInputs, WireType::kBytes}, header);
  AppendVarint(small.size(), header);
  header->append(small);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<DecodedInfer> DecodeInfer(absl::Span<const Piece> wire) {
  DecodedInfer decoded;
  std::string header;
  size_t outputs = 0;
  WireReader reader(wire);
  while (!reader.AtEnd()) {
    WireTag tag;
    if (!reader.ReadTag(&tag)) return Malformed("it breaks off or is no protobuf message");
    if (tag.number == kRawInputContents && tag.type == WireType::kBytes) {
      if (decoded.raw.size() == kMaxTensors) return TooMany("raw_input_contents");
      decoded.raw.emplace_back();
      if (!reader.ReadBytesValue(&decoded.raw.back().pieces)) {
        return Malformed("raw_input_contents breaks off");
      }
    } else if (tag.number == kInputs && tag.type == WireType::kBytes) {
      if (decoded.contents.size() == kMaxTensors) return TooMany("inputs");
      std::vector<Piece> message;
      if (!reader.ReadBytesValue(&message)) return Malformed("an input breaks off");
      decoded.contents.emplace_back();
      absl::Status status = DecodeInput(message, &header, &decoded.contents.back());
      if (!status.ok()) return status;
    } else {
      if (tag.number == kOutputs && ++outputs > kMaxTensors) return TooMany("outputs");
      if (!reader.CopyField(tag, &header)) return Malformed("it breaks off");
    }
    if (header.size() > kMaxHeaderBytes) return HeaderTooLarge();
  }
  if (!decoded.header.ParseFromString(header)) {
    return Malformed("a field is not what the protocol says, or a name is not UTF-8");
  }
  return decoded;
}

}  // namespace sconce
