#include "server/tools/text.h"

#include <cstdio>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace sconce::tools {
namespace {

std::string Formatted(const char* format, double value) {
  char text[64];
  std::snprintf(text, sizeof text, format, value);
  return text;
}

}  // namespace

std::string BytesText(int64_t bytes) {
  if (bytes < 1024) return absl::StrCat(bytes, " B");
  double value = static_cast<double>(bytes);
  const char* unit = "B";
  for (const char* next : {"KiB", "MiB", "GiB", "TiB", "PiB", "EiB"}) {
    if (value < 1023.95) break;  // what would be printed as 1024.0
    value /= 1024;
    unit = next;
  }
  return absl::StrCat(Formatted("%.1f", value), " ", unit);
}

std::string CountText(int64_t count) {
  const std::string digits = absl::StrCat(count);
  std::string text;
  for (size_t i = 0; i < digits.size(); ++i) {
    const bool group_begins = i > 0 && digits[i - 1] != '-' && (digits.size() - i) % 3 == 0;
    if (group_begins) text += ',';
    text += digits[i];
  }
  return text;
}

std::string PercentText(double share) {
  if (share > 0 && share < 0.0005) return "<0.1%";
  return Formatted("%.1f%%", share * 100);
}

std::string NumberText(double value) { return Formatted("%.4g", value); }

std::string ShapeText(absl::Span<const int64_t> shape) {
  return absl::StrCat("[", absl::StrJoin(shape, ", "), "]");
}

std::string PluralText(int64_t count, const std::string& noun) {
  return absl::StrCat(CountText(count), " ", noun, count == 1 ? "" : "s");
}

}  // namespace sconce::tools
