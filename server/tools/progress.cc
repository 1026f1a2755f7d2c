#include "server/tools/progress.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/tools/text.h"

namespace sconce::tools {
namespace {

constexpr int kBarCells = 30;
// Short work shows no bar at all.
constexpr std::chrono::milliseconds kPatience{300};
constexpr std::chrono::milliseconds kInterval{100};

}  // namespace

Progress::Progress(Console& console, std::string what, int64_t total_bytes,
                   const Interruption* interruption)
    : console_(console),
      what_(std::move(what)),
      total_(std::max<int64_t>(total_bytes, 1)),
      interruption_(interruption),
      started_(std::chrono::steady_clock::now()),
      next_shown_(started_ + kPatience) {}

absl::Status Progress::Advance(int64_t bytes) {
  done_ += bytes;
  if (interruption_ != nullptr && interruption_->signal() != 0) {
    return absl::CancelledError("interrupted");
  }
  if (!console_.shows_progress()) return absl::OkStatus();
  const auto now = std::chrono::steady_clock::now();
  if (now < next_shown_) return absl::OkStatus();
  next_shown_ = now + kInterval;
  const double share = std::min(1.0, static_cast<double>(done_) / static_cast<double>(total_));
  const double seconds = std::chrono::duration<double>(now - started_).count();
  const int filled = static_cast<int>(share * kBarCells);
  console_.ShowProgress(absl::StrCat(
      what_, " [", std::string(static_cast<size_t>(filled), '#'),
      std::string(static_cast<size_t>(kBarCells - filled), '.'), "] ", PercentText(share), "  ",
      BytesText(static_cast<int64_t>(static_cast<double>(done_) / seconds)), "/s"));
  return absl::OkStatus();
}

}  // namespace sconce::tools
