#include "server/base/address.h"

#include <netdb.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <memory>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "server/base/printable.h"

namespace sconce {
namespace {

constexpr size_t kMaxHostLength = 253;  // of a name in the DNS

absl::Status NotAnAddress(std::string_view text, const char* why) {
  return absl::InvalidArgumentError(absl::StrCat("address '", Printable(text), "': ", why,
                                                 "; expected HOST:PORT, for example 0.0.0.0:8001 "
                                                 "or [::1]:8001"));
}

bool IsHostCharacter(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' ||
         c == '-' || c == '_';
}

bool IsIpv6Character(char c) { return IsHostCharacter(c) || c == ':' || c == '%'; }

}  // namespace

std::string Address::ToString() const {
  const bool brackets = host.find(':') != std::string::npos;
  return absl::StrCat(brackets ? "[" : "", host, brackets ? "]" : "", ":", port);
}

absl::StatusOr<Address> ParseAddress(std::string_view text) {
  const size_t colon = text.rfind(':');
  if (colon == std::string_view::npos) return NotAnAddress(text, "has no port");
  std::string_view host = text.substr(0, colon);
  const std::string_view port = text.substr(colon + 1);
  if (host.empty()) return NotAnAddress(text, "has no host (0.0.0.0 is every interface)");

  const bool brackets = host.front() == '[';
  if (brackets) {
    if (host.back() != ']') return NotAnAddress(text, "has a '[' without its ']'");
    host = host.substr(1, host.size() - 2);
    if (host.find(':') == std::string_view::npos) {
      return NotAnAddress(text, "has no IPv6 address in its brackets");
    }
  } else if (host.find(':') != std::string_view::npos) {
    return NotAnAddress(text, "has an IPv6 host without brackets");
  }
  if (host.size() > kMaxHostLength) return NotAnAddress(text, "has too long a host");
  for (const char c : host) {
    if (!(brackets ? IsIpv6Character(c) : IsHostCharacter(c))) {
      return NotAnAddress(text, "has a host with a character no host has");
    }
  }

  uint32_t number = 0;
  // SimpleAtoi would take signs and spaces.
  if (port.empty() || port.size() > 5 || port.find_first_not_of("0123456789") != port.npos ||
      !absl::SimpleAtoi(absl::string_view(port.data(), port.size()), &number) || number > 65535) {
    return NotAnAddress(text, "has no port from 0 to 65535");
  }
  return Address{std::string(host), static_cast<uint16_t>(number)};
}

absl::Status CheckCanListen(const Address& address) {
  const auto fail = [&](const char* why) {
    return absl::UnavailableError(absl::StrCat("cannot listen on ", address.ToString(), ": ", why));
  };
  addrinfo hints{};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE;
  addrinfo* raw = nullptr;
  if (const int error =
          getaddrinfo(address.host.c_str(), std::to_string(address.port).c_str(), &hints, &raw)) {
    return fail(gai_strerror(error));
  }
  const std::unique_ptr<addrinfo, decltype(&freeaddrinfo)> found(raw, &freeaddrinfo);
  for (const addrinfo* at = found.get(); at != nullptr; at = at->ai_next) {
    const int fd = socket(at->ai_family, at->ai_socktype | SOCK_CLOEXEC, at->ai_protocol);
    if (fd < 0) continue;
    const int yes = 1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    const int bound = bind(fd, at->ai_addr, at->ai_addrlen);
    const int error = errno;
    close(fd);
    if (bound != 0) return fail(std::strerror(error));
  }
  return absl::OkStatus();
}

}  // namespace sconce
