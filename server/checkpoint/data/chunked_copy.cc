#include "server/checkpoint/data/chunked_copy.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "server/checkpoint/error_context.h"
#include "server/checkpoint/tensor_bounds.h"

namespace sconce {
namespace {

constexpr int64_t kStagingBytes = int64_t{1} << 20;

// Chunks make a grid as a rule, with one cell each; where they do not, there are more cells. So
// many for each chunk are looked at, or kFewCells if that is more.
constexpr int64_t kMaxCellsPerChunk = 64;
constexpr int64_t kFewCells = 4096;

std::string List(const std::vector<int64_t>& numbers) {
  return absl::StrCat("[", absl::StrJoin(numbers, ", "), "]");
}

// A chunk as runs of elements that are neighbours in the tensor too. The runs are in the same order
// in both.
class Runs {
 public:
  Runs(const TensorDescriptor& tensor, const TensorChunk& chunk)
      : strides_(ContiguousStrides(tensor.shape)), chunk_(chunk) {
    size_t first = chunk.shape.size();  // the first dimension inside a run
    while (first > 0) {
      --first;
      length_ *= chunk.shape[first];
      if (chunk.shape[first] != tensor.shape[first]) break;
    }
    outer_ = first;
    for (size_t i = 0; i < outer_; ++i) count_ *= chunk.shape[i];
  }

  int64_t count() const { return count_; }
  int64_t length() const { return length_; }  // of each, in elements

  // The place of the run's first element in the contiguous tensor.
  int64_t Start(int64_t run) const {
    int64_t start = 0;
    for (size_t i = outer_; i < chunk_.shape.size(); ++i) start += chunk_.position[i] * strides_[i];
    for (size_t i = outer_; i-- > 0;) {
      start += (chunk_.position[i] + run % chunk_.shape[i]) * strides_[i];
      run /= chunk_.shape[i];
    }
    return start;
  }

  // The first run that ends behind `element`; count() if none does.
  int64_t FirstBehind(int64_t element) const {
    int64_t low = 0, high = count_;
    while (low < high) {
      const int64_t middle = low + (high - low) / 2;
      if (Start(middle) + length_ > element) {
        high = middle;
      } else {
        low = middle + 1;
      }
    }
    return low;
  }

