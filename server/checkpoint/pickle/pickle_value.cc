#include "server/checkpoint/pickle/pickle_value.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "server/base/printable.h"

namespace sconce {

const char* PickleKindName(PickleKind kind) {
  switch (kind) {
    case PickleKind::kNone:
      return "None";
    case PickleKind::kBool:
      return "a bool";
    case PickleKind::kInt:
      return "an int";
    case PickleKind::kBigInt:
      return "an int of more than 64 bits";
    case PickleKind::kFloat:
      return "a float";
    case PickleKind::kString:
      return "a string";
    case PickleKind::kBytes:
      return "bytes";
    case PickleKind::kGlobal:
      return "a class or function";
    case PickleKind::kTuple:
      return "a tuple";
    case PickleKind::kList:
      return "a list";
    case PickleKind::kSet:
      return "a set";
    case PickleKind::kDict:
      return "a dict";
    case PickleKind::kCall:
      return "an object";
    case PickleKind::kPersistent:
      return "a storage";
  }
  return "something";
}

PickleTree::PickleTree(std::string stream, size_t max_values)
    : stream_(std::make_unique<const std::string>(std::move(stream))), max_values_(max_values) {}

std::string_view PickleTree::Text(PickleId id) const {
  const Value& value = values_[id];
  return stream().substr(value.a, value.pair.b);
}

PickleTree::Global PickleTree::GlobalName(PickleId id) const { return globals_[values_[id].a]; }

absl::Span<const PickleId> PickleTree::ContainerItems(const Value& value) const {
  if (value.a == kNoPickle) return {};
  return container_items_[value.a];
}

absl::Span<const PickleId> PickleTree::Items(PickleId id) const {
  const Value& value = values_[id];
  if (value.kind != PickleKind::kTuple) return ContainerItems(value);
  return absl::MakeConstSpan(tuple_items_).subspan(value.a, value.pair.b);
}

absl::Span<const PickleId> PickleTree::KeysAndValues(PickleId id) const {
  return ContainerItems(values_[id]);
}

bool PickleTree::IsGlobal(PickleId id, std::string_view module, std::string_view name) const {
  if (kind(id) != PickleKind::kGlobal) return false;
  const Global global = GlobalName(id);
  return global.module == module && global.name == name;
}

std::optional<std::string_view> PickleTree::AsString(PickleId id) const {
  if (kind(id) != PickleKind::kString) return std::nullopt;
  return Text(id);
}

PickleId PickleTree::Lookup(PickleId dict, std::string_view key) const {
  PickleId found = kNoPickle;
  if (kind(dict) != PickleKind::kDict) return found;
  const absl::Span<const PickleId> items = KeysAndValues(dict);
  for (size_t i = 0; i + 1 < items.size(); i += 2) {
    if (AsString(items[i]) == key) found = items[i + 1];
  }
  return found;
}

std::string PickleTree::TypeName(PickleId id) const {
  switch (kind(id)) {
    case PickleKind::kNone:
      return "None";
    case PickleKind::kBool:
      return "bool";
    case PickleKind::kInt:
    case PickleKind::kBigInt:
      return "int";
    case PickleKind::kFloat:
      return "float";
    case PickleKind::kString:
      return "str";
    case PickleKind::kBytes:
      return "bytes";
    case PickleKind::kTuple:
      return "tuple";
    case PickleKind::kList:
      return "list";
    case PickleKind::kSet:
      return "set";
    case PickleKind::kDict:
      return "dict";
    case PickleKind::kPersistent:
      return "storage";
    case PickleKind::kGlobal: {
      const Global global = GlobalName(id);
      return Printable(absl::StrCat(std::string(global.module), ".", std::string(global.name)));
    }
    case PickleKind::kCall:
      // A callable may itself be the result of a call; one level says enough.
      return kind(Callable(id)) == PickleKind::kGlobal ? TypeName(Callable(id)) : "object";
  }
  return "object";
}

PickleId PickleTree::Add(Value value) {
  if (used_values_ >= max_values_) return kNoPickle;
  ++used_values_;
  values_.push_back(value);
  return static_cast<PickleId>(values_.size() - 1);
}

PickleId PickleTree::AddNone() {
  if (none_ == kNoPickle) none_ = Add({.kind = PickleKind::kNone, .a = 0, .integer = 0});
  return none_;
}

PickleId PickleTree::AddBool(bool value) {
  PickleId& shared = value ? true_ : false_;
  if (shared == kNoPickle) shared = Add({.kind = PickleKind::kBool, .a = value, .integer = 0});
  return shared;
}

PickleId PickleTree::AddInt(int64_t value) {
  return Add({.kind = PickleKind::kInt, .a = 0, .integer = value});
}

PickleId PickleTree::AddFloat(double value) {
  return Add({.kind = PickleKind::kFloat, .a = 0, .real = value});
}

PickleId PickleTree::AddText(PickleKind kind, std::string_view text) {
  return Add({.kind = kind,
              .a = static_cast<uint32_t>(text.data() - stream().data()),
              .pair = {.b = static_cast<uint32_t>(text.size()), .c = 0}});
}

PickleId PickleTree::AddGlobal(std::string_view module, std::string_view name) {
  globals_.push_back({module, name});
  return Add(
      {.kind = PickleKind::kGlobal, .a = static_cast<uint32_t>(globals_.size() - 1), .integer = 0});
}

PickleId PickleTree::AddTuple(absl::Span<const PickleId> items) {
  if (items.empty() && empty_tuple_ != kNoPickle) return empty_tuple_;
  if (items.size() > max_values_ - used_values_) return kNoPickle;
  used_values_ += items.size();
  const auto first = static_cast<uint32_t>(tuple_items_.size());
  tuple_items_.insert(tuple_items_.end(), items.begin(), items.end());
  const PickleId id = Add({.kind = PickleKind::kTuple,
                           .a = first,
                           .pair = {.b = static_cast<uint32_t>(items.size()), .c = 0}});
  if (items.empty()) empty_tuple_ = id;
  return id;
}

PickleId PickleTree::AddContainer(PickleKind kind, bool has_attributes) {
  return Add({.kind = kind, .a = kNoPickle, .pair = {.b = has_attributes, .c = kNoPickle}});
}

PickleId PickleTree::AddCall(PickleId callable, PickleId arguments) {
  return Add({.kind = PickleKind::kCall, .a = callable, .pair = {.b = arguments, .c = kNoPickle}});
}

PickleId PickleTree::AddPersistent(PickleId id) {
  return Add({.kind = PickleKind::kPersistent, .a = id, .integer = 0});
}

bool PickleTree::Append(PickleId container, absl::Span<const PickleId> items) {
  if (items.size() > max_values_ - used_values_) return false;
  used_values_ += items.size();
  Value& value = values_[container];
  if (items.empty()) return true;
  if (value.a == kNoPickle) {
    value.a = static_cast<uint32_t>(container_items_.size());
    container_items_.emplace_back();
  }
  std::vector<PickleId>& all = container_items_[value.a];
  all.insert(all.end(), items.begin(), items.end());
  return true;
}

bool BuildsTensor(const PickleTree& tree, PickleId callable) {
  if (tree.kind(callable) != PickleKind::kGlobal) return false;
  const PickleTree::Global global = tree.GlobalName(callable);
  return (global.module == "torch._utils" || global.module == "torch._tensor" ||
          global.module == "torch.tensor") &&
         global.name.starts_with("_rebuild");
}

}  // namespace sconce
