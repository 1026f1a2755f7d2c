#include "server/device/cuda/cuda_graph.h"

#include <ATen/cuda/CUDAContextLight.h>
#include <ATen/cuda/CUDAGraph.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <cuda_runtime_api.h>

#include <exception>
#include <map>
#include <utility>

#include "server/base/mutex.h"
#include "server/device/torch_errors.h"

namespace sconce {
namespace {

namespace allocator = c10::cuda::CUDACachingAllocator;

// What captures share. Never destroyed: streams must not be, once CUDA shuts down.
struct Captures {
  Mutex mutex;  // held during a capture
  std::map<c10::DeviceIndex, c10::cuda::CUDAStream> streams ABSL_GUARDED_BY(mutex);
};
Captures& captures = *new Captures;

// A stream that nobody else has. LibTorch hands those of its pool out again after 32: what another
// thread queues on such a one would become part of the graph.
c10::cuda::CUDAStream StreamFor(c10::DeviceIndex device)
    ABSL_EXCLUSIVE_LOCKS_REQUIRED(captures.mutex) {
  const auto found = captures.streams.find(device);
  if (found != captures.streams.end()) return found->second;
  cudaStream_t stream = nullptr;
  C10_CUDA_CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  return captures.streams.emplace(device, c10::cuda::getStreamFromExternal(stream, device))
      .first->second;
}

// LibTorch keeps the workspaces of matrix products by thread and stream. One that a capture took
// lies in the graph's memory: the next graph, replayed at the same time, would write to it.
void ForgetWorkspaces(c10::cuda::CUDAStream stream) {
  for (at::cuda::WorkspaceMapWithMutex* const workspaces :
       {&at::cuda::cublas_handle_stream_to_workspace(),
        &at::cuda::cublaslt_handle_stream_to_workspace()}) {
    const std::unique_lock<std::shared_mutex> lock(workspaces->mutex);
    std::erase_if(workspaces->map, [&](const auto& workspace) {
      return std::get<1>(workspace.first) == static_cast<void*>(stream.stream());
    });
  }
}

int64_t PoolBytes(c10::MempoolId_t pool) {
  int64_t bytes = 0;
  for (const auto& segment : allocator::snapshot(pool, /*include_traces=*/false).segments) {
    if (segment.owner_private_pool_id == pool) bytes += static_cast<int64_t>(segment.total_size);
  }
  return bytes;
}

class CudaGraph final : public Accelerator::Graph {
 public:
  CudaGraph(c10::Device device, c10::MempoolId_t pool) : device_(device), pool_(pool) {}
  ~CudaGraph() override {
    const c10::cuda::OptionalCUDAGuard on_device(device_);
    graph_.reset();
  }

  // REQUIRES: the current stream is that of captures.
  void Capture(const std::function<void()>& body) {
    const int64_t before = PoolBytes(pool_);
    try {
      graph_->capture_begin(pool_, cudaStreamCaptureModeThreadLocal);
    } catch (...) {
      EndAllocation();
      throw;
    }
    std::exception_ptr error;
    try {
      body();
    } catch (...) {
      error = std::current_exception();
    }
    try {
      graph_->capture_end();
    } catch (...) {
      // What broke the capture is told by the body's error, if it noticed.
      if (error == nullptr) error = std::current_exception();
      EndAllocation();
    }
    if (error != nullptr) std::rethrow_exception(error);
    size_bytes_ = PoolBytes(pool_) - before;
  }

  void Replay() override { graph_->replay(); }
  int64_t size_bytes() const override { return size_bytes_; }
  c10::MempoolId_t pool() const { return pool_; }

 private:
  // A capture that cannot be ended leaves the allocator believing that it goes on.
  void EndAllocation() {
    try {
      allocator::endAllocateToPool(device_.index(), pool_);
    } catch (const std::exception&) {
      return;  // it was ended, and the graph gives the memory back itself
    }
    allocator::releasePool(device_.index(), pool_);
  }

  const c10::Device device_;
  const c10::MempoolId_t pool_;
  std::unique_ptr<at::cuda::CUDAGraph> graph_ = std::make_unique<at::cuda::CUDAGraph>();
  int64_t size_bytes_ = 0;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Accelerator::Graph>> CaptureCudaGraph(
    c10::Device device, const std::function<void()>& body, const Accelerator::Graph* beside) {
  return Guarded(device.str(), [&]() -> absl::StatusOr<std::unique_ptr<Accelerator::Graph>> {
    MutexLock lock(&captures.mutex);
    const c10::cuda::CUDAGuard on_device(device);
    const c10::cuda::CUDAStream stream = StreamFor(device.index());
    const c10::cuda::CUDAStreamGuard on_stream(stream);
    auto graph = std::make_unique<CudaGraph>(
        device, beside == nullptr ? at::cuda::graph_pool_handle()
                                  : static_cast<const CudaGraph*>(beside)->pool());
    const absl::Status captured = Guarded(device.str(), [&] {
      graph->Capture(body);
      return absl::OkStatus();
    });
    ForgetWorkspaces(stream);
    if (!captured.ok()) return captured;
    return graph;
  });
}

}  // namespace sconce
