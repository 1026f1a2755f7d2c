#include "server/reload/watcher.h"

#include <poll.h>
#include <spdlog/spdlog.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdint>
#include <system_error>
#include <utility>

namespace sconce {
namespace {

// Looks that inotify asks for are at least this far apart: one change is often many events.
constexpr auto kEventPause = std::chrono::milliseconds(10);

// IN_MODIFY is left out: a file that is being written is of no interest before it is closed.
constexpr uint32_t kEvents = IN_CREATE | IN_CLOSE_WRITE | IN_MOVED_FROM | IN_MOVED_TO | IN_DELETE |
                             IN_ATTRIB | IN_DELETE_SELF | IN_MOVE_SELF | IN_ONLYDIR;

}  // namespace

Watcher::Watcher(Options options, Look look) : options_(options), look_(std::move(look)) {
  wake_fd_ = ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (wake_fd_ < 0) {
    throw std::system_error(errno, std::system_category(), "the repository's watcher: eventfd");
  }
  thread_ = Thread("sconce-watcher", ThreadPriority::kNormal, [this] { Run(); });
}

Watcher::~Watcher() {
  Stop();
  ::close(wake_fd_);
}

void Watcher::LookNow() {
  const uint64_t one = 1;
  // Fails only where the counter is full, and then the thread will wake up all the same.
  [[maybe_unused]] const ssize_t written = ::write(wake_fd_, &one, sizeof one);
}

void Watcher::Stop() {
  {
    MutexLock lock(&mutex_);
    stopped_ = true;
  }
  LookNow();
  thread_.Join();
}

void Watcher::Run() {
  if (options_.use_inotify) {
    inotify_fd_ = ::inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
    if (inotify_fd_ < 0) StopWatching(std::system_category().message(errno));
  }
  TimePoint next = TimePoint::min();
  while (WaitForNext(next)) {
    const NextLook wanted = look_();
    Arm(wanted.folders);
    next = std::min(wanted.at, Clock::Real()->Now() + options_.poll_interval);
  }
  if (inotify_fd_ >= 0) ::close(inotify_fd_);
}

void Watcher::Arm(const std::set<std::string>& folders) {
  if (inotify_fd_ < 0) return;
  std::set<int> wanted;
  for (const std::string& folder : folders) {
    // The folder a path leads to may have changed; the same one gives the same watch again.
    const int watch = ::inotify_add_watch(inotify_fd_, folder.c_str(), kEvents);
    if (watch >= 0) {
      wanted.insert(watch);
    } else if (errno == ENOSPC || errno == ENOMEM) {
      StopWatching(errno == ENOSPC ? "the limit fs.inotify.max_user_watches is reached"
                                   : std::system_category().message(errno));
      return;
    }
    // Other folders are gone by now or cannot be watched; the next poll sees what becomes of them.
  }
  for (const int watch : watches_) {
    if (wanted.find(watch) == wanted.end()) ::inotify_rm_watch(inotify_fd_, watch);
  }
  watches_ = std::move(wanted);
}

void Watcher::StopWatching(const std::string& reason) {
  spdlog::warn("the model repository is polled every {} s without inotify: {}",
               ToSeconds(options_.poll_interval), reason);
  if (inotify_fd_ >= 0) ::close(inotify_fd_);
  inotify_fd_ = -1;
  watches_.clear();
}

void Watcher::DrainEvents() {
  alignas(inotify_event) std::array<char, 4096> events;
  while (::read(inotify_fd_, events.data(), events.size()) > 0) {
  }
}

bool Watcher::WaitForNext(TimePoint at) {
  bool event = false;
  for (;;) {
    {
      MutexLock lock(&mutex_);
      if (stopped_) return false;
    }
    const TimePoint now = Clock::Real()->Now();
    if (at <= now) break;
    const std::chrono::nanoseconds wait = ToNanos(at - now);
    const timespec timeout{.tv_sec = static_cast<time_t>(wait.count() / 1'000'000'000),
                           .tv_nsec = static_cast<long>(wait.count() % 1'000'000'000)};
    // After an event only a wake-up cuts the pause short.
    std::array<pollfd, 2> fds = {
        pollfd{.fd = wake_fd_, .events = POLLIN, .revents = 0},
        pollfd{.fd = event ? -1 : inotify_fd_, .events = POLLIN, .revents = 0}};
    if (::ppoll(fds.data(), fds.size(), &timeout, nullptr) <= 0) continue;
    if (fds[0].revents != 0) {
      uint64_t count;
      [[maybe_unused]] const ssize_t got = ::read(wake_fd_, &count, sizeof count);
      at = TimePoint::min();
    } else if (fds[1].revents != 0) {
      event = true;
      at = std::min(at, Clock::Real()->Now() + kEventPause);
    }
  }
  // Before the look: an event that comes while it runs causes the next one.
  if (inotify_fd_ >= 0) DrainEvents();
  return true;
}

}  // namespace sconce
