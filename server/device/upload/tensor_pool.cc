#include "server/device/upload/tensor_pool.h"

#include <map>
#include <tuple>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "server/base/mutex.h"

namespace sconce {
namespace {

struct FormOrder {
  static auto Key(const TensorForm& form) {
    return std::tuple(form.device.type(), form.device.index(), form.dtype, std::tie(form.shape),
                      form.type, form.format);
  }

  bool operator()(const TensorForm& a, const TensorForm& b) const { return Key(a) < Key(b); }
};

// By the first chunk.
struct DigestOrder {
  bool operator()(const Digest128& a, const Digest128& b) const {
    return std::tie(a.hi, a.lo) < std::tie(b.hi, b.lo);
  }
};

}  // namespace

struct TensorPool::Index {
  using ByFirstChunk = std::multimap<Digest128, std::weak_ptr<PooledTensor>, DigestOrder>;

  mutable Mutex mutex;
  std::map<TensorForm, ByFirstChunk, FormOrder> forms ABSL_GUARDED_BY(mutex);
};

// All but the pointer to the index is the index's, under its lock.
class PooledTensor::Entry {
 public:
  std::shared_ptr<TensorPool::Index> index;
  std::map<TensorForm, TensorPool::Index::ByFirstChunk, FormOrder>::iterator form;
  TensorPool::Index::ByFirstChunk::iterator place;
  std::shared_ptr<const ChunkDigests> content;

  // REQUIRES: the index's lock is held.
  void Erase() ABSL_NO_THREAD_SAFETY_ANALYSIS {
    form->second.erase(place);
    if (form->second.empty()) index->forms.erase(form);
  }
};

PooledTensor::PooledTensor(TensorForm form, at::Tensor memory)
    : form_(std::move(form)), memory_(std::move(memory)) {}

PooledTensor::~PooledTensor() {
  if (entry_ == nullptr) return;
  MutexLock lock(&entry_->index->mutex);
  entry_->Erase();
}

TensorPool::TensorPool() : index_(std::make_shared<Index>()) {}
TensorPool::~TensorPool() = default;

bool TensorPool::HasAny(const TensorForm& form) const {
  MutexLock lock(&index_->mutex);
  return index_->forms.contains(form);
}

std::vector<TensorPool::Candidate> TensorPool::Find(const TensorForm& form,
                                                    const Digest128& first_chunk) const {
  std::vector<Candidate> candidates;
  MutexLock lock(&index_->mutex);
  const auto known = index_->forms.find(form);
  if (known == index_->forms.end()) return candidates;
  const auto [begin, end] = known->second.equal_range(first_chunk);
  for (auto i = begin; i != end; ++i) {
    // One whose last owner is just gone is about to leave.
    std::shared_ptr<PooledTensor> tensor = i->second.lock();
    if (tensor == nullptr) continue;
    std::shared_ptr<const ChunkDigests> content = tensor->entry_->content;
    candidates.push_back({std::move(tensor), std::move(content)});
  }
  return candidates;
}

void TensorPool::Add(const std::shared_ptr<PooledTensor>& tensor, ChunkDigests content) {
  auto entry = std::make_unique<PooledTensor::Entry>();
  entry->index = index_;
  entry->content = std::make_shared<const ChunkDigests>(std::move(content));
  MutexLock lock(&index_->mutex);
  entry->form = index_->forms.try_emplace(tensor->form()).first;
  entry->place = entry->form->second.emplace(entry->content->front(), tensor);
  tensor->entry_ = std::move(entry);
}

std::shared_ptr<const ChunkDigests> TensorPool::ContentOf(const PooledTensor& tensor) const {
  MutexLock lock(&index_->mutex);
  return tensor.entry_ == nullptr ? nullptr : tensor.entry_->content;
}

bool TensorPool::Withdraw(const std::shared_ptr<PooledTensor>& tensor) {
  std::unique_ptr<PooledTensor::Entry> gone;
  MutexLock lock(&index_->mutex);
  // Find gives further owners under this lock alone.
  if (tensor.use_count() > 1) return false;
  if (tensor->entry_ == nullptr) return true;
  tensor->entry_->Erase();
  gone = std::move(tensor->entry_);
  return true;
}

}  // namespace sconce
