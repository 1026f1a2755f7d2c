// Elements that are no finite numbers, found as fast as memory is read. Pure functions, callable
// from any thread.

#ifndef SCONCE_SERVER_BASE_NON_FINITE_H_
#define SCONCE_SERVER_BASE_NON_FINITE_H_

#include <cstddef>
#include <cstdint>
#include <optional>

#include "absl/types/span.h"
#include "server/base/dtype.h"

namespace sconce {

// The index of the first element that is infinite or not a number, or becomes infinite when it is
// cast to `as`; none where all are finite. Of a complex element both parts count. Integers, and
// numbers whose type knows nothing else, are finite. `as`: the type itself, or kFloat16, kBFloat16
// or kFloat32; others are as good as the type itself. REQUIRES: `bytes` are whole elements.
std::optional<int64_t> FirstNonFinite(DType dtype, DType as, absl::Span<const std::byte> bytes);

}  // namespace sconce

#endif  // SCONCE_SERVER_BASE_NON_FINITE_H_
