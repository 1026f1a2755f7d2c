// Address: HOST:PORT as flags give it, for the ports the server listens on. A value type; the
// functions may be called from any thread.
#ifndef SCONCE_SERVER_BASE_ADDRESS_H_
#define SCONCE_SERVER_BASE_ADDRESS_H_

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace sconce {

struct Address {
  std::string host;   // a name or a numeric address, IPv6 without brackets
  uint16_t port = 0;  // 0: any that is free

  // "127.0.0.1:8001", "[::1]:8001"
  std::string ToString() const;

  friend bool operator==(const Address&, const Address&) = default;
};

// "HOST:PORT", with an IPv6 host in brackets. INVALID_ARGUMENT otherwise.
absl::StatusOr<Address> ParseAddress(std::string_view text);

// Whether a server could listen on `address` now, asked by binding it for a moment: servers whose
// own bind fails do not say why. UNAVAILABLE, with the reason, where it could not.
absl::Status CheckCanListen(const Address& address);

}  // namespace sconce

#endif  // SCONCE_SERVER_BASE_ADDRESS_H_
