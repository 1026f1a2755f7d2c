#include "server/tools/table.h"

#include <algorithm>
#include <cstddef>

#include "absl/strings/str_cat.h"

namespace sconce::tools {
namespace {

constexpr size_t kColumnGap = 2;

}  // namespace

void PrintTable(const std::vector<Column>& columns,
                const std::vector<std::vector<std::string>>& rows, Console& console) {
  std::vector<size_t> widths;
  for (const Column& column : columns) widths.push_back(DisplayWidth(column.title));
  for (const auto& row : rows) {
    for (size_t c = 0; c + 1 < row.size(); ++c) {  // the last, remarks, is as long as it likes
      // A row of one cell, a module, does not need to leave room for the others.
      widths[c] = std::max(widths[c], DisplayWidth(row[c]));
    }
  }
  size_t all = 0;
  for (size_t c = 0; c + 1 < widths.size(); ++c) all += widths[c] + kColumnGap;
  if (console.width() > 0 && all > console.width()) {
    const size_t over = all - console.width();
    widths[0] = widths[0] > over + 12 ? widths[0] - over : 12;
  }
  const auto line = [&](const std::vector<std::string>& row) {
    std::string text;
    for (size_t c = 0; c < row.size(); ++c) {
      std::string cell = row[c];
      const size_t cells = DisplayWidth(cell);
      if (c == 0 && row.size() > 1 && cells > widths[0]) {
        while (DisplayWidth(cell) + 3 > widths[0]) {
          do cell.pop_back();
          while (!cell.empty() && (static_cast<unsigned char>(cell.back()) & 0xC0) == 0x80);
        }
        cell += "...";
      }
      if (c > 0) text.append(kColumnGap, ' ');
      text += columns[c].right ? PadLeft(cell, widths[c]) : PadRight(cell, widths[c]);
    }
    while (!text.empty() && text.back() == ' ') text.pop_back();
    return text;
  };
  std::vector<std::string> titles;
  for (const Column& column : columns) titles.push_back(column.title);
  console.Print(absl::StrCat(console.Paint(Style::kDim, line(titles)), "\n"));
  for (const auto& row : rows) {
    console.Print(
        absl::StrCat(row.size() == 1 ? console.Paint(Style::kBold, row[0]) : line(row), "\n"));
  }
}

}  // namespace sconce::tools
