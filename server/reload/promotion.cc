#include "server/reload/promotion.h"

#include "server/reload/compatibility.h"

namespace sconce {

Entrance ChooseEntrance(const ModelVersion& next, const ModelVersion* live,
                        const std::string& promoted_weights_id) {
  // The same weights in another program are something else.
  const bool promoted = next.weights_id == promoted_weights_id &&
                        (live == nullptr || live->architecture == next.architecture);
  // A batch is made for the tensors of the version that answers, so that another one can only take
  // its place as a whole.
  if (next.config.canary.share > 0 && live != nullptr && !promoted &&
      CheckReplaces(*live, next).ok()) {
    return Entrance::kCanary;
  }
  if (next.config.manual_promotion && !promoted && !promoted_weights_id.empty()) {
    return Entrance::kHold;
  }
  return Entrance::kPublish;
}

Entrance ChooseEntranceAfterCanary(const ModelVersion& canary) {
  return canary.config.manual_promotion ? Entrance::kHold : Entrance::kPublish;
}

}  // namespace sconce
