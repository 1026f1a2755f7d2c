#include "server/device/torch_replica.h"

#include <ATen/core/Tensor.h>
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <c10/core/InferenceMode.h>
#include <c10/core/StreamGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <c10/util/Exception.h>

#include <exception>
#include <new>
#include <utility>

#include "absl/strings/str_cat.h"
#include "models/net.h"
#include "server/weights/scalar_type.h"

namespace sconce {
namespace {

// The first line of LibTorch's message: the rest is a stack trace of ours.
std::string FirstLine(const char* what) {
  const std::string text(what);
  return text.substr(0, text.find('\n'));
}

// What CUDA reports when page-locked memory runs out (cudaErrorMemoryAllocation); OutOfMemoryError
// is thrown for device memory alone.
constexpr int32_t kAcceleratorOutOfMemory = 2;

// Runs LibTorch and turns what it throws into a status.
template <typename Body>
auto Guarded(const std::string& device, Body body) -> decltype(body()) {
  try {
    return body();
  } catch (const c10::OutOfMemoryError& e) {
    return absl::ResourceExhaustedError(absl::StrCat(device, ": ", FirstLine(e.what())));
  } catch (const c10::AcceleratorError& e) {
    const std::string message = absl::StrCat(device, ": ", FirstLine(e.what()));
    return e.get_error_code() == kAcceleratorOutOfMemory ? absl::ResourceExhaustedError(message)
                                                         : absl::InternalError(message);
  } catch (const std::bad_alloc&) {
    return absl::ResourceExhaustedError(absl::StrCat(device, ": out of memory"));
  } catch (const std::exception& e) {
    return absl::InternalError(absl::StrCat(device, ": ", FirstLine(e.what())));
  }
}

HostTensor Wrap(at::Tensor tensor, DType dtype) {
  HostTensor host;
  host.dtype = dtype;
  host.shape = tensor.sizes().vec();
  host.bytes = {static_cast<std::byte*>(tensor.data_ptr()), tensor.nbytes()};
  host.owner = std::make_shared<at::Tensor>(std::move(tensor));
  return host;
}

class Done : public RunningBatch {
 public:
  explicit Done(std::vector<HostTensor> outputs) : outputs_(std::move(outputs)) {}
  absl::StatusOr<std::vector<HostTensor>> Finish() override { return std::move(outputs_); }

 private:
  std::vector<HostTensor> outputs_;
};

}  // namespace

TorchReplica::TorchReplica(std::shared_ptr<const models::Net> net, c10::Device device,
                           const ExecutionOptions&, DeviceHealth*)
    : net_(std::move(net)), device_(device), device_name_(device.str()) {
  if (!device.is_cpu()) {
    stream_ = c10::impl::VirtualGuardImpl(device.type()).getStreamFromGlobalPool(device);
  }
}

absl::StatusOr<std::vector<HostTensor>> TorchReplica::Stage(absl::Span<const int64_t> size_bytes) {
  return Guarded(device_name_, [&]() -> absl::StatusOr<std::vector<HostTensor>> {
    const auto options = at::TensorOptions().dtype(c10::kByte).pinned_memory(stream_.has_value());
    std::vector<HostTensor> staged;
    for (const int64_t size : size_bytes) {
      staged.push_back(Wrap(at::empty({size}, options), DType::kUInt8));
    }
    return staged;
  });
}

absl::StatusOr<std::unique_ptr<RunningBatch>> TorchReplica::Launch(BatchInput batch) {
  const std::vector<HostTensor>& inputs = batch.inputs;
  auto answer = Guarded(device_name_, [&]() -> absl::StatusOr<std::vector<HostTensor>> {
    // The number of compute threads is kept per thread: an executor that has not taken it over runs
    // MKL on every core, and its answers differ from Python's in the last bits.
    thread_local const bool threads_set = (at::init_num_threads(), true);
    static_cast<void>(threads_set);
    const c10::InferenceMode inference_mode;
    const c10::OptionalStreamGuard on_stream(stream_);

    std::vector<at::Tensor> host_inputs, device_inputs;
    for (const HostTensor& input : inputs) {
      host_inputs.push_back(at::from_blob(input.bytes.data(), input.shape,
                                          at::TensorOptions().dtype(ToScalarType(input.dtype))));
      device_inputs.push_back(host_inputs.back().to(device_, /*non_blocking=*/true));
    }

    std::vector<at::Tensor> outputs = net_->Forward(device_inputs);
    std::vector<DType> dtypes;
    for (at::Tensor& output : outputs) {
      const auto dtype = FromScalarType(output.scalar_type());
      if (!dtype.has_value()) {
        return absl::InternalError(absl::StrCat("the network gave an output of type ",
                                                c10::toString(output.scalar_type())));
      }
      dtypes.push_back(*dtype);
      output = output.contiguous();
      if (stream_.has_value()) {
        at::Tensor pinned =
            at::empty(output.sizes(), output.options().device(c10::kCPU).pinned_memory(true));
        pinned.copy_(output, /*non_blocking=*/true);
        output = std::move(pinned);
      } else {
        // A network that hands an input through must not hand out memory that is written again.
        for (const at::Tensor& input : host_inputs) {
          if (output.is_alias_of(input)) output = output.clone();
        }
      }
    }
    if (stream_.has_value()) stream_->synchronize();

    std::vector<HostTensor> results;
    for (size_t i = 0; i < outputs.size(); ++i) {
      results.push_back(Wrap(std::move(outputs[i]), dtypes[i]));
    }
    return results;
  });
  if (!answer.ok() && stream_.has_value()) {
    // What was queued before the error still reads the inputs, which the caller overwrites, and the
    // weights, which it may free. Its own errors add nothing to the one there is.
    static_cast<void>(Guarded(device_name_, [&] {
      stream_->synchronize();
      return absl::OkStatus();
    }));
  }
  if (!answer.ok()) return answer.status();
  return std::make_unique<Done>(*std::move(answer));
}

}  // namespace sconce
