// OutputPool: page-locked host memory into which a device copies what a batch gave, and from which
// answers are sent. A block comes back when the last tensor in it is dropped.
//
// Thread-safe. Owned by its replica, which blocks may outlive.

#ifndef SCONCE_SERVER_DEVICE_EXECUTION_OUTPUT_POOL_H_
#define SCONCE_SERVER_DEVICE_EXECUTION_OUTPUT_POOL_H_

#include <c10/core/Device.h>

#include <cstdint>
#include <memory>

namespace sconce {

class OutputPool {
 public:
  explicit OutputPool(c10::Device device);
  ~OutputPool();
  OutputPool(const OutputPool&) = delete;
  OutputPool& operator=(const OutputPool&) = delete;

  // At least that many bytes, 64-byte aligned; points to the first. Throws what LibTorch throws.
  std::shared_ptr<void> Take(int64_t size_bytes);

  // Of what is free at present.
  int64_t free_bytes() const;

 private:
  struct Blocks;
  struct Lease;

  const c10::Device device_;
  const std::shared_ptr<Blocks> blocks_;
};

}  // namespace sconce

#endif  // SCONCE_SERVER_DEVICE_EXECUTION_OUTPUT_POOL_H_
