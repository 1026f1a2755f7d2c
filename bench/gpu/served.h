// Served: a model in the server's own registry and batcher, without a network around them, and the
// load that is put on it. Closed loop for capacity: as many requests as told are always under way.
// Open loop for latency: requests start at times set beforehand, and their latency counts from
// then.
//
// Publish may be called beside a measurement; all else by one thread.

#ifndef SCONCE_BENCH_GPU_SERVED_H_
#define SCONCE_BENCH_GPU_SERVED_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "bench/gpu/measuring.h"
#include "bench/gpu/workload.h"
#include "server/base/clock.h"
#include "server/base/metrics.h"
#include "server/batching/batchers.h"
#include "server/registry/reaper.h"
#include "server/registry/registry.h"

namespace sconce::bench {

// One request of an open loop.
struct Sample {
  TimePoint intended;
  Duration latency{};
  bool ok = false;
};

class Served {
 public:
  Served(const Workload& workload, std::unique_ptr<ModelVersion> version);
  ~Served();

  // The version answers from now on; gives the moment.
  TimePoint Publish(std::unique_ptr<ModelVersion> version);

  // Requests of one row.
  Window Closed(int in_flight, double seconds);
  // Arrivals of a Poisson process, the same in every call.
  std::vector<Sample> Open(double per_second, double seconds);
  // The rate is that of the requests that were answered, over the time in which they were to start.
  static Window WindowOf(const std::vector<Sample>& samples, double seconds);

 private:
  InferRequest NewRequest(size_t row) const;

  const Workload workload_;
  Metrics metrics_;
  Reaper reaper_;
  Registry registry_;
  Batchers batchers_;
  std::shared_ptr<Model> model_;
  std::shared_ptr<Batcher> batcher_;
  std::vector<at::Tensor> rows_;  // what clients send
};

}  // namespace sconce::bench

#endif  // SCONCE_BENCH_GPU_SERVED_H_
