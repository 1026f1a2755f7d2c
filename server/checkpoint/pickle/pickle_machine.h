// ParsePickle: runs a pickle stream's opcodes on a stack of inert values (pickle_value.h).
//
// The opcodes are those of the protocols 2 to 5 that the picklers of Python 2 and 3 can emit; what
// they would import or call is only written down. Work and memory are linear in the stream, nothing
// recurses, and every length is compared with what remains of the stream before it is believed.
#ifndef SCONCE_SERVER_CHECKPOINT_PICKLE_PICKLE_MACHINE_H_
#define SCONCE_SERVER_CHECKPOINT_PICKLE_PICKLE_MACHINE_H_

#include <cstddef>
#include <string>

#include "absl/status/statusor.h"
#include "server/checkpoint/pickle/pickle_value.h"

namespace sconce {

// Values and items of containers together. At 16 to 60 bytes each, this keeps what a hostile stream
// can make us hold below 1 GB.
inline constexpr size_t kMaxPickleValues = size_t{16} << 20;

// `stream` must be one pickle and nothing else. Errors name the byte at which they arose.
absl::StatusOr<PickleTree> ParsePickle(std::string stream, size_t max_values = kMaxPickleValues);

}  // namespace sconce

#endif  // SCONCE_SERVER_CHECKPOINT_PICKLE_PICKLE_MACHINE_H_
