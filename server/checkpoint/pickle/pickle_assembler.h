// PickleAssembler: the opcodes that make values out of those on the stack. What needs the stream
// itself, numbers and text and the memo, is the machine's (pickle_machine.cc), to which this is
// internal. Used by one thread at a time.
#ifndef SCONCE_SERVER_CHECKPOINT_PICKLE_PICKLE_ASSEMBLER_H_
#define SCONCE_SERVER_CHECKPOINT_PICKLE_PICKLE_ASSEMBLER_H_

#include <cstddef>
#include <string>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "server/checkpoint/pickle/pickle_stack.h"
#include "server/checkpoint/pickle/pickle_value.h"

namespace sconce {

class PickleAssembler {
 public:
  // Both outlive this. `max_values`: that of the tree, for messages.
  PickleAssembler(PickleTree& tree, PickleStack& stack, size_t max_values)
      : tree_(tree), stack_(stack), max_values_(max_values) {}

  // Pushes what one of the tree's Add functions returned.
  absl::Status Push(PickleId id) {
    if (id == kNoPickle) return TooManyValues();
    stack_.Push(id);
    return absl::OkStatus();
  }

  // ---- Containers.

  absl::Status ShortTuple(size_t size);
  absl::Status Tuple();
  absl::Status FrozenSet();
  absl::Status Append();
  absl::Status AppendMany(PickleKind kind, const char* opcode);
  absl::Status SetItem();
  absl::Status SetItems();

  // ---- Objects.

  absl::Status Reduce();
  absl::Status NewObject(bool has_keywords);
  absl::Status ObjectAboveMark();
  absl::Status Build();
  absl::Status Persistent();

 private:
  absl::Status TooManyValues() const;
  bool IsForeignObject(PickleId id) const;
  std::string Describe(PickleId id) const;
  absl::Status AppendTo(PickleId target, PickleKind kind, absl::Span<const PickleId> items,
                        const char* opcode);
  absl::Status SetIn(PickleId target, absl::Span<const PickleId> keys_and_values,
                     const char* opcode);
  absl::Status PushCall(PickleId callable, PickleId arguments, const char* opcode);
  absl::Status FillFromPairs(PickleId dict, absl::Span<const PickleId> arguments);
  PickleId ModuleClass(PickleId id) const;

  PickleTree& tree_;
  PickleStack& stack_;
  const size_t max_values_;
};

}  // namespace sconce

#endif  // SCONCE_SERVER_CHECKPOINT_PICKLE_PICKLE_ASSEMBLER_H_
