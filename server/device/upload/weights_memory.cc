#include "server/device/upload/weights_memory.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <sys/mman.h>

#include <cstdint>
#include <new>

namespace sconce {
namespace {

// What is smaller is the C library's, which has an eye on such things.
constexpr int64_t kInRange = int64_t{64} << 10;

// No page has parts of two tensors, so that each gives all of its own back.
constexpr size_t kPage = size_t{4} << 10;
constexpr size_t kHugePage = size_t{2} << 20;

// Has the kernel make the pages ready, from here. Where it finds them missing while it reads a file
// into them, it holds the lock of all of the process's memory meanwhile, which a background thread
// that is put aside keeps for as long as the others are busy: requests then wait for it, up to a
// second on a processor that was shared with a large network. Here it holds the mapping's own.
void Touch(std::byte* begin, size_t size) {
  for (size_t at = 0; at < size; at += kPage) {
    *static_cast<volatile std::byte*>(begin + at) = std::byte{0};
  }
}

constexpr size_t RoundUp(size_t size, size_t unit) { return (size + unit - 1) / unit * unit; }

}  // namespace

// Addresses, from a multiple of kHugePage on.
class HostWeightsMemory::Range {
 public:
  explicit Range(size_t size) : mapped_size_(size + kHugePage) {
    mapped_ = ::mmap(nullptr, mapped_size_, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (mapped_ == MAP_FAILED) throw std::bad_alloc();
    begin_ = reinterpret_cast<std::byte*>(RoundUp(reinterpret_cast<uintptr_t>(mapped_), kHugePage));
    // The first ones are not huge: where a load has little that is new, the page that it begins
    // would take more than all of it. Where the kernel has no huge ones to give, ordinary ones do.
    if (size >= 2 * kHugePage) {
      (void)::madvise(begin_ + kHugePage, size / kHugePage * kHugePage - kHugePage, MADV_HUGEPAGE);
    }
  }
  ~Range() { ::munmap(mapped_, mapped_size_); }
  Range(const Range&) = delete;
  Range& operator=(const Range&) = delete;

  std::byte* begin() const { return begin_; }

 private:
  const size_t mapped_size_;
  void* mapped_;
  std::byte* begin_;
};

HostWeightsMemory::HostWeightsMemory(int64_t size_bytes, size_t tensors)
    : range_(std::make_shared<Range>(static_cast<size_t>(size_bytes) + tensors * kPage)) {}

at::Tensor HostWeightsMemory::Take(int64_t size_bytes) {
  const auto options = at::TensorOptions().dtype(at::kByte);
  if (size_bytes < kInRange) return at::empty({size_bytes}, options);
  const size_t size = RoundUp(static_cast<size_t>(size_bytes), kPage);
  std::byte* address = nullptr;
  {
    MutexLock lock(&mutex_);
    address = range_->begin() + used_;
    used_ += size;
  }
  Touch(address, size);
  return at::from_blob(
      address, {size_bytes},
      [range = range_, size](void* memory) { (void)::madvise(memory, size, MADV_DONTNEED); },
      options);
}

}  // namespace sconce
