#include "server/loader/warm_up.h"

#include <malloc.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "models/tied_sizes.h"
#include "server/base/clock.h"
#include "server/device/execution/batch_buckets.h"
#include "server/device/execution/math_mode.h"
#include "server/device/host_memory.h"
#include "server/registry/tensor_fill.h"

namespace sconce {
namespace {

// The longest that a batch may take to be run on the CPU for the sake of a warm-up: a start must
// not take minutes for it, and the next version of a network must be there soon.
constexpr Duration kCheapAtFirst = std::chrono::seconds(1);
constexpr Duration kCheapAgain = std::chrono::milliseconds(200);

// What runs tell: the tensors of the last batch, without their values.
struct Batch {
  std::vector<HostTensor> inputs;
  std::vector<HostTensor> outputs;
};

// The sizes of dimensions of -1 with which a network is tried.
enum class Extent { kSmall, kLarge };

// Larger ones are met by the first request that has them.
constexpr int64_t kLargestTried = 512;

// Where nothing bounds a size, no large one is tried: nobody has said that the network bears it.
int64_t SizeToTry(const TensorSpec& spec, int64_t native, size_t dimension, Extent extent) {
  if (spec.dims[dimension] != -1) return spec.dims[dimension];
  const models::Range sizes = spec.SizesOf(dimension);
  if (native != -1 && sizes.Has(native)) return native;
  const int64_t least = std::clamp<int64_t>(1, sizes.minimum, sizes.maximum);
  if (extent == Extent::kSmall || sizes.maximum == models::Range{}.maximum) return least;
  return std::min(sizes.maximum, std::max(least, kLargestTried));
}

// The inputs of `rows` rows, without memory.
std::vector<HostTensor> InputsOf(const Signature& signature, const Signature& native, int64_t rows,
                                 Extent extent) {
  std::vector<std::vector<int64_t>> sizes(signature.inputs.size());
  for (size_t i = 0; i < signature.inputs.size(); ++i) {
    const TensorSpec& spec = signature.inputs[i];
    for (size_t d = 0; d < spec.dims.size(); ++d) {
      sizes[i].push_back(SizeToTry(spec, native.inputs[i].dims[d], d, extent));
    }
  }
  models::TieSizes(signature.inputs, sizes);
  std::vector<HostTensor> inputs;
  for (size_t i = 0; i < signature.inputs.size(); ++i) {
    HostTensor& input = inputs.emplace_back();
    input.dtype = signature.inputs[i].dtype;
    if (signature.rows.batched) input.shape = {rows};
    input.shape.insert(input.shape.end(), sizes[i].begin(), sizes[i].end());
  }
  return inputs;
}

bool HasLargerSizes(const Signature& signature, const Signature& native) {
  for (size_t i = 0; i < signature.inputs.size(); ++i) {
    const TensorSpec& spec = signature.inputs[i];
    for (size_t d = 0; d < spec.dims.size(); ++d) {
      const int64_t size = native.inputs[i].dims[d];
      if (SizeToTry(spec, size, d, Extent::kSmall) != SizeToTry(spec, size, d, Extent::kLarge)) {
        return true;
      }
    }
  }
  return false;
}

bool HasOpenDimension(const Signature& signature) {
  for (const std::vector<TensorSpec>* specs : {&signature.inputs, &signature.outputs}) {
    for (const TensorSpec& spec : *specs) {
      if (std::count(spec.dims.begin(), spec.dims.end(), -1) > 0) return true;
    }
  }
  return false;
}

// Zeros for `inputs`, or what comes nearest to them, in staging memory.
absl::StatusOr<BatchInput> Zeros(Replica& replica, const Signature& signature,
                                 const std::vector<HostTensor>& inputs) {
  std::vector<int64_t> sizes;
  for (const HostTensor& input : inputs) {
    int64_t bytes = DTypeSize(input.dtype);
    for (const int64_t size : input.shape) bytes *= size;
    sizes.push_back(bytes);
  }
  auto staged = replica.Stage(sizes);
  if (!staged.ok()) return staged.status();
  for (size_t i = 0; i < staged->size(); ++i) {
    HostTensor& input = (*staged)[i];
    input.dtype = inputs[i].dtype;
    FillElements(input.dtype, models::FillerOf(signature.inputs[i].rules), input.bytes);
    input.shape = inputs[i].shape;
  }
  BatchInput batch;
  batch.inputs = *std::move(staged);
  return batch;
}

// `at_a_time` batches of `rows` rows under way, with one more being put together.
absl::StatusOr<Batch> RunZeros(Replica& replica, const Signature& signature,
                               const Signature& native, int64_t rows, Extent extent,
                               int at_a_time) {
  Batch batch;
  batch.inputs = InputsOf(signature, native, rows, extent);
  std::vector<BatchInput> staged;
  for (int i = 0; i <= at_a_time; ++i) {
    auto zeros = Zeros(replica, signature, batch.inputs);
    if (!zeros.ok()) return zeros.status();
    staged.push_back(*std::move(zeros));
  }
  std::vector<std::unique_ptr<RunningBatch>> running;
  for (int i = 0; i < at_a_time; ++i) {
    auto launched = replica.Launch(std::move(staged[i]));
    if (!launched.ok()) return launched.status();
    running.push_back(*std::move(launched));
  }
  for (const auto& each : running) {
    auto outputs = each->Finish();
    if (!outputs.ok()) return outputs.status();
    batch.outputs = *std::move(outputs);
  }
  const std::vector<int64_t> padded =
      batch.inputs.empty() ? std::vector<int64_t>() : OpenSizes(signature, batch.inputs[0].shape);
  if (absl::Status fits = CheckOutputs(signature, rows, batch.outputs, padded); !fits.ok()) {
    return absl::InvalidArgumentError(fits.message());
  }
  for (HostTensor& output : batch.outputs) {
    output.bytes = {};
    output.owner.reset();
  }
  return batch;
}

// What a failed run says of the load: a network that refuses its own signature will do so at every
// later try.
absl::Status LoadError(const absl::Status& error) {
  if (!absl::IsInternal(error)) return error;
  return absl::InvalidArgumentError(
      absl::StrCat("the network does not run: ", std::string(error.message())));
}

// As many as the replica holds, so that the memory for them is there.
absl::StatusOr<Batch> RunZeros(TorchReplica& replica, const Signature& signature,
                               const Signature& native, int64_t rows, Extent extent) {
  return RunZeros(replica, signature, native, rows, extent, replica.depth());
}

std::vector<int64_t> BucketsOf(const Signature& signature, int64_t most_rows) {
  if (!signature.rows.batched) return {1};
  return BatchBuckets(most_rows, signature.rows.rows.minimum);
}

absl::Status WarmUpCpu(TorchReplica& replica, const Signature& signature, const Signature& native,
                       int64_t max_batch_size, const CpuWarmUp& on_cpu) {
  std::vector<int64_t> sizes = BucketsOf(signature, max_batch_size);
  if (on_cpu.known && sizes.size() > 2) sizes = {sizes.front(), sizes.back()};
  const Duration most = on_cpu.known ? kCheapAgain : kCheapAtFirst;
  Duration for_a_row{};
  const auto run = [&](int64_t rows, Extent extent) {
    const TimePoint start = Clock::Real()->Now();
    const auto ran = RunZeros(replica, signature, native, rows, extent);
    for_a_row = (Clock::Real()->Now() - start) / rows;
    return ran.ok() ? absl::OkStatus() : LoadError(ran.status());
  };
  for (const int64_t rows : sizes) {
    if (rows > sizes.front()) {
      if (for_a_row * rows > most) break;
      if (on_cpu.between) on_cpu.between();
    }
    if (absl::Status ran = run(rows, Extent::kSmall); !ran.ok()) return ran;
  }
  // A network that was seen to bear its largest sizes does so again.
  if (!on_cpu.known && HasLargerSizes(signature, native)) {
    if (on_cpu.between) on_cpu.between();
    if (absl::Status ran = run(sizes.front(), Extent::kLarge); !ran.ok()) return ran;
  }
  // What the largest batches took would stay with the process until the next ones come.
  if (!on_cpu.known) (void)::malloc_trim(0);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::string> WarmUp(TorchReplica& replica, const Signature& signature,
                                   const Signature& native, int64_t max_batch_size,
                                   const CpuWarmUp& on_cpu) {
  if (replica.device() == "cpu") {
    absl::Status runs = WarmUpCpu(replica, signature, native, max_batch_size, on_cpu);
    if (!runs.ok()) return runs;
    return "";
  }
  const CudnnBenchmark benchmark;
  std::vector<std::string> notes;
  Batch largest;
  int64_t rows = 0;
  const std::vector<int64_t> buckets = BucketsOf(signature, max_batch_size);
  if (HasLargerSizes(signature, native)) {
    const auto small = RunZeros(replica, signature, native, buckets.front(), Extent::kSmall);
    if (!small.ok()) return LoadError(small.status());
  }
  for (const int64_t bucket : buckets) {
    auto batch = RunZeros(replica, signature, native, bucket, Extent::kLarge);
    if (absl::IsResourceExhausted(batch.status()) && rows > 0) {
      ReleaseCache(c10::Device(replica.device()));
      notes.push_back(absl::StrCat(replica.device(), " has memory for batches of ", rows,
                                   " rows, not of ", bucket));
      break;
    }
    if (!batch.ok()) return LoadError(batch.status());
    largest = *std::move(batch);
    rows = bucket;
  }
  replica.set_max_rows(rows);
  if (!signature.rows.batched) {
    replica.DropGraphs("it has no batch dimension");
  } else if (!HasOpenDimension(signature)) {
    absl::Status alive = replica.CaptureGraphs(largest.inputs, largest.outputs);
    if (!alive.ok()) return alive;
  }
  // A graph is brought to the device when it is first replayed. The largest batches fit without
  // graphs; what these keep may be too much beside them.
  for (const int64_t bucket : BucketsOf(signature, rows)) {
    if (!replica.eager_because().empty()) break;
    const auto replayed = RunZeros(replica, signature, native, bucket, Extent::kLarge);
    if (absl::IsResourceExhausted(replayed.status())) {
      replica.DropGraphs(
          absl::StrCat("their memory leaves too little for batches of ", bucket, " rows"));
    } else if (!replayed.ok()) {
      return LoadError(replayed.status());
    }
  }
  if (!replica.eager_because().empty()) {
    notes.push_back(
        absl::StrCat(replica.device(), " runs without graphs: ", replica.eager_because()));
  }
  return absl::StrJoin(notes, "; ");
}

absl::Status RunOneRow(Replica& replica, const Signature& signature, const Signature& native) {
  const int64_t rows = signature.rows.rows.minimum;
  return LoadError(RunZeros(replica, signature, native, rows, Extent::kSmall, 1).status());
}

}  // namespace sconce
