#include "server/device/execution/torch_replica.h"

#include <ATen/Parallel.h>
#include <c10/core/Event.h>
#include <c10/core/InferenceMode.h>
#include <c10/core/StreamGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "server/device/accelerator.h"
#include "server/device/execution/batch_copies.h"
#include "server/device/execution/math_mode.h"
#include "server/device/host_memory.h"
#include "server/device/torch_errors.h"
#include "server/weights/scalar_type.h"

namespace sconce {
namespace {

// One batch computes; the next is copied in, or waits to be computed.
constexpr int kDepthOnDevice = 2;

class ComputedBatch : public RunningBatch {
 public:
  explicit ComputedBatch(std::vector<HostTensor> outputs) : outputs_(std::move(outputs)) {}
  absl::StatusOr<std::vector<HostTensor>> Finish() override { return std::move(outputs_); }

 private:
  std::vector<HostTensor> outputs_;
};

}  // namespace

// What a batch holds while the device is at it: the host's memory it reads and writes, and that of
// clients. Device memory is the allocator's affair.
class TorchReplica::QueuedBatch : public RunningBatch {
 public:
  QueuedBatch(TorchReplica* replica, BatchInput batch, std::vector<HostTensor> outputs,
              c10::Event done)
      : replica_(replica),
        batch_(std::move(batch)),
        outputs_(std::move(outputs)),
        done_(std::move(done)) {}

  ~QueuedBatch() override { static_cast<void>(Await()); }

  absl::StatusOr<std::vector<HostTensor>> Finish() override {
    const absl::Status status = Await();
    finished_ = true;
    batch_ = {};
    if (!status.ok()) return replica_->Diagnose(status);
    return std::move(outputs_);
  }

 private:
  absl::Status Await() {
    if (finished_) return absl::OkStatus();
    return Guarded(replica_->device_name_, [this] {
      done_.synchronize();
      return absl::OkStatus();
    });
  }

