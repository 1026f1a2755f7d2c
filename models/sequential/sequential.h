// A declared sequential network as an Architecture: torch.nn.Sequential over the layers of a
// SequentialSpec.
//
// It is not in the catalog, takes no parameters and tells nothing from the weights; what does not
// fit is for load_state_dict to say. So its Detection is made by hand: {MakeSequential(spec), {},
// "as config.pbtxt declares it"}.
#ifndef SCONCE_MODELS_SEQUENTIAL_SEQUENTIAL_H_
#define SCONCE_MODELS_SEQUENTIAL_SEQUENTIAL_H_

#include <memory>

#include "absl/status/statusor.h"
#include "models/architecture.h"
#include "models/sequential/layers.h"

namespace sconce::models {

// InvalidArgument as CheckSequential.
absl::StatusOr<std::shared_ptr<const Architecture>> MakeSequential(const SequentialSpec& spec);

}  // namespace sconce::models

#endif  // SCONCE_MODELS_SEQUENTIAL_SEQUENTIAL_H_
