// HostMemoryBudget: what of the host's memory loads may take. Free is the least of what the kernel
// says is available and what each control group (version 1 or 2) that the process is in leaves;
// files that the kernel can drop count as free. What loads under way were promised, and have not
// taken yet, is not free for others.
//
// Thread-safe. Owned by the loader; outlives every reservation.

#ifndef SCONCE_SERVER_BASE_HOST_MEMORY_BUDGET_H_
#define SCONCE_SERVER_BASE_HOST_MEMORY_BUDGET_H_

#include <cstdint>
#include <optional>
#include <string>

#include "server/base/mutex.h"

namespace sconce {

struct HostMemory {
  int64_t free_bytes = 0;
  int64_t total_bytes = 0;  // of the machine, or of the control group that leaves the least
};

// What the files below `root` ("/" for those of this machine) say, read anew at each call; none
// where they say nothing.
std::optional<HostMemory> ReadHostMemory(const std::string& root = "/");

class HostMemoryBudget {
 public:
  // `root`: as in ReadHostMemory.
  explicit HostMemoryBudget(std::string root = "/") : root_(std::move(root)) {}

  // A promise, until it is destroyed. To be given back once the memory was taken: from then on the
  // kernel counts it.
  class Reservation {
   public:
    Reservation(Reservation&& other) noexcept;
    Reservation& operator=(Reservation&& other) noexcept;
    ~Reservation();

   private:
    friend class HostMemoryBudget;
    Reservation(HostMemoryBudget* budget, int64_t bytes) : budget_(budget), bytes_(bytes) {}

    HostMemoryBudget* budget_;  // null: it was moved from
    int64_t bytes_;
  };

  // What is free and promised to nobody; none where that is not known.
  std::optional<HostMemory> Free() const;

  // None where less than that is free. Where what is free is not known, everything is promised.
  std::optional<Reservation> Reserve(int64_t bytes);

 private:
  std::optional<HostMemory> FreeLocked() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const std::string root_;
  mutable Mutex mutex_;
  int64_t promised_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace sconce

#endif  // SCONCE_SERVER_BASE_HOST_MEMORY_BUDGET_H_
