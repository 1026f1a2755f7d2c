#include "tests/fuzz/mutators.h"

#include <cstddef>
#include <cstdint>
#include <string_view>

// libFuzzer's; declared in no header that Debian installs.
extern "C" size_t LLVMFuzzerMutate(uint8_t* data, size_t size, size_t max_size);

namespace sconce {

void MutateBytes(std::string& bytes) {
  constexpr size_t kRoomToGrow = 32;
  const size_t size = bytes.size();
  bytes.resize(size + kRoomToGrow);
  bytes.resize(LLVMFuzzerMutate(reinterpret_cast<uint8_t*>(bytes.data()), size, bytes.size()));
}

void MutateFile(std::string& bytes, Random& random) {
  const std::string_view start(bytes);
  if (start.starts_with("PK")) return MutateZip(bytes, random);
  if (start.size() > 512 && start.substr(257).starts_with("ustar")) return MutateTar(bytes, random);
  if (start.starts_with('\x80')) return MutatePicklesIn(bytes, random);
  if (start.starts_with('{')) return MutateJson(bytes, random);
  if (start.size() > 8 && start[8] == '{') return MutateSafetensors(bytes, random);
  if (start.starts_with('\x08')) return MutateProtobuf(bytes, random);
  MutateBytes(bytes);
}

}  // namespace sconce
