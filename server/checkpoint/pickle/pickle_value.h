// PickleTree: what a pickle stream describes, as inert values that nothing can call.
//
// A value is an index into one array, and a container holds indices: shared and even cyclic values
// cost nothing, and destroying a tree of any depth is freeing a few arrays. Strings are views of
// the stream's bytes, which the tree owns. Whoever walks a tree must bound the walk, since a small
// stream can describe a graph with very many paths.
//
// Immutable once the machine (pickle_machine.h) has built it; then thread-safe.
#ifndef SCONCE_SERVER_CHECKPOINT_PICKLE_PICKLE_VALUE_H_
#define SCONCE_SERVER_CHECKPOINT_PICKLE_PICKLE_VALUE_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/types/span.h"

namespace sconce {

enum class PickleKind : uint8_t {
  kNone,
  kBool,
  kInt,     // fits 64 bits
  kBigInt,  // does not
  kFloat,
  kString,  // valid UTF-8, lone surrogates allowed as Python writes them
  kBytes,
  kGlobal,  // a name "module.attribute"; never looked up
  kTuple,
  kList,
  kSet,
  kDict,        // dict, OrderedDict, defaultdict
  kCall,        // callable(arguments), not called; `state` is what BUILD would have set
  kPersistent,  // a reference out of the stream: the storage of a tensor
};

// What kind of thing a value is, for messages: "a dict", "a tuple".
const char* PickleKindName(PickleKind kind);

using PickleId = uint32_t;
inline constexpr PickleId kNoPickle = 0xFFFFFFFF;

class PickleTree {
 public:
  struct Global {
    std::string_view module;
    std::string_view name;
  };

  // `stream` is what the strings of the tree will be views of; at most 4 GiB.
  // `max_values`: Add... fails beyond as many values and container items.
  PickleTree(std::string stream, size_t max_values);
  PickleTree(PickleTree&&) = default;
  PickleTree& operator=(PickleTree&&) = default;

  std::string_view stream() const { return *stream_; }
  PickleId root() const { return root_; }
  // The ids are 0 to size() - 1, in the order in which the stream made the values.
  size_t size() const { return values_.size(); }

  PickleKind kind(PickleId id) const { return values_[id].kind; }

  // Each accessor REQUIRES the kind it names.
  bool Bool(PickleId id) const { return values_[id].a != 0; }
  int64_t Int(PickleId id) const { return values_[id].integer; }
  double Float(PickleId id) const { return values_[id].real; }
  std::string_view Text(PickleId id) const;  // kString, kBytes, kBigInt (little-endian bytes)
  Global GlobalName(PickleId id) const;
  absl::Span<const PickleId> Items(PickleId id) const;  // kTuple, kList, kSet
  // kDict: key, value, key, value, ... as set, repeated keys included.
  absl::Span<const PickleId> KeysAndValues(PickleId id) const;
  PickleId Callable(PickleId id) const { return values_[id].a; }        // kCall
  PickleId Arguments(PickleId id) const { return values_[id].pair.b; }  // kCall; a tuple
  PickleId State(PickleId id) const { return values_[id].pair.c; }  // kCall, kDict; or kNoPickle
  // kDict: whether it was made by a class whose instances carry attributes, as OrderedDict's do.
  bool HasAttributes(PickleId id) const { return values_[id].pair.b != 0; }
  PickleId PersistentId(PickleId id) const { return values_[id].a; }

  // Conveniences that accept any kind.
  bool IsGlobal(PickleId id, std::string_view module, std::string_view name) const;
  std::optional<std::string_view> AsString(PickleId id) const;
  // The value of the dict's last entry with this key, kNoPickle if none.
  PickleId Lookup(PickleId dict, std::string_view key) const;
  // "int", "dict", "numpy.core.multiarray.scalar": fit to print.
  std::string TypeName(PickleId id) const;

  // For the machine. The Add functions return kNoPickle when max_values is reached.
  PickleId AddNone();
  PickleId AddBool(bool value);
  PickleId AddInt(int64_t value);
  PickleId AddFloat(double value);
  PickleId AddText(PickleKind kind, std::string_view text);            // a view of stream()
  PickleId AddGlobal(std::string_view module, std::string_view name);  // views of stream()
  PickleId AddTuple(absl::Span<const PickleId> items);
  PickleId AddContainer(PickleKind kind, bool has_attributes = false);  // kList, kSet, kDict
  PickleId AddCall(PickleId callable, PickleId arguments);
  PickleId AddPersistent(PickleId id);
  // Appends to a kList, kSet or kDict; false when max_values is reached.
  bool Append(PickleId container, absl::Span<const PickleId> items);
  void SetState(PickleId id, PickleId state) { values_[id].pair.c = state; }
  void SetRoot(PickleId id) { root_ = id; }

 private:
  struct Value {
    PickleKind kind;
    uint32_t a;  // kBool; first item; text offset; global index; callable; persistent id
    union {
      int64_t integer;
      double real;
      struct {
        uint32_t b;  // number of items, text size, arguments, has attributes
        uint32_t c;  // state
      } pair;
    };
  };

  PickleId Add(Value value);
  absl::Span<const PickleId> ContainerItems(const Value& value) const;

  // On the heap, so that views of it survive a move of the tree.
  std::unique_ptr<const std::string> stream_;
  size_t max_values_;
  size_t used_values_ = 0;
  std::vector<Value> values_;
  std::vector<Global> globals_;
  std::vector<PickleId> tuple_items_;
  std::vector<std::vector<PickleId>> container_items_;  // of containers that are not empty
  PickleId none_ = kNoPickle;
  PickleId false_ = kNoPickle;
  PickleId true_ = kNoPickle;
  PickleId empty_tuple_ = kNoPickle;
  PickleId root_ = kNoPickle;
};

// Whether the callable builds a tensor when Python unpickles: a _rebuild... function of torch.
bool BuildsTensor(const PickleTree& tree, PickleId callable);

}  // namespace sconce

#endif  // SCONCE_SERVER_CHECKPOINT_PICKLE_PICKLE_VALUE_H_
