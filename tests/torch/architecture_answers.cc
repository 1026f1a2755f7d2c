// Answers of detected architectures, for the tests in Python that compare them with Python's own.
//
//   architecture_answers THREADS
//
// Reads one job a line and writes one answer a line, both JSON, until the input ends:
//
//   {"weights": PATH,      any checkpoint; its architecture is detected
//    "inputs": PATH,       safetensors with input0, input1, ...
//    "outputs": PATH,      written: the outputs' elements, one output after the other
//    "architecture": NAME, "parameters": {"name": "text"}    both optional: taken, not detected
//    "hugging_face": {"config": TEXT, "modules": TEXT, "pooling": TEXT}    in place of these two
//    "config": TEXT         config.pbtxt with the architecture "sequential", in place of all these
//
//   {"detected": "resnet18(num_classes=10)", "name": "resnet18", "family": "resnet", "why": ...,
//    "class_name": ..., "parameter_count": ..., "outputs": [{"dtype": "Float", "shape": [...]}],
//    "detect_seconds": ..., "load_seconds": ..., "forward_seconds": ...}
//
//   {"error": ...}         in place of that
#include <c10/core/InferenceMode.h>

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "models/catalog.h"
#include "models/net.h"
#include "models/sequential/sequential.h"
#include "models/text/hugging_face.h"
#include "nlohmann/json.hpp"
#include "server/checkpoint/checkpoint.h"
#include "server/reload/config_file.h"
#include "server/weights/load_state_dict.h"
#include "server/weights/state_dict.h"
#include "tests/torch/answer_jobs.h"

namespace sconce {
namespace {

using nlohmann::json;

absl::StatusOr<std::vector<at::Tensor>> ReadInputs(const std::string& path) {
  const auto state = ReadTensorFile(path);
  if (!state.ok()) return state.status();
  std::vector<at::Tensor> inputs;
  for (size_t i = 0; i < state->tensors.size(); ++i) {
    const std::string name = absl::StrCat("input", i);
    for (const StateEntry& entry : state->tensors) {
      if (entry.name == name) inputs.push_back(entry.tensor);
    }
    if (inputs.size() != i + 1) {
      return absl::NotFoundError(absl::StrCat(path, ": expected a tensor ", name));
    }
  }
  return inputs;
}

absl::StatusOr<models::Detection> Declared(const std::string& text) {
  const auto config = ParseModelConfig(text, "model");
  if (!config.ok()) return config.status();
  if (!config->sequential) return absl::InvalidArgumentError("expected declared layers");
  auto architecture = models::MakeSequential(*config->sequential);
  if (!architecture.ok()) return architecture.status();
  return models::Detection{*std::move(architecture), {}, "declared"};
}

absl::StatusOr<json> Answer(const json& job) {
  Stopwatch stopwatch;
  json answer;
  const auto checkpoint = OpenCheckpoint(job.at("weights").get<std::string>());
  if (!checkpoint.ok()) return checkpoint.status();
  const auto layout = DescribeState(**checkpoint);
  if (!layout.ok()) return layout.status();
  models::Configured configured;
  configured.architecture = job.value("architecture", "");
  if (job.contains("parameters")) {
    configured.parameters = job["parameters"].get<std::map<std::string, std::string>>();
  }
  if (job.contains("hugging_face")) {
    const json& files = job["hugging_face"];
    auto told = models::FromHuggingFace(
        {files.value("config", ""), files.value("modules", ""), files.value("pooling", "")});
    if (!told.ok()) return told.status();
    if (told->has_value()) configured = **std::move(told);
  }
  (void)stopwatch.Lap();
  const auto detection = job.contains("config") ? Declared(job["config"].get<std::string>())
                                                : models::Detect(layout->tensors, configured);
  if (!detection.ok()) return detection.status();
  answer["detect_seconds"] = stopwatch.Lap();
  const models::Architecture& architecture = *detection->architecture;
  answer["detected"] = models::ToString(architecture.name(), detection->parameters);
  answer["name"] = std::string(architecture.name());
  answer["family"] = std::string(architecture.family());
  answer["why"] = detection->why;

  const auto net = architecture.Create(detection->parameters);
  if (!net.ok()) return net.status();
  const auto state = ReadStateDict(**checkpoint);
  if (!state.ok()) return state.status();
  const auto loaded = LoadStateDict(**net, *state, {.architecture = &architecture});
  if (!loaded.ok()) return loaded.status();
  answer["class_name"] = (*net)->class_name();
  int64_t parameter_count = 0;
  for (const models::NamedTensor& tensor : (*net)->State()) {
    if (tensor.is_parameter) parameter_count += tensor.tensor.numel();
  }
  answer["parameter_count"] = parameter_count;
  (*net)->Eval(at::kCPU);
  answer["load_seconds"] = stopwatch.Lap();

  const auto inputs = ReadInputs(job.at("inputs").get<std::string>());
  if (!inputs.ok()) return inputs.status();
  (void)stopwatch.Lap();
  const c10::InferenceMode inference_mode;
  const std::vector<at::Tensor> outputs = (*net)->Forward(*inputs);
  answer["forward_seconds"] = stopwatch.Lap();
  answer["outputs"] = json::array();
  for (const at::Tensor& output : outputs) answer["outputs"].push_back(DescribeTensor(output));
  WriteTensorBytes(outputs, job.at("outputs").get<std::string>());
  return answer;
}

}  // namespace
}  // namespace sconce

int main(int argc, char** argv) { return sconce::AnswerJobs(argc, argv, sconce::Answer); }
