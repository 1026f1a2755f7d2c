// PreparedDeviation: how far what a network answers on a device is from what the same weights
// answer where nothing was prepared (folded, cast, laid out anew), as measured when the version was
// loaded. A value.

#ifndef SCONCE_SERVER_REGISTRY_PREPARED_DEVIATION_H_
#define SCONCE_SERVER_REGISTRY_PREPARED_DEVIATION_H_

#include <string>

namespace sconce {

struct PreparedDeviation {
  std::string device;   // "cuda:0"
  double absolute = 0;  // infinite where one of the two is not finite and the other is
  double relative = 0;  // to the largest magnitude of the output it is in
  // Why there are no numbers; empty: there are.
  std::string not_measured = "";

  bool operator==(const PreparedDeviation&) const = default;
};

}  // namespace sconce

#endif  // SCONCE_SERVER_REGISTRY_PREPARED_DEVIATION_H_
