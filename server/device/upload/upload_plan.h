// UploadPlan: where each tensor of a network will lie in a device's memory, and in which portions
// the file's bytes travel there. Made before any memory is taken. Plain data; the function is pure
// and callable from any thread.

#ifndef SCONCE_SERVER_DEVICE_UPLOAD_UPLOAD_PLAN_H_
#define SCONCE_SERVER_DEVICE_UPLOAD_UPLOAD_PLAN_H_

#include <c10/core/MemoryFormat.h>
#include <c10/core/ScalarType.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "models/net.h"
#include "server/checkpoint/checkpoint.h"
#include "server/weights/load_state_dict.h"

namespace sconce {

struct UploadPlan {
  // Memory of one tensor, or of several that are tied.
  struct Block {
    std::optional<size_t> tensor;  // the checkpoint's, by index; none: all elements are `fill`
    double fill = 0;
    at::ScalarType type;
    at::MemoryFormat format;
    int64_t offset = 0;
    int64_t size_bytes = 0;
  };

  // What is to be done with a tensor's bytes.
  enum class Way {
    kAsTheyAre,  // they are copied to the one block as they come
    kCast,       // the device makes of them what its blocks want: another type, another format
    kNowhere,    // the network has no such tensor; they count for the weights id alone
  };

  // Tensors of one way that fill one portion together, or a tensor that takes several by itself.
  struct Job {
    Way way;
    std::vector<size_t> tensors;
  };

  // Of tensors in a portion; and what devices' allocators round the size of a block to.
  static constexpr int64_t kAlignment = 512;
  static constexpr int64_t Align(int64_t bytes) {
    return (bytes + kAlignment - 1) / kAlignment * kAlignment;
  }

  // Whether the block, which has a tensor, holds the bytes that the file has.
  bool IsAsInFile(const Checkpoint& checkpoint, const Block& block) const;
  // What is to be done with a tensor's bytes.
  Way WayOf(const Checkpoint& checkpoint, size_t tensor) const;
  // Whether a tensor that is cast is cut between rows, because these are laid out anew.
  bool IsCutByRows(size_t tensor) const;
  // A tensor that takes several portions is cut at multiples of that.
  int64_t UnitBytes(const Checkpoint& checkpoint, size_t tensor) const;

  std::vector<Block> blocks;
  std::vector<size_t> block_of_own;  // by index in the network's State()
  // By tensor of the checkpoint; tied ones have theirs under the first.
  std::vector<std::vector<size_t>> blocks_of_tensor;
  std::vector<size_t> first_of_same_view;
  std::vector<Job> jobs;  // in the files' order

  int64_t weights_bytes = 0;  // of the blocks, with what alignment costs
  int64_t portion_bytes = 0;  // the most that travels at a time; 0 where nothing does
  int64_t portions = 0;
  // Memory that a device needs while it casts.
  int64_t scratch_bytes = 0;
};

// `uncast`: of the network's tensors, those that keep its own type, because they are worked on
// before they are cast.
// REQUIRES: `fit` is how the checkpoint's state_dict fits `net`, which is fresh from
// Architecture::Create. INVALID_ARGUMENT where the sizes add up to more than any memory.
absl::StatusOr<UploadPlan> PlanUpload(const Checkpoint& checkpoint, const models::Net& net,
                                      const StateFit& fit, const WeightsForm& form,
                                      absl::Span<const size_t> uncast = {});

}  // namespace sconce

#endif  // SCONCE_SERVER_DEVICE_UPLOAD_UPLOAD_PLAN_H_
