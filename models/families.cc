#include "models/families.h"

#include <algorithm>
#include <limits>
#include <set>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"

namespace sconce::models {

std::vector<ParameterSpec> WithImageClassifierParameters(int64_t smallest_image,
                                                         std::vector<ParameterSpec> own,
                                                         int64_t default_image) {
  own.push_back({.name = "num_classes",
                 .default_value = int64_t{1000},
                 .meaning = "outputs of the last layer"});
  own.push_back({.name = "image_size",
                 .default_value = default_image,
                 .meaning = "height and width of the input in pixels",
                 .minimum = smallest_image});
  return own;
}

int64_t CountBlocks(absl::Span<const NamedShape> state, absl::string_view prefix) {
  std::set<int64_t> numbers;
  for (const NamedShape& tensor : state) {
    absl::string_view rest = tensor.name;
    int64_t number = 0;
    if (!absl::ConsumePrefix(&rest, prefix)) continue;
    const size_t dot = rest.find('.');
    if (dot != rest.npos && absl::SimpleAtoi(rest.substr(0, dot), &number)) numbers.insert(number);
  }
  int64_t count = 0;
  while (numbers.contains(count)) ++count;
  return count;
}

Parameters NumClasses(absl::Span<const NamedShape> state, absl::string_view last_weight) {
  const NamedShape* weight = Find(state, last_weight);
  if (weight == nullptr || weight->shape.size() != 2) return {};
  return {{"num_classes", weight->shape[0]}};
}

LayerShapes::LayerShapes(absl::Span<const NamedShape> state) {
  for (const NamedShape& tensor : state) tensors_.emplace(tensor.name, &tensor);
}

std::optional<ConvolutionShape> LayerShapes::Convolution(const std::string& layer) const {
  constexpr int64_t kLargest = std::numeric_limits<int32_t>::max();
  const auto it = tensors_.find(layer + ".weight");
  if (it == tensors_.end()) return std::nullopt;
  const std::vector<int64_t>& shape = it->second->shape;
  const bool sensible = std::all_of(shape.begin(), shape.end(),
                                    [](int64_t size) { return size >= 1 && size <= kLargest; });
  if (shape.size() != 4 || !sensible) return std::nullopt;
  return ConvolutionShape{shape[0], shape[1], shape[2], shape[3]};
}

std::vector<int64_t> StridesByWidth(const std::vector<int64_t>& widths) {
  std::vector<int64_t> strides;
  for (size_t i = 0; i < widths.size(); ++i) {
    strides.push_back(i > 0 && widths[i] != widths[i - 1] ? 2 : 1);
  }
  return strides;
}

std::string Assumption(absl::string_view family, absl::string_view what, absl::string_view key,
                       const ParameterValue& value) {
  const auto* list = std::get_if<std::vector<int64_t>>(&value);
  const std::string text = list != nullptr ? absl::StrJoin(*list, ",") : ToString(value);
  return absl::StrCat(what, " not in the file: ", text,
                      " is assumed; set it in config.pbtxt with architecture { name: \"", family,
                      "\" parameters { key: \"", key, "\" value: \"", text, "\" } }");
}

absl::Status CheckLists(absl::string_view family, const Parameters& parameters,
                        const std::vector<std::string>& lists) {
  // Far more blocks than networks have; a file can name millions.
  constexpr size_t kLongest = 1000;
  const size_t length = Get<std::vector<int64_t>>(parameters, lists[0]).size();
  if (length > kLongest) {
    return absl::InvalidArgumentError(absl::StrCat(family, ": ", lists[0], ": expected at most ",
                                                   kLongest, " numbers, got ", length));
  }
  for (const std::string& list : lists) {
    const size_t own = Get<std::vector<int64_t>>(parameters, list).size();
    if (own == length) continue;
    return absl::InvalidArgumentError(absl::StrCat(family, ": ", list, ": expected ", length,
                                                   " numbers, as in ", lists[0], ", got ", own));
  }
  return absl::OkStatus();
}

Signature MakeSignature(std::vector<int64_t> input_dims, int64_t outputs) {
  return {.inputs = {{"input", c10::kFloat, std::move(input_dims)}},
          .outputs = {{"output", c10::kFloat, {outputs}}}};
}

Signature ImageClassifierSignature(const Parameters& parameters) {
  const int64_t size = Get<int64_t>(parameters, "image_size");
  return MakeSignature({3, size, size}, Get<int64_t>(parameters, "num_classes"));
}

}  // namespace sconce::models
