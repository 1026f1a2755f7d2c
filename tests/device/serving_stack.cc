#include "tests/device/serving_stack.h"

#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/checkpoint/safetensors/safetensors_writer.h"
#include "tests/support/simdevice/simdevice.h"
#include "tests/support/simdevice/streams.h"

namespace sconce {
namespace {

constexpr int64_t kInputs = 4, kHidden = 8, kOutputs = 4;

// A row of `value` four times becomes 32 * number * value + j in place j, exactly.
float Expected(int64_t number, float value, int64_t j) {
  return static_cast<float>(kInputs * kHidden * number) * value + static_cast<float>(j);
}

absl::Status WriteWeights(int64_t number, const std::string& path) {
  const std::vector<SafetensorsWriter::Tensor> tensors = {
      {"0.weight", DType::kFloat32, {kHidden, kInputs}},
      {"0.bias", DType::kFloat32, {kHidden}},
      {"2.weight", DType::kFloat32, {kOutputs, kHidden}},
      {"2.bias", DType::kFloat32, {kOutputs}}};
  const std::vector<std::vector<float>> values = {
      std::vector<float>(kHidden * kInputs, 1),
      std::vector<float>(kHidden, 0),
      std::vector<float>(kOutputs * kHidden, static_cast<float>(number)),
      {0, 1, 2, 3}};
  auto writer = SafetensorsWriter::Create(path, tensors, {});
  if (!writer.ok()) return writer.status();
  for (const size_t i : writer->order()) {
    const absl::Status written = writer->Append(
        {reinterpret_cast<const std::byte*>(values[i].data()), values[i].size() * sizeof(float)});
    if (!written.ok()) return written;
  }
  return writer->Commit();
}

ServingStack::Answer Judge(const absl::StatusOr<InferResponse>& response,
                           const std::vector<float>& values) {
  ServingStack::Answer answer;
  answer.status = response.status();
  if (!response.ok()) return answer;
  answer.version = response->version->number;
  const absl::Span<std::byte> bytes = response->outputs[0].bytes;
  if (bytes.size() != values.size() * kOutputs * sizeof(float)) {
    answer.wrong = absl::StrCat(bytes.size(), " bytes for ", values.size(), " rows");
    return answer;
  }
  for (size_t row = 0; row < values.size(); ++row) {
    for (int64_t j = 0; j < kOutputs; ++j) {
      float got = 0;
      std::memcpy(&got, bytes.data() + (row * kOutputs + j) * sizeof(float), sizeof got);
      const float expected = Expected(answer.version, values[row], j);
      if (got != expected) {
        answer.wrong = absl::StrCat("version ", answer.version, ", row ", row, ": expected ",
                                    expected, ", got ", got);
      }
    }
  }
  return answer;
}

}  // namespace

std::vector<int64_t> MemoryInUse() {
  std::vector<int64_t> bytes;
  for (int i = 0; i < simdevice::DeviceCount(); ++i) {
    bytes.push_back(simdevice::StatisticsOf(simdevice::Device(i)).live_bytes);
  }
  bytes.push_back(simdevice::PinnedBytes());
  return bytes;
}

bool WaitUntil(const std::function<bool()>& condition) {
  const TimePoint deadline = Clock::Real()->Now() + std::chrono::minutes(1);
  while (!condition()) {
    if (Clock::Real()->Now() > deadline) return false;
    std::this_thread::sleep_for(std::chrono::microseconds(100));
  }
  return true;
}

ServingStack::ServingStack(std::vector<c10::Device> devices, ModelConfig config)
    : config_(std::move(config)), loader_(std::move(devices), CheckpointOptions{}, &health_) {
  registry_.AddObserver(&batchers_);
  health_.SetObserver([this](const std::string&, const std::string&) { batchers_.CheckHealth(); });
}

ServingStack::~ServingStack() { Clear(); }

absl::Status ServingStack::Load(int64_t number, bool publish) {
  steps_.clear();
  LoadRequest request;
  request.model = "m";
  request.weights_path = folder_.Path("model.safetensors");
  request.golden_paths = golden_;
  request.config = config_;
  request.number = number;
  const std::shared_ptr<Model> model = registry_.Add("m");
  request.live = model->Pin();
  request.gate = &batchers_;
  request.release_retained = [this](Retained) { return ReleaseRetained(); };
  request.retire_live = [this, model](const std::string& reason) {
    MutexLock lock(&mutex_);
    retired_because_ = reason;
    registry_.Retire(model);
  };
  request.on_step = [this](VersionState step, Duration) { steps_.push_back(step); };
  if (absl::Status written = WriteWeights(number, request.weights_path); !written.ok()) {
    return written;
  }
  auto loaded = loader_.Load(request);
  if (!loaded.ok()) return loaded.status();
  ++owned_;
  std::shared_ptr<const ModelVersion> version = reaper_.Own(std::move(loaded->version));
  if (!publish) return absl::OkStatus();
  registry_.Publish(model, std::move(version));
  if (loaded->in_place != nullptr) {
    loaded->in_place->Commit();
  } else if (request.live != nullptr && config_.retained_versions > 0) {
    retained_.push_back(std::move(request.live));
    if (static_cast<int32_t>(retained_.size()) > config_.retained_versions) retained_.pop_front();
  }
  return absl::OkStatus();
}

bool ServingStack::ReleaseRetained() {
  if (retained_.empty()) return false;
  retained_.pop_front();
  ++released_;
  return reaper_.AwaitDropped(std::chrono::seconds(10));
}

void ServingStack::RollBack() {
  registry_.Publish(registry_.Find("m"), std::move(retained_.back()));
  retained_.pop_back();
}

std::string ServingStack::retired_because() const {
  MutexLock lock(&mutex_);
  return retired_because_;
}

bool ServingStack::AwaitOneVersion() {
  return WaitUntil([this] { return reaper_.reaped() == owned_ - 1; });
}

void ServingStack::Clear() {
  retained_.clear();
  registry_.Remove("m");
  WaitUntil([this] { return reaper_.reaped() == owned_; });
}

std::future<ServingStack::Answer> ServingStack::Ask(std::vector<float> values) {
  auto promise = std::make_shared<std::promise<Answer>>();
  std::future<Answer> future = promise->get_future();
  const auto rows = static_cast<int64_t>(values.size());
  auto wire = std::make_shared<std::vector<float>>();
  for (const float value : values) wire->insert(wire->end(), kInputs, value);

  InferRequest request;
  request.checked_against = registry_.Find("m")->Pin();
  const Signature& signature = request.checked_against->signature;
  request.declared = {{signature.inputs[0].name, "FP32", {rows, kInputs}}};
  request.bytes = {
      {{{reinterpret_cast<const std::byte*>(wire->data()), wire->size() * sizeof(float)}}}};
  request.wire = wire;
  auto checked = CheckInputs("m", signature, config_.max_batch_size, request.declared);
  if (!checked.ok()) {
    promise->set_value({checked.status(), 0, ""});
    return future;
  }
  request.checked = *std::move(checked);
  request.arrival = Clock::Real()->Now();
  request.done = [promise, values = std::move(values)](absl::StatusOr<InferResponse> response) {
    promise->set_value(Judge(response, values));
  };
  batchers_.Find("m")->Submit(std::move(request));
  return future;
}

Clients::Clients(ServingStack* stack, int count) : stack_(stack) {
  for (int i = 0; i < count; ++i) threads_.emplace_back([this, i] { Run(i); });
}

void Clients::Run(int client) {
  int64_t last = 0;
  for (int turn = client; !stop_; ++turn) {
    std::vector<float> values;
    for (int row = 0; row <= turn % 4; ++row) {
      values.push_back(static_cast<float>(client * 100 + (turn * 4 + row) % 100));
    }
    const ServingStack::Answer answer = stack_->Ask(std::move(values)).get();
    ++answers_;
    std::string problem = answer.wrong;
    if (!answer.status.ok()) problem = answer.status.ToString();
    if (problem.empty() && answer.version < last) problem = "an older version after a newer one";
    if (!problem.empty()) {
      MutexLock lock(&mutex_);
      problems_.push_back(std::move(problem));
      continue;
    }
    last = answer.version;
    int64_t seen = newest_;
    while (seen < last && !newest_.compare_exchange_weak(seen, last)) {
    }
  }
}

bool Clients::AwaitVersion(int64_t version) const {
  return WaitUntil([&] { return newest_ >= version; });
}

void Clients::Stop() {
  stop_ = true;
  for (std::thread& thread : threads_) thread.join();
  threads_.clear();
}

std::vector<std::string> Clients::Problems() const {
  MutexLock lock(&mutex_);
  return problems_;
}

}  // namespace sconce
