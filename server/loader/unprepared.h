// What a network answers where nothing is prepared, FP32 on the CPU from the file's own weights,
// and how far the replicas of a version that was prepared are from that.
//
// Called on the loading thread; nobody else runs the replicas.

#ifndef SCONCE_SERVER_LOADER_UNPREPARED_H_
#define SCONCE_SERVER_LOADER_UNPREPARED_H_

#include <optional>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "server/base/host_memory_budget.h"
#include "server/device/upload/load_lanes.h"
#include "server/loader/answers.h"
#include "server/loader/deviation.h"
#include "server/loader/weights_structure.h"
#include "server/registry/model_version.h"
#include "server/registry/prepared_deviation.h"

namespace sconce {

// What the replicas of a load are asked.
std::vector<Sample> ProbesFor(const WeightsStructure& structure);

// What the file's own weights answer, or why they do not.
struct Unprepared {
  std::vector<Sample> probes;
  absl::StatusOr<Answers> answers;
};

// Reads the weights once more; they take the host's memory, in FP32, until it returns. The answers
// are RESOURCE_EXHAUSTED where `memory` has too little for them, and errors of ReadStateDict and of
// what runs the network. None where type and layout are the file's, so that what is prepared can be
// compared on its device.
// REQUIRES: the caller has no hold of the CPU's lane among `lanes`.
std::optional<Unprepared> AnswerUnprepared(const WeightsStructure& structure, bool strict,
                                           HostMemoryBudget& memory, LoadLanes* lanes);

// How far what `ask` answers is from `expected`; not measured, and perhaps not asked, where one of
// them is an error.
PreparedDeviation Compare(std::string device, const absl::StatusOr<Answers>& expected,
                          absl::FunctionRef<absl::StatusOr<Answers>()> ask);

// Adds to `version` how far its replicas are from that, one for each device that they are on; not
// measured where there is an error instead, or a replica does not answer.
// REQUIRES: a hold of the CPU's lane where one of them is there.
void CompareReplicas(const Unprepared& unprepared, ModelVersion& version);

}  // namespace sconce

#endif  // SCONCE_SERVER_LOADER_UNPREPARED_H_
