// ContentHasher: a 128-bit fingerprint of bytes (XXH3), fast enough to run beside every read.
//
// It names content (the weights id, "has this tensor changed?"); it is no defence against somebody
// who constructs two contents with one hash.
#ifndef SCONCE_SERVER_BASE_CONTENT_HASH_H_
#define SCONCE_SERVER_BASE_CONTENT_HASH_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/types/span.h"

namespace sconce {

struct Digest128 {
  uint64_t hi = 0;
  uint64_t lo = 0;

  // 32 lower-case hexadecimal digits, `hi` first.
  std::string Hex() const;

  friend bool operator==(const Digest128&, const Digest128&) = default;
};

// Movable; used by one thread at a time.
class ContentHasher {
 public:
  ContentHasher();
  ContentHasher(ContentHasher&&) noexcept;
  ContentHasher& operator=(ContentHasher&&) noexcept;
  ~ContentHasher();

  void Update(absl::Span<const std::byte> bytes);

  // The digest of everything given so far; more may follow.
  Digest128 Finish() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace sconce

#endif  // SCONCE_SERVER_BASE_CONTENT_HASH_H_
