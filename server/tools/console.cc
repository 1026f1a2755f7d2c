#include "server/tools/console.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"

namespace sconce::tools {
namespace {

constexpr size_t kMostPending = size_t{64} << 10;

bool IsSet(const char* variable) {
  const char* value = std::getenv(variable);
  return value != nullptr && *value != '\0';
}

// 0 or the errno of what went wrong.
int WriteAll(int fd, std::string_view text) {
  while (!text.empty()) {
    const ssize_t written = ::write(fd, text.data(), text.size());
    if (written < 0) {
      if (errno == EINTR) continue;
      return errno;
    }
    text.remove_prefix(static_cast<size_t>(written));
  }
  return 0;
}

const char* Code(Style style) {
  switch (style) {
    case Style::kBold:
      return "1";
    case Style::kDim:
      return "2";
    case Style::kGood:
      return "32";
    case Style::kWarning:
      return "33";
    case Style::kBad:
      return "31";
    case Style::kPlain:
      break;
  }
  return "0";
}

}  // namespace

size_t DisplayWidth(std::string_view text) {
  return static_cast<size_t>(std::count_if(text.begin(), text.end(), [](char c) {
    return (static_cast<unsigned char>(c) & 0xC0) != 0x80;  // no byte that continues a character
  }));
}

std::string PadRight(std::string text, size_t width) {
  const size_t taken = DisplayWidth(text);
  if (taken < width) text.append(width - taken, ' ');
  return text;
}

std::string PadLeft(const std::string& text, size_t width) {
  const size_t taken = DisplayWidth(text);
  return taken < width ? absl::StrCat(std::string(width - taken, ' '), text) : text;
}

Console::Console(std::string name) : name_(std::move(name)) {
  const char* term = std::getenv("TERM");
  const bool dumb = term != nullptr && std::string_view(term) == "dumb";
  if (::isatty(STDOUT_FILENO) == 1) {
    colour_ = !dumb && !IsSet("NO_COLOR");
    winsize size{};
    const bool known = ::ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0;
    width_ = known ? size.ws_col : 80;
  }
  shows_progress_ = ::isatty(STDERR_FILENO) == 1 && !dumb;
}

void Console::Print(std::string_view text) {
  pending_ += text;
  if (pending_.size() > kMostPending) WriteOut();
}

void Console::WriteOut() {
  ClearProgress();
  if (error_ == 0) error_ = WriteAll(STDOUT_FILENO, pending_);
  pending_.clear();
}

void Console::Remark(std::string_view text) {
  ClearProgress();
  WriteAll(STDERR_FILENO, absl::StrCat(name_, ": ", std::string(text), "\n"));
}

absl::Status Console::Flush() {
  WriteOut();
  if (error_ == 0 || error_ == EPIPE) return absl::OkStatus();
  return absl::UnavailableError(absl::StrCat("cannot write to the standard output: ",
                                             std::system_category().message(error_)));
}

std::string Console::Paint(Style style, std::string text) const {
  if (!colour_ || style == Style::kPlain) return text;
  return absl::StrCat("\x1b[", Code(style), "m", text, "\x1b[0m");
}

void Console::ShowProgress(std::string_view line) {
  if (!shows_progress_) return;
  WriteAll(STDERR_FILENO, absl::StrCat("\r\x1b[K", std::string(line)));
  progress_shown_ = true;
}

void Console::ClearProgress() {
  if (!progress_shown_) return;
  WriteAll(STDERR_FILENO, "\r\x1b[K");
  progress_shown_ = false;
}

}  // namespace sconce::tools
