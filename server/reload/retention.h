// Retention: which versions are kept after they have answered, so that a rollback is an exchange of
// pointers, and which one a rollback takes. Pure functions.

#ifndef SCONCE_SERVER_RELOAD_RETENTION_H_
#define SCONCE_SERVER_RELOAD_RETENTION_H_

#include <cstdint>
#include <deque>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "server/reload/model_entry.h"

namespace sconce {

// Whether going back from `next` to `leaving` would change anything, and can be done: some of its
// replicas work.
bool IsWorthRetaining(const ModelVersion& leaving, const ModelVersion* next);

// Takes those that have to go because of `limit`, the oldest first.
std::vector<KnownVersion> TakeBeyond(std::deque<KnownVersion>* retained, int64_t limit);

// The place in `retained` of the version that a rollback from `live` (null: nothing answers) is to
// bring back; `number` 0: the one before. NOT_FOUND for a number that is not retained;
// FAILED_PRECONDITION where there is none before, or where no device of it works.
absl::StatusOr<size_t> ChooseRollback(const std::deque<KnownVersion>& retained,
                                      const ModelVersion* live, int64_t number);

}  // namespace sconce

#endif  // SCONCE_SERVER_RELOAD_RETENTION_H_
