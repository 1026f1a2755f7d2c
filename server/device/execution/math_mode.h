// LibTorch keeps its switches for CUDA's numerics once per process; models want them as they were
// configured. Whoever queues a model's work holds a lease on the switches meanwhile: leases of the
// same mode are held at the same time, a lease of another mode waits for its turn, in the order
// they were asked for.
//
// Thread-safe. A thread holds one lease at most.

#ifndef SCONCE_SERVER_DEVICE_EXECUTION_MATH_MODE_H_
#define SCONCE_SERVER_DEVICE_EXECUTION_MATH_MODE_H_

#include "server/device/execution_options.h"

namespace sconce {

// While one is there, matrix products and convolutions of FP32 are rounded by TF32 on CUDA devices
// if `precision` is kTf32, and are not if it is anything else.
class MathModeLease {
 public:
  // Waits for leases of the other mode, which last as long as it takes to queue a batch.
  explicit MathModeLease(Precision precision);
  ~MathModeLease();
  MathModeLease(const MathModeLease&) = delete;
  MathModeLease& operator=(const MathModeLease&) = delete;
};

// While any is there, cuDNN measures which algorithm is the fastest for sizes it has not seen,
// which takes long. For warm-up.
class CudnnBenchmark {
 public:
  CudnnBenchmark();
  ~CudnnBenchmark();
  CudnnBenchmark(const CudnnBenchmark&) = delete;
  CudnnBenchmark& operator=(const CudnnBenchmark&) = delete;
};

}  // namespace sconce

#endif  // SCONCE_SERVER_DEVICE_EXECUTION_MATH_MODE_H_
