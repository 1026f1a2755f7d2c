#include "server/checkpoint/pytorch/metadata_text.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/types/span.h"
#include "server/base/dtype.h"
#include "server/base/printable.h"
#include "server/checkpoint/pytorch/module_tree.h"
#include "server/checkpoint/pytorch/numpy_text.h"
#include "server/checkpoint/pytorch/pickled_storages.h"
#include "server/checkpoint/tensor_bounds.h"

namespace sconce {
namespace {

constexpr size_t kMaxEntries = 512;
constexpr size_t kMaxQueued = 8 * kMaxEntries;
constexpr int kMaxTextDepth = 16;
constexpr size_t kMaxPathChars = 256;
constexpr size_t kMaxKeyChars = 80;
constexpr size_t kMaxShownItems = 8;
constexpr int kMaxShownDepth = 2;
constexpr size_t kMaxWalkedItems = 64;  // of a sequence
constexpr int kMaxWraps = 8;

using Items = absl::Span<const PickleId>;

// In hexadecimal: of two's complement bytes, the lowest first.
std::string DescribeBigInt(std::string_view bytes) {
  constexpr size_t kMaxBytes = 64;
  if (bytes.size() > kMaxBytes) return absl::StrCat("an int of ", bytes.size(), " bytes");
  const bool is_negative = (static_cast<uint8_t>(bytes.back()) & 0x80) != 0;
  uint32_t carry = is_negative ? 1 : 0;
  std::vector<uint32_t> magnitude;
  for (const char c : bytes) {
    const uint32_t byte =
        (is_negative ? ~static_cast<uint32_t>(c) & 0xFF : static_cast<uint8_t>(c)) + carry;
    carry = byte >> 8;
    magnitude.push_back(byte & 0xFF);
  }
  while (magnitude.size() > 1 && magnitude.back() == 0) magnitude.pop_back();
  std::string digits = absl::StrCat(is_negative ? "-0x" : "0x", absl::Hex(magnitude.back()));
  for (size_t i = magnitude.size() - 1; i-- > 0;) {
    absl::StrAppend(&digits, absl::Hex(magnitude[i], absl::kZeroPad2));
  }
  return digits;
}

std::optional<std::string> DescribeScalar(const PickleTree& tree, PickleId id) {
  switch (tree.kind(id)) {
    case PickleKind::kNone:
      return "None";
    case PickleKind::kBool:
      return tree.Bool(id) ? "True" : "False";
    case PickleKind::kInt:
      return absl::StrCat(tree.Int(id));
    case PickleKind::kBigInt:
      return DescribeBigInt(tree.Text(id));
    case PickleKind::kFloat:
      return DescribeFloat(tree.Float(id));
    case PickleKind::kString:
      return Printable(tree.Text(id));
    case PickleKind::kBytes:
      return absl::StrCat(tree.Text(id).size(), " bytes");
    case PickleKind::kGlobal:
      return tree.TypeName(id);
    default:
      return std::nullopt;
  }
}

bool IsSequence(PickleKind kind) {
  return kind == PickleKind::kTuple || kind == PickleKind::kList || kind == PickleKind::kSet;
}

std::optional<std::string> DescribeShortSequence(const PickleTree& tree, PickleId id, int depth);

// The items in brackets if they are few, and all of them scalars or short sequences.
std::optional<std::string> DescribeItems(const PickleTree& tree, Items items,
                                         const std::string& open, const char* close, int depth) {
  if (items.size() > kMaxShownItems) return std::nullopt;
  std::vector<std::string> texts;
  for (const PickleId item : items) {
    std::optional<std::string> text = DescribeScalar(tree, item);
    if (!text.has_value()) text = DescribeShortSequence(tree, item, depth + 1);
    if (!text.has_value()) return std::nullopt;
    if (tree.kind(item) == PickleKind::kString) text = absl::StrCat("'", *text, "'");
    texts.push_back(*std::move(text));
  }
  return absl::StrCat(open, absl::StrJoin(texts, ", "), close);
}

std::optional<std::string> DescribeShortSequence(const PickleTree& tree, PickleId id, int depth) {
  if (!IsSequence(tree.kind(id)) || depth > kMaxShownDepth) return std::nullopt;
  const Items items = tree.Items(id);
  switch (tree.kind(id)) {
    case PickleKind::kTuple:
      return DescribeItems(tree, items, "(", items.size() == 1 ? ",)" : ")", depth);
    case PickleKind::kList:
      return DescribeItems(tree, items, "[", "]", depth);
    default:
      return DescribeItems(tree, items, "{", "}", depth);
  }
}

std::optional<std::string> DescribeSequence(const PickleTree& tree, PickleId id) {
  if (auto shown = DescribeShortSequence(tree, id, 0); shown.has_value()) return shown;
  const Items items = tree.Items(id);
  if (items.size() <= kMaxShownItems) return std::nullopt;
  // A long one of scalars alone.
  for (const PickleId item : items.first(std::min(items.size(), kMaxWalkedItems))) {
    if (!DescribeScalar(tree, item).has_value()) return std::nullopt;
  }
  return absl::StrCat(tree.TypeName(id), " of ", items.size(), " items, the first ",
                      *DescribeScalar(tree, items[0]));
}

// torch.Size((..),), or the tuple itself.
std::optional<std::string> DescribeShape(const PickleTree& tree, PickleId id) {
  if (tree.kind(id) == PickleKind::kCall && tree.Items(tree.Arguments(id)).size() == 1) {
    id = tree.Items(tree.Arguments(id))[0];
  }
  if (tree.kind(id) != PickleKind::kTuple) return std::nullopt;
  const Items items = tree.Items(id);
  if (items.size() > kMaxTensorRank) return std::nullopt;
  std::vector<int64_t> sizes;
  for (const PickleId item : items) {
    if (tree.kind(item) != PickleKind::kInt) return std::nullopt;
    sizes.push_back(tree.Int(item));
  }
  return absl::StrCat("[", absl::StrJoin(sizes, ", "), "]");
}

// From the arguments alone; whether the tensor could be read does not matter here.
std::string DescribeTensor(const PickleTree& tree, PickleId id) {
  const std::string unknown = "tensor";
  PickleTree::Global function = tree.GlobalName(tree.Callable(id));
  Items arguments = tree.Items(tree.Arguments(id));
  for (int wraps = 0; wraps < kMaxWraps && !arguments.empty(); ++wraps) {
    if (function.name.starts_with("_rebuild_from_type") && arguments.size() == 4 &&
        tree.kind(arguments[0]) == PickleKind::kGlobal &&
        tree.kind(arguments[2]) == PickleKind::kTuple) {
      function = tree.GlobalName(arguments[0]);
      arguments = tree.Items(arguments[2]);
      continue;
    }
    const bool is_wrapper = function.name.starts_with("_rebuild_parameter") ||
                            function.name == "_rebuild_device_tensor_from_cpu_tensor";
    if (!is_wrapper) break;
    const PickleId data = arguments[0];
    if (tree.kind(data) != PickleKind::kCall || !BuildsTensor(tree, tree.Callable(data))) {
      return unknown;
    }
    function = tree.GlobalName(tree.Callable(data));
    arguments = tree.Items(tree.Arguments(data));
  }
  if (function.name == "_rebuild_sparse_tensor") return "sparse tensor";
  if (function.name == "_rebuild_meta_tensor_no_storage") return "tensor without data";
  const bool has_view =
      function.name.starts_with("_rebuild_tensor") || function.name == "_rebuild_qtensor";
  if (!has_view || arguments.size() < 4) return unknown;
  const std::optional<std::string> shape = DescribeShape(tree, arguments[2]);
  if (!shape.has_value()) return unknown;
  std::string dtype;
  if (function.name == "_rebuild_tensor_v3" && arguments.size() > 6 &&
      tree.kind(arguments[6]) == PickleKind::kGlobal) {
    dtype = absl::StrCat(Printable(tree.GlobalName(arguments[6]).name), " ");
  } else if (const auto storage = ParseStorageReference(tree, arguments[0]);
             storage.ok() && storage->type.has_value()) {
    dtype = absl::StrCat(std::string(DTypeName(*storage->type)), " ");
  }
  return absl::StrCat(dtype, "tensor of shape ", *shape);
}

bool IsTensorCall(const PickleTree& tree, PickleId id) {
  return tree.kind(id) == PickleKind::kCall && BuildsTensor(tree, tree.Callable(id));
}

class MetadataWalk {
 public:
  MetadataWalk(const PickleTree& tree, PickleId weights, std::vector<MetadataEntry>& metadata)
      : tree_(tree), weights_(weights), metadata_(metadata), seen_(tree.size()) {}

