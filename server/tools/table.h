// PrintTable: rows of cells in columns as wide as their widest cell.
#ifndef SCONCE_SERVER_TOOLS_TABLE_H_
#define SCONCE_SERVER_TOOLS_TABLE_H_

#include <string>
#include <vector>

#include "server/tools/console.h"

namespace sconce::tools {

struct Column {
  std::string title;
  bool right = false;
};

// The first column is cut where the terminal is too narrow; the last is as long as it likes. A row
// of one cell is a heading.
void PrintTable(const std::vector<Column>& columns,
                const std::vector<std::vector<std::string>>& rows, Console& console);

}  // namespace sconce::tools

#endif  // SCONCE_SERVER_TOOLS_TABLE_H_