  TorchReplica* const replica_;
  BatchInput batch_;
  std::vector<HostTensor> outputs_;
  c10::Event done_;
  bool finished_ = false;
};

TorchReplica::TorchReplica(std::shared_ptr<const models::Net> net, c10::Device device,
                           const ExecutionOptions& options, DeviceHealth* health)
    : device_(device),
      device_name_(device.str()),
      options_(options),
      own_health_(health == nullptr ? std::make_unique<DeviceHealth>() : nullptr),
      health_(health == nullptr ? own_health_.get() : health),
      streams_([&]() -> std::optional<Streams> {
        if (device.is_cpu()) return std::nullopt;
        const c10::impl::VirtualGuardImpl guard(device.type());
        return Streams{guard.getStreamFromGlobalPool(device), guard.getStreamFromGlobalPool(device),
                       guard.getStreamFromGlobalPool(device)};
      }()),
      forward_(std::move(net), device, options),
      // One more is being put together.
      staging_(device, depth() + 1),
      outputs_(device) {}

TorchReplica::~TorchReplica() = default;

int TorchReplica::depth() const { return streams_.has_value() ? kDepthOnDevice : 1; }

int TorchReplica::numa_node() const {
  const Accelerator* const accelerator = FindAccelerator(device_.type());
  return accelerator == nullptr ? -1 : accelerator->NumaNode(device_);
}

absl::Status TorchReplica::health() const {
  if (!streams_.has_value()) return absl::OkStatus();
  const std::optional<std::string> reason = health_->LostBecause(device_name_);
  return reason.has_value() ? absl::UnavailableError(*reason) : absl::OkStatus();
}

absl::StatusOr<std::vector<HostTensor>> TorchReplica::Stage(absl::Span<const int64_t> size_bytes) {
  auto staged = Guarded(device_name_, [&]() -> absl::StatusOr<std::vector<HostTensor>> {
    return staging_.Take(size_bytes);
  });
  if (!staged.ok()) return Diagnose(staged.status());
  return staged;
}

absl::StatusOr<std::unique_ptr<RunningBatch>> TorchReplica::Launch(BatchInput batch) {
  if (absl::Status status = health(); !status.ok()) return status;
  // The number of compute threads is kept per thread: an executor that has not taken it over runs
  // MKL on every core, and its answers differ from Python's in the last bits.
  thread_local const bool threads_set = (at::init_num_threads(), true);
  static_cast<void>(threads_set);
  auto launched = Guarded(device_name_, [&]() -> absl::StatusOr<std::unique_ptr<RunningBatch>> {
    const c10::InferenceMode inference_mode;
    return streams_.has_value() ? Queue(batch) : ComputeOnHost(batch);
  });
  if (!launched.ok()) {
    // What was queued before the error still reads the inputs, which `batch` keeps until here, and
    // the weights, which the caller may free.
    AwaitStreams();
    return Diagnose(launched.status());
  }
  return launched;
}

std::vector<at::Tensor> TorchReplica::Compute(const std::vector<at::Tensor>& sent) {
  std::vector<at::Tensor> prepared;
  for (size_t i = 0; i < sent.size(); ++i) prepared.push_back(forward_.Prepare(i, sent[i]));
  return forward_.Run(prepared);
}

absl::StatusOr<std::unique_ptr<RunningBatch>> TorchReplica::ComputeOnHost(const BatchInput& batch) {
  const auto inputs = CopyIn(batch, device_);
  if (!inputs.ok()) return inputs.status();
  std::vector<at::Tensor> outputs = Compute(*inputs);
  for (at::Tensor& output : outputs) {
    // A network that hands an input through must not hand out memory that is written again.
    for (const at::Tensor& input : *inputs) {
      if (output.is_alias_of(input)) output = output.clone();
    }
  }
  if (absl::Status status = CopyToTargets(batch, outputs); !status.ok()) return status;
  auto answers = HandOut(std::move(outputs));
  if (!answers.ok()) return answers.status();
  return std::make_unique<ComputedBatch>(*std::move(answers));
}

absl::StatusOr<std::unique_ptr<RunningBatch>> TorchReplica::Queue(BatchInput& batch) {
  absl::StatusOr<std::vector<at::Tensor>> inputs;
  {
    const c10::StreamGuard on_stream(streams_->copy_in);
    inputs = CopyIn(batch, device_);
    if (!inputs.ok()) return inputs.status();
    const auto read = std::make_shared<c10::Event>(device_.type());
    read->record(streams_->copy_in);
    read->block(streams_->compute);
    for (HostTensor& input : batch.inputs) {
      // The ring knows when it may be written again; other memory is held until all is over.
      if (staging_.ReadUntil(input.bytes, read)) input.owner.reset();
    }
  }
  std::vector<at::Tensor> outputs;
  {
    const c10::StreamGuard on_stream(streams_->compute);
    const MathModeLease lease(options_.precision);
    for (at::Tensor& input : *inputs) input.record_stream(streams_->compute);
    outputs =
        graphs_ != nullptr && graphs_->Fit(*inputs) ? graphs_->Replay(*inputs) : Compute(*inputs);
    c10::Event computed(device_.type());
    computed.record(streams_->compute);
    computed.block(streams_->copy_out);
  }
  const c10::StreamGuard on_stream(streams_->copy_out);
  for (const at::Tensor& output : outputs) output.record_stream(streams_->copy_out);
  auto answers = CopyOut(outputs, outputs_);
  if (!answers.ok()) return answers.status();
  if (absl::Status status = CopyToTargets(batch, outputs); !status.ok()) return status;
  c10::Event done(device_.type());
  done.record(streams_->copy_out);
  return std::make_unique<QueuedBatch>(this, std::move(batch), *std::move(answers),
                                       std::move(done));
}

absl::Status TorchReplica::CaptureGraphs(const std::vector<HostTensor>& inputs,
                                         const std::vector<HostTensor>& outputs) {
  const Accelerator* const accelerator = FindAccelerator(device_.type());
  if (!options_.graphs || accelerator == nullptr) {
    eager_because_ = options_.graphs ? absl::StrCat(device_name_, " has no graphs")
                                     : "the configuration says so";
    return absl::OkStatus();
  }
  const auto shapes = [](const std::vector<HostTensor>& tensors) {
    std::vector<BatchGraphs::Shape> shapes;
    for (const HostTensor& tensor : tensors) {
      shapes.push_back({tensor.shape, ToScalarType(tensor.dtype)});
    }
    return shapes;
  };
  const auto capture = [&] {
    return Guarded(device_name_, [&] {
      const c10::InferenceMode inference_mode;
      const c10::StreamGuard on_stream(streams_->compute);
      const MathModeLease lease(options_.precision);
      return BatchGraphs::Capture(*accelerator, device_, forward_, shapes(inputs), shapes(outputs));
    });
  };
  auto graphs = capture();
  if (absl::IsResourceExhausted(graphs.status())) {
    // While it captures, the allocator does not give back what it keeps from the batches before.
    ReleaseCache(device_);
    graphs = capture();
  }
  AwaitStreams();
  // What the capture queued beside may have met a fault that nobody has heard of yet.
  absl::Status error = graphs.ok() ? AskDevice() : graphs.status();
  if (error.ok()) {
    graphs_ = *std::move(graphs);
    eager_because_.clear();
    return absl::OkStatus();
  }
  error = Diagnose(error);
  if (absl::IsUnavailable(error)) return error;
  eager_because_ = absl::StrCat("the network could not be captured: ", error.message());
  return absl::OkStatus();
}

void TorchReplica::DropGraphs(std::string because) {
  graphs_.reset();
  eager_because_ = std::move(because);
  ReleaseCache(device_);
}

void TorchReplica::AwaitStreams() const {
  if (!streams_.has_value()) return;
  for (const c10::Stream stream : {streams_->copy_in, streams_->compute, streams_->copy_out}) {
    // Its own errors add nothing to the one there is.
    static_cast<void>(Guarded(device_name_, [&] {
      stream.synchronize();
      return absl::OkStatus();
    }));
  }
}

absl::Status TorchReplica::AskDevice() const {
  return Guarded(device_name_, [this] {
    streams_->compute.synchronize();
    return absl::OkStatus();
  });
}

absl::Status TorchReplica::Diagnose(absl::Status error) {
  if (!streams_.has_value() || !absl::IsInternal(error)) return error;
  // Errors that do not stay are reported once, by the first call after them. This is the second.
  const absl::Status again = AskDevice();
  if (again.ok() || absl::IsResourceExhausted(again)) return error;
  health_->ReportLost(device_name_, absl::StrCat("the device is lost: ", again.message()));
  return health();
}

}  // namespace sconce
