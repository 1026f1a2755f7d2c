#include "tests/support/simdevice/memory.h"

#include <c10/core/Allocator.h>
#include <c10/util/Exception.h>
#include <c10/util/StringUtil.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <limits>
#include <map>
#include <memory>
#include <vector>

#include "server/base/mutex.h"
#include "tests/support/simdevice/arena.h"
#include "tests/support/simdevice/simdevice.h"
#include "tests/support/simdevice/streams.h"

namespace sconce::simdevice {
namespace {

constexpr int64_t kUnlimited = std::numeric_limits<int64_t>::max();
// What a device without a limit says of its size.
constexpr int64_t kDefaultLimit = int64_t{16} << 30;
constexpr int kPinned = -1;

// Where memory comes from: a device, or the pinned memory of the host.
struct Pool {
  std::unique_ptr<Arena> arena;
  int64_t limit = kUnlimited;
  int64_t fails_in = 0;  // 0: never
  int64_t out_of_memory = 0;
  int64_t foreign_bytes = 0;  // of other processes
  int64_t emptied = 0;        // calls of emptyCache
  c10::CachingAllocator::Stat bytes;
  c10::CachingAllocator::Stat blocks;
};

struct Block;

// What outlives the memory of graphs: blocks whose tensors are still there find out that it is
// gone.
struct GraphBlocks {
  int graphs = 0;
  int64_t bytes = 0;
  std::vector<Block*> unused;
};

struct Block {
  int pool;
  int64_t offset;
  int64_t bytes;
  std::vector<c10::Stream> users;      // a device's block: the first is the one it was allocated on
  std::shared_ptr<GraphBlocks> graph;  // of the graph it was allocated for; null: none
  bool foreign = false;
  std::atomic<int> pending{0};  // users that have yet to come past the free
};

// Never destroyed: streams' threads give memory back until the process is gone.
struct Memory {
  Mutex mutex;
  std::array<Pool, kMaxDevices> devices;
  Pool pinned;
  std::map<const void*, Block*> pinned_blocks;  // by their first byte
};
Memory& memory = *new Memory;

// Of the graph that the thread records.
thread_local std::shared_ptr<GraphBlocks> graph_blocks;

Pool& PoolOf(int pool) { return pool == kPinned ? memory.pinned : memory.devices[pool]; }

[[noreturn]] void ThrowOutOfMemory(int pool, int64_t bytes, int64_t limit, int64_t used) {
  if (pool == kPinned) {
    // As CUDA: cudaErrorMemoryAllocation of cudaHostAlloc.
    throw c10::AcceleratorError({__func__, __FILE__, __LINE__}, 2, "sim error: out of memory");
  }
  TORCH_CHECK_WITH(OutOfMemoryError, false, "sim out of memory. Tried to allocate ", bytes,
                   " bytes. Device ", pool, " has a total capacity of ", limit, " bytes of which ",
                   std::max<int64_t>(limit - used, 0), " are free.");
}

// A block of the graph that no tensor uses, not much larger than need be; null if there is none.
Block* TakeUnused(GraphBlocks* graph, int pool, int64_t bytes) {
  auto best = graph->unused.end();
  for (auto it = graph->unused.begin(); it != graph->unused.end(); ++it) {
    const Block& block = **it;
    if (block.pool != pool || block.bytes < bytes || block.bytes / 2 > bytes) continue;
    if (best == graph->unused.end() || block.bytes < (*best)->bytes) best = it;
  }
  if (best == graph->unused.end()) return nullptr;
  Block* const block = *best;
  graph->unused.erase(best);
  return block;
}

// Null for 0 bytes. `users`: as in Block.
Block* Allocate(int pool_index, size_t size, std::vector<c10::Stream> users) {
  if (size == 0) return nullptr;
  const bool too_large = size > static_cast<size_t>(Arena::kBytes);
  const int64_t bytes =
      too_large ? kUnlimited
                : (static_cast<int64_t>(size) + Arena::kGrain - 1) / Arena::kGrain * Arena::kGrain;
  MutexLock lock(&memory.mutex);
  Pool& pool = PoolOf(pool_index);
  const bool fails = pool.fails_in > 0 && --pool.fails_in == 0;
  GraphBlocks* const graph = pool_index == kPinned ? nullptr : graph_blocks.get();
  if (!fails && graph != nullptr) {
    if (Block* const block = TakeUnused(graph, pool_index, bytes)) return block;
  }
  int64_t offset = -1;
  if (!fails && !too_large && pool.bytes.current + pool.foreign_bytes <= pool.limit - bytes) {
    offset = pool.arena->Allocate(bytes);
  }
  if (offset < 0) {
    ++pool.out_of_memory;
    ThrowOutOfMemory(pool_index, static_cast<int64_t>(size), std::min(pool.limit, kDefaultLimit),
                     pool.bytes.current + pool.foreign_bytes);
  }
  pool.bytes.increase(bytes);
  pool.blocks.increase(1);
  auto* block = new Block{pool_index, offset, bytes, std::move(users), nullptr};
  if (graph != nullptr) {
    block->graph = graph_blocks;
    graph->bytes += bytes;
  }
  if (pool_index == kPinned) memory.pinned_blocks[pool.arena->user() + offset] = block;
  return block;
}

std::byte* UserPointer(const Block* block) {
  return block == nullptr ? nullptr : PoolOf(block->pool).arena->user() + block->offset;
}

void GiveBack(Block* block) {
  Pool& pool = PoolOf(block->pool);
  std::memset(pool.arena->kernel() + block->offset, Arena::kPoison, block->bytes);
  MutexLock lock(&memory.mutex);
  pool.arena->Free(block->offset, block->bytes);
  delete block;
}

// As CUDA's allocator, so that what a thread takes can be told apart.
void ReportToProfiler(const Block* block, int sign) {
  if (block == nullptr || block->pool == kPinned || !c10::memoryProfilingEnabled()) return;
  int64_t total = 0;
  {
    MutexLock lock(&memory.mutex);
    total = memory.devices[block->pool].bytes.current;
  }
  c10::reportMemoryUsageToProfiler(UserPointer(block), sign * block->bytes, total, total,
                                   Device(block->pool));
}

void FreeBlock(void* context) {
  auto* block = static_cast<Block*>(context);
  if (block == nullptr) return;
  if (!block->foreign) ReportToProfiler(block, -1);
  {
    MutexLock lock(&memory.mutex);
    if (block->graph != nullptr && block->graph->graphs > 0) {
      block->graph->unused.push_back(block);
      return;
    }
    Pool& pool = PoolOf(block->pool);
    if (block->foreign) {
      pool.foreign_bytes -= block->bytes;
    } else {
      pool.bytes.decrease(block->bytes);
      pool.blocks.decrease(1);
    }
    if (block->pool == kPinned) memory.pinned_blocks.erase(UserPointer(block));
  }
  const std::vector<c10::Stream> users = block->users;
  if (users.empty()) {
    GiveBack(block);
    return;
  }
  block->pending = static_cast<int>(users.size());
  for (const c10::Stream user : users) {
    EnqueueAlways(user, [block] {
      if (--block->pending == 0) GiveBack(block);
    });
  }
}

// REQUIRES: the block has not been freed, which the caller's hold on it sees to.
void AddUser(Block* block, c10::Stream stream) {
  MutexLock lock(&memory.mutex);
  if (std::find(block->users.begin(), block->users.end(), stream) == block->users.end()) {
    block->users.push_back(stream);
  }
}

class Graph final : public GraphMemory {
 public:
  explicit Graph(std::shared_ptr<GraphBlocks> blocks) : blocks_(std::move(blocks)) {
    MutexLock lock(&memory.mutex);
    ++blocks_->graphs;
    bytes_before_ = blocks_->bytes;
  }
  ~Graph() override {
    std::vector<Block*> unused;
    {
      MutexLock lock(&memory.mutex);
      if (--blocks_->graphs == 0) unused.swap(blocks_->unused);
    }
    for (Block* const block : unused) FreeBlock(block);
  }