  void Run(PickleId root) {
    seen_[root] = true;
    AddDict("", root, 0);
    while (!queue_.empty() && metadata_.size() < kMaxEntries) {
      const Pending next = std::move(queue_.front());
      queue_.pop_front();
      Visit(next);
    }
  }

 private:
  struct Pending {
    std::string path;
    PickleId value;
    int depth;
  };

  void Enqueue(std::string path, PickleId value, int depth) {
    if (value == weights_ || depth > kMaxTextDepth || queue_.size() >= kMaxQueued ||
        path.size() > kMaxPathChars) {
      return;
    }
    queue_.push_back({std::move(path), value, depth});
  }

  void Visit(const Pending& next) {
    const PickleId value = next.value;
    if (std::optional<std::string> text = DescribeValue(tree_, value); text.has_value()) {
      metadata_.push_back({next.path, *std::move(text)});
      return;
    }
    if (seen_[value]) return;
    seen_[value] = true;
    const PickleKind kind = tree_.kind(value);
    if (kind == PickleKind::kDict && IsLargeTensorDict(value)) {
      const size_t count = tree_.KeysAndValues(value).size() / 2;
      metadata_.push_back({next.path, absl::StrCat("dict of ", count, " tensors")});
      return;
    }
    if (kind == PickleKind::kDict) {
      AddDict(next.path, value, next.depth);
      if (tree_.KeysAndValues(value).empty()) metadata_.push_back({next.path, "{}"});
      return;
    }
    if (IsSequence(kind)) {
      const Items items = tree_.Items(value);
      for (size_t i = 0; i < std::min(items.size(), kMaxWalkedItems); ++i) {
        Enqueue(absl::StrCat(next.path, "[", i, "]"), items[i], next.depth + 1);
      }
      return;
    }
    if (kind != PickleKind::kCall) return;
    if (IsModule(tree_, value)) {
      metadata_.push_back({next.path, absl::StrCat("model of ", tree_.TypeName(value))});
      return;
    }
    metadata_.push_back({next.path, absl::StrCat("object of ", tree_.TypeName(value))});
    const PickleId state = tree_.State(value);
    if (state != kNoPickle && tree_.kind(state) == PickleKind::kDict && !seen_[state]) {
      seen_[state] = true;
      AddDict(next.path, state, next.depth);
    }
  }

