#include "server/device/execution/batch_graphs.h"

#include <ATen/ops/zeros.h>
#include <c10/util/Exception.h>

#include <utility>

#include "server/device/execution/batch_buckets.h"

namespace sconce {
namespace {

std::vector<at::Tensor> FirstRows(const std::vector<at::Tensor>& tensors, int64_t rows) {
  std::vector<at::Tensor> first;
  for (const at::Tensor& tensor : tensors) first.push_back(tensor.narrow(0, 0, rows));
  return first;
}

}  // namespace

absl::StatusOr<std::unique_ptr<BatchGraphs>> BatchGraphs::Capture(
    const Accelerator& accelerator, c10::Device device, ForwardPass& forward,
    const std::vector<Shape>& inputs, const std::vector<Shape>& outputs) {
  std::unique_ptr<BatchGraphs> batches(new BatchGraphs(forward, inputs));
  for (size_t i = 0; i < inputs.size(); ++i) {
    at::Tensor input = forward.NewInput(i, inputs[i].sizes, inputs[i].type);
    batches->inputs_.push_back(input.fill_(forward.FillerOf(i)));
  }
  for (const Shape& output : outputs) {
    batches->outputs_.push_back(
        at::zeros(output.sizes, at::TensorOptions().dtype(output.type).device(device)));
  }
  batches->buckets_ = BatchBuckets(inputs.at(0).sizes.at(0), forward.least_rows());
  batches->graphs_.resize(batches->buckets_.size());
  // The largest first: the others find their memory in its.
  const Accelerator::Graph* largest = nullptr;
  for (size_t i = batches->buckets_.size(); i-- > 0;) {
    const int64_t rows = batches->buckets_[i];
    const std::vector<at::Tensor> from = FirstRows(batches->inputs_, rows);
    const std::vector<at::Tensor> to = FirstRows(batches->outputs_, rows);
    auto graph = accelerator.Capture(
        device,
        [&] {
          const std::vector<at::Tensor> computed = forward.Run(from);
          TORCH_CHECK(computed.size() == to.size(), "expected ", to.size(), " outputs, got ",
                      computed.size());
          for (size_t k = 0; k < to.size(); ++k) {
            TORCH_CHECK(computed[k].sizes() == to[k].sizes(), "expected an output of ",
                        to[k].sizes(), ", got ", computed[k].sizes());
            to[k].copy_(computed[k], /*non_blocking=*/true);
          }
        },
        largest);
    if (!graph.ok()) return graph.status();
    batches->graphs_[i] = *std::move(graph);
    if (largest == nullptr) largest = batches->graphs_[i].get();
  }
  return batches;
}

bool BatchGraphs::Fit(const std::vector<at::Tensor>& sent) const {
  if (sent.size() != sent_.size()) return false;
  for (size_t i = 0; i < sent.size(); ++i) {
    const std::vector<int64_t>& most = sent_[i].sizes;
    if (sent[i].scalar_type() != sent_[i].type ||
        sent[i].dim() != static_cast<int64_t>(most.size()) || sent[i].size(0) < 1 ||
        sent[i].size(0) > most[0] || sent[i].size(0) != sent[0].size(0) ||
        sent[i].sizes().slice(1) != at::IntArrayRef(most).slice(1)) {
      return false;
    }
  }
  return true;
}

std::vector<at::Tensor> BatchGraphs::Replay(const std::vector<at::Tensor>& sent) {
  const int64_t rows = sent[0].size(0);
  const int bucket = BucketFor(buckets_, rows);
  const int64_t padding = buckets_[bucket] - rows;
  for (size_t i = 0; i < sent.size(); ++i) {
    at::Tensor own = inputs_[i].narrow(0, 0, rows);
    forward_.PrepareInto(i, sent[i], own);
    // What was there before may be no numbers, which slows some devices and alarms whoever looks.
    if (padding > 0) inputs_[i].narrow(0, rows, padding).fill_(forward_.FillerOf(i));
  }
  graphs_[bucket]->Replay();
  std::vector<at::Tensor> outputs;
  for (const at::Tensor& output : outputs_) {
    // The next batch may be replayed before these are copied to the host.
    outputs.push_back(output.narrow(0, 0, rows).clone());
  }
  return outputs;
}

int64_t BatchGraphs::size_bytes() const {
  int64_t bytes = 0;
  for (const at::Tensor& tensor : inputs_) bytes += static_cast<int64_t>(tensor.nbytes());
  for (const at::Tensor& tensor : outputs_) bytes += static_cast<int64_t>(tensor.nbytes());
  for (const auto& graph : graphs_) bytes += graph->size_bytes();
  return bytes;
}

}  // namespace sconce
