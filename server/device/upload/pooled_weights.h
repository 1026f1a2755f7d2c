// Weights go from the files to the devices, of which the CPU is one, and only those that are not
// there already. The files are read once, in portions, however many devices there are; tensors that
// a device has (tensor_pool.h) are recognised as they are read and take no memory there. Casts to
// other types and layouts are the device's work. The host never holds more than a few portions of
// what goes to other devices.
//
// Each function is called by one thread at a time per device, which may be a background thread.
// Errors are those of the checkpoint (ABORTED: a file was changed meanwhile); INVALID_ARGUMENT for
// weights that are not finite and have to be, naming the tensor, the first such element and its
// value; RESOURCE_EXHAUSTED where a device's or the host's memory is too small, with what was
// needed and what was free; UNAVAILABLE where a device is lost, which `health` is told; else
// INTERNAL. After an error neither device nor page-locked memory is kept, and nothing is under way.

#ifndef SCONCE_SERVER_DEVICE_UPLOAD_POOLED_WEIGHTS_H_
#define SCONCE_SERVER_DEVICE_UPLOAD_POOLED_WEIGHTS_H_

#include <c10/core/Device.h>
#include <c10/core/Stream.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "models/net.h"
#include "server/checkpoint/checkpoint.h"
#include "server/device/device_health.h"
#include "server/device/upload/tensor_pool.h"
#include "server/device/upload/upload_plan.h"

namespace sconce {

struct WeightsTarget {
  c10::Device device;  // each once
  // For what is queued for the load, and nobody else's; none on the CPU.
  std::optional<c10::Stream> stream;
};

// The tensors of one version on one device. Others find them in the pool while this lives.
class ResidentWeights {
 public:
  virtual ~ResidentWeights() = default;

  virtual c10::Device device() const = 0;
  // Memory of the tensors that were not let go, tied ones once.
  virtual int64_t size_bytes() const = 0;
  // What of that was there before, another version's; at most, where tensors were let go.
  virtual int64_t shared_bytes() const = 0;
  // Makes the tensors of `net`, which is fresh from Architecture::Create, views of this memory.
  // Throws what LibTorch throws.
  virtual void AssignTo(models::Net& net) const = 0;
  // These tensors, by index in the network's State(), are not needed any more, since others were
  // made of them: their memory goes, unless it is also another tensor's or another version's. The
  // weights can be given to no network after that.
  virtual void LetGo(absl::Span<const size_t> own) const = 0;
};

struct WeightsOptions {
  TensorPool* pool = nullptr;      // not null
  DeviceHealth* health = nullptr;  // not null
  bool allow_non_finite = false;
};

// What the first accelerator among the targets read from the files by itself
// (Accelerator::DirectFile).
struct DirectReads {
  int64_t bytes = 0;
  std::string why_no_more;  // empty where nothing went wrong
};

struct LoadedWeights {
  std::string weights_id;                                        // as ReadStateDict gives it
  std::vector<std::shared_ptr<const ResidentWeights>> resident;  // by target
};

// Brings the weights to the targets. `direct`: null, or the first accelerator is to read by itself
// what it wants as it is in the file; it gives a copy back to the host.
// REQUIRES: `plan` was made for the nets that are to have the weights.
absl::StatusOr<LoadedWeights> LoadWeights(const Checkpoint& checkpoint, const UploadPlan& plan,
                                          absl::Span<const WeightsTarget> targets,
                                          const WeightsOptions& options,
                                          DirectReads* direct = nullptr);

// What LoadWeights would find: reads the files once and takes no memory. The weights have been
// found finite where they have to be.
class WeightsSurvey {
 public:
  virtual ~WeightsSurvey() = default;

  virtual const std::string& weights_id() const = 0;
  // Memory that the weights would take on that target beside what is there, by target.
  virtual int64_t new_bytes(size_t target) const = 0;
};
absl::StatusOr<std::unique_ptr<WeightsSurvey>> SurveyWeights(
    const Checkpoint& checkpoint, const UploadPlan& plan, absl::Span<const WeightsTarget> targets,
    const WeightsOptions& options);

// Weights that were written over others. Others find them in the pool once it is destroyed. What
// was written over has no tensors any more, so that AssignTo throws there, unless it is undone.
class Overwrite {
 public:
  virtual ~Overwrite() = default;

  // Those that are there now, by target.
  virtual const std::vector<std::shared_ptr<const ResidentWeights>>& resident() const = 0;
  // Brings the bytes from before back. FAILED_PRECONDITION where they were not kept, else what the
  // devices say.
  virtual absl::Status Undo() = 0;
};

// Writes what changed over the weights of a version that nobody runs meanwhile, `live` by target:
// its addresses stay what they are. The bytes from before are kept in the host's memory if they are
// no more than `keep_bytes`. Where it fails after the first byte was written, what was there is
// brought back, or `*destroyed` is set.
// FAILED_PRECONDITION, and nothing was written, where a tensor that changed is in use by another
// version too, or where `live` was loaded for another architecture, type or layout, or its tensors
// are tied in another way.
// REQUIRES: `survey` is of the same files, which have not changed since (ABORTED otherwise).
absl::StatusOr<std::unique_ptr<Overwrite>> OverwriteWeights(
    const Checkpoint& checkpoint, const UploadPlan& plan, absl::Span<const WeightsTarget> targets,
    absl::Span<const std::shared_ptr<const ResidentWeights>> live, const WeightsSurvey& survey,
    const WeightsOptions& options, int64_t keep_bytes, bool* destroyed);

}  // namespace sconce

#endif  // SCONCE_SERVER_DEVICE_UPLOAD_POOLED_WEIGHTS_H_
