// Answering: the versions of a model that answer now, as its executors see them: which executor can
// run which, how much fits, and which one a batch is run on.
//
// Not thread-safe. Owned by Batcher, which guards it.

#ifndef SCONCE_SERVER_BATCHING_ANSWERING_H_
#define SCONCE_SERVER_BATCHING_ANSWERING_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "server/batching/dispatch_policy.h"
#include "server/registry/model.h"

namespace sconce {

// What requests that ask for the same version are run on.
struct AnsweringVersion {
  int64_t wanted = 0;  // 0: none in particular
  std::shared_ptr<const ModelVersion> version;
  std::vector<ReplicaPlace> places;  // by executor
  // Of the largest batch that fits a replica that works; 0 where none works.
  int64_t most_rows = 0;

  // Whether that executor can run it.
  bool RunsOn(size_t executor) const { return executor < places.size() && places[executor].usable; }
};

// A version none of whose replicas works, and why.
struct LostVersion {
  std::shared_ptr<const ModelVersion> version;
  std::string reason;
};

class Answering {
 public:
  // Forgets the versions before, and asks the replicas of these whether they work.
  void Set(Serving serving);
  // Asks again.
  std::vector<LostVersion> CheckHealth();

  // Empty: the model is not served. The first is the live version, for requests that ask for none
  // in particular; a request that asks for the live version by its number is one of those, too,
  // unless there is a canary that it must not get.
  const std::vector<AnsweringVersion>& versions() const { return versions_; }
  // For requests that ask for that version; versions().size() where it does not answer.
  size_t IndexOf(int64_t wanted) const;
  // Executors that it takes.
  size_t executors() const { return executors_; }
  bool AnyRunsOn(size_t executor) const;

  // What a batch of `rows` rows of the version at `index` is run on by that executor: the canary,
  // for its share of the batches that ask for no version and fit it, else that version. The shares
  // are spread evenly, not drawn: a tenth is every tenth batch.
  const AnsweringVersion& Choose(size_t index, size_t executor, int64_t rows);

  bool IsLive(const ModelVersion& version) const { return serving_.live.get() == &version; }
  // What the versions do meanwhile, where there is a canary; else null.
  const std::shared_ptr<CanaryTrial>& trial() const { return serving_.trial; }

  // Errors for requests of a version that is not there, and of more rows than fit.
  absl::Status Gone(int64_t wanted) const { return NoSuchVersion(wanted, serving_); }
  absl::Status TooLarge(size_t index) const;

 private:
  void Add(int64_t wanted, std::shared_ptr<const ModelVersion> version);
  // OK where a replica works.
  absl::Status Ask(AnsweringVersion* answering);
  int DeviceNumber(const std::string& name);

  Serving serving_;
  std::vector<AnsweringVersion> versions_;
  size_t executors_ = 0;
  // Where the canary is among the versions; 0: there is none that such requests may get.
  size_t canary_ = 0;
  double canary_credit_ = 0;
  std::vector<std::string> devices_;  // by number
};

}  // namespace sconce

#endif  // SCONCE_SERVER_BATCHING_ANSWERING_H_
