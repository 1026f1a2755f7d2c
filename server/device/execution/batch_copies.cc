#include "server/device/execution/batch_copies.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>

#include <algorithm>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/device/host_memory.h"
#include "server/weights/scalar_type.h"

namespace sconce {
namespace {

at::Tensor Wrap(const HostTensor& tensor) {
  return at::from_blob(tensor.bytes.data(), tensor.shape,
                       at::TensorOptions().dtype(ToScalarType(tensor.dtype)));
}

at::Tensor Wrap(const DeviceBytes& bytes) {
  return at::from_blob(bytes.address.get(), {bytes.size_bytes},
                       at::TensorOptions().dtype(c10::kByte).device(c10::Device(bytes.device)));
}

// REQUIRES: contiguous.
at::Tensor AsBytes(const at::Tensor& tensor) {
  return tensor.view({tensor.numel()}).view(c10::kByte);
}

// An output without its memory.
absl::StatusOr<HostTensor> Described(const at::Tensor& output) {
  const auto dtype = FromScalarType(output.scalar_type());
  if (!dtype.has_value()) {
    return absl::InternalError(
        absl::StrCat("the network gave an output of type ", c10::toString(output.scalar_type())));
  }
  HostTensor described;
  described.dtype = *dtype;
  described.shape = output.sizes().vec();
  return described;
}

absl::Status CheckRanges(const BatchInput& batch) {
  for (const BatchInput::FromDevice& range : batch.from_device) {
    const int64_t end = range.input < batch.inputs.size()
                            ? static_cast<int64_t>(batch.inputs[range.input].bytes.size())
                            : 0;
    if (range.offset_bytes < 0 || range.offset_bytes > end || range.source.size_bytes < 0 ||
        range.source.size_bytes > end - range.offset_bytes) {
      return absl::InvalidArgumentError(absl::StrCat(
          "input ", range.input, ": expected a range within its ", end, " bytes, got ",
          range.source.size_bytes, " bytes of ", range.source.device, " at ", range.offset_bytes));
    }
  }
  return absl::OkStatus();
}

// The bytes of `to` (on a device or the CPU) that come out of a device's memory, and between them
// those that come out of `host`, unless that is the same memory.
void CopyPieces(const BatchInput& batch, size_t input, const at::Tensor& host,
                const at::Tensor& to) {
  std::vector<const BatchInput::FromDevice*> ranges;
  for (const BatchInput::FromDevice& range : batch.from_device) {
    if (range.input == input) ranges.push_back(&range);
  }
  std::sort(ranges.begin(), ranges.end(),
            [](const auto* a, const auto* b) { return a->offset_bytes < b->offset_bytes; });
  int64_t copied = 0;
  const auto copy_host_until = [&](int64_t end) {
    if (end <= copied || host.data_ptr() == to.data_ptr()) return;
    to.slice(0, copied, end).copy_(host.slice(0, copied, end), /*non_blocking=*/true);
  };
  for (const BatchInput::FromDevice* const range : ranges) {
    copy_host_until(range->offset_bytes);
    const int64_t end = range->offset_bytes + range->source.size_bytes;
    to.slice(0, range->offset_bytes, end).copy_(Wrap(range->source), /*non_blocking=*/!to.is_cpu());
    copied = std::max(copied, end);
  }
  copy_host_until(to.numel());
}

}  // namespace

absl::StatusOr<std::vector<at::Tensor>> CopyIn(const BatchInput& batch, c10::Device device) {
  if (absl::Status status = CheckRanges(batch); !status.ok()) return status;
  std::vector<at::Tensor> tensors;
  for (size_t i = 0; i < batch.inputs.size(); ++i) {
    const at::Tensor host = Wrap(batch.inputs[i]);
    const at::Tensor to =
        device.is_cpu() ? host : at::empty(host.sizes(), host.options().device(device));
    const bool in_pieces =
        std::any_of(batch.from_device.begin(), batch.from_device.end(),
                    [i](const BatchInput::FromDevice& range) { return range.input == i; });
    if (in_pieces) {
      CopyPieces(batch, i, AsBytes(host), AsBytes(to));
    } else if (!device.is_cpu()) {
      to.copy_(host, /*non_blocking=*/true);
    }
    tensors.push_back(to);
  }
  return tensors;
}

absl::StatusOr<std::vector<HostTensor>> CopyOut(const std::vector<at::Tensor>& outputs,
                                                OutputPool& pool) {
  int64_t total = 0;
  for (const at::Tensor& output : outputs) {
    total += AlignedSize(static_cast<int64_t>(output.nbytes()));
  }
  const std::shared_ptr<void> block = pool.Take(total);
  std::byte* next = static_cast<std::byte*>(block.get());
  std::vector<HostTensor> copies;
  for (const at::Tensor& output : outputs) {
    auto copy = Described(output);
    if (!copy.ok()) return copy.status();
    copy->bytes = {next, output.nbytes()};
    copy->owner = block;
    Wrap(*copy).copy_(output, /*non_blocking=*/true);
    copies.push_back(*std::move(copy));
    next += AlignedSize(static_cast<int64_t>(output.nbytes()));
  }
  return copies;
}

absl::StatusOr<std::vector<HostTensor>> HandOut(std::vector<at::Tensor> outputs) {
  std::vector<HostTensor> answers;
  for (at::Tensor& output : outputs) {
    auto answer = Described(output);
    if (!answer.ok()) return answer.status();
    answer->bytes = {static_cast<std::byte*>(output.data_ptr()), output.nbytes()};
    answer->owner = std::make_shared<at::Tensor>(std::move(output));
    answers.push_back(*std::move(answer));
  }
  return answers;
}

absl::Status CopyToTargets(const BatchInput& batch, const std::vector<at::Tensor>& outputs) {
  for (const BatchInput::ToDevice& wanted : batch.to_device) {
    const at::Tensor* const output =
        wanted.output < outputs.size() ? &outputs[wanted.output] : nullptr;
    const bool whole = output != nullptr && wanted.rows == BatchInput::ToDevice::kWhole;
    const int64_t rows = output == nullptr || output->dim() == 0 ? 0 : output->size(0);
    if (!whole && (wanted.first < 0 || wanted.rows < 0 || wanted.first > rows ||
                   wanted.rows > rows - wanted.first)) {
      return absl::InvalidArgumentError(absl::StrCat("output ", wanted.output,
                                                     ": expected some of its ", rows, " rows, got ",
                                                     wanted.rows, " rows from row ", wanted.first));
    }
    const at::Tensor bytes =
        AsBytes(whole ? *output : output->narrow(0, wanted.first, wanted.rows));
    if (bytes.numel() != wanted.target.size_bytes) {
      return absl::InvalidArgumentError(absl::StrCat(
          "output ", wanted.output, ": expected memory for ", bytes.numel(), " bytes, got ",
          wanted.target.size_bytes, " bytes of ", wanted.target.device));
    }
    Wrap(wanted.target).copy_(bytes, /*non_blocking=*/!bytes.is_cpu());
  }
  return absl::OkStatus();
}

}  // namespace sconce
