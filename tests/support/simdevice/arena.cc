#include "tests/support/simdevice/arena.h"

#include <c10/util/Exception.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <iterator>

namespace sconce::simdevice {
namespace {

std::byte* Map(int protection, int flags, int file) {
  void* address = mmap(nullptr, Arena::kBytes, protection, flags | MAP_NORESERVE, file, 0);
  TORCH_CHECK(address != MAP_FAILED, "simdevice: mmap: ", std::strerror(errno));
  return static_cast<std::byte*>(address);
}

}  // namespace

Arena::Arena(bool guarded) {
  if (guarded) {
    const int file = memfd_create("simdevice", MFD_CLOEXEC);
    TORCH_CHECK(file >= 0 && ftruncate(file, kBytes) == 0,
                "simdevice: memory file: ", std::strerror(errno));
    user_ = Map(PROT_NONE, MAP_SHARED, file);
    kernel_ = Map(PROT_READ | PROT_WRITE, MAP_SHARED, file);
    close(file);
  } else {
    user_ = kernel_ = Map(PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
  }
  gaps_[0] = kBytes;
}

int64_t Arena::Allocate(int64_t bytes) {
  for (auto gap = gaps_.begin(); gap != gaps_.end(); ++gap) {
    const auto [offset, gap_bytes] = *gap;
    if (gap_bytes < bytes) continue;
    gaps_.erase(gap);
    if (gap_bytes > bytes) gaps_[offset + bytes] = gap_bytes - bytes;
    const int64_t end = offset + bytes;
    if (end > untouched_) {
      std::memset(kernel_ + untouched_, kPoison, end - untouched_);
      untouched_ = end;
    }
    return offset;
  }
  return -1;
}

void Arena::Free(int64_t offset, int64_t bytes) {
  auto gap = gaps_.emplace(offset, bytes).first;
  const auto next = std::next(gap);
  if (next != gaps_.end() && gap->first + gap->second == next->first) {
    gap->second += next->second;
    gaps_.erase(next);
  }
  if (gap == gaps_.begin()) return;
  const auto previous = std::prev(gap);
  if (previous->first + previous->second == gap->first) {
    previous->second += gap->second;
    gaps_.erase(gap);
  }
}

bool Arena::Contains(const void* pointer) const {
  const auto* byte = static_cast<const std::byte*>(pointer);
  return byte >= user_ && byte < user_ + kBytes;
}

}  // namespace sconce::simdevice
