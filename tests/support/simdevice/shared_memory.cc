#include "tests/support/simdevice/shared_memory.h"

#include <c10/util/Exception.h>

#include <cstring>
#include <map>
#include <utility>

#include "server/base/mutex.h"
#include "tests/support/simdevice/memory.h"
#include "tests/support/simdevice/simdevice.h"

namespace sconce::simdevice {
namespace {

constexpr size_t kHandleBytes = 64;  // CUDA_IPC_HANDLE_SIZE

struct Shares {
  Mutex mutex;
  int64_t made = 0;
  std::map<std::string, SharedMemory> by_handle;
};
Shares& shares = *new Shares;

// Where the host finds the bytes [offset, offset + bytes).
std::byte* HostView(const std::string& handle, int64_t offset, int64_t bytes) {
  const auto shared = FindShared(handle);
  TORCH_CHECK(shared != nullptr, "simdevice: there is no such shared memory");
  TORCH_CHECK(offset >= 0 && bytes >= 0 && offset <= shared->size_bytes - bytes,
              "simdevice: the shared memory has ", shared->size_bytes, " bytes");
  return KernelView(shared->address.get()) + offset;
}

}  // namespace

std::unique_ptr<SharedMemory> FindShared(const std::string& handle) {
  MutexLock lock(&shares.mutex);
  const auto found = shares.by_handle.find(handle);
  if (found == shares.by_handle.end()) return nullptr;
  return std::make_unique<SharedMemory>(found->second);
}

std::string Share(c10::Device device, int64_t bytes) {
  TORCH_CHECK(bytes > 0, "simdevice: expected at least 1 byte to share, got ", bytes);
  auto memory = std::make_shared<c10::DataPtr>(AllocateForeign(device, static_cast<size_t>(bytes)));
  MutexLock lock(&shares.mutex);
  std::string handle = "simdevice shared memory " + std::to_string(++shares.made);
  handle.resize(kHandleBytes, '\0');
  shares.by_handle.emplace(
      handle, SharedMemory{device, bytes, std::shared_ptr<void>(memory, memory->get())});
  return handle;
}

void Unshare(const std::string& handle) {
  SharedMemory last{c10::Device(c10::kCPU), 0, nullptr};  // freed without the lock
  MutexLock lock(&shares.mutex);
  const auto found = shares.by_handle.find(handle);
  TORCH_CHECK(found != shares.by_handle.end(), "simdevice: there is no such shared memory");
  last = std::move(found->second);
  shares.by_handle.erase(found);
}

void WriteShared(const std::string& handle, int64_t offset, const std::string& bytes) {
  const auto size = static_cast<int64_t>(bytes.size());
  std::memcpy(HostView(handle, offset, size), bytes.data(), bytes.size());
}

std::string ReadShared(const std::string& handle, int64_t offset, int64_t bytes) {
  return std::string(reinterpret_cast<const char*>(HostView(handle, offset, bytes)),
                     static_cast<size_t>(bytes));
}

}  // namespace sconce::simdevice
