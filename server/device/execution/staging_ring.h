// StagingRing: the host memory in which batches are put together, reused from batch to batch. For a
// device it is page-locked, so that the device reads it by itself while the host goes on; the ring
// knows when it has done so.
//
// Memory is allocated when a batch needs more than there is: during warm-up, which stages the
// largest batch, and later only for shapes that were not known then.
//
// Take is called by one thread at a time; what was taken may be dropped on any thread, also when
// the ring is gone. Owned by its replica.

#ifndef SCONCE_SERVER_DEVICE_EXECUTION_STAGING_RING_H_
#define SCONCE_SERVER_DEVICE_EXECUTION_STAGING_RING_H_

#include <c10/core/Device.h>
#include <c10/core/Event.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/types/span.h"
#include "server/device/replica.h"

namespace sconce {

class StagingRing {
 public:
  // `slots`: batches whose memory is kept.
  StagingRing(c10::Device device, int slots);
  // REQUIRES: the device reads nothing of the ring any more.
  ~StagingRing();
  StagingRing(const StagingRing&) = delete;
  StagingRing& operator=(const StagingRing&) = delete;

  // Memory of these sizes, as Replica::Stage says. Waits for the device where every slot is still
  // being read. Throws what LibTorch throws.
  std::vector<HostTensor> Take(absl::Span<const int64_t> size_bytes);

  // Notes that the device reads the slot with `bytes` until `read` is passed. False where the bytes
  // are not of this ring.
  bool ReadUntil(absl::Span<const std::byte> bytes, std::shared_ptr<c10::Event> read);

  // Of all memory that is kept.
  int64_t size_bytes() const;

 private:
  struct Slot;
  struct Slots;
  struct Lease;

  std::unique_ptr<Slot> FreeSlot();

  const c10::Device device_;
  const std::shared_ptr<Slots> slots_;
};

}  // namespace sconce

#endif  // SCONCE_SERVER_DEVICE_EXECUTION_STAGING_RING_H_
