#include "server/registry/model_statistics.h"

namespace sconce {

void ModelStatistics::RecordBatch(const BatchTimes& times) {
  const auto requests = static_cast<uint64_t>(times.total.size());
  MutexLock lock(&mutex_);
  counts_.inference_count += static_cast<uint64_t>(times.rows);
  counts_.execution_count += 1;
  counts_.last_inference = std::chrono::system_clock::now();
  for (const Duration queued : times.queued) counts_.queue.Add(queued);
  for (const Duration total : times.total) counts_.success.Add(total);
  // As Triton counts: every request in a batch has spent the batch's whole time.
  counts_.compute_input.Add(times.assemble * requests, requests);
  counts_.compute_infer.Add(times.compute * requests, requests);
  counts_.compute_output.Add(times.respond * requests, requests);
  BatchSizeStatistics& batch = counts_.by_batch_rows[times.rows];
  batch.compute_input.Add(times.assemble);
  batch.compute_infer.Add(times.compute);
  batch.compute_output.Add(times.respond);
}

void ModelStatistics::RecordFailure(Duration total) {
  MutexLock lock(&mutex_);
  counts_.fail.Add(total);
}

StatisticsSnapshot ModelStatistics::Snapshot() const {
  MutexLock lock(&mutex_);
  return counts_;
}

}  // namespace sconce
