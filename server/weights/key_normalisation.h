// Wrapper prefixes: what DataParallel, torch.compile and Lightning put before every name of a
// state_dict, and how it is taken off again. Pure and free of torch.
#ifndef SCONCE_SERVER_WEIGHTS_KEY_NORMALISATION_H_
#define SCONCE_SERVER_WEIGHTS_KEY_NORMALISATION_H_

#include <string>

#include "absl/types/span.h"

namespace sconce {

// The prefix that a wrapper gave to `names`: any run of "module.", "_orig_mod." and "model." that
// all of them share and after which something remains of each; empty if there is none. To be
// stripped by cutting its length off each name, which leaves unique names unique.
std::string WrapperPrefix(absl::Span<const std::string> names);

// The name of a module, as the state_dict's metadata has it, without `prefix` (which ends in a
// dot): "module.bn1" is "bn1" and "module" is "", the root. False where the module lies above or
// beside what is kept; `name` is then left as it is.
bool StripModuleName(const std::string& prefix, std::string& name);

}  // namespace sconce

#endif  // SCONCE_SERVER_WEIGHTS_KEY_NORMALISATION_H_
