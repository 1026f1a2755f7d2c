// Loads of little-endian integers from bytes at any alignment, for the binary formats of this
// folder.
#ifndef SCONCE_SERVER_CHECKPOINT_LITTLE_ENDIAN_H_
#define SCONCE_SERVER_CHECKPOINT_LITTLE_ENDIAN_H_

#include <bit>
#include <cstdint>
#include <cstring>
#include <type_traits>

namespace sconce {

// Tensors are handed out as they lie in the file, so the machine has to be what the file is.
static_assert(std::endian::native == std::endian::little,
              "checkpoints are read on little-endian machines only");

// REQUIRES: sizeof(T) bytes can be read at `bytes`.
template <typename T>
T LoadLittleEndian(const void* bytes) {
  static_assert(std::is_integral_v<T>);
  T value;
  std::memcpy(&value, bytes, sizeof(T));
  return value;
}

}  // namespace sconce

#endif  // SCONCE_SERVER_CHECKPOINT_LITTLE_ENDIAN_H_
