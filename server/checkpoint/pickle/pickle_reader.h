// ReadPickle: one pickle out of a file in which something follows it, as in the formats that put
// several pickles and raw data one after the other. Only the stream itself tells where it ends, so
// its opcodes are followed, without their meaning, up to STOP.
#ifndef SCONCE_SERVER_CHECKPOINT_PICKLE_PICKLE_READER_H_
#define SCONCE_SERVER_CHECKPOINT_PICKLE_PICKLE_READER_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "server/base/file.h"

namespace sconce {

// A part of a file that is read from front to back.
struct FileSection {
  int64_t offset = 0;  // of the next byte
  int64_t end = 0;     // one past the last byte
};

// Returns the bytes of the pickle that starts at section.offset, STOP included, and moves the
// offset behind it. Reads and allocates at most twice as much as the pickle takes, and never more
// than `max_bytes`; a longer pickle is refused. Whether the stream makes sense is for ParsePickle
// to say.
absl::StatusOr<std::string> ReadPickle(const File& file, FileSection& section, int64_t max_bytes);

}  // namespace sconce

#endif  // SCONCE_SERVER_CHECKPOINT_PICKLE_PICKLE_READER_H_
