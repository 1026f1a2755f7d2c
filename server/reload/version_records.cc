#include "server/reload/version_records.h"

#include <algorithm>

namespace sconce {
namespace {

bool IsOver(const VersionRecord& record) {
  return record.state == VersionState::kRetired || record.state == VersionState::kRejected;
}

}  // namespace

VersionRecords::Id VersionRecords::Add(int64_t number, VersionState state, std::string weights_path,
                                       WallTime now) {
  VersionRecord record;
  record.number = number;
  record.state = state;
  record.since = now;
  record.weights_path = std::move(weights_path);
  records_.emplace_back(++last_, std::move(record));
  Trim();
  return last_;
}

void VersionRecords::Set(Id id, VersionState state, WallTime now, std::string error) {
  VersionRecord* const record = FindMutable(id);
  if (record == nullptr) return;
  record->state = state;
  record->since = now;
  record->error = std::move(error);
  Trim();
}

void VersionRecords::Advance(Id id, VersionState step, WallTime now) {
  const VersionRecord* const record = Find(id);
  if (record != nullptr && record->state < step) Set(id, step, now);
}

void VersionRecords::Describe(Id id, const ModelVersion& version) {
  VersionRecord* const record = FindMutable(id);
  if (record == nullptr) return;
  record->number = version.number;
  record->weights_path = version.weights_path;
  record->weights_id = version.weights_id;
  record->weights_bytes = version.weights_bytes;
  record->shared_bytes = version.shared_bytes;
  record->deviations = version.deviations;
}

void VersionRecords::Erase(Id id) {
  std::erase_if(records_, [id](const auto& entry) { return entry.first == id; });
}

const VersionRecord* VersionRecords::Find(Id id) const {
  const auto found = std::find_if(records_.begin(), records_.end(),
                                  [id](const auto& entry) { return entry.first == id; });
  return found == records_.end() ? nullptr : &found->second;
}

VersionRecord* VersionRecords::FindMutable(Id id) { return const_cast<VersionRecord*>(Find(id)); }

std::vector<VersionRecord> VersionRecords::list() const {
  std::vector<VersionRecord> list;
  for (const auto& [id, record] : records_) list.push_back(record);
  return list;
}

std::array<int64_t, kVersionStates> VersionRecords::counts() const {
  std::array<int64_t, kVersionStates> counts{};
  for (const auto& [id, record] : records_) ++counts[static_cast<size_t>(record.state)];
  return counts;
}

void VersionRecords::Trim() {
  while (records_.size() > kMost) {
    const auto over = std::find_if(records_.begin(), records_.end(),
                                   [](const auto& entry) { return IsOver(entry.second); });
    if (over == records_.end()) return;
    records_.erase(over);
  }
}

}  // namespace sconce
