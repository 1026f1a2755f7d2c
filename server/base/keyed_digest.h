// KeyedHasher: digests by which content is told apart even where somebody wants two contents to
// look alike. A universal hash with a random key that never leaves the process: two different
// contents of up to 1 MiB have one digest with a probability below 2^-90 over the key, whoever made
// them; who does not know the key cannot do better than that by trying.
//
//   digest = Poly1305(NH(block 0), NH(block 1), ..., size)
//
// as in NHPoly1305 (Crowley and Biggers, 2018), with blocks of 1 KiB. NH, four times with keys that
// are shifted, makes two different blocks alike with a probability of 2^-128; it is as fast as the
// bytes are read, and leaves 1/32 of them to Poly1305, which has 8 * 2^11 / 2^106 for what is left
// of 1 MiB.
//
// The digests are of no use outside of the process, and are not to leave it: what is known of them
// tells of the key.

#ifndef SCONCE_SERVER_BASE_KEYED_DIGEST_H_
#define SCONCE_SERVER_BASE_KEYED_DIGEST_H_

#include <cstddef>
#include <cstdint>
#include <memory>

#include "absl/types/span.h"
#include "server/base/content_hash.h"

namespace sconce {

// Immutable; thread-safe.
class DigestKey {
 public:
  // A new one, from the kernel's random numbers. Throws std::system_error where there are none.
  DigestKey();
  DigestKey(const DigestKey&) = delete;
  DigestKey& operator=(const DigestKey&) = delete;

 private:
  friend class KeyedHasher;

  // Of NH: a block's, and as much again as its passes are shifted.
  static constexpr size_t kNhWords = (1024 + 3 * 64) / 4;

  struct Keys {
    uint32_t nh[kNhWords];
    uint8_t poly1305[32];
  } keys_;
};

// Used by one thread at a time.
class KeyedHasher {
 public:
  // `key` outlives it. Throws std::bad_alloc.
  explicit KeyedHasher(const DigestKey* key);
  KeyedHasher(KeyedHasher&&) noexcept;
  KeyedHasher& operator=(KeyedHasher&&) noexcept;
  ~KeyedHasher();

  void Update(absl::Span<const std::byte> bytes);

  // The digest of what was given since the last call, or since the beginning; the next bytes begin
  // another content.
  Digest128 Finish();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace sconce

#endif  // SCONCE_SERVER_BASE_KEYED_DIGEST_H_
