// The suite on simulated devices: that the tests themselves work, in every test run.
#include "tests/gpu/backend.h"
#include "tests/support/simdevice/accelerator.h"
#include "tests/support/simdevice/simdevice.h"

namespace sconce::gpu {
namespace {

class SimForeignMemory final : public ForeignMemory {
 public:
  SimForeignMemory(c10::Device device, int64_t size_bytes)
      : handle_(simdevice::Share(device, size_bytes)) {}
  ~SimForeignMemory() override { simdevice::Unshare(handle_); }

  const std::string& handle() const override { return handle_; }
  void Write(int64_t offset, const std::string& bytes) override {
    simdevice::WriteShared(handle_, offset, bytes);
  }
  std::string Read(int64_t offset, int64_t size_bytes) override {
    return simdevice::ReadShared(handle_, offset, size_bytes);
  }

 private:
  const std::string handle_;
};

}  // namespace

absl::StatusOr<std::vector<c10::Device>> StartDevices() {
  simdevice::Start(/*devices=*/2);
  simdevice::RegisterSimAccelerator();
  return std::vector<c10::Device>{simdevice::Device(0), simdevice::Device(1)};
}

bool IsSimulated() { return true; }

bool HasTf32(c10::Device) { return false; }

void Queue(c10::Stream stream, std::function<void()> body) {
  simdevice::Launch(stream, std::move(body));
}

void LimitMemory(c10::Device device, int64_t bytes) { simdevice::LimitMemory(device, bytes); }

std::unique_ptr<ForeignMemory> NewForeignMemory(c10::Device device, int64_t size_bytes) {
  return std::make_unique<SimForeignMemory>(device, size_bytes);
}

std::optional<int> RunAsOwner(int, char**) { return std::nullopt; }

void ResetDevices() { simdevice::Reset(); }

}  // namespace sconce::gpu
