#include "server/program/program_hasher.h"

#include <c10/core/StorageImpl.h>

#include <cstdint>

namespace sconce {

void ProgramHasher::Add(std::string_view text) {
  Add(text.size());
  hasher_.Update({reinterpret_cast<const std::byte*>(text.data()), text.size()});
}

void ProgramHasher::Add(const at::Tensor& tensor) {
  TORCH_CHECK(tensor.has_storage() && tensor.device().is_cpu() && !tensor.is_quantized() &&
                  !tensor.is_conj() && !tensor.is_neg(),
              "expected a plain dense tensor, got a ", tensor.toString());
  Add(tensor.scalar_type());
  AddAll(tensor.sizes().vec());
  AddAll(tensor.strides().vec());
  Add(tensor.storage_offset());
  // The memory and not the values: a view may be far larger than its memory, and many views may
  // have the same.
  const c10::Storage& memory = tensor.storage();
  const auto [known, is_new] = memories_.emplace(memory.unsafeGetStorageImpl(), memories_.size());
  Add(known->second);
  if (!is_new) return;
  Add(std::string_view(static_cast<const char*>(memory.data()), memory.nbytes()));
}

}  // namespace sconce
