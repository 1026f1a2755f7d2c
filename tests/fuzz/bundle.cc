#include "tests/fuzz/bundle.h"

#include <algorithm>
#include <cstddef>
#include <iterator>

#include "server/checkpoint/little_endian.h"
#include "tests/support/checkpoint_builders.h"

namespace sconce {

Bundle DecodeBundle(std::string_view bytes) {
  constexpr size_t kFileHeader = 1 + sizeof(uint32_t);
  Bundle bundle;
  if (bytes.empty()) return bundle;
  bundle.opens = static_cast<uint8_t>(bytes[0]);
  bytes.remove_prefix(1);
  while (bytes.size() >= kFileHeader) {
    Bundle::File file;
    file.name = static_cast<uint8_t>(static_cast<uint8_t>(bytes[0]) % std::size(kBundleNames));
    const size_t size = LoadLittleEndian<uint32_t>(bytes.data() + 1);
    bytes.remove_prefix(kFileHeader);
    file.bytes = bytes.substr(0, size);
    bytes.remove_prefix(std::min(size, bytes.size()));
    bundle.files.push_back(file);
  }
  return bundle;
}

std::string EncodeBundle(const Bundle& bundle) {
  std::string bytes(1, static_cast<char>(bundle.opens));
  for (const Bundle::File& file : bundle.files) {
    bytes += static_cast<char>(file.name);
    bytes += LittleEndian(static_cast<uint32_t>(file.bytes.size())) + file.bytes;
  }
  return bytes;
}

}  // namespace sconce
