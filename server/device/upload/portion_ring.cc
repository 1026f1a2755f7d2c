#include "server/device/upload/portion_ring.h"

#include "server/device/host_memory.h"

namespace sconce {

PortionRing::PortionRing(c10::Device device, int64_t portion_bytes, int64_t portions) {
  const at::Tensor memory = HostMemoryFor(device, portion_bytes * portions);
  portions_.resize(static_cast<size_t>(portions));
  for (size_t i = 0; i < portions_.size(); ++i) {
    portions_[i].memory = memory.narrow(0, static_cast<int64_t>(i) * portion_bytes, portion_bytes);
    free_.push_back(&portions_[i]);
  }
}

absl::StatusOr<PortionRing::Portion*> PortionRing::Take() {
  Portion* portion = nullptr;
  {
    MutexLock lock(&mutex_);
    while (free_.empty() && failed_.ok()) changed_.Wait(&mutex_);
    if (!failed_.ok()) return failed_;
    portion = free_.front();
    free_.pop_front();
  }
  for (const c10::Event& copied : portion->copied) copied.synchronize();
  portion->copied.clear();
  return portion;
}

void PortionRing::GiveBack(Portion* portion) {
  {
    MutexLock lock(&mutex_);
    free_.push_back(portion);
  }
  changed_.Notify();
}

void PortionRing::Fail(const absl::Status& status) {
  {
    MutexLock lock(&mutex_);
    if (failed_.ok()) failed_ = status;
  }
  changed_.NotifyAll();
}

}  // namespace sconce
