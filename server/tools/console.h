// Console: where a command's answer and its remarks go. Colour and progress only on a terminal, and
// never where NO_COLOR is set; a reader that goes away early (`| head`) ends the output, not the
// command.
//
// Owned by main; used by one thread.
#ifndef SCONCE_SERVER_TOOLS_CONSOLE_H_
#define SCONCE_SERVER_TOOLS_CONSOLE_H_

#include <cstddef>
#include <string>
#include <string_view>

#include "absl/status/status.h"

namespace sconce::tools {

enum class Style { kPlain, kBold, kDim, kGood, kWarning, kBad };

// Terminal cells that valid UTF-8 takes, one for each character.
size_t DisplayWidth(std::string_view text);

// `text` with spaces to `width` cells, after it or before it.
std::string PadRight(std::string text, size_t width);
std::string PadLeft(const std::string& text, size_t width);

class Console {
 public:
  // The process's own stdout and stderr. `name` begins every remark: "sconce inspect".
  explicit Console(std::string name);

  // The answer, on stdout; kept back until Flush or until there is much of it.
  void Print(std::string_view text);
  // A remark, on stderr, as a line that begins with the command's name.
  void Remark(std::string_view text);
  // Unavailable where stdout does not take what was printed. A closed pipe is no error.
  absl::Status Flush();

  // `text` in that style where stdout is a terminal that shows it.
  std::string Paint(Style style, std::string text) const;

  // Columns to keep to, 0 where stdout is no terminal.
  size_t width() const { return width_; }

  // Shows a line of progress on stderr, in place of the last; nothing where that is no terminal.
  void ShowProgress(std::string_view line);
  void ClearProgress();
  bool shows_progress() const { return shows_progress_; }

 private:
  void WriteOut();

  const std::string name_;
  bool colour_ = false;
  bool shows_progress_ = false;
  bool progress_shown_ = false;
  size_t width_ = 0;
  std::string pending_;
  int error_ = 0;  // errno of the first write to stdout that failed
};

}  // namespace sconce::tools

#endif  // SCONCE_SERVER_TOOLS_CONSOLE_H_
