// load_state_dict: PyTorch's rules and words for putting a state_dict into a network.
#ifndef SCONCE_SERVER_WEIGHTS_LOAD_STATE_DICT_H_
#define SCONCE_SERVER_WEIGHTS_LOAD_STATE_DICT_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "models/net.h"
#include "server/weights/state_dict.h"

namespace sconce {

struct LoadOptions {
  // Whether missing and unexpected names are errors. Shapes that differ always are.
  bool strict = true;
};

// Names that did not meet; empty after a strict load that succeeded.
struct IncompatibleKeys {
  std::vector<std::string> missing;
  std::vector<std::string> unexpected;
};

// Gives every tensor of `net` its weights. Where dtype and layout are those of the network, the
// state's memory is taken over without a copy; else the values are cast as copy_ does. What is
// missing in a load that is not strict keeps the constants the architecture starts with (ones and
// zeros for batch norm), and zeros where PyTorch would have random values.
//
// InvalidArgument with PyTorch's text ("Error(s) in loading state_dict for ResNet:\n\t..."); `net`
// is then as it was. ResourceExhausted or Internal where LibTorch fails.
absl::StatusOr<IncompatibleKeys> LoadStateDict(models::Net& net, const StateDict& state,
                                               const LoadOptions& options = {});

// What LoadStateDict would say, while `net` is left as it is. Looks at no value, so that `state`
// may be an outline (OutlineStateDict).
absl::StatusOr<IncompatibleKeys> FitStateDict(const models::Net& net, const StateDict& state,
                                              const LoadOptions& options = {});

}  // namespace sconce

#endif  // SCONCE_SERVER_WEIGHTS_LOAD_STATE_DICT_H_
