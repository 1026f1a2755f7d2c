// PickleStack: the values a pickle stream works on, and the marks set between them. What lies below
// the last mark is out of reach until the mark is gone, except for the container right below it.
#ifndef SCONCE_SERVER_CHECKPOINT_PICKLE_PICKLE_STACK_H_
#define SCONCE_SERVER_CHECKPOINT_PICKLE_PICKLE_STACK_H_

#include <cstddef>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "server/checkpoint/error_context.h"
#include "server/checkpoint/pickle/pickle_value.h"

namespace sconce {

class PickleStack {
 public:
  void Push(PickleId id) { values_.push_back(id); }
  void PushMark() { marks_.push_back(values_.size()); }

  size_t size() const { return values_.size(); }
  size_t marks() const { return marks_.size(); }

  // ---- Checks, named after the opcode that asks.

  absl::Status Need(size_t values, const char* opcode) const {
    const size_t available = values_.size() - (marks_.empty() ? 0 : marks_.back());
    if (available >= values) return absl::OkStatus();
    return Refused("expected ", values, " values on the stack for ", opcode, ", got ", available);
  }

  absl::Status NeedMark(const char* opcode) const {
    if (!marks_.empty()) return absl::OkStatus();
    return Refused("expected a MARK on the stack for ", opcode, ", got none");
  }

  absl::Status NeedContainerBelowMark(const char* opcode) const {
    if (absl::Status need = NeedMark(opcode); !need.ok()) return need;
    const size_t floor = marks_.size() > 1 ? marks_[marks_.size() - 2] : 0;
    if (marks_.back() > floor) return absl::OkStatus();
    return Refused("expected a container below the MARK for ", opcode, ", got none");
  }

  // ---- REQUIRES: the check that goes with it was OK.

  PickleId Top() const { return values_.back(); }
  PickleId Take() {
    const PickleId id = values_.back();
    values_.pop_back();
    return id;
  }
  absl::Span<const PickleId> Last(size_t count) const {
    return absl::MakeConstSpan(values_).last(count);
  }
  void Drop(size_t count) { values_.resize(values_.size() - count); }

  bool IsMarkOnTop() const { return !marks_.empty() && marks_.back() == values_.size(); }
  absl::Span<const PickleId> AboveMark() const {
    return absl::MakeConstSpan(values_).subspan(marks_.back());
  }
  PickleId BelowMark() const { return values_[marks_.back() - 1]; }
  void DropToMark() {
    values_.resize(marks_.back());
    marks_.pop_back();
  }

 private:
  std::vector<PickleId> values_;
  std::vector<size_t> marks_;  // how many values there were when the mark was set
};

}  // namespace sconce

#endif  // SCONCE_SERVER_CHECKPOINT_PICKLE_PICKLE_STACK_H_
