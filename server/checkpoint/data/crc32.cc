#include "server/checkpoint/data/crc32.h"

#include <array>

#include "server/checkpoint/little_endian.h"

namespace sconce {
namespace {

// tables[k][b]: the effect on the checksum of byte b followed by k zero bytes. With sixteen of them
// the loop takes sixteen bytes at a time, and their look-ups do not wait for one another.
constexpr int kSlices = 16;
using Tables = std::array<std::array<uint32_t, 256>, kSlices>;

constexpr Tables MakeTables() {
  Tables tables{};
  for (uint32_t b = 0; b < 256; ++b) {
    uint32_t crc = b;
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1) != 0 ? 0xEDB88320u : 0u);
    tables[0][b] = crc;
  }
  for (int k = 1; k < kSlices; ++k) {
    for (uint32_t b = 0; b < 256; ++b) {
      const uint32_t before = tables[k - 1][b];
      tables[k][b] = (before >> 8) ^ tables[0][before & 0xFF];
    }
  }
  return tables;
}

constexpr Tables kTables = MakeTables();

uint32_t Slice(uint32_t word, int highest) {
  return kTables[highest][word & 0xFF] ^ kTables[highest - 1][word >> 8 & 0xFF] ^
         kTables[highest - 2][word >> 16 & 0xFF] ^ kTables[highest - 3][word >> 24];
}

}  // namespace

uint32_t ExtendCrc32(uint32_t crc, absl::Span<const std::byte> bytes) {
  crc = ~crc;
  const std::byte* at = bytes.data();
  size_t left = bytes.size();
  for (; left >= kSlices; left -= kSlices, at += kSlices) {
    const uint32_t first = crc ^ LoadLittleEndian<uint32_t>(at);
    crc = Slice(first, 15) ^ Slice(LoadLittleEndian<uint32_t>(at + 4), 11) ^
          Slice(LoadLittleEndian<uint32_t>(at + 8), 7) ^
          Slice(LoadLittleEndian<uint32_t>(at + 12), 3);
  }
  for (; left > 0; --left, ++at) {
    crc = (crc >> 8) ^ kTables[0][(crc ^ static_cast<uint32_t>(*at)) & 0xFF];
  }
  return ~crc;
}

}  // namespace sconce
