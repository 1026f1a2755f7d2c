// What lies beside the weights, as text: DescribeValue for one value, ListMetadata for all of a
// checkpoint. Nothing here can fail: what is not understood is named by its class or left out.
#ifndef SCONCE_SERVER_CHECKPOINT_PYTORCH_METADATA_TEXT_H_
#define SCONCE_SERVER_CHECKPOINT_PYTORCH_METADATA_TEXT_H_

#include <optional>
#include <string>
#include <vector>

#include "server/checkpoint/checkpoint.h"
#include "server/checkpoint/pickle/pickle_value.h"

namespace sconce {

// The value in one line, fit to print: scalars and short sequences of them, "float32 tensor of
// shape [3, 4]", numpy's scalars and arrays, dtypes and devices. nullopt for what has parts of its
// own: a dict, a long sequence, an object with attributes.
std::optional<std::string> DescribeValue(const PickleTree& tree, PickleId id);

// Appends one entry for each value that can be reached from the dict `root`, but for what lies
// under `weights`. The walk goes by levels, so that where the number of entries is cut, what lies
// deepest is left out; each container is listed once, so that cycles end.
void ListMetadata(const PickleTree& tree, PickleId root, PickleId weights,
                  std::vector<MetadataEntry>& metadata);

}  // namespace sconce

#endif  // SCONCE_SERVER_CHECKPOINT_PYTORCH_METADATA_TEXT_H_
