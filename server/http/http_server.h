// HttpServer: the port of probes and metrics.
//
//   GET /v2/health/live    200 while the process runs
//   GET /v2/health/ready   200, or 503 and which models the server waits for
//   GET /metrics           the Prometheus text format
//
// Anything else is 404. Errors are {"error": "..."}.
//
// Owned by App. Start and Stop are called by any thread; the handlers run on threads of its own.

#ifndef SCONCE_SERVER_HTTP_HTTP_SERVER_H_
#define SCONCE_SERVER_HTTP_HTTP_SERVER_H_

#include <functional>
#include <memory>

#include "absl/status/statusor.h"
#include "server/base/address.h"
#include "server/base/metrics.h"
#include "server/base/mutex.h"
#include "server/registry/registry.h"

namespace sconce {

class HttpServer {
 public:
  struct Options {
    Address address{"0.0.0.0", 8000};
    // Connections served at a time. Each serves one request, so that a client that keeps its
    // connection does not keep a probe out.
    int threads = 8;
  };

  // All outlive the server. `refresh_metrics` is called before each answer to /metrics, for gauges
  // that are only worth reading then; thread-safe; may be null.
  struct Parts {
    const Registry* registry;
    const Metrics* metrics;
    std::function<void()> refresh_metrics;
  };

  HttpServer(Options options, Parts parts);
  // Stops.
  ~HttpServer();

  // The address that listens now, with the port taken where 0 was asked for. UNAVAILABLE, with the
  // reason, where the port cannot be had; FAILED_PRECONDITION after Start or Stop.
  absl::StatusOr<Address> Start();

  // Answers what is being answered and ends. May be called at any time and again.
  void Stop();

 private:
  class Running;

  const Options options_;
  const Parts parts_;
  Mutex mutex_;
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;
  std::unique_ptr<Running> running_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace sconce

#endif  // SCONCE_SERVER_HTTP_HTTP_SERVER_H_
