// LoadLanes: one load at a time on each device, so that what was free when a load was admitted is
// still free when it takes memory, and captures are not disturbed. Also where memory that
// LibTorch's allocator keeps for nobody goes back to the device: never while a load is under way
// there.
//
// Thread-safe. Shared by the loader and its versions, the last of which may outlive it.

#ifndef SCONCE_SERVER_DEVICE_UPLOAD_LOAD_LANES_H_
#define SCONCE_SERVER_DEVICE_UPLOAD_LOAD_LANES_H_

#include <c10/core/Device.h>
#include <c10/core/Stream.h>

#include <cstddef>
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

  // The lanes of some devices, until it is destroyed.
  class Hold {
   public:
    Hold(LoadLanes* lanes, std::vector<c10::Device> devices);
    ~Hold();
    Hold(const Hold&) = delete;
    Hold& operator=(const Hold&) = delete;

    // The stream for what loads queue there; the same for all of them, so that the allocator's
    // memory of one can serve the next. Throws what LibTorch throws. REQUIRES: one of the devices.
    c10::Stream StreamOf(c10::Device device) const;

   private:
    LoadLanes* const lanes_;
    const std::vector<c10::Device> devices_;
  };

  // Gives the allocator's cache back: now, or after the loads that are under way.
  void ReturnCaches();

 private:
  struct Lane {
    bool taken = false;
    std::optional<c10::Stream> stream;
  };

  void Release(const std::vector<c10::Device>& devices);

  Mutex mutex_;
  CondVar changed_;
  std::map<c10::DeviceIndex, Lane> lanes_ ABSL_GUARDED_BY(mutex_);
  size_t taken_ ABSL_GUARDED_BY(mutex_) = 0;
  bool return_wanted_ ABSL_GUARDED_BY(mutex_) = false;
  bool returning_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace sconce

#endif  // SCONCE_SERVER_DEVICE_UPLOAD_LOAD_LANES_H_