  // Such as the weights' averages, of which one by one nothing is to be said.
  bool IsLargeTensorDict(PickleId dict) const {
    const Items items = tree_.KeysAndValues(dict);
    if (items.size() / 2 <= kMaxShownItems) return false;
    for (size_t i = 1; i < items.size(); i += 2) {
      if (!IsTensorCall(tree_, items[i])) return false;
    }
    return true;
  }

  void AddDict(const std::string& path, PickleId dict, int depth) {
    if (depth >= kMaxTextDepth) return;
    const Items items = tree_.KeysAndValues(dict);
    for (size_t i = 0; i + 1 < items.size() && queue_.size() < kMaxQueued; i += 2) {
      Enqueue(Join(path, items[i]), items[i + 1], depth + 1);
    }
  }

  std::string Join(const std::string& path, PickleId key) const {
    const std::optional<std::string_view> name = tree_.AsString(key);
    if (!name.has_value()) {
      const bool is_scalar = DescribeScalar(tree_, key).has_value();
      return absl::StrCat(
          path, "[",
          is_scalar ? *DescribeScalar(tree_, key) : absl::StrCat("a ", tree_.TypeName(key)), "]");
    }
    if (path.empty()) return Printable(*name);
    const std::string_view start = name->substr(0, kMaxKeyChars);
    const bool is_plain = std::all_of(start.begin(), start.end(), [](char c) {
      return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
             c == '_' || c == '-';
    });
    if (is_plain && !name->empty()) {
      return absl::StrCat(path, ".", Printable(*name, kMaxKeyChars));
    }
    return absl::StrCat(path, "['", Printable(*name, kMaxKeyChars), "']");
  }

  const PickleTree& tree_;
  const PickleId weights_;
  std::vector<MetadataEntry>& metadata_;
  std::vector<bool> seen_;
  std::deque<Pending> queue_;
};

}  // namespace

std::optional<std::string> DescribeValue(const PickleTree& tree, PickleId id) {
  if (const auto scalar = DescribeScalar(tree, id); scalar.has_value()) return scalar;
  if (IsSequence(tree.kind(id))) return DescribeSequence(tree, id);
  if (tree.kind(id) == PickleKind::kPersistent) return "storage";
  if (tree.kind(id) != PickleKind::kCall) return std::nullopt;
  if (IsTensorCall(tree, id)) return DescribeTensor(tree, id);
  if (auto numpy = DescribeNumpy(tree, id); numpy.has_value()) return numpy;
  if (tree.State(id) != kNoPickle) return std::nullopt;
  const Items arguments = tree.Items(tree.Arguments(id));
  // TorchScript's lists and dicts come with their type.
  if (tree.kind(tree.Callable(id)) == PickleKind::kGlobal && !arguments.empty() &&
      tree.GlobalName(tree.Callable(id)).module == "torch.jit._pickle" &&
      IsSequence(tree.kind(arguments[0]))) {
    return DescribeSequence(tree, arguments[0]);
  }
  return DescribeItems(tree, arguments, absl::StrCat(tree.TypeName(id), "("), ")", 0);
}

void ListMetadata(const PickleTree& tree, PickleId root, PickleId weights,
                  std::vector<MetadataEntry>& metadata) {
  MetadataWalk(tree, weights, metadata).Run(root);
}

}  // namespace sconce
