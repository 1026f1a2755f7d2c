// PortionRing: the page-locked memory that weights pass through, in portions of one size. A portion
// is filled by one thread, then copied by the devices, then filled again. Thread-safe; owned by
// one upload.

#ifndef SCONCE_SERVER_DEVICE_UPLOAD_PORTION_RING_H_
#define SCONCE_SERVER_DEVICE_UPLOAD_PORTION_RING_H_

#include <ATen/core/Tensor.h>
#include <c10/core/Event.h>

#include <cstddef>
#include <cstdint>
#include <deque>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/base/mutex.h"

namespace sconce {

class PortionRing {
 public:
  struct Portion {
    at::Tensor memory;
    // Passed when the devices have copied it.
    std::vector<c10::Event> copied;

    std::byte* data() const { return static_cast<std::byte*>(memory.data_ptr()); }
  };

  // Throws what LibTorch throws. `device`: one of those that copy.
  PortionRing(c10::Device device, int64_t portion_bytes, int64_t portions);

  // A portion that may be written; waits for the one that was sent first where none is free. The
  // status that Fail was given, once it was. Throws what LibTorch throws.
  absl::StatusOr<Portion*> Take();
  // The portion's events have been recorded, or it was not sent at all.
  void GiveBack(Portion* portion);
  // Nobody waits any more.
  void Fail(const absl::Status& status);

 private:
  Mutex mutex_;
  CondVar changed_;
  std::vector<Portion> portions_;
  std::deque<Portion*> free_ ABSL_GUARDED_BY(mutex_);  // the one that was sent first at the front
  absl::Status failed_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace sconce

#endif  // SCONCE_SERVER_DEVICE_UPLOAD_PORTION_RING_H_
