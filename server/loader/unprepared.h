// What a network answers where nothing is prepared, FP32 on the CPU from the file's own weights,
// and how far the replicas of a version that was prepared are from that.
//
// Called on the loading thread; nobody else runs the replicas.

#ifndef SCONCE_SERVER_LOADER_UNPREPARED_H_
#define SCONCE_SERVER_LOADER_UNPREPARED_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "server/base/host_memory_budget.h"
#include "server/device/execution_options.h"
#include "server/device/replica.h"
#include "server/device/upload/load_lanes.h"
#include "server/loader/answers.h"
#include "server/loader/deviation.h"
#include "server/loader/weights_structure.h"
#include "server/registry/prepared_deviation.h"

namespace sconce {

// Whether there is another type or layout, so that no network on the device itself is unprepared.
bool DiffersFromFile(const ExecutionOptions& execution);

// What the replicas of a load are asked.
std::vector<Sample> ProbesFor(const WeightsStructure& structure);

// Reads the weights once more; they take the host's memory, in FP32, until it returns.
// RESOURCE_EXHAUSTED where `memory` has too little for them; errors of ReadStateDict and of what
// runs the network. REQUIRES: the caller has no hold of the CPU's lane among `lanes`.
absl::StatusOr<Answers> AnswerUnprepared(const WeightsStructure& structure, bool strict,
                                         absl::Span<const Sample> probes, HostMemoryBudget& memory,
                                         LoadLanes* lanes);

// One for each device that the replicas are on; not measured where `expected` is an error, or a
// replica does not answer. REQUIRES: a hold of the CPU's lane where one of them is there.
std::vector<PreparedDeviation> CompareReplicas(absl::Span<const std::shared_ptr<Replica>> replicas,
                                               absl::Span<const Sample> probes,
                                               const absl::StatusOr<Answers>& expected);

// "sim:0 differs from FP32 on the CPU by at most 0.0021, which is 0.0008 of the largest output".
std::string ComparisonText(const PreparedDeviation& deviation);

}  // namespace sconce

#endif  // SCONCE_SERVER_LOADER_UNPREPARED_H_
