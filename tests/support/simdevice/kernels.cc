// The operators that cannot be the CPU's: those that make, copy, resize and share memory.

#include <ATen/EmptyTensor.h>
#include <ATen/ops/from_blob.h>
#include <c10/core/DeviceGuard.h>
#include <torch/library.h>

#include <cstring>
#include <memory>
#include <optional>
#include <utility>

#include "tests/support/simdevice/memory.h"
#include "tests/support/simdevice/operators.h"
#include "tests/support/simdevice/streams.h"

namespace sconce::simdevice {
namespace {

constexpr c10::DispatchKeySet kKeys(c10::DispatchKey::PrivateUse1);

at::Tensor Empty(at::IntArrayRef sizes, std::optional<at::ScalarType> dtype,
                 std::optional<at::Layout>, std::optional<c10::Device> device,
                 std::optional<bool> pinned, std::optional<at::MemoryFormat> format) {
  TORCH_CHECK(!pinned.value_or(false), "Only dense CPU tensors can be pinned");
  const c10::OptionalDeviceGuard guard(device);
  return at::detail::empty_generic(sizes, DeviceMemoryAllocator(), kKeys,
                                   dtype.value_or(at::kFloat), format);
}

at::Tensor EmptyStridedKernel(at::IntArrayRef sizes, at::IntArrayRef strides,
                              std::optional<at::ScalarType> dtype, std::optional<at::Layout>,
                              std::optional<c10::Device> device, std::optional<bool> pinned) {
  TORCH_CHECK(!pinned.value_or(false), "Only dense CPU tensors can be pinned");
  const c10::OptionalDeviceGuard guard(device);
  return at::detail::empty_strided_generic(sizes, strides, DeviceMemoryAllocator(), kKeys,
                                           dtype.value_or(at::kFloat));
}

// Whether bytes can go from one to the other as they are.
bool SameLayout(const at::Tensor& a, const at::Tensor& b) {
  return a.scalar_type() == b.scalar_type() && a.sizes() == b.sizes() && a.is_contiguous() &&
         b.is_contiguous();
}

// A host tensor over the same memory, which it does not keep; the caching host allocator is told of
// the use, as CUDA's copy does.
at::Tensor PinnedAlias(const at::Tensor& host, c10::Stream stream) {
  PinnedMemoryAllocator()->record_event(host.data_ptr(), host.storage().data_ptr().get_context(),
                                        stream);
  return at::from_blob(host.data_ptr(), host.sizes(), host.strides(),
                       at::TensorOptions().dtype(host.scalar_type()));
}

void EnqueueCopy(c10::Stream stream, at::Tensor from, at::Tensor to) {
  Enqueue(stream, WorkKind::kCopy,
          [from = std::move(from), to = std::move(to)] { to.copy_(from); });
}

// In the words of LibTorch's copy to and from CUDA.
void RefuseCopyWhileRecording() {
  TORCH_CHECK(!IsRecording(),
              "Cannot copy between CPU and sim tensors during graph capture unless "
              "the CPU tensor is pinned.");
}

void CopyToDevice(const at::Tensor& from, const at::Tensor& to, bool non_blocking) {
  const c10::Stream stream = CurrentStream(to.device().index());
  // What needs a conversion is converted on the host, at the call and into pageable memory.
  at::Tensor host = from;
  if (!SameLayout(from, to)) host = from.to(to.scalar_type()).expand_as(to).contiguous();
  if (!non_blocking) {
    EnqueueCopy(stream, host, CpuAlias(to));
    Synchronize(stream);
  } else if (IsPinned(host.data_ptr())) {
    EnqueueCopy(stream, PinnedAlias(host, stream), CpuAlias(to));
  } else {
    RefuseCopyWhileRecording();
    EnqueueCopy(stream, host.is_same(from) ? host.clone() : host, CpuAlias(to));
  }
}

void CopyToHost(const at::Tensor& from, const at::Tensor& to, bool non_blocking) {
  const c10::Stream stream = CurrentStream(from.device().index());
  if (non_blocking && IsPinned(to.data_ptr()) && SameLayout(from, to)) {
    EnqueueCopy(stream, CpuAlias(from), PinnedAlias(to, stream));
  } else {
    EnqueueCopy(stream, CpuAlias(from), to);
    Synchronize(stream);
  }
}

void CopyOnDevices(const at::Tensor& from, const at::Tensor& to) {
  const c10::Stream stream = CurrentStream(from.device().index());
  const c10::Stream other = CurrentStream(to.device().index());
  // Between devices the current streams of both are ordered with the copy, as by CUDA.
  if (stream != other) BlockUntil(stream, Mark(other));
  EnqueueCopy(stream, CpuAlias(from), CpuAlias(to));
  if (stream != other) BlockUntil(other, Mark(stream));
}

at::Tensor CopyFrom(const at::Tensor& from, const at::Tensor& to, bool non_blocking) {
  if (to.numel() == 0) return to;
  if (from.is_privateuseone() && to.is_privateuseone()) {
    CopyOnDevices(from, to);
  } else if (to.is_privateuseone()) {
    CopyToDevice(from, to, non_blocking);
  } else {
    CopyToHost(from, to, non_blocking);
  }
  return to;
}

at::Tensor CopyFromAndResize(const at::Tensor& from, const at::Tensor& to) {
  to.resize_(from.sizes());
  return CopyFrom(from, to, /*non_blocking=*/false);
}

const at::Tensor& Resize(const at::Tensor& self, at::IntArrayRef sizes,
                         std::optional<at::MemoryFormat> format) {
  TORCH_CHECK(format.value_or(at::MemoryFormat::Contiguous) == at::MemoryFormat::Contiguous,
              "sim: resize_ to another memory format is not there");
  const size_t bytes =
      at::detail::computeStorageNbytesContiguous(sizes, self.itemsize(), self.storage_offset());
  if (bytes > self.storage().nbytes()) ResizeStorage(self.storage(), bytes);
  self.unsafeGetTensorImpl()->set_sizes_contiguous(sizes);
  return self;
}

void RecordStream(at::Tensor& self, c10::Stream stream) {
  DeviceMemoryAllocator()->recordStream(self.storage().data_ptr(), stream);
}

bool HasCompatibleShallowCopyType(const at::Tensor&, const at::Tensor&) { return true; }

at::Tensor& SetStorageAs(at::Tensor& self, at::Storage source, int64_t offset,
                         at::IntArrayRef sizes, at::IntArrayRef strides) {
  c10::TensorImpl* impl = self.unsafeGetTensorImpl();
  impl->set_storage_keep_dtype(std::move(source));
  impl->set_storage_offset(offset);
  if (strides.empty() && !sizes.empty()) {
    impl->set_sizes_contiguous(sizes);
  } else {
    impl->set_sizes_and_strides(sizes, strides);
  }
  return self;
}

at::Tensor& SetStorage(at::Tensor& self, at::Storage source) {
  const auto elements = static_cast<int64_t>(source.nbytes() / self.itemsize());
  return SetStorageAs(self, std::move(source), 0, {elements}, {});
}

at::Tensor& SetTensor(at::Tensor& self, const at::Tensor& source) {
  return SetStorageAs(self, source.storage(), source.storage_offset(), source.sizes(),
                      source.strides());
}

}  // namespace

at::Tensor CpuAlias(const at::Tensor& tensor) {
  const c10::Storage& storage = tensor.storage();
  c10::Storage aliased(c10::Storage::use_byte_size_t(), storage.nbytes(),
                       c10::DataPtr(KernelView(storage.data()), c10::Device(c10::kCPU)),
                       /*allocator=*/nullptr, /*resizable=*/false);
  at::Tensor alias = at::detail::make_tensor<c10::TensorImpl>(
      std::move(aliased), c10::DispatchKeySet(c10::DispatchKey::CPU), tensor.dtype());
  alias.unsafeGetTensorImpl()->set_sizes_and_strides(tensor.sizes(), tensor.strides(),
                                                     tensor.storage_offset());
  return alias;
}

at::Tensor EmptyStrided(at::IntArrayRef sizes, at::IntArrayRef strides, at::ScalarType dtype,
                        c10::Device device) {
  return EmptyStridedKernel(sizes, strides, dtype, std::nullopt, device, std::nullopt);
}

void ResizeStorage(const c10::Storage& storage, size_t bytes) {
  const c10::DeviceGuard guard(storage.device());
  c10::DataPtr data = DeviceMemoryAllocator()->allocate(bytes);
  const size_t kept = std::min(bytes, storage.nbytes());
  if (kept > 0) DeviceMemoryAllocator()->copy_data(data.get(), storage.data(), kept);
  storage.unsafeGetStorageImpl()->set_data_ptr(std::move(data));
  storage.unsafeGetStorageImpl()->set_nbytes(bytes);
}

void RegisterKernels() {
  static auto* const library = new torch::Library(
      torch::Library::IMPL, "aten", c10::DispatchKey::PrivateUse1, __FILE__, __LINE__);
  library->impl("empty.memory_format", &Empty);
  library->impl("empty_strided", &EmptyStridedKernel);
  library->impl("_copy_from", &CopyFrom);
  library->impl("_copy_from_and_resize", &CopyFromAndResize);
  library->impl("resize_", &Resize);
  library->impl("record_stream", &RecordStream);
  library->impl("_has_compatible_shallow_copy_type", &HasCompatibleShallowCopyType);
  library->impl("set_.source_Storage", &SetStorage);
  library->impl("set_.source_Storage_storage_offset", &SetStorageAs);
  library->impl("set_.source_Tensor", &SetTensor);
}

}  // namespace sconce::simdevice
