// The promotion policy: how a version that has been proven comes into service. A pure function.

#ifndef SCONCE_SERVER_RELOAD_PROMOTION_H_
#define SCONCE_SERVER_RELOAD_PROMOTION_H_

#include <string>

#include "server/registry/model_version.h"

namespace sconce {

enum class Entrance {
  kPublish,  // it answers
  kHold,     // it waits for an operator
  kCanary,   // it answers a share, and is judged
};

// `live`: null where nothing answers. `promoted_weights_id`: of the version that answered last, be
// it before a restart; empty where none has. Those weights need nobody's consent again, and neither
// do the first that a model ever has: a server that waited for somebody would not become ready.
Entrance ChooseEntrance(const ModelVersion& next, const ModelVersion* live,
                        const std::string& promoted_weights_id);

// The same once a canary has done well.
Entrance ChooseEntranceAfterCanary(const ModelVersion& canary);

}  // namespace sconce

#endif  // SCONCE_SERVER_RELOAD_PROMOTION_H_
