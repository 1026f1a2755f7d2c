// Server: everything that serves, wired together; the order in which it starts and stops.
//
// Start and Stop are called by the main thread.

#ifndef SCONCE_SERVER_APP_SERVER_H_
#define SCONCE_SERVER_APP_SERVER_H_

#include <chrono>
#include <functional>
#include <memory>

#include "absl/status/statusor.h"
#include "server/app/options.h"

namespace sconce {

class Server {
 public:
  // Opens the devices, takes the ports, which are logged, and starts to follow the repository.
  // Returns before the first model is loaded. Errors name the flag and what is wrong.
  // `on_device_fault` is called whenever a model has lost every device it is on.
  static absl::StatusOr<std::unique_ptr<Server>> Start(const ServeOptions& options,
                                                       std::function<void()> on_device_fault);
  ~Server();

  // Unready at once; takes no new request, answers what is in flight, for `grace` at most, and
  // ends every thread. Where something does not end, ends the process with `exit_status`.
  void Stop(std::chrono::milliseconds grace, int exit_status);

 private:
  struct Parts;
  explicit Server(std::unique_ptr<Parts> parts);

  const std::unique_ptr<Parts> parts_;
};

}  // namespace sconce

#endif  // SCONCE_SERVER_APP_SERVER_H_
