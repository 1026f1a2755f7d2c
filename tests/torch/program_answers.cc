// Answers of exported programs and ONNX models, for the tests in Python that compare them with
// Python's own.
//
//   program_answers THREADS
//
// Reads one job a line and writes one answer a line, both JSON, until the input ends:
//
//   {"program": PATH,      what torch.export.save wrote, or PATH.onnx
//    "weights": PATH,      optional: any checkpoint, in place of the weights in the program
//    "inputs": PATH,       safetensors, under the names of the program's inputs
//    "outputs": PATH,      written: the outputs' elements, one output after the other
//    "nativert": true}     optional: has PyTorch's own runner answer too
//
//   {"class_name": ..., "batched": ..., "rows": [least, most],
//    "inputs": [{"name", "dtype", "dims", "sizes": [[least, most]...], "values": [least, most]}],
//    "outputs": [{"name", "dtype", "dims", "shape"}], "state": [names],
//    "nativert": "equal" | "differs" | what it said, "open_seconds": ..., "forward_seconds": ...}
//
//   {"error": ...}         in place of that
#include <ATen/ops/equal.h>
#include <c10/core/InferenceMode.h>
#include <torch/nativert/ModelRunnerHandle.h>

#include <exception>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "models/architecture.h"
#include "models/net.h"
#include "nlohmann/json.hpp"
#include "server/checkpoint/checkpoint.h"
#include "server/program/exported_program.h"
#include "server/program/onnx_import.h"
#include "server/weights/load_state_dict.h"
#include "server/weights/state_dict.h"
#include "tests/torch/answer_jobs.h"

namespace sconce {
namespace {

using nlohmann::json;
using Tensors = std::vector<at::Tensor>;

absl::StatusOr<Tensors> ReadInputs(const std::string& path, const models::Signature& signature) {
  const auto state = ReadTensorFile(path);
  if (!state.ok()) return state.status();
  Tensors inputs;
  for (const models::TensorSpec& spec : signature.inputs) {
    for (const StateEntry& entry : state->tensors) {
      if (entry.name == spec.name) inputs.push_back(entry.tensor);
    }
  }
  if (inputs.size() != signature.inputs.size()) {
    return absl::NotFoundError(absl::StrCat(path, ": expected the signature's inputs"));
  }
  return inputs;
}

json Described(const models::TensorSpec& spec) {
  json described = {{"name", spec.name}, {"dtype", c10::toString(spec.dtype)}, {"dims", spec.dims}};
  for (const models::Range& range : spec.rules.sizes) {
    described["sizes"].push_back({range.minimum, range.maximum});
  }
  if (spec.rules.values.has_value()) {
    described["values"] = {spec.rules.values->minimum, spec.rules.values->maximum};
  }
  return described;
}

std::string AskNativert(const std::string& program, const Tensors& inputs,
                        const Tensors& expected) {
  try {
    torch::nativert::ModelRunnerHandle runner(program, "model");
    const auto outputs = runner.runWithFlatInputsAndOutputs({inputs.begin(), inputs.end()});
    if (outputs.size() != expected.size()) return "differs";
    for (size_t i = 0; i < outputs.size(); ++i) {
      if (!outputs[i].isTensor() || !at::equal(outputs[i].toTensor(), expected[i])) {
        return "differs";
      }
    }
    return "equal";
  } catch (const std::exception& error) {
    const std::string message = error.what();
    return message.substr(0, message.find('\n'));
  }
}

absl::StatusOr<json> Answer(const json& job) {
  Stopwatch stopwatch;
  const auto program = job.at("program").get<std::string>();
  const auto architecture = absl::EndsWith(program, ".onnx") ? OpenOnnxProgram(program, {})
                                                             : OpenExportedProgram(program, {});
  if (!architecture.ok()) return architecture.status();
  const auto net = (*architecture)->Create({});
  if (!net.ok()) return net.status();
  json answer = {{"open_seconds", stopwatch.Lap()}, {"class_name", (*net)->class_name()}};
  const models::Signature& signature = (*net)->signature();
  answer["batched"] = signature.rows.batched;
  answer["rows"] = {signature.rows.rows.minimum, signature.rows.rows.maximum};
  for (const models::TensorSpec& spec : signature.inputs) {
    answer["inputs"].push_back(Described(spec));
  }
  for (const models::TensorSpec& spec : signature.outputs) {
    answer["outputs"].push_back(Described(spec));
  }
  for (const models::NamedTensor& tensor : (*net)->State()) {
    answer["state"].push_back(tensor.name);
  }

  const auto state = ReadTensorFile(job.value("weights", program));
  if (!state.ok()) return state.status();
  const auto loaded = LoadStateDict(**net, *state, {.architecture = architecture->get()});
  if (!loaded.ok()) return loaded.status();
  (*net)->Eval(at::kCPU);
  if (!job.contains("inputs")) return answer;

  const auto inputs = ReadInputs(job["inputs"].get<std::string>(), signature);
  if (!inputs.ok()) return inputs.status();
  const c10::InferenceMode inference_mode;
  (void)stopwatch.Lap();
  const Tensors outputs = (*net)->Forward(*inputs);
  answer["forward_seconds"] = stopwatch.Lap();
  for (size_t i = 0; i < outputs.size(); ++i) {
    answer["outputs"][i].update(DescribeTensor(outputs[i]));
  }
  WriteTensorBytes(outputs, job.at("outputs").get<std::string>());
  if (job.value("nativert", false)) {
    answer["nativert"] = AskNativert(program, *inputs, outputs);
  }
  return answer;
}

}  // namespace
}  // namespace sconce

int main(int argc, char** argv) { return sconce::AnswerJobs(argc, argv, sconce::Answer); }
