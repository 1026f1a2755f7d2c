#include "server/base/keyed_digest.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <string>

namespace sconce {
namespace {

absl::Span<const std::byte> AsBytes(const std::string& text) {
  return {reinterpret_cast<const std::byte*>(text.data()), text.size()};
}

Digest128 DigestOf(const DigestKey& key, const std::string& text) {
  KeyedHasher hasher(&key);
  hasher.Update(AsBytes(text));
  return hasher.Finish();
}

std::string SomeBytes(size_t size) {
  std::string bytes;
  uint32_t state = 1;
  for (size_t i = 0; i < size; ++i) {
    state = state * 1664525 + 1013904223;
    bytes += static_cast<char>(state >> 24);
  }
  return bytes;
}

TEST(KeyedDigestTest, IsTheSameHoweverTheBytesCome) {
  const DigestKey key;
  for (const size_t size : {0, 1, 63, 64, 65, 1023, 1024, 1025, 50'000}) {
    const std::string bytes = SomeBytes(size);
    for (const size_t step : {1, 100, 1024, 4096}) {
      KeyedHasher hasher(&key);
      for (size_t i = 0; i < size; i += step) {
        hasher.Update(AsBytes(bytes).subspan(i, step));
      }
      EXPECT_EQ(hasher.Finish(), DigestOf(key, bytes)) << size << " by " << step;
    }
  }
}

TEST(KeyedDigestTest, EveryByteAndTheSizeCount) {
  const DigestKey key;
  std::string bytes = SomeBytes(5000);
  const Digest128 digest = DigestOf(key, bytes);
  for (size_t i = 0; i < bytes.size(); ++i) {
    bytes[i] = static_cast<char>(bytes[i] ^ 1);
    EXPECT_NE(DigestOf(key, bytes), digest) << i;
    bytes[i] = static_cast<char>(bytes[i] ^ 1);
  }
  std::swap(bytes[8], bytes[1032]);
  EXPECT_NE(DigestOf(key, bytes), digest);
  const std::string zeros(2048, '\0');
  for (size_t size = 0; size < zeros.size(); ++size) {
    EXPECT_NE(DigestOf(key, zeros.substr(0, size)), DigestOf(key, zeros)) << size;
  }
}

TEST(KeyedDigestTest, AHasherBeginsAnewAfterEachDigest) {
  const DigestKey key;
  KeyedHasher hasher(&key);
  hasher.Update(AsBytes("one"));
  EXPECT_EQ(hasher.Finish(), DigestOf(key, "one"));
  hasher.Update(AsBytes("two"));
  EXPECT_EQ(hasher.Finish(), DigestOf(key, "two"));
}

TEST(KeyedDigestTest, EachKeyGivesOtherDigests) {
  EXPECT_NE(DigestOf(DigestKey(), "text"), DigestOf(DigestKey(), "text"));
}

}  // namespace
}  // namespace sconce
