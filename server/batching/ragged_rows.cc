#include "server/batching/ragged_rows.h"

#include <algorithm>
#include <cstring>

namespace sconce {
namespace {

int64_t BytesOf(absl::Span<const int64_t> shape, int64_t element_bytes) {
  int64_t bytes = element_bytes;
  for (const int64_t size : shape) bytes *= size;
  return bytes;
}

// Calls `run` with the offset in the place and the number of bytes of each piece of the tensor that
// lies there in one, in order.
template <typename Run>
void ForEachRun(absl::Span<const int64_t> shape, absl::Span<const int64_t> place,
                int64_t element_bytes, int64_t offset, const Run& run) {
  if (shape.empty() || shape.subspan(1) == place.subspan(1)) {
    run(offset, BytesOf(shape, element_bytes));
    return;
  }
  const int64_t step = BytesOf(place.subspan(1), element_bytes);
  for (int64_t i = 0; i < shape[0]; ++i) {
    ForEachRun(shape.subspan(1), place.subspan(1), element_bytes, offset + i * step, run);
  }
}

}  // namespace

void LayInto(absl::Span<const absl::Span<const std::byte>> pieces, absl::Span<const int64_t> shape,
             absl::Span<const int64_t> place, int64_t element_bytes, std::byte* to) {
  size_t piece = 0;
  size_t taken = 0;
  ForEachRun(shape, place, element_bytes, 0, [&](int64_t offset, int64_t bytes) {
    for (auto left = static_cast<size_t>(bytes); left > 0;) {
      const size_t count = std::min(left, pieces[piece].size() - taken);
      std::memcpy(to + offset, pieces[piece].data() + taken, count);
      offset += static_cast<int64_t>(count);
      left -= count;
      taken += count;
      if (taken == pieces[piece].size()) {
        ++piece;
        taken = 0;
      }
    }
  });
}

void CutOut(const std::byte* from, absl::Span<const int64_t> place, absl::Span<const int64_t> shape,
            int64_t element_bytes, std::byte* to) {
  ForEachRun(shape, place, element_bytes, 0, [&](int64_t offset, int64_t bytes) {
    std::memcpy(to, from + offset, static_cast<size_t>(bytes));
    to += bytes;
  });
}

}  // namespace sconce