 private:
  const std::vector<int64_t> strides_;
  const TensorChunk& chunk_;
  size_t outer_ = 0;  // dimensions that tell the runs apart
  int64_t length_ = 1;
  int64_t count_ = 1;
};

// Copies what of the chunk lies among the tensor's elements from `begin` on.
absl::Status CopyChunk(const TensorDescriptor& tensor, const TensorChunk& chunk, int64_t begin,
                       const ReadBlock& read, absl::Span<std::byte> destination) {
  const int64_t size = DTypeSize(tensor.dtype);
  const int64_t end = begin + static_cast<int64_t>(destination.size()) / size;
  const Runs runs(tensor, chunk);
  if (runs.Start(0) >= end || runs.Start(runs.count() - 1) + runs.length() <= begin) {
    return absl::OkStatus();
  }
  TensorDescriptor block;
  block.name = tensor.name;
  block.dtype = tensor.dtype;
  block.shape = chunk.shape;
  block.strides = chunk.strides;
  block.offset = chunk.offset;
  block.storage = chunk.storage;

  std::vector<std::byte> staging;
  for (int64_t run = runs.FirstBehind(begin); run < runs.count();) {
    const int64_t start = runs.Start(run);
    if (start >= end) break;
    const int64_t skipped = std::max<int64_t>(begin - start, 0);
    const int64_t length = std::min(runs.length(), end - start) - skipped;
    const int64_t block_offset = (run * runs.length() + skipped) * size;
    const int64_t wholes = std::min(kStagingBytes / (runs.length() * size), runs.count() - run);
    if (wholes <= 1 || length < runs.length()) {
      const auto out = destination.subspan(static_cast<size_t>((start + skipped - begin) * size),
                                           static_cast<size_t>(length * size));
      if (absl::Status done = read(block, block_offset, out); !done.ok()) return done;
      ++run;
      continue;
    }
    // Several short runs that lie inside the range whole.
    int64_t taken = 1;
    while (taken < wholes && runs.Start(run + taken) + runs.length() <= end) ++taken;
    const auto run_bytes = static_cast<size_t>(runs.length() * size);
    staging.resize(static_cast<size_t>(taken) * run_bytes);
    absl::Status done = read(block, block_offset, absl::MakeSpan(staging));
    if (!done.ok()) return done;
    for (int64_t i = 0; i < taken; ++i) {
      std::memcpy(destination.data() + (runs.Start(run + i) - begin) * size,
                  staging.data() + static_cast<size_t>(i) * run_bytes, run_bytes);
    }
    run += taken;
  }
  return absl::OkStatus();
}

bool IsEmpty(const TensorChunk& chunk) {
  return std::find(chunk.shape.begin(), chunk.shape.end(), 0) != chunk.shape.end();
}

absl::Status CheckInside(const TensorDescriptor& tensor, const TensorChunk& chunk) {
  const size_t rank = tensor.shape.size();
  bool inside = chunk.shape.size() == rank && chunk.position.size() == rank;
  for (size_t i = 0; inside && i < rank; ++i) {
    inside = chunk.position[i] >= 0 && chunk.shape[i] >= 0 &&
             chunk.position[i] <= tensor.shape[i] &&
             chunk.shape[i] <= tensor.shape[i] - chunk.position[i];
  }
  if (inside) return absl::OkStatus();
  return Refused("expected chunks inside shape ", List(tensor.shape), ", got shape ",
                 List(chunk.shape), " at ", List(chunk.position));
}

// The tensor cut at every edge of a chunk.
struct Grid {
  std::vector<std::vector<int64_t>> edges;  // per dimension, ascending, from 0 to the size
  std::vector<int64_t> strides;
  int64_t cells = 1;
};

absl::Status MakeGrid(const TensorDescriptor& tensor, Grid& grid) {
  const int64_t limit =
      std::max(kFewCells, kMaxCellsPerChunk * static_cast<int64_t>(tensor.chunks->size()));
  grid.edges.resize(tensor.shape.size());
  grid.strides.resize(tensor.shape.size());
  for (size_t i = tensor.shape.size(); i-- > 0;) {
    std::vector<int64_t>& edges = grid.edges[i];
    edges = {0, tensor.shape[i]};
    for (const TensorChunk& chunk : *tensor.chunks) {
      edges.push_back(chunk.position[i]);
      edges.push_back(chunk.position[i] + chunk.shape[i]);
    }
    std::sort(edges.begin(), edges.end());
    edges.erase(std::unique(edges.begin(), edges.end()), edges.end());
    grid.strides[i] = grid.cells;
    if (__builtin_mul_overflow(grid.cells, static_cast<int64_t>(edges.size()) - 1, &grid.cells) ||
        grid.cells > limit) {
      return Refused("expected chunks that are cut regularly, got ", tensor.chunks->size(),
                     " chunks that cut the tensor into more than ", limit, " parts");
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CopyChunks(const TensorDescriptor& tensor, int64_t offset_bytes, const ReadBlock& read,
                        absl::Span<std::byte> destination) {
  if (destination.empty()) return absl::OkStatus();
  const int64_t begin = offset_bytes / DTypeSize(tensor.dtype);
  for (const TensorChunk& chunk : *tensor.chunks) {
    if (IsEmpty(chunk)) continue;
    absl::Status copied = CopyChunk(tensor, chunk, begin, read, destination);
    if (!copied.ok()) return copied;
  }
  return absl::OkStatus();
}

absl::Status CheckChunks(const TensorDescriptor& tensor) {
  for (const TensorChunk& chunk : *tensor.chunks) {
    if (absl::Status inside = CheckInside(tensor, chunk); !inside.ok()) return inside;
  }
  const absl::StatusOr<int64_t> elements = CountElements(tensor.shape);
  if (!elements.ok()) return elements.status();
  if (*elements == 0) return absl::OkStatus();
  Grid grid;
  if (absl::Status made = MakeGrid(tensor, grid); !made.ok()) return made;

  const size_t rank = tensor.shape.size();
  std::vector<bool> covered(static_cast<size_t>(grid.cells));
  int64_t covered_count = 0;
  std::vector<int64_t> first(rank), last(rank), at(rank);
  for (const TensorChunk& chunk : *tensor.chunks) {
    if (IsEmpty(chunk)) continue;
    for (size_t i = 0; i < rank; ++i) {
      const auto cell = [&edges = grid.edges[i]](int64_t edge) {
        return std::lower_bound(edges.begin(), edges.end(), edge) - edges.begin();
      };
      first[i] = at[i] = cell(chunk.position[i]);
      last[i] = cell(chunk.position[i] + chunk.shape[i]);
    }
    for (bool more = true; more;) {
      int64_t index = 0;
      for (size_t i = 0; i < rank; ++i) index += at[i] * grid.strides[i];
      if (covered[static_cast<size_t>(index)]) {
        return Refused(
            "expected chunks that do not overlap, got another one where the one of shape ",
            List(chunk.shape), " at ", List(chunk.position), " lies");
      }
      covered[static_cast<size_t>(index)] = true;
      ++covered_count;
      more = false;
      for (size_t i = rank; i-- > 0 && !more;) {
        more = ++at[i] < last[i];
        if (!more) at[i] = first[i];
      }
    }
  }
  if (covered_count == grid.cells) return absl::OkStatus();
  return Refused("expected chunks that make up all of shape ", List(tensor.shape),
                 ", got holes between them");
}

}  // namespace sconce
