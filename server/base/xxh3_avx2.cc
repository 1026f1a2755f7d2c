#include "server/base/xxh3_avx2.h"

// All of xxHash that is used here becomes part of this file alone, under other names.
#define XXH_INLINE_ALL
#include <xxhash.h>

namespace sconce {

void UpdateXxh3WithAvx2(void* state, const void* data, size_t size) {
  XXH3_128bits_update(static_cast<XXH3_state_t*>(state), data, size);
}

}  // namespace sconce
