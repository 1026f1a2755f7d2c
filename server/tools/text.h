// Numbers as people read them. Pure functions, callable from any thread.
#ifndef SCONCE_SERVER_TOOLS_TEXT_H_
#define SCONCE_SERVER_TOOLS_TEXT_H_

#include <cstdint>
#include <string>

#include "absl/types/span.h"

namespace sconce::tools {

std::string BytesText(int64_t bytes);                    // "97.8 MiB"
std::string CountText(int64_t count);                    // "25,557,032"
std::string PercentText(double share);                   // "12.3%"; "<0.1%" for what is not nothing
std::string NumberText(double value);                    // "-0.0123", "1.2e-09", "nan"
std::string ShapeText(absl::Span<const int64_t> shape);  // "[64, 3, 7, 7]"
std::string PluralText(int64_t count, const std::string& noun);  // "1 tensor", "1,024 tensors"

}  // namespace sconce::tools

#endif  // SCONCE_SERVER_TOOLS_TEXT_H_
