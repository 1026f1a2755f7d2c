// Arena: a range of addresses from which blocks are handed out, first fit. For memory.cc alone,
// under its lock; lives until the process ends.

#ifndef SCONCE_TESTS_SUPPORT_SIMDEVICE_ARENA_H_
#define SCONCE_TESTS_SUPPORT_SIMDEVICE_ARENA_H_

#include <cstddef>
#include <cstdint>
#include <map>

namespace sconce::simdevice {

class Arena {
 public:
  // CUDA's allocator rounds to this, too; the alignment must be no less than that of the CPU's
  // allocator, or sums of vector kernels are split differently.
  static constexpr int64_t kGrain = 512;
  // Address space, not memory: pages are there once they are used.
  static constexpr int64_t kBytes = int64_t{64} << 30;

  // `guarded`: tensors see a mapping without access, kernels another.
  explicit Arena(bool guarded);

  // REQUIRES: a multiple of kGrain, more than 0. -1 where no gap is large enough. Bytes never used
  // before hold kPoison.
  int64_t Allocate(int64_t bytes);
  void Free(int64_t offset, int64_t bytes);

  std::byte* user() const { return user_; }
  std::byte* kernel() const { return kernel_; }
  // Whether tensors' pointers may point there.
  bool Contains(const void* pointer) const;

  // NaN in every floating-point type.
  static constexpr int kPoison = 0xff;

 private:
  std::byte* user_ = nullptr;
  std::byte* kernel_ = nullptr;
  std::map<int64_t, int64_t> gaps_;  // offset -> bytes; no two touch
  int64_t untouched_ = 0;            // from here on nothing has been handed out yet
};

}  // namespace sconce::simdevice

#endif  // SCONCE_TESTS_SUPPORT_SIMDEVICE_ARENA_H_
