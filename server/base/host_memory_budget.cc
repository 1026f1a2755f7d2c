#include "server/base/host_memory_budget.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"

namespace sconce {
namespace {

// Files of the kernel's are short; whatever else lies there is not read to its end.
constexpr size_t kMaxFileBytes = size_t{256} << 10;

std::optional<std::string> Contents(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return std::nullopt;
  std::string text(kMaxFileBytes, '\0');
  file.read(text.data(), static_cast<std::streamsize>(text.size()));
  text.resize(static_cast<size_t>(file.gcount()));
  return text;
}

std::optional<int64_t> Number(const std::optional<std::string>& text) {
  int64_t value = 0;
  if (!text.has_value() || !absl::SimpleAtoi(*text, &value) || value < 0) return std::nullopt;
  return value;
}

// The number behind `key` at the beginning of a line.
std::optional<int64_t> Field(const std::string& text, absl::string_view key) {
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    if (!absl::ConsumePrefix(&line, key)) continue;
    const std::vector<absl::string_view> words =
        absl::StrSplit(line, absl::ByAnyChar(" \t"), absl::SkipEmpty());
    int64_t value = 0;
    if (words.empty() || !absl::SimpleAtoi(words[0], &value) || value < 0) return std::nullopt;
    return value;
  }
  return std::nullopt;
}

std::optional<HostMemory> OfMachine(const std::string& root) {
  constexpr int64_t kUnit = 1024;
  const std::optional<std::string> text = Contents(absl::StrCat(root, "/proc/meminfo"));
  if (!text.has_value()) return std::nullopt;
  const std::optional<int64_t> available = Field(*text, "MemAvailable:");
  const std::optional<int64_t> total = Field(*text, "MemTotal:");
  if (!available.has_value() || !total.has_value()) return std::nullopt;
  return HostMemory{*available * kUnit, *total * kUnit};
}

// What the two versions of control groups call the same things.
struct Names {
  const char* limit;
  const char* usage;
  // Lines of memory.stat: files that can be dropped.
  const char* inactive_file;
  const char* active_file;
};
constexpr Names kVersion1 = {"memory.limit_in_bytes", "memory.usage_in_bytes",
                             "total_inactive_file ", "total_active_file "};
constexpr Names kVersion2 = {"memory.max", "memory.current", "inactive_file ", "active_file "};

// None where the group has no limit, or there is no such group.
std::optional<HostMemory> OfGroup(const std::string& folder, const Names& names) {
  const std::optional<int64_t> limit = Number(Contents(absl::StrCat(folder, "/", names.limit)));
  const std::optional<int64_t> usage = Number(Contents(absl::StrCat(folder, "/", names.usage)));
  if (!limit.has_value() || !usage.has_value()) return std::nullopt;
  int64_t files = 0;
  if (const auto stat = Contents(absl::StrCat(folder, "/memory.stat")); stat.has_value()) {
    files =
        Field(*stat, names.inactive_file).value_or(0) + Field(*stat, names.active_file).value_or(0);
  }
  const int64_t taken = std::max<int64_t>(*usage - files, 0);
  return HostMemory{std::max<int64_t>(*limit - taken, 0), *limit};
}

struct Group {
  const Names* names;
  std::string path;  // "/a/b", as seen from the group namespace
};

// The groups that account for this process's memory.
std::vector<Group> GroupsOfProcess(const std::string& root) {
  std::vector<Group> groups;
  const auto text = Contents(absl::StrCat(root, "/proc/self/cgroup"));
  if (!text.has_value()) return groups;
  for (const absl::string_view line : absl::StrSplit(*text, '\n')) {
    // "4:memory,cpu:/a/b", or of version 2 "0::/a/b".
    const std::vector<absl::string_view> parts = absl::StrSplit(line, absl::MaxSplits(':', 2));
    if (parts.size() != 3) continue;
    const std::vector<absl::string_view> controllers = absl::StrSplit(parts[1], ',');
    const bool is_version_2 = parts[0] == "0" && parts[1].empty();
    if (!is_version_2 &&
        std::count(controllers.begin(), controllers.end(), absl::string_view("memory")) == 0) {
      continue;
    }
    groups.push_back({is_version_2 ? &kVersion2 : &kVersion1, std::string(parts[2])});
  }
  return groups;
}

}  // namespace

std::optional<HostMemory> ReadHostMemory(const std::string& root) {
  std::optional<HostMemory> least = OfMachine(root);
  const auto consider = [&least](const std::optional<HostMemory>& memory) {
    if (!memory.has_value()) return;
    if (!least.has_value() || memory->free_bytes < least->free_bytes) least = memory;
  };
  for (const Group& group : GroupsOfProcess(root)) {
    std::vector<std::string> mounts = {absl::StrCat(root, "/sys/fs/cgroup")};
    if (group.names == &kVersion1) {
      mounts = {absl::StrCat(root, "/sys/fs/cgroup/memory")};
    } else {
      mounts.push_back(absl::StrCat(root, "/sys/fs/cgroup/unified"));
    }
    // A limit of a group binds those below it. In a container the path may be the host's, of which
    // only the top is there, and it may lead above what can be seen.
    std::filesystem::path path(group.path);
    if (std::find(path.begin(), path.end(), "..") != path.end()) path = "/";
    for (const std::string& mount : mounts) {
      for (std::filesystem::path at = path;; at = at.parent_path()) {
        consider(OfGroup(absl::StrCat(mount, at.string()), *group.names));
        if (at == at.parent_path() || at.empty()) break;
      }
    }
  }
  return least;
}

HostMemoryBudget::Reservation::Reservation(Reservation&& other) noexcept
    : budget_(std::exchange(other.budget_, nullptr)), bytes_(other.bytes_) {}

HostMemoryBudget::Reservation& HostMemoryBudget::Reservation::operator=(
    Reservation&& other) noexcept {
  // What this promised goes with `other`.
  std::swap(budget_, other.budget_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

HostMemoryBudget::Reservation::~Reservation() {
  if (budget_ == nullptr) return;
  MutexLock lock(&budget_->mutex_);
  budget_->promised_bytes_ -= bytes_;
}

std::optional<HostMemory> HostMemoryBudget::Free() const {
  MutexLock lock(&mutex_);
  return FreeLocked();
}

std::optional<HostMemory> HostMemoryBudget::FreeLocked() const {
  std::optional<HostMemory> memory = ReadHostMemory(root_);
  if (memory.has_value()) {
    memory->free_bytes = std::max<int64_t>(memory->free_bytes - promised_bytes_, 0);
  }
  return memory;
}

std::optional<HostMemoryBudget::Reservation> HostMemoryBudget::Reserve(int64_t bytes) {
  MutexLock lock(&mutex_);
  const std::optional<HostMemory> memory = FreeLocked();
  if (memory.has_value() && bytes > memory->free_bytes) return std::nullopt;
  promised_bytes_ += bytes;
  return Reservation(this, bytes);
}

}  // namespace sconce
