#include "tests/support/simdevice/accelerator.h"

#include <c10/core/StreamGuard.h>
#include <c10/util/Exception.h>

#include <array>
#include <atomic>
#include <cstring>
#include <exception>
#include <memory>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/base/file.h"
#include "server/device/accelerator.h"
#include "tests/support/simdevice/memory.h"
#include "tests/support/simdevice/shared_memory.h"
#include "tests/support/simdevice/simdevice.h"
#include "tests/support/simdevice/streams.h"

namespace sconce::simdevice {
namespace {

std::array<std::atomic<int64_t>, kMaxDevices> replays{};
std::array<std::atomic<int64_t>, kMaxDevices> direct_reads{};
std::atomic<int64_t> direct_reads_until_failure = 0;

std::string FirstLine(const char* what) {
  const std::string text(what);
  return text.substr(0, text.find('\n'));
}

class SimGraph final : public Accelerator::Graph {
 public:
  SimGraph(c10::Device device, std::unique_ptr<GraphMemory> memory, Recording recording)
      : device_(device), memory_(std::move(memory)), recording_(std::move(recording)) {}

  void Replay() override {
    const c10::Stream stream = CurrentStream(device_.index());
    for (const auto& [kind, body] : recording_.work) Enqueue(stream, kind, body);
    ++replays[device_.index()];
  }
  int64_t size_bytes() const override { return memory_->size_bytes(); }
  const GraphMemory* memory() const { return memory_.get(); }

 private:
  const c10::Device device_;
  const std::unique_ptr<GraphMemory> memory_;
  const Recording recording_;
};

class SimDirectFile final : public Accelerator::DirectFile {
 public:
  SimDirectFile(c10::Device device, const File* file) : device_(device), file_(file) {}

  absl::Status Read(int64_t offset, void* address, int64_t size_bytes) const override {
    ThrowIfBroken(device_.index());
    if (DeviceOfPointer(address) != device_) {
      return absl::InvalidArgumentError(absl::StrCat("expected memory of ", device_.str()));
    }
    ++direct_reads[device_.index()];
    // What a read that fails has written is not the file's.
    if (--direct_reads_until_failure == 0) {
      std::memset(KernelView(address), 0x5a, static_cast<size_t>(size_bytes));
      return absl::UnavailableError("sim error: the direct read failed");
    }
    return file_->ReadAt(offset, {KernelView(address), static_cast<size_t>(size_bytes)});
  }

 private:
  const c10::Device device_;
  const File* const file_;
};

class SimAccelerator final : public Accelerator {
 public:
  explicit SimAccelerator(bool graphs) : graphs_(graphs) {}

  int NumaNode(c10::Device) const override { return -1; }

  absl::StatusOr<std::unique_ptr<Graph>> Capture(c10::Device device,
                                                 const std::function<void()>& body,
                                                 const Graph* beside) const override {
    if (!graphs_) return absl::UnimplementedError("these devices have no graphs");
    std::unique_ptr<GraphMemory> memory = BeginGraphMemory(
        beside == nullptr ? nullptr : static_cast<const SimGraph*>(beside)->memory());
    absl::Status status;
    // A stream of its own, as LibTorch captures for CUDA.
    const c10::StreamGuard on_stream(StreamFromPool(device.index()));
    BeginRecording(on_stream.current_stream());
    try {
      body();
    } catch (const c10::OutOfMemoryError& e) {
      status = absl::ResourceExhaustedError(FirstLine(e.what()));
    } catch (const std::exception& e) {
      status = absl::InternalError(FirstLine(e.what()));
    }
    Recording recording = EndRecording();
    EndGraphMemory(memory.get());
    if (!status.ok()) return status;
    if (recording.spoiled) {
      return absl::InternalError(
          "sim error: operation failed due to a previous error during capture");
    }
    return std::make_unique<SimGraph>(device, std::move(memory), std::move(recording));
  }

  bool Normalise(const at::Tensor&, ImageLayout, const at::Tensor&, const at::Tensor&,
                 at::Tensor&) const override {
    return false;
  }

  absl::StatusOr<std::unique_ptr<DirectFile>> OpenDirect(c10::Device device,
                                                         const File& file) const override {
    return std::make_unique<SimDirectFile>(device, &file);
  }

  absl::StatusOr<DeviceBytes> OpenShared(c10::Device device, const std::string& handle,
                                         int64_t size_bytes) const override {
    const auto shared = FindShared(handle);
    if (shared == nullptr || shared->device != device) {
      return absl::InvalidArgumentError(
          absl::StrCat("the handle is of no memory of ", device.str()));
    }
    if (shared->size_bytes < size_bytes) {
      return absl::InvalidArgumentError(
          absl::StrCat("the memory has ", shared->size_bytes, " bytes, expected ", size_bytes));
    }
    return DeviceBytes{device.str(), shared->address, size_bytes};
  }

 private:
  const bool graphs_;
};

}  // namespace

void RegisterSimAccelerator(bool graphs) {
  static const SimAccelerator accelerator(graphs);
  RegisterAccelerator(c10::kPrivateUse1, &accelerator);
}

int64_t DirectReads(c10::Device device) { return direct_reads[device.index()]; }

void FailDirectRead(int64_t n) { direct_reads_until_failure = n; }

int64_t GraphReplays(c10::Device device) { return replays[device.index()]; }

}  // namespace sconce::simdevice
