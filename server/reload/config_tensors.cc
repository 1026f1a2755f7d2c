#include "server/reload/config_tensors.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "server/base/dtype.h"
#include "server/base/printable.h"

namespace sconce {
namespace {

constexpr int kMaxTensors = 64;
constexpr int kMaxDims = 16;
// Of one row of one tensor, unknown dimensions left out.
constexpr int64_t kMaxElements = int64_t{1} << 40;

std::optional<DType> ToDType(config::DataType type) {
  switch (type) {
    case config::TYPE_BOOL:
      return DType::kBool;
    case config::TYPE_UINT8:
      return DType::kUInt8;
    case config::TYPE_UINT16:
      return DType::kUInt16;
    case config::TYPE_UINT32:
      return DType::kUInt32;
    case config::TYPE_UINT64:
      return DType::kUInt64;
    case config::TYPE_INT8:
      return DType::kInt8;
    case config::TYPE_INT16:
      return DType::kInt16;
    case config::TYPE_INT32:
      return DType::kInt32;
    case config::TYPE_INT64:
      return DType::kInt64;
    case config::TYPE_FP16:
      return DType::kFloat16;
    case config::TYPE_FP32:
      return DType::kFloat32;
    case config::TYPE_FP64:
      return DType::kFloat64;
    case config::TYPE_BF16:
      return DType::kBFloat16;
    default:
      return std::nullopt;
  }
}

absl::StatusOr<std::vector<int64_t>> CheckDims(const Located<config::ModelTensor>& tensor) {
  constexpr int kField = config::ModelTensor::kDimsFieldNumber;
  if (tensor->dims_size() > kMaxDims) {
    return tensor.Error(kField,
                        absl::StrCat("expected at most ", kMaxDims, ", got ", tensor->dims_size()),
                        kMaxDims);
  }
  std::vector<int64_t> dims;
  int64_t elements = 1;
  for (int i = 0; i < tensor->dims_size(); ++i) {
    const int64_t dim = tensor->dims(i);
    if (dim != -1 && dim < 1) {
      return tensor.Error(kField, absl::StrCat("expected a size, or -1 for any size, got ", dim),
                          i);
    }
    if (dim > kMaxElements / elements) {
      return tensor.Error(kField,
                          absl::StrCat("expected at most ", kMaxElements,
                                       " elements in a row, got ", elements, " x ", dim),
                          i);
    }
    if (dim > 0) elements *= dim;
    dims.push_back(dim);
  }
  return dims;
}

// `number` says whether these are the inputs or the outputs.
absl::StatusOr<std::vector<TensorSpec>> CheckSpecs(
    const Located<config::ModelConfig>& config, int number,
    const google::protobuf::RepeatedPtrField<config::ModelTensor>& messages) {
  std::vector<TensorSpec> specs;
  std::set<std::string> names;
  for (int i = 0; i < messages.size(); ++i) {
    if (i == kMaxTensors) {
      return config.Error(
          number, absl::StrCat("expected at most ", kMaxTensors, ", got ", messages.size()), i);
    }
    const Located<config::ModelTensor> tensor = config.Inside(number, messages[i], i);
    TensorSpec spec;
    spec.name = tensor->name();
    if (spec.name.empty()) return config.Error(number, "expected a name, got none", i);
    if (Printable(spec.name) != spec.name) {
      return tensor.Error(
          config::ModelTensor::kNameFieldNumber,
          absl::StrCat("expected a short printable name, got '", Printable(spec.name), "'"));
    }
    if (!names.insert(spec.name).second) {
      return tensor.Error(config::ModelTensor::kNameFieldNumber,
                          absl::StrCat("'", Printable(spec.name), "' is given twice"));
    }
    const std::optional<DType> dtype = ToDType(tensor->data_type());
    if (!dtype.has_value()) {
      return config.Error(
          number,
          absl::StrCat("expected a data_type such as TYPE_FP32 for '", Printable(spec.name),
                       "', got ", tensor->has_data_type() ? "TYPE_INVALID" : "none"),
          i);
    }
    spec.dtype = *dtype;
    absl::StatusOr<std::vector<int64_t>> dims = CheckDims(tensor);
    if (!dims.ok()) return dims.status();
    spec.dims = *std::move(dims);
    specs.push_back(std::move(spec));
  }
  return specs;
}

// REQUIRES: `spec` is what became of `tensor`.
absl::StatusOr<Normalisation> CheckNormalisation(const Located<config::ModelTensor>& tensor,
                                                 const TensorSpec& spec) {
  using Message = config::ModelNormalize;
  constexpr int kField = config::ModelTensor::kNormalizeFieldNumber;
  const Located<Message> message = tensor.Inside(kField, tensor->normalize());
  if (spec.dtype != DType::kUInt8) {
    return tensor.Error(kField, absl::StrCat("expected data_type TYPE_UINT8, got ",
                                             config::DataType_Name(tensor->data_type())));
  }
  Normalisation normalisation;
  const bool channels_last = message->layout() == Message::NHWC;
  if (channels_last) normalisation.layout = ImageLayout::kNhwc;
  if (spec.dims.size() != 3) {
    return tensor.Error(kField, absl::StrCat("expected dims of an image, such as ",
                                             channels_last ? "[224, 224, 3]" : "[3, 224, 224]",
                                             ", got ", spec.dims.size(), " of them"));
  }
  if (message->scale_size() == 0) return tensor.Error(kField, "expected a scale, got none");
  if (message->scale_size() != message->bias_size()) {
    return tensor.Error(kField, absl::StrCat("expected as many values of bias as of scale, got ",
                                             message->bias_size(), " and ", message->scale_size()));
  }
  const int64_t channels = channels_last ? spec.dims[2] : spec.dims[0];
  if (channels != message->scale_size()) {
    return tensor.Error(kField, absl::StrCat("expected a scale for each channel, got ",
                                             message->scale_size(), " for ", channels));
  }
  for (int i = 0; i < message->scale_size(); ++i) {
    if (!std::isfinite(message->scale(i))) {
      return message.Error(Message::kScaleFieldNumber,
                           absl::StrCat("expected a finite number, got ", message->scale(i)), i);
    }
    if (!std::isfinite(message->bias(i))) {
      return message.Error(Message::kBiasFieldNumber,
                           absl::StrCat("expected a finite number, got ", message->bias(i)), i);
    }
  }
  normalisation.scale.assign(message->scale().begin(), message->scale().end());
  normalisation.bias.assign(message->bias().begin(), message->bias().end());
  return normalisation;
}

// By input; empty where none is normalised.
absl::StatusOr<std::vector<std::optional<Normalisation>>> CheckNormalisations(
    const Located<config::ModelConfig>& config, const std::vector<TensorSpec>& inputs) {
  std::vector<std::optional<Normalisation>> checked(inputs.size());
  bool any = false;
  for (int i = 0; i < config->input_size(); ++i) {
    if (!config->input(i).has_normalize()) continue;
    const auto tensor = config.Inside(config::ModelConfig::kInputFieldNumber, config->input(i), i);
    auto normalisation = CheckNormalisation(tensor, inputs[static_cast<size_t>(i)]);
    if (!normalisation.ok()) return normalisation.status();
    checked[static_cast<size_t>(i)] = *std::move(normalisation);
    any = true;
  }
  if (!any) checked.clear();
  return checked;
}

// REQUIRES: `spec` is what became of `tensor`.
absl::StatusOr<Reshape> CheckReshape(const Located<config::ModelTensor>& tensor,
                                     const TensorSpec& spec) {
  constexpr int kField = config::ModelTensor::kReshapeFieldNumber;
  Reshape reshape{.served = spec.dims, .network = {}};
  if (tensor->has_normalize()) return tensor.Error(kField, "expected none beside normalize");
  const auto shape = tensor.Inside(kField, tensor->reshape());
  if (shape->shape_size() > kMaxDims) {
    return tensor.Error(kField, absl::StrCat("expected at most ", kMaxDims, " dimensions, got ",
                                             shape->shape_size()));
  }
  int64_t elements = 1;
  for (const int64_t dim : spec.dims) elements *= dim == -1 ? 1 : dim;
  int64_t open = std::count(spec.dims.begin(), spec.dims.end(), -1);
  int64_t left = elements;
  for (int i = 0; i < shape->shape_size(); ++i) {
    const int64_t dim = shape->shape(i);
    if (dim != -1 && dim < 1) {
      return shape.Error(config::ModelTensorReshape::kShapeFieldNumber,
                         absl::StrCat("expected a size, or -1 for any size, got ", dim), i);
    }
    reshape.network.push_back(dim);
    if (dim == -1) {
      --open;
    } else if (left % dim == 0) {
      left /= dim;
    } else {
      left = 0;  // which nothing divides
    }
  }
  if (left != 1 || open != 0) {
    return tensor.Error(
        kField, absl::StrCat("expected a shape of as many elements as dims ",
                             ShapeString(spec.dims), ", got ", ShapeString(reshape.network)));
  }
  return reshape;
}

// By tensor; empty where none is reshaped.
absl::StatusOr<std::vector<std::optional<Reshape>>> CheckReshapes(
    const Located<config::ModelConfig>& config, int number,
    const google::protobuf::RepeatedPtrField<config::ModelTensor>& messages,
    const std::vector<TensorSpec>& specs) {
  std::vector<std::optional<Reshape>> checked(specs.size());
  bool any = false;
  for (int i = 0; i < messages.size(); ++i) {
    if (!messages[i].has_reshape()) continue;
    auto reshape = CheckReshape(config.Inside(number, messages[i], i), specs[i]);
    if (!reshape.ok()) return reshape.status();
    checked[i] = *std::move(reshape);
    any = true;
  }
  if (!any) checked.clear();
  return checked;
}

}  // namespace

absl::Status CheckTensors(const Located<config::ModelConfig>& config, ModelConfig* out) {
  using Message = config::ModelConfig;
  auto inputs = CheckSpecs(config, Message::kInputFieldNumber, config->input());
  if (!inputs.ok()) return inputs.status();
  out->inputs = *std::move(inputs);
  auto normalise = CheckNormalisations(config, out->inputs);
  if (!normalise.ok()) return normalise.status();
  out->execution.normalise = *std::move(normalise);
  auto outputs = CheckSpecs(config, Message::kOutputFieldNumber, config->output());
  if (!outputs.ok()) return outputs.status();
  out->outputs = *std::move(outputs);
  auto reshape = CheckReshapes(config, Message::kInputFieldNumber, config->input(), out->inputs);
  if (!reshape.ok()) return reshape.status();
  out->execution.reshape_inputs = *std::move(reshape);
  reshape = CheckReshapes(config, Message::kOutputFieldNumber, config->output(), out->outputs);
  if (!reshape.ok()) return reshape.status();
  out->execution.reshape_outputs = *std::move(reshape);
  for (int i = 0; i < config->output_size(); ++i) {
    if (config->output(i).has_normalize()) {
      return config.Inside(Message::kOutputFieldNumber, config->output(i), i)
          .Error(config::ModelTensor::kNormalizeFieldNumber, "expected none on an output");
    }
  }
  return absl::OkStatus();
}

}  // namespace sconce
