// Control: the socket by which a test in another process works the simulated devices of a server.
//
// A connection carries one command, a line of words, and its answer, a line of JSON: {} or what was
// asked for, {"error": "..."} where the command is none. DEVICE is a number, N counts from 1, the
// next.
//
//   hold DEVICE               release DEVICE           limit DEVICE BYTES
//   fail-allocation DEVICE N  fail-pinned N            fail-kernel DEVICE N
//   statistics                reset
//   share DEVICE BYTES        what another process shares: {"handle": HEX}
//   write HANDLE OFFSET HEX   read HANDLE OFFSET BYTES: {"bytes": HEX}
//   unshare HANDLE

#ifndef SCONCE_TESTS_SUPPORT_SIM_SERVER_CONTROL_H_
#define SCONCE_TESTS_SUPPORT_SIM_SERVER_CONTROL_H_

#include <string>

namespace sconce::simdevice {

// Listens at `path` from now until the process ends; throws if it cannot.
// REQUIRES: simdevice has been started. Called once.
void ServeControl(const std::string& path);

}  // namespace sconce::simdevice

#endif  // SCONCE_TESTS_SUPPORT_SIM_SERVER_CONTROL_H_
