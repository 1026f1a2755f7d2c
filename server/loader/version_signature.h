// What a version's clients are told of its inputs and outputs: the network's own, under the names
// and sizes that the configuration gives them. Pure functions, callable from any thread.

#ifndef SCONCE_SERVER_LOADER_VERSION_SIGNATURE_H_
#define SCONCE_SERVER_LOADER_VERSION_SIGNATURE_H_

#include "absl/status/statusor.h"
#include "models/net.h"
#include "server/device/execution_options.h"
#include "server/registry/model_config.h"
#include "server/registry/signature.h"

namespace sconce {

struct VersionSignature {
  Signature served;
  // The same inputs and outputs in the sizes the architecture gives them, which tell what a
  // dimension of -1 may be; their dimensions are in the order in which clients send them.
  Signature native;
  // The configuration's, with what is said of each input and output in the network's order.
  ExecutionOptions execution = {};
};

// Everything is in the network's order, whatever that of the configuration: its tensors are told by
// their names where these are the network's, or by the places that end them ("INPUT__1"), else by
// their order. INVALID_ARGUMENT where they are not the network's: other types or ranks.
// Pixels that are normalised are UINT8 for an input of numbers that is an image. That the network
// bears the sizes is proven by the warm-up.
absl::StatusOr<VersionSignature> SignatureOf(const models::Signature& network,
                                             const ModelConfig& config);

}  // namespace sconce

#endif  // SCONCE_SERVER_LOADER_VERSION_SIGNATURE_H_
