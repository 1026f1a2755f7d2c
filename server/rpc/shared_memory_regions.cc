#include "server/rpc/shared_memory_regions.h"

#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/base/printable.h"

namespace sconce {
namespace {

std::string Quoted(const std::string& region) {
  return absl::StrCat("shared memory region '", Printable(region), "'");
}

absl::Status Unavailable() {
  return absl::FailedPreconditionError(
      "shared memory is not offered: the server has no device that can open another process's "
      "memory");
}

absl::Status NotFound(const std::string& region) {
  return absl::NotFoundError(absl::StrCat("there is no ", Quoted(region)));
}

}  // namespace

absl::Status SharedMemoryRegions::Register(const std::string& name, const std::string& handle,
                                           int64_t device_id, uint64_t size_bytes) {
  if (!available()) return Unavailable();
  if (name.empty() || name.size() > kMaxNameBytes) {
    return absl::InvalidArgumentError(absl::StrCat("expected a region's name of 1 to ",
                                                   kMaxNameBytes, " bytes, got ", name.size()));
  }
  if (size_bytes == 0 || size_bytes > static_cast<uint64_t>(kMaxTotalBytes)) {
    return absl::InvalidArgumentError(
        absl::StrCat(Quoted(name), ": expected 1 to ", kMaxTotalBytes, " bytes, got ", size_bytes));
  }
  if (handle.size() != kHandleBytes) {
    return absl::InvalidArgumentError(absl::StrCat(Quoted(name), ": expected a raw handle of ",
                                                   kHandleBytes, " bytes, got ", handle.size()));
  }
  const auto size = static_cast<int64_t>(size_bytes);
  {
    MutexLock lock(&mutex_);
    if (entries_.count(name) > 0) {
      return absl::AlreadyExistsError(absl::StrCat(Quoted(name), " is registered already"));
    }
    if (entries_.size() >= kMaxRegions) {
      return absl::ResourceExhaustedError(absl::StrCat(
          Quoted(name), ": expected at most ", kMaxRegions, " regions, all of them registered"));
    }
    int64_t total = 0;
    for (const auto& [other, entry] : entries_) total += entry.size_bytes;
    if (size > kMaxTotalBytes - total) {
      return absl::ResourceExhaustedError(
          absl::StrCat(Quoted(name), ": expected at most ", kMaxTotalBytes,
                       " bytes in all regions, got ", size, " beside ", total, " registered"));
    }
    // Takes the name and the room; opening may take a while and is done without the lock.
    entries_[name] = {device_id, size, std::nullopt};
  }
  auto opened = open_(device_id, handle, size);
  MutexLock lock(&mutex_);
  if (!opened.ok()) {
    entries_.erase(name);
    return absl::Status(opened.status().code(),
                        absl::StrCat(Quoted(name), ": ", opened.status().message()));
  }
  entries_[name].bytes = *std::move(opened);
  return absl::OkStatus();
}

void SharedMemoryRegions::Unregister(const std::string& name) {
  Entry closed;  // outside of the lock
  MutexLock lock(&mutex_);
  const auto found = entries_.find(name);
  if (found == entries_.end() || !found->second.bytes) return;
  closed = std::move(found->second);
  entries_.erase(found);
}

void SharedMemoryRegions::UnregisterAll() {
  std::vector<Entry> closed;  // outside of the lock
  MutexLock lock(&mutex_);
  for (auto it = entries_.begin(); it != entries_.end();) {
    if (!it->second.bytes) {
      ++it;
      continue;
    }
    closed.push_back(std::move(it->second));
    it = entries_.erase(it);
  }
}

absl::StatusOr<std::vector<SharedMemoryRegions::Region>> SharedMemoryRegions::Status(
    const std::string& name) const {
  std::vector<Region> regions;
  MutexLock lock(&mutex_);
  for (const auto& [known, entry] : entries_) {
    if (!entry.bytes || (!name.empty() && known != name)) continue;
    regions.push_back({known, entry.device_id, entry.size_bytes});
  }
  if (!name.empty() && regions.empty()) return NotFound(name);
  return regions;
}

absl::StatusOr<DeviceBytes> SharedMemoryRegions::At(const RegionPlace& place,
                                                    const std::string& what) const {
  const auto fail = [&](const absl::Status& status) {
    return absl::Status(status.code(), absl::StrCat(what, ": ", status.message()));
  };
  if (!available()) return fail(Unavailable());
  DeviceBytes bytes;
  {
    MutexLock lock(&mutex_);
    const auto found = entries_.find(place.region);
    if (found == entries_.end() || !found->second.bytes) {
      return fail(NotFound(place.region));
    }
    bytes = *found->second.bytes;
    bytes.size_bytes = found->second.size_bytes;
  }
  if (place.offset_bytes < 0 || place.size_bytes < 0 ||
      place.size_bytes > bytes.size_bytes - place.offset_bytes) {
    return fail(absl::InvalidArgumentError(
        absl::StrCat(Quoted(place.region), " has ", bytes.size_bytes, " bytes, got ",
                     place.size_bytes, " from offset ", place.offset_bytes)));
  }
  auto* const at = static_cast<std::byte*>(bytes.address.get()) + place.offset_bytes;
  bytes.address = std::shared_ptr<void>(std::move(bytes.address), at);
  bytes.size_bytes = place.size_bytes;
  return bytes;
}

}  // namespace sconce
