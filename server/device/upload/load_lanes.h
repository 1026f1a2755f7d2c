// LoadLanes: one load at a time on each device, so that what was free when a load was admitted is
// still free when it takes memory, and captures are not disturbed. The CPU's lane is held by what a
// load computes there, and not while it reads: a file system that hangs holds up its own model
// alone. Lanes are handed out in the order in which they were asked for. Also where memory that
// LibTorch's allocator keeps for nobody goes back to the device: never while a load is under way
// there.
//
// Thread-safe. Shared by the loader and its versions, the last of which may outlive it.

#ifndef SCONCE_SERVER_DEVICE_UPLOAD_LOAD_LANES_H_
#define SCONCE_SERVER_DEVICE_UPLOAD_LOAD_LANES_H_

#include <c10/core/Device.h>
#include <c10/core/Stream.h>

#include <cstddef>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <vector>

#include "server/base/mutex.h"

namespace sconce {

class LoadLanes {
 public:
  LoadLanes() = default;
  LoadLanes(const LoadLanes&) = delete;
  LoadLanes& operator=(const LoadLanes&) = delete;

  // The lanes of some devices, until it is destroyed, which any thread may do. Whoever holds the
  // CPU's asks for no others.
  class Hold {
   public:
    Hold(LoadLanes* lanes, std::vector<c10::Device> devices);
    ~Hold();
    Hold(const Hold&) = delete;
    Hold& operator=(const Hold&) = delete;

    // Lets those go first who wait for one of the lanes.
    void Yield();

    // The stream for what loads queue there; the same for all of them, so that the allocator's
    // memory of one can serve the next. Throws what LibTorch throws. REQUIRES: one of the devices,
    // which has streams.
    c10::Stream StreamOf(c10::Device device) const;

   private:
    LoadLanes* const lanes_;
    const std::vector<c10::Device> devices_;
  };

  // Gives the allocator's cache back: now, or after the loads that are under way.
  void ReturnCaches();

  // How many loads wait for their turn.
  size_t waiting() const {
    MutexLock lock(&mutex_);
    return waiting_.size();
  }

 private:
  struct Lane {
    bool taken = false;
    std::optional<c10::Stream> stream;
  };

  using Devices = std::vector<c10::Device>;

  void Take(const Devices& devices);
  // Whether all lanes are free and nobody who came before waits for one of them.
  bool IsTurnOf(const Devices& devices) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Release(const Devices& devices);

  mutable Mutex mutex_;
  CondVar changed_;
  // Those who wait, in their order; each its own vector.
  std::deque<const Devices*> waiting_ ABSL_GUARDED_BY(mutex_);
  std::map<c10::DeviceIndex, Lane> lanes_ ABSL_GUARDED_BY(mutex_);
  size_t taken_ ABSL_GUARDED_BY(mutex_) = 0;  // of accelerators
  bool return_wanted_ ABSL_GUARDED_BY(mutex_) = false;
  bool returning_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace sconce

#endif  // SCONCE_SERVER_DEVICE_UPLOAD_LOAD_LANES_H_
