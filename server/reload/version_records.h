// VersionRecords: where each of a model's last versions stands, from the file that is seen to the
// version that is gone. Bounded: those that are over are forgotten, the oldest first.
//
// Not thread-safe; guarded by the reloader.

#ifndef SCONCE_SERVER_RELOAD_VERSION_RECORDS_H_
#define SCONCE_SERVER_RELOAD_VERSION_RECORDS_H_

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <string>
#include <utility>
#include <vector>

#include "server/base/version_state.h"
#include "server/registry/model.h"

namespace sconce {

class VersionRecords {
 public:
  // Names one record; 0 is none.
  using Id = int64_t;
  using WallTime = std::chrono::system_clock::time_point;

  static constexpr size_t kMost = 16;

  Id Add(int64_t number, VersionState state, std::string weights_path, WallTime now);
  // What became of it. Does nothing for a record that is forgotten.
  void Set(Id id, VersionState state, WallTime now, std::string error = "");
  // The same for a step of a load, of which the reports may come late and in any order.
  void Advance(Id id, VersionState step, WallTime now);
  void Describe(Id id, const ModelVersion& version);
  void Erase(Id id);
  // Null where it is forgotten.
  const VersionRecord* Find(Id id) const;

  // The newest last.
  std::vector<VersionRecord> list() const;
  std::array<int64_t, kVersionStates> counts() const;

 private:
  VersionRecord* FindMutable(Id id);
  void Trim();

  std::deque<std::pair<Id, VersionRecord>> records_;
  Id last_ = 0;
};

}  // namespace sconce

#endif  // SCONCE_SERVER_RELOAD_VERSION_RECORDS_H_
