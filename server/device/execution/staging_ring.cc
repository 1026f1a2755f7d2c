#include "server/device/execution/staging_ring.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <deque>
#include <utility>

#include "server/base/mutex.h"
#include "server/device/host_memory.h"

namespace sconce {

struct StagingRing::Slot {
  at::Tensor memory;
  std::shared_ptr<c10::Event> read;  // null: nothing reads it

  bool IsRead() const { return read == nullptr || read->query(); }
  int64_t SizeBytes() const { return memory.defined() ? static_cast<int64_t>(memory.nbytes()) : 0; }
  absl::Span<std::byte> bytes() const {
    return {static_cast<std::byte*>(memory.data_ptr()), memory.nbytes()};
  }
};

// What outlives the ring where somebody still holds a slot.
struct StagingRing::Slots {
  explicit Slots(size_t most) : most(most) {}

  const size_t most;
  Mutex mutex;
  std::deque<std::unique_ptr<Slot>> free ABSL_GUARDED_BY(mutex);  // the longest free first
  std::vector<Slot*> taken ABSL_GUARDED_BY(mutex);
};

// What the owners of a slot's tensors share.
struct StagingRing::Lease {
  Lease(std::shared_ptr<Slots> of, std::unique_ptr<Slot> taken)
      : slots(std::move(of)), slot(std::move(taken)) {
    MutexLock lock(&slots->mutex);
    slots->taken.push_back(slot.get());
  }
  ~Lease() {
    MutexLock lock(&slots->mutex);
    slots->taken.erase(std::find(slots->taken.begin(), slots->taken.end(), slot.get()));
    slots->free.push_back(std::move(slot));
  }

  const std::shared_ptr<Slots> slots;
  std::unique_ptr<Slot> slot;
};

StagingRing::StagingRing(c10::Device device, int slots)
    : device_(device), slots_(std::make_shared<Slots>(slots)) {}

StagingRing::~StagingRing() {
  // Events belong to the device, which may be reset once its replicas are gone.
  MutexLock lock(&slots_->mutex);
  for (Slot* const slot : slots_->taken) slot->read.reset();
  slots_->free.clear();
}

std::unique_ptr<StagingRing::Slot> StagingRing::FreeSlot() {
  std::unique_ptr<Slot> slot;
  {
    MutexLock lock(&slots_->mutex);
    std::deque<std::unique_ptr<Slot>>& free = slots_->free;
    // More than the ring keeps were out at a time.
    while (free.size() + slots_->taken.size() > slots_->most && free.size() > 1 &&
           free.front()->IsRead()) {
      free.pop_front();
    }
    const auto read =
        std::find_if(free.begin(), free.end(), [](const auto& each) { return each->IsRead(); });
    if (read != free.end()) {
      slot = std::move(*read);
      free.erase(read);
    } else if (free.size() + slots_->taken.size() >= slots_->most && !free.empty()) {
      slot = std::move(free.front());
      free.pop_front();
    }
  }
  if (slot == nullptr) return std::make_unique<Slot>();
  if (slot->read != nullptr) slot->read->synchronize();
  slot->read.reset();
  return slot;
}

std::vector<HostTensor> StagingRing::Take(absl::Span<const int64_t> size_bytes) {
  int64_t total = 0;
  for (const int64_t size : size_bytes) total += AlignedSize(size);
  std::unique_ptr<Slot> slot = FreeSlot();
  if (!slot->memory.defined() || static_cast<int64_t>(slot->memory.nbytes()) < total) {
    slot->memory = at::Tensor();  // first, so that both need not fit
    slot->memory = HostMemoryFor(device_, total);
  }
  std::byte* next = slot->bytes().data();
  const auto lease = std::make_shared<Lease>(slots_, std::move(slot));
  std::vector<HostTensor> staged;
  for (const int64_t size : size_bytes) {
    HostTensor& tensor = staged.emplace_back();
    tensor.dtype = DType::kUInt8;
    tensor.shape = {size};
    tensor.bytes = {next, static_cast<size_t>(size)};
    tensor.owner = lease;
    next += AlignedSize(size);
  }
  return staged;
}

int64_t StagingRing::size_bytes() const {
  MutexLock lock(&slots_->mutex);
  int64_t bytes = 0;
  for (const std::unique_ptr<Slot>& slot : slots_->free) bytes += slot->SizeBytes();
  for (const Slot* const slot : slots_->taken) bytes += slot->SizeBytes();
  return bytes;
}

bool StagingRing::ReadUntil(absl::Span<const std::byte> bytes, std::shared_ptr<c10::Event> read) {
  MutexLock lock(&slots_->mutex);
  for (Slot* const slot : slots_->taken) {
    const absl::Span<const std::byte> own = slot->bytes();
    if (bytes.data() < own.data() || bytes.data() + bytes.size() > own.data() + own.size()) {
      continue;
    }
    slot->read = std::move(read);
    return true;
  }
  return false;
}

}  // namespace sconce
