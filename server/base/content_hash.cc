#include "server/base/content_hash.h"

#include <xxhash.h>

#include <new>

#include "absl/strings/str_cat.h"
#include "server/base/avx2.h"
#include "server/base/xxh3_avx2.h"

namespace sconce {

std::string Digest128::Hex() const {
  return absl::StrCat(absl::Hex(hi, absl::kZeroPad16), absl::Hex(lo, absl::kZeroPad16));
}

struct ContentHasher::State {
  State() : xxh(XXH3_createState()) {
    if (xxh == nullptr) throw std::bad_alloc();
    XXH3_128bits_reset(xxh);
  }
  ~State() { XXH3_freeState(xxh); }
  State(const State&) = delete;
  State& operator=(const State&) = delete;

  XXH3_state_t* const xxh;
};

ContentHasher::ContentHasher() : state_(std::make_unique<State>()) {}
ContentHasher::ContentHasher(ContentHasher&&) noexcept = default;
ContentHasher& ContentHasher::operator=(ContentHasher&&) noexcept = default;
ContentHasher::~ContentHasher() = default;

void ContentHasher::Update(absl::Span<const std::byte> bytes) {
  if (bytes.empty()) return;
  if (HasAvx2()) {
    UpdateXxh3WithAvx2(state_->xxh, bytes.data(), bytes.size());
  } else {
    XXH3_128bits_update(state_->xxh, bytes.data(), bytes.size());
  }
}

Digest128 ContentHasher::Finish() const {
  const XXH128_hash_t hash = XXH3_128bits_digest(state_->xxh);
  return {.hi = hash.high64, .lo = hash.low64};
}

}  // namespace sconce
