// Crc32: the checksum that zip archives keep for each member (reflected polynomial 0xEDB88320).
#ifndef SCONCE_SERVER_CHECKPOINT_DATA_CRC32_H_
#define SCONCE_SERVER_CHECKPOINT_DATA_CRC32_H_

#include <cstddef>
#include <cstdint>

#include "absl/types/span.h"

namespace sconce {

// Returns the checksum of the bytes that gave `crc` followed by `bytes`; start with 0.
uint32_t ExtendCrc32(uint32_t crc, absl::Span<const std::byte> bytes);

}  // namespace sconce

#endif  // SCONCE_SERVER_CHECKPOINT_DATA_CRC32_H_
