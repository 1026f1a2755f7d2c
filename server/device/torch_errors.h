// What LibTorch throws, as a status. The one place of the device code where exceptions end.
// Callable from any thread.

#ifndef SCONCE_SERVER_DEVICE_TORCH_ERRORS_H_
#define SCONCE_SERVER_DEVICE_TORCH_ERRORS_H_

#include <string>

#include "absl/status/status.h"

namespace sconce {

// The exception that is being handled: RESOURCE_EXHAUSTED where memory of the device or of the
// host, page-locked or not, ran out; INVALID_ARGUMENT where the network says so of its inputs;
// INTERNAL otherwise. But for the inputs, the message begins with `device`.
// REQUIRES: called in a catch block.
absl::Status StatusOfException(const std::string& device);

// Runs `body`, which calls LibTorch and returns a Status or a StatusOr.
template <typename Body>
auto Guarded(const std::string& device, Body body) -> decltype(body()) {
  try {
    return body();
  } catch (...) {
    return StatusOfException(device);
  }
}

}  // namespace sconce

#endif  // SCONCE_SERVER_DEVICE_TORCH_ERRORS_H_
