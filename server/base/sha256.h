// Sha256: the checksum that manifests beside files hold, as sha256sum prints it.
#ifndef SCONCE_SERVER_BASE_SHA256_H_
#define SCONCE_SERVER_BASE_SHA256_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/types/span.h"

namespace sconce {

using Sha256Digest = std::array<uint8_t, 32>;

// 64 lower-case hexadecimal digits.
std::string ToHex(const Sha256Digest& digest);

// Used by one thread at a time.
class Sha256 {
 public:
  Sha256();
  ~Sha256();
  Sha256(const Sha256&) = delete;
  Sha256& operator=(const Sha256&) = delete;

  void Update(absl::Span<const std::byte> bytes);

  // To be called once, after the last byte.
  Sha256Digest Finish();

 private:
  struct State;
  const std::unique_ptr<State> state_;
};

}  // namespace sconce

#endif  // SCONCE_SERVER_BASE_SHA256_H_
