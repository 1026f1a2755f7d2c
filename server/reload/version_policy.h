// The version policy: which of a model's numbered folders are to be served. Pure functions of sets
// of numbers.

#ifndef SCONCE_SERVER_RELOAD_VERSION_POLICY_H_
#define SCONCE_SERVER_RELOAD_VERSION_POLICY_H_

#include <cstdint>
#include <set>
#include <vector>

#include "server/registry/model_config.h"

namespace sconce {

// Of the numbers that could be served those that are to be. A number that was refused is not among
// `usable`: the next lower one is served in its place.
std::set<int64_t> WantedVersions(const VersionPolicy& policy, const std::set<int64_t>& usable);

// Those of `serving` that have a successor by now: they are not wanted, and not needed in place of
// one that is wanted and does not serve yet. The highest are kept for that.
std::vector<int64_t> VersionsToWithdraw(const std::set<int64_t>& wanted,
                                        const std::set<int64_t>& serving);

}  // namespace sconce

#endif  // SCONCE_SERVER_RELOAD_VERSION_POLICY_H_
