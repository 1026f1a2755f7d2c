#include "server/base/keyed_digest.h"

#include <openssl/evp.h>
#include <sys/random.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <new>
#include <system_error>

#include "server/base/avx2.h"

namespace sconce {
namespace {

constexpr size_t kBlockBytes = 1024;
// What keys are shifted by from pass to pass; blocks are whole ones.
constexpr size_t kUnitBytes = 64;
constexpr size_t kUnitWords = kUnitBytes / 4;
constexpr size_t kPasses = 4;
using Sums = std::array<uint64_t, kPasses>;

// For each pass the sum, modulo 2^64, of (even word + key) * (odd word + key), where the sums in
// brackets are modulo 2^32.
Sums NhPlainly(const std::byte* data, size_t units, const uint32_t* key) {
  Sums sums = {};
  for (size_t unit = 0; unit < units; ++unit) {
    uint32_t words[kUnitWords];
    std::memcpy(words, data + unit * kUnitBytes, kUnitBytes);
    for (size_t pass = 0; pass < kPasses; ++pass) {
      const uint32_t* const k = key + (unit + pass) * kUnitWords;
      for (size_t i = 0; i < kUnitWords; i += 2) {
        sums[pass] += uint64_t{words[i] + k[i]} * uint64_t{words[i + 1] + k[i + 1]};
      }
    }
  }
  return sums;
}

#if defined(__x86_64__)
[[gnu::target("avx2")]] Sums NhWithAvx2(const std::byte* data, size_t units, const uint32_t* key) {
  __m256i sums[kPasses] = {};
  for (size_t half = 0; half < 2 * units; ++half) {
    const auto* const at = reinterpret_cast<const __m256i*>(data) + half;
    const __m256i words = _mm256_loadu_si256(at);
    for (size_t pass = 0; pass < kPasses; ++pass) {
      const auto* const k = reinterpret_cast<const __m256i*>(key + pass * kUnitWords) + half;
      const __m256i both = _mm256_add_epi32(words, _mm256_loadu_si256(k));
      const __m256i product = _mm256_mul_epu32(both, _mm256_srli_epi64(both, 32));
      sums[pass] = _mm256_add_epi64(sums[pass], product);
    }
  }
  Sums result;
  for (size_t pass = 0; pass < kPasses; ++pass) {
    uint64_t lanes[4];
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(lanes), sums[pass]);
    result[pass] = lanes[0] + lanes[1] + lanes[2] + lanes[3];
  }
  return result;
}
#endif

Sums Nh(const std::byte* data, size_t units, const uint32_t* key) {
#if defined(__x86_64__)
  if (HasAvx2()) return NhWithAvx2(data, units, key);
#endif
  return NhPlainly(data, units, key);
}

EVP_MAC* Poly1305() {
  static EVP_MAC* const mac = EVP_MAC_fetch(nullptr, "POLY1305", nullptr);
  return mac;
}

// The calls below fail only where there is no memory.
void Require(int ok) {
  if (ok != 1) throw std::bad_alloc();
}

}  // namespace

DigestKey::DigestKey() {
  auto* const bytes = reinterpret_cast<uint8_t*>(&keys_);
  for (size_t done = 0; done < sizeof(keys_);) {
    const ssize_t got = ::getrandom(bytes + done, sizeof(keys_) - done, 0);
    if (got < 0 && errno != EINTR) throw std::system_error(errno, std::generic_category());
    if (got > 0) done += static_cast<size_t>(got);
  }
}

struct KeyedHasher::State {
  explicit State(const DigestKey* digest_key) : key(digest_key), mac(EVP_MAC_CTX_new(Poly1305())) {
    if (mac == nullptr) throw std::bad_alloc();
    Begin();
  }
  ~State() { EVP_MAC_CTX_free(mac); }
  State(const State&) = delete;
  State& operator=(const State&) = delete;

  void Begin() {
    Require(EVP_MAC_init(mac, key->keys_.poly1305, sizeof(key->keys_.poly1305), nullptr));
    size_bytes = 0;
    filled = 0;
  }

  // REQUIRES: a block, or the last units of the content.
  void AddUnits(const std::byte* data, size_t units) {
    sums[count++] = Nh(data, units, key->keys_.nh);
    if (count == sums.size()) AddSums();
  }
  void AddSums() {
    const auto* const data = reinterpret_cast<const unsigned char*>(sums.data());
    Require(EVP_MAC_update(mac, data, count * sizeof(Sums)));
    count = 0;
  }

  const DigestKey* const key;
  EVP_MAC_CTX* const mac;
  uint64_t size_bytes = 0;
  std::array<std::byte, kBlockBytes> block;
  size_t filled = 0;  // of the block
  std::array<Sums, 32> sums;
  size_t count = 0;  // of the sums
};

KeyedHasher::KeyedHasher(const DigestKey* key) : state_(std::make_unique<State>(key)) {}
KeyedHasher::KeyedHasher(KeyedHasher&&) noexcept = default;
KeyedHasher& KeyedHasher::operator=(KeyedHasher&&) noexcept = default;
KeyedHasher::~KeyedHasher() = default;

void KeyedHasher::Update(absl::Span<const std::byte> bytes) {
  State& state = *state_;
  state.size_bytes += bytes.size();
  while (!bytes.empty()) {
    if (state.filled == 0 && bytes.size() >= kBlockBytes) {
      state.AddUnits(bytes.data(), kBlockBytes / kUnitBytes);
      bytes.remove_prefix(kBlockBytes);
      continue;
    }
    const size_t taken = std::min(bytes.size(), kBlockBytes - state.filled);
    std::memcpy(state.block.data() + state.filled, bytes.data(), taken);
    state.filled += taken;
    bytes.remove_prefix(taken);
    if (state.filled < kBlockBytes) return;
    state.AddUnits(state.block.data(), kBlockBytes / kUnitBytes);
    state.filled = 0;
  }
}

Digest128 KeyedHasher::Finish() {
  State& state = *state_;
  if (state.filled > 0) {
    const size_t units = (state.filled + kUnitBytes - 1) / kUnitBytes;
    std::memset(state.block.data() + state.filled, 0, units * kUnitBytes - state.filled);
    state.AddUnits(state.block.data(), units);
  }
  state.AddSums();
  const auto* const size = reinterpret_cast<const unsigned char*>(&state.size_bytes);
  Require(EVP_MAC_update(state.mac, size, sizeof(state.size_bytes)));
  std::array<unsigned char, 16> tag;
  size_t tag_size = 0;
  Require(EVP_MAC_final(state.mac, tag.data(), &tag_size, tag.size()));
  state.Begin();
  Digest128 digest;
  std::memcpy(&digest.hi, tag.data(), 8);
  std::memcpy(&digest.lo, tag.data() + 8, 8);
  return digest;
}

}  // namespace sconce
