// A message cut into pieces of memory of their own size, so that a sanitizer sees every read past
// the end of one.

#ifndef SCONCE_TESTS_UNIT_RPC_WIRE_PIECES_H_
#define SCONCE_TESTS_UNIT_RPC_WIRE_PIECES_H_

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/types/span.h"
#include "server/batching/request.h"

namespace sconce {

class WirePieces {
 public:
  // Cut before each offset in `cuts`, which rise.
  explicit WirePieces(std::string_view message, std::vector<size_t> cuts = {}) {
    size_t from = 0;
    cuts.push_back(message.size());
    for (const size_t to : cuts) {
      auto memory = std::make_unique<std::byte[]>(to - from);
      if (to > from) std::memcpy(memory.get(), message.data() + from, to - from);
      pieces_.emplace_back(memory.get(), to - from);
      memory_.push_back(std::move(memory));
      from = to;
    }
  }
  absl::Span<const absl::Span<const std::byte>> pieces() const { return pieces_; }

 private:
  std::vector<std::unique_ptr<std::byte[]>> memory_;
  std::vector<absl::Span<const std::byte>> pieces_;
};

inline std::string Joined(const InputBytes& bytes) {
  std::string joined;
  for (const auto& piece : bytes.pieces) {
    joined.append(reinterpret_cast<const char*>(piece.data()), piece.size());
  }
  return joined;
}

template <typename T>
std::string BytesOf(std::vector<T> values) {
  return std::string(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T));
}

}  // namespace sconce

#endif  // SCONCE_TESTS_UNIT_RPC_WIRE_PIECES_H_
