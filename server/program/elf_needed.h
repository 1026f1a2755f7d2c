// What a shared library wants to be loaded with it. Pure; callable from any thread.

#ifndef SCONCE_SERVER_PROGRAM_ELF_NEEDED_H_
#define SCONCE_SERVER_PROGRAM_ELF_NEEDED_H_

#include <cstddef>
#include <string_view>

#include "absl/status/status.h"
#include "absl/types/span.h"

namespace sconce {

// Has the library want `instead` where it wants `name`; it has to want `instead` already. Nothing
// is changed where it does not want `name`. INVALID_ARGUMENT: these are not the bytes of a shared
// library for this kind of machine, or it does not want `instead`.
absl::Status ReplaceNeeded(absl::Span<std::byte> library, std::string_view name,
                           std::string_view instead);

}  // namespace sconce

#endif  // SCONCE_SERVER_PROGRAM_ELF_NEEDED_H_