  void End() {
    MutexLock lock(&memory.mutex);
    bytes_ = blocks_->bytes - bytes_before_;
  }

  const std::shared_ptr<GraphBlocks>& blocks() const { return blocks_; }
  int64_t size_bytes() const override { return bytes_; }

 private:
  const std::shared_ptr<GraphBlocks> blocks_;
  int64_t bytes_before_ = 0;
  int64_t bytes_ = 0;
};

class DeviceMemory final : public c10::DeviceAllocator {
 public:
  c10::DataPtr allocate(size_t size) override {
    const c10::DeviceIndex device = CurrentDevice();
    ThrowIfBroken(device);
    Block* block = Allocate(device, size, {CurrentStream(device)});
    ReportToProfiler(block, 1);
    return {UserPointer(block), block, &FreeBlock, Device(device)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return nullptr; }
  void copy_data(void* to, const void* from, size_t bytes) const override {
    const c10::Stream stream = CurrentStream(DeviceOfPointer(to).index());
    Enqueue(stream, WorkKind::kCopy, [to = KernelView(to), from = KernelView(from), bytes] {
      std::memcpy(to, from, bytes);
    });
  }

  bool initialized() override { return true; }
  void emptyCache(c10::MempoolId_t) override {
    // Of every device, as CUDA's.
    MutexLock lock(&memory.mutex);
    for (Pool& pool : memory.devices) ++pool.emptied;
  }
  void recordStream(const c10::DataPtr& data, c10::Stream stream) override {
    if (data.get_deleter() != &FreeBlock || data.get_context() == nullptr) return;
    AddUser(static_cast<Block*>(data.get_context()), stream);
  }
  c10::CachingDeviceAllocator::DeviceStats getDeviceStats(c10::DeviceIndex device) override {
    constexpr auto kAll = static_cast<size_t>(c10::CachingAllocator::StatType::AGGREGATE);
    MutexLock lock(&memory.mutex);
    const Pool& pool = memory.devices[device];
    c10::CachingDeviceAllocator::DeviceStats stats;
    stats.allocation[kAll] = stats.active[kAll] = pool.blocks;
    stats.allocated_bytes[kAll] = stats.active_bytes[kAll] = pool.bytes;
    stats.reserved_bytes[kAll] = stats.requested_bytes[kAll] = pool.bytes;
    stats.num_ooms = pool.out_of_memory;
    return stats;
  }
  void resetAccumulatedStats(c10::DeviceIndex device) override {
    MutexLock lock(&memory.mutex);
    memory.devices[device].bytes.reset_accumulated();
    memory.devices[device].blocks.reset_accumulated();
  }
  void resetPeakStats(c10::DeviceIndex device) override {
    MutexLock lock(&memory.mutex);
    memory.devices[device].bytes.reset_peak();
    memory.devices[device].blocks.reset_peak();
  }
  std::pair<size_t, size_t> getMemoryInfo(c10::DeviceIndex device) override {
    MutexLock lock(&memory.mutex);
    const Pool& pool = memory.devices[device];
    const int64_t total = std::min(pool.limit, kDefaultLimit);
    return {std::max<int64_t>(total - pool.foreign_bytes - pool.bytes.current, 0), total};
  }
};

class PinnedMemory final : public at::HostAllocator {
 public:
  c10::DataPtr allocate(size_t size) override {
    Block* block = Allocate(kPinned, size, {});
    return {UserPointer(block), block, &FreeBlock, c10::Device(c10::kCPU)};
  }
  void copy_data(void* to, const void* from, size_t bytes) const override {
    default_copy_data(to, from, bytes);
  }
  // As CUDA's: memory is known by its context or by its first byte, not by a byte within.
  bool record_event(void* pointer, void* context, c10::Stream stream) override {
    Block* block = nullptr;
    {
      MutexLock lock(&memory.mutex);
      for (const auto& [first, candidate] : memory.pinned_blocks) {
        if (candidate == context || first == pointer) block = candidate;
      }
    }
    if (block == nullptr) return false;
    AddUser(block, stream);
    return true;
  }
  void empty_cache() override {}
  at::HostStats get_stats() override { return {}; }
  void reset_accumulated_stats() override {}
  void reset_peak_stats() override {}
};

}  // namespace

void StartMemory(int devices) {
  for (int i = 0; i < devices; ++i) memory.devices[i].arena = std::make_unique<Arena>(true);
  memory.pinned.arena = std::make_unique<Arena>(false);
}

c10::DeviceAllocator* DeviceMemoryAllocator() {
  static auto* const allocator = new DeviceMemory;
  return allocator;
}

at::HostAllocator* PinnedMemoryAllocator() {
  static auto* const allocator = new PinnedMemory;
  return allocator;
}

std::unique_ptr<GraphMemory> BeginGraphMemory(const GraphMemory* beside) {
  graph_blocks = beside == nullptr ? std::make_shared<GraphBlocks>()
                                   : static_cast<const Graph*>(beside)->blocks();
  return std::make_unique<Graph>(graph_blocks);
}

void EndGraphMemory(GraphMemory* graph) {
  static_cast<Graph*>(graph)->End();
  graph_blocks = nullptr;
}

c10::DataPtr AllocateForeign(c10::Device device, size_t bytes) {
  Block* const block = Allocate(device.index(), bytes, {});
  MutexLock lock(&memory.mutex);
  Pool& pool = memory.devices[device.index()];
  pool.bytes.decrease(block->bytes);
  pool.blocks.decrease(1);
  pool.foreign_bytes += block->bytes;
  block->foreign = true;
  return {UserPointer(block), block, &FreeBlock, device};
}

std::byte* KernelView(const void* device_pointer) {
  if (device_pointer == nullptr) return nullptr;
  const Arena& arena = *memory.devices[DeviceOfPointer(device_pointer).index()].arena;
  return arena.kernel() + (static_cast<const std::byte*>(device_pointer) - arena.user());
}

c10::Device DeviceOfPointer(const void* pointer) {
  for (int i = 0; i < DeviceCount(); ++i) {
    if (memory.devices[i].arena->Contains(pointer)) return Device(i);
  }
  TORCH_CHECK(false, "the pointer is not memory of a simulated device");
}

bool IsPinned(const void* pointer) {
  MutexLock lock(&memory.mutex);
  const auto after = memory.pinned_blocks.upper_bound(pointer);
  if (after == memory.pinned_blocks.begin()) return false;
  const auto& [first, block] = *std::prev(after);
  return static_cast<const std::byte*>(pointer) <
         static_cast<const std::byte*>(first) + block->bytes;
}

void LimitMemory(c10::Device device, int64_t bytes) {
  MutexLock lock(&memory.mutex);
  memory.devices[device.index()].limit = bytes;
}

void LimitPinnedMemory(int64_t bytes) {
  MutexLock lock(&memory.mutex);
  memory.pinned.limit = bytes;
}

void FailAllocation(c10::Device device, int64_t n) {
  MutexLock lock(&memory.mutex);
  memory.devices[device.index()].fails_in = n;
}

void FailPinnedAllocation(int64_t n) {
  MutexLock lock(&memory.mutex);
  memory.pinned.fails_in = n;
}

Statistics StatisticsOf(c10::Device device) {
  const WorkCount work = CountWork(device.index());
  MutexLock lock(&memory.mutex);
  const Pool& pool = memory.devices[device.index()];
  Statistics statistics;
  statistics.live_bytes = pool.bytes.current;
  statistics.peak_bytes = pool.bytes.peak;
  statistics.allocations = pool.blocks.allocated;
  statistics.emptied_caches = pool.emptied;
  statistics.kernels = work.kernels;
  statistics.copies = work.copies;
  return statistics;
}

int64_t PinnedAllocations() {
  MutexLock lock(&memory.mutex);
  return memory.pinned.blocks.allocated;
}

int64_t PinnedBytes() {
  MutexLock lock(&memory.mutex);
  return memory.pinned.bytes.current;
}

void ResetMemory() {
  MutexLock lock(&memory.mutex);
  memory.pinned.limit = kUnlimited;
  memory.pinned.fails_in = 0;
  for (Pool& pool : memory.devices) {
    pool.limit = kUnlimited;
    pool.fails_in = 0;
  }
}

}  // namespace sconce::simdevice
