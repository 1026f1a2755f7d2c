#include "server/tools/summary.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "nlohmann/json.hpp"
#include "server/base/printable.h"
#include "server/tools/layer_importance.h"
#include "server/tools/layer_trace.h"
#include "server/tools/served_model.h"
#include "server/tools/summary_inputs.h"
#include "server/tools/table.h"
#include "server/tools/text.h"

namespace sconce::tools {
namespace {

using Json = nlohmann::ordered_json;

constexpr size_t kMostChannels = 3;  // of a layer, in text

struct Summary {
  std::string architecture;
  std::string why;
  std::vector<std::string> input_names;
  std::vector<std::vector<int64_t>> input_shapes;
  LayerTrace trace;
  int64_t parameters = 0;  // of the whole network, tied ones once
  int64_t unused = 0;      // of these, the ones that no operator was given
  int64_t multiply_adds = 0;
  bool machine_code = false;  // the layers are not seen
  std::vector<LayerImportance> importance;
};

absl::StatusOr<Summary> Gather(const SummaryOptions& options) {
  const auto served = OpenServed(options.path, options.allow_native_code);
  if (!served.ok()) return served.status();
  const OpenedModel* const model = &served->model;
  Summary summary;
  // Of what is compiled nothing is known but what it calls of LibTorch, and it may read every
  // weight that it is given.
  summary.machine_code = model->detection.architecture->family() == "aotinductor";
  absl::StatusOr<std::unique_ptr<models::Net>> net;
  if (options.importance || options.allow_native_code) {
    net = LoadModel(*model, {.strict = served->strict});
    if (!net.ok()) return net.status();
  } else {
    // Shapes are all that matters: no weight is read.
    net = model->NewNet();
    if (!net.ok()) return net.status();
    (*net)->Eval(c10::Device(c10::DeviceType::CPU));
  }
  const models::Signature& signature = (*net)->signature();
  const auto inputs = options.samples.empty()
                          ? PlainInputs(signature, options.input_sizes, options.batch)
                          : SampleInputs(signature, options.samples);
  if (!inputs.ok()) return inputs.status();
  auto trace = TraceLayers(**net, *inputs, /*measure_activation=*/!options.samples.empty());
  if (!trace.ok()) return trace.status();

  summary.architecture =
      models::ToString(model->detection.architecture->name(), model->detection.parameters);
  summary.why = model->detection.why;
  for (size_t i = 0; i < inputs->size(); ++i) {
    summary.input_names.push_back(signature.inputs[i].name);
    summary.input_shapes.push_back((*inputs)[i].sizes().vec());
  }
  summary.trace = *std::move(trace);
  for (const Layer& layer : summary.trace.layers) {
    summary.parameters += layer.parameters;
    summary.multiply_adds += layer.multiply_adds;
  }
  const std::vector<models::NamedTensor> state = (*net)->State();
  for (const size_t i : summary.trace.unused) {
    if (state[i].is_parameter) summary.unused += state[i].tensor.numel();
  }
  summary.parameters += summary.unused;
  if (options.importance) summary.importance = MeasureImportance(**net, summary.trace);
  return summary;
}

double MaximumOf(const std::vector<LayerImportance>& layers, double LayerImportance::*value) {
  double maximum = 0;
  for (const LayerImportance& layer : layers) maximum = std::max(maximum, layer.*value);
  return maximum;
}

Json ImportanceJson(const Summary& summary) {
  const double largest = MaximumOf(summary.importance, &LayerImportance::mean_magnitude);
  Json layers = Json::array();
  for (const LayerImportance& layer : summary.importance) {
    Json json = {{"name", layer.name},
                 {"weight", layer.weight},
                 {"mean_magnitude", layer.mean_magnitude},
                 {"root_mean_square", layer.root_mean_square},
                 {"relative", largest > 0 ? layer.mean_magnitude / largest : 0},
                 {"channels", {{"l1", layer.l1}, {"l2", layer.l2}}},
                 {"weakest", LayerImportance::Ranked(layer.l1)}};
    if (!layer.activation.empty()) {
      json["mean_activation"] = layer.mean_activation;
      json["channels"]["activation"] = layer.activation;
      json["least_active"] = LayerImportance::Ranked(layer.activation);
    }
    layers.push_back(std::move(json));
  }
  return layers;
}

Json ToJson(const SummaryOptions& options, const Summary& summary) {
  Json inputs = Json::array();
  for (size_t i = 0; i < summary.input_names.size(); ++i) {
    inputs.push_back({{"name", summary.input_names[i]}, {"shape", summary.input_shapes[i]}});
  }
  Json outputs = Json::array();
  for (const at::Tensor& output : summary.trace.outputs) outputs.push_back(output.sizes().vec());
  Json layers = Json::array();
  for (const Layer& layer : summary.trace.layers) {
    layers.push_back({{"name", layer.name},
                      {"operators", layer.operators},
                      {"output_shape", layer.output_shape},
                      {"parameters", layer.parameters},
                      {"multiply_adds", layer.multiply_adds}});
  }
  Json json = {{"path", options.path},
               {"architecture", summary.architecture},
               {"inputs", std::move(inputs)},
               {"output_shapes", std::move(outputs)},
               {"layers", std::move(layers)},
               {"parameters", summary.parameters},
               {"parameters_unused", summary.unused},
               {"multiply_adds", summary.machine_code ? Json() : Json(summary.multiply_adds)},
               {"machine_code", summary.machine_code}};
  if (options.importance) json["importance"] = ImportanceJson(summary);
  return json;
}

std::string ScaledText(int64_t count) {
  if (count < 1000) return absl::StrCat(count);
  const auto value = static_cast<double>(count);
  for (const auto& [scale, letter] : {std::pair(1e12, 'T'), {1e9, 'G'}, {1e6, 'M'}}) {
    if (value >= scale) return absl::StrCat(NumberText(value / scale), " ", std::string(1, letter));
  }
  return absl::StrCat(NumberText(value / 1e3), " k");
}

// "conv2d" once, however often in a row.
std::string OperatorsText(const std::vector<std::string>& operators) {
  std::vector<std::string> parts;
  for (size_t i = 0; i < operators.size();) {
    size_t end = i;
    while (end < operators.size() && operators[end] == operators[i]) ++end;
    parts.push_back(end - i == 1 ? operators[i] : absl::StrCat(operators[i], " x", end - i));
    i = end;
  }
  constexpr size_t kMost = 6;
  if (parts.size() > kMost) {
    const size_t more = parts.size() - kMost;
    parts.resize(kMost);
    parts.push_back(absl::StrCat("and ", more, " more"));
  }
  return absl::StrJoin(parts, ", ");
}

void PrintLayers(const SummaryOptions& options, const Summary& summary, Console& console) {
  console.Print(absl::StrCat(console.Paint(Style::kBold, Printable(options.path, 1000)), "\n  ",
                             summary.why, "\n"));
  for (size_t i = 0; i < summary.input_names.size(); ++i) {
    console.Print(absl::StrCat("  input ", Printable(summary.input_names[i]), " ",
                               ShapeText(summary.input_shapes[i]), "\n"));
  }
  std::vector<std::vector<std::string>> rows;
  for (const Layer& layer : summary.trace.layers) {
    rows.push_back({Printable(layer.name), ShapeText(layer.output_shape),
                    layer.parameters > 0 ? CountText(layer.parameters) : "-",
                    layer.multiply_adds > 0 ? ScaledText(layer.multiply_adds) : "-",
                    OperatorsText(layer.operators)});
  }
  std::string remark;
  if (summary.machine_code) {
    remark = "machine code, whose layers cannot be shown";
  } else if (summary.unused > 0) {
    remark = absl::StrCat(PluralText(summary.unused, "parameter"), " not used");
  }
  rows.push_back({"total", "", CountText(summary.parameters),
                  summary.machine_code ? "not known" : ScaledText(summary.multiply_adds), remark});
  console.Print("\n");
  PrintTable({{"layer"}, {"output"}, {"parameters", true}, {"multiply-adds", true}, {"operators"}},
             rows, console);
}

std::string WeakestText(const std::vector<double>& values) {
  std::vector<std::string> parts;
  double mean = 0;
  for (const double value : values) mean += value / static_cast<double>(values.size());
  for (const size_t channel : LayerImportance::Ranked(values)) {
    if (parts.size() == kMostChannels) break;
    parts.push_back(
        absl::StrCat(channel, " (", PercentText(mean > 0 ? values[channel] / mean : 0), ")"));
  }
  return absl::StrJoin(parts, ", ");
}

// The least by its weights first: what could be done without. By what it puts out, each has a
// rank, of which 1 is the least.
void PrintImportance(const Summary& summary, Console& console) {
  std::vector<LayerImportance> layers = summary.importance;
  std::stable_sort(layers.begin(), layers.end(), [](const auto& a, const auto& b) {
    return a.mean_magnitude < b.mean_magnitude;
  });
  const double largest = MaximumOf(layers, &LayerImportance::mean_magnitude);
  const bool active = std::any_of(layers.begin(), layers.end(), [](const LayerImportance& layer) {
    return !layer.activation.empty();
  });
  std::vector<Column> columns = {
      {"weight"}, {"channels", true}, {"mean |w|", true}, {"rms", true}, {"of largest", true}};
  if (active) columns.insert(columns.end(), {{"mean |output|", true}, {"rank", true}});
  columns.push_back({active ? "weakest channels by L1; by output" : "weakest channels by L1"});
  std::vector<std::vector<std::string>> rows;
  for (const LayerImportance& layer : layers) {
    std::vector<std::string> row = {
        Printable(layer.weight), CountText(static_cast<int64_t>(layer.l1.size())),
        NumberText(layer.mean_magnitude), NumberText(layer.root_mean_square),
        PercentText(largest > 0 ? layer.mean_magnitude / largest : 0)};
    std::string weakest = WeakestText(layer.l1);
    if (active && layer.activation.empty()) row.insert(row.end(), {"-", "-"});
    if (!layer.activation.empty()) {
      const auto less_active = std::count_if(layers.begin(), layers.end(), [&](const auto& other) {
        return !other.activation.empty() && other.mean_activation < layer.mean_activation;
      });
      row.push_back(NumberText(layer.mean_activation));
      row.push_back(absl::StrCat(less_active + 1));
      absl::StrAppend(&weakest, "; ", WeakestText(layer.activation));
    }
    row.push_back(std::move(weakest));
    rows.push_back(std::move(row));
  }
  console.Print("\n");
  PrintTable(columns, rows, console);
}

}  // namespace

absl::StatusOr<int> Summarise(const SummaryOptions& options, Console& console) {
  if (!options.samples.empty() && !options.importance) {
    return absl::InvalidArgumentError("--samples: expected --importance beside it");
  }
  if (!options.samples.empty() && !options.input_sizes.empty()) {
    return absl::InvalidArgumentError("--samples and --input-size: expected one of them, got both");
  }
  const auto summary = Gather(options);
  if (!summary.ok()) return summary.status();
  if (options.json) {
    console.Print(
        ToJson(options, *summary).dump(2, ' ', true, nlohmann::json::error_handler_t::replace));
    console.Print("\n");
    return 0;
  }
  PrintLayers(options, *summary, console);
  if (options.importance) PrintImportance(*summary, console);
  return 0;
}

}  // namespace sconce::tools
