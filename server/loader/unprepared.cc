#include "server/loader/unprepared.h"

#include <memory>
#include <set>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "server/device/execution/torch_replica.h"
#include "server/device/torch_errors.h"
#include "server/weights/load_state_dict.h"
#include "server/weights/state_dict.h"

namespace sconce {
namespace {

// The most that the weights take at a time: as the file has them and as the network wants them,
// which is the same memory where the types are the same.
absl::StatusOr<int64_t> BytesToRead(const WeightsStructure& structure, const models::Net& net) {
  const auto layout = DescribeState(*structure.checkpoint);
  if (!layout.ok()) return layout.status();
  int64_t bytes = layout->size_bytes;
  for (const models::NamedTensor& own : net.State()) {
    bytes += own.tensor.numel() * static_cast<int64_t>(own.tensor.itemsize());
  }
  return bytes;
}

absl::StatusOr<Answers> ReadAndAnswer(const WeightsStructure& structure, bool strict,
                                      absl::Span<const Sample> probes, HostMemoryBudget& memory,
                                      LoadLanes* lanes) {
  auto net = structure.NewNet();
  if (!net.ok()) return net.status();
  const auto bytes = BytesToRead(structure, **net);
  if (!bytes.ok()) return bytes.status();
  const auto reserved = memory.Reserve(*bytes);
  if (!reserved.has_value()) {
    return absl::ResourceExhaustedError(
        absl::StrFormat("the weights in FP32 beside the others take %.1f MB of the host's memory, "
                        "which are not free",
                        static_cast<double>(*bytes) / 1e6));
  }
  {
    const auto state = ReadStateDict(*structure.checkpoint);
    if (!state.ok()) return state.status();
    const LoadOptions options{.strict = strict,
                              .architecture = structure.detection.architecture.get()};
    const auto loaded = LoadStateDict(**net, *state, options);
    if (!loaded.ok()) return loaded.status();
  }
  const c10::Device cpu(c10::DeviceType::CPU);
  const LoadLanes::Hold computing(lanes, {cpu});
  (*net)->Eval(cpu);
  const ExecutionOptions& execution = structure.signature.execution;
  ExecutionOptions plain;
  plain.normalise = execution.normalise;
  plain.reshape_inputs = execution.reshape_inputs;
  plain.reshape_outputs = execution.reshape_outputs;
  TorchReplica replica(*std::move(net), cpu, plain, nullptr);
  return AnswerProbes(replica, probes);
}

// "sim:0 differs from FP32 on the CPU by at most 0.0021, which is 0.0008 of the largest output".
std::string ComparisonText(const PreparedDeviation& deviation) {
  if (!deviation.not_measured.empty()) {
    return absl::StrCat(deviation.device, " was not compared with FP32: ", deviation.not_measured);
  }
  return absl::StrCat(deviation.device, " differs from FP32 on the CPU by at most ",
                      Text(Deviation{deviation.absolute, deviation.relative}));
}

// Whether there is another type or layout, so that no network on the device itself is unprepared.
bool DiffersFromFile(const ExecutionOptions& execution) {
  return execution.precision != Precision::kFp32 || execution.channels_last;
}

}  // namespace

std::vector<Sample> ProbesFor(const WeightsStructure& structure) {
  return MakeProbes(structure.signature.served, structure.signature.native, structure.golden);
}

std::optional<Unprepared> AnswerUnprepared(const WeightsStructure& structure, bool strict,
                                           HostMemoryBudget& memory, LoadLanes* lanes) {
  if (!DiffersFromFile(structure.signature.execution)) return std::nullopt;
  std::vector<Sample> probes = ProbesFor(structure);
  auto answers =
      Guarded("cpu", [&] { return ReadAndAnswer(structure, strict, probes, memory, lanes); });
  return Unprepared{std::move(probes), std::move(answers)};
}

PreparedDeviation Compare(std::string device, const absl::StatusOr<Answers>& expected,
                          absl::FunctionRef<absl::StatusOr<Answers>()> ask) {
  PreparedDeviation deviation;
  deviation.device = std::move(device);
  const absl::StatusOr<Answers> got = expected.ok() ? ask() : expected.status();
  if (got.ok()) {
    const Deviation largest = LargestDeviation(*expected, *got);
    deviation.absolute = largest.absolute;
    deviation.relative = largest.relative;
  } else {
    deviation.not_measured = std::string(got.status().message());
  }
  return deviation;
}

void CompareReplicas(const Unprepared& unprepared, ModelVersion& version) {
  std::set<std::string> asked;
  for (const std::shared_ptr<Replica>& replica : version.replicas) {
    if (!asked.insert(replica->device()).second) continue;
    PreparedDeviation deviation = Compare(replica->device(), unprepared.answers, [&] {
      return AnswerProbes(*replica, unprepared.probes);
    });
    absl::StrAppend(&version.provenance, "; ", ComparisonText(deviation));
    version.deviations.push_back(std::move(deviation));
  }
}

}  // namespace sconce
