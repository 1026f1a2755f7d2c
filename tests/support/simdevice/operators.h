// The operators of the simulated devices: those written by hand (kernels.cc), and for all others
// the CPU's, run on the stream's thread over the same memory (fallback.cc). For the other files of
// this folder; thread-safe.

#ifndef SCONCE_TESTS_SUPPORT_SIMDEVICE_OPERATORS_H_
#define SCONCE_TESTS_SUPPORT_SIMDEVICE_OPERATORS_H_

#include <ATen/core/Tensor.h>

#include <cstddef>

namespace sconce::simdevice {

void RegisterKernels();
// After RegisterKernels, whose operators it leaves alone.
void RegisterFallback();

// `tensor` as kernels see it: a CPU tensor over the memory's writable view. It does not keep the
// memory, as no kernel does.
at::Tensor CpuAlias(const at::Tensor& tensor);

// A tensor without values; `strides` as given.
at::Tensor EmptyStrided(at::IntArrayRef sizes, at::IntArrayRef strides, at::ScalarType dtype,
                        c10::Device device);

// The bytes that were there stay.
void ResizeStorage(const c10::Storage& storage, size_t bytes);

}  // namespace sconce::simdevice

#endif  // SCONCE_TESTS_SUPPORT_SIMDEVICE_OPERATORS_H_
