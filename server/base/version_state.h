// VersionState: the steps between a weights file that is seen and a version that is gone. A version
// takes them in this order; one that fails on the way is rejected. Each step is named so in the
// log, the metrics and the admin service.

#ifndef SCONCE_SERVER_BASE_VERSION_STATE_H_
#define SCONCE_SERVER_BASE_VERSION_STATE_H_

#include <string_view>

namespace sconce {

enum class VersionState {
  kSeen,              // the folder holds something new
  kSettling,          // it is left alone for the settle time
  kStructureChecked,  // the file is whole, its architecture known, every tensor fits
  kAdmitted,          // the memory that it needs is there
  kRead,              // its bytes are where they are wanted, and finite
  kLoaded,            // the network has them, strictly
  kPrepared,          // in evaluation mode, with replicas
  kWarmed,            // every batch size that it will serve has run
  kChecked,           // golden samples and recent requests are answered as they should be
  kHeld,              // proven; waits to be promoted
  kCanary,            // answers a share of the batches
  kPublished,         // answers
  kRetained,          // answers no more; a rollback brings it back at once
  kRetired,           // gone
  kRejected,          // failed at the step after the last one that it took
};
constexpr int kVersionStates = 15;

// "structure_checked".
std::string_view VersionStateName(VersionState state);

}  // namespace sconce

#endif  // SCONCE_SERVER_BASE_VERSION_STATE_H_
