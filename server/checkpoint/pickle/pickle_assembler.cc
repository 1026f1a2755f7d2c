#include "server/checkpoint/pickle/pickle_assembler.h"

#include "absl/strings/str_cat.h"
#include "server/checkpoint/error_context.h"

namespace sconce {

absl::Status PickleAssembler::TooManyValues() const {
  return Refused("expected at most ", max_values_, " values, got more");
}

absl::Status PickleAssembler::ShortTuple(size_t size) {
  if (absl::Status need = stack_.Need(size, "TUPLE1 to TUPLE3"); !need.ok()) return need;
  const PickleId id = tree_.AddTuple(stack_.Last(size));
  stack_.Drop(size);
  return Push(id);
}

absl::Status PickleAssembler::Tuple() {
  if (absl::Status need = stack_.NeedMark("TUPLE"); !need.ok()) return need;
  const PickleId id = tree_.AddTuple(stack_.AboveMark());
  stack_.DropToMark();
  return Push(id);
}

absl::Status PickleAssembler::FrozenSet() {
  if (absl::Status need = stack_.NeedMark("FROZENSET"); !need.ok()) return need;
  const PickleId id = tree_.AddContainer(PickleKind::kSet);
  if (id == kNoPickle || !tree_.Append(id, stack_.AboveMark())) return TooManyValues();
  stack_.DropToMark();
  return Push(id);
}

// Objects of foreign classes may be filled like the list or dict they are derived from; what they
// would hold is of no use to us and is dropped. A tensor is never filled.
bool PickleAssembler::IsForeignObject(PickleId id) const {
  return tree_.kind(id) == PickleKind::kCall && !BuildsTensor(tree_, tree_.Callable(id));
}

std::string PickleAssembler::Describe(PickleId id) const {
  if (tree_.kind(id) != PickleKind::kCall) return PickleKindName(tree_.kind(id));
  return absl::StrCat("an object of ", tree_.TypeName(id));
}

absl::Status PickleAssembler::AppendTo(PickleId target, PickleKind kind,
                                       absl::Span<const PickleId> items, const char* opcode) {
  if (IsForeignObject(target)) return absl::OkStatus();
  if (tree_.kind(target) != kind) {
    return Refused("expected ", PickleKindName(kind), " as the target of ", opcode, ", got ",
                   Describe(target));
  }
  return tree_.Append(target, items) ? absl::OkStatus() : TooManyValues();
}

absl::Status PickleAssembler::Append() {
  if (absl::Status need = stack_.Need(2, "APPEND"); !need.ok()) return need;
  const PickleId item = stack_.Take();
  return AppendTo(stack_.Top(), PickleKind::kList, {&item, 1}, "APPEND");
}

absl::Status PickleAssembler::AppendMany(PickleKind kind, const char* opcode) {
  if (absl::Status need = stack_.NeedContainerBelowMark(opcode); !need.ok()) return need;
  absl::Status done = AppendTo(stack_.BelowMark(), kind, stack_.AboveMark(), opcode);
  stack_.DropToMark();
  return done;
}

absl::Status PickleAssembler::SetIn(PickleId target, absl::Span<const PickleId> keys_and_values,
                                    const char* opcode) {
  for (size_t i = 0; i < keys_and_values.size(); i += 2) {
    const PickleKind key = tree_.kind(keys_and_values[i]);
    if (key == PickleKind::kList || key == PickleKind::kDict) {
      return Refused("expected a hashable key for ", opcode, ", got ", PickleKindName(key));
    }
  }
  return AppendTo(target, PickleKind::kDict, keys_and_values, opcode);
}

absl::Status PickleAssembler::SetItem() {
  if (absl::Status need = stack_.Need(3, "SETITEM"); !need.ok()) return need;
  absl::Status done = SetIn(stack_.Last(3)[0], stack_.Last(2), "SETITEM");
  stack_.Drop(2);
  return done;
}

absl::Status PickleAssembler::SetItems() {
  if (absl::Status need = stack_.NeedContainerBelowMark("SETITEMS"); !need.ok()) return need;
  const absl::Span<const PickleId> items = stack_.AboveMark();
  if (items.size() % 2 != 0) {
    return Refused("expected pairs of key and value for SETITEMS, got an odd number of values, ",
                   items.size());
  }
  absl::Status done = SetIn(stack_.BelowMark(), items, "SETITEMS");
  stack_.DropToMark();
  return done;
}

absl::Status PickleAssembler::Reduce() {
  if (absl::Status need = stack_.Need(2, "REDUCE"); !need.ok()) return need;
  const PickleId arguments = stack_.Take();
  return PushCall(stack_.Take(), arguments, "REDUCE");
}

absl::Status PickleAssembler::NewObject(bool has_keywords) {
  const char* opcode = has_keywords ? "NEWOBJ_EX" : "NEWOBJ";
  if (absl::Status need = stack_.Need(has_keywords ? 3 : 2, opcode); !need.ok()) return need;
  if (has_keywords && tree_.kind(stack_.Take()) != PickleKind::kDict) {
    return Refused("expected a dict of keyword arguments for NEWOBJ_EX, got something else");
  }
  const PickleId arguments = stack_.Take();
  return PushCall(stack_.Take(), arguments, opcode);
}

// A class and its arguments, down to the mark.
absl::Status PickleAssembler::ObjectAboveMark() {
  if (absl::Status need = stack_.NeedMark("OBJ"); !need.ok()) return need;
  const absl::Span<const PickleId> items = stack_.AboveMark();
  if (items.empty()) return Refused("expected a class above the MARK for OBJ, got none");
  const PickleId callable = items[0];
  const PickleId arguments = tree_.AddTuple(items.subspan(1));
  if (arguments == kNoPickle) return TooManyValues();
  stack_.DropToMark();
  return PushCall(callable, arguments, "OBJ");
}

// The standard dicts become dicts here, so that what follows can fill them; everything else is
// only written down.
absl::Status PickleAssembler::PushCall(PickleId callable, PickleId arguments, const char* opcode) {
  const PickleKind kind = tree_.kind(callable);
  if (kind != PickleKind::kGlobal && kind != PickleKind::kCall) {
    return Refused("expected a class or function for ", opcode, ", got ", PickleKindName(kind));
  }
  if (tree_.kind(arguments) != PickleKind::kTuple) {
    return Refused("expected a tuple of arguments for ", opcode, ", got ",
                   PickleKindName(tree_.kind(arguments)));
  }
  const bool is_ordered_dict = tree_.IsGlobal(callable, "collections", "OrderedDict");
  if (!is_ordered_dict && !tree_.IsGlobal(callable, "collections", "defaultdict")) {
    return Push(tree_.AddCall(callable, arguments));
  }
  const PickleId dict = tree_.AddContainer(PickleKind::kDict, /*has_attributes=*/true);
  if (dict == kNoPickle) return TooManyValues();
  if (is_ordered_dict) {
    absl::Status filled = FillFromPairs(dict, tree_.Items(arguments));
    if (!filled.ok()) return filled;
  }
  return Push(dict);
}

// Python 2 gave an OrderedDict its items as one argument, a list of lists of two.
absl::Status PickleAssembler::FillFromPairs(PickleId dict, absl::Span<const PickleId> arguments) {
  if (arguments.empty()) return absl::OkStatus();
  const auto is_sequence = [this](PickleId id) {
    return tree_.kind(id) == PickleKind::kList || tree_.kind(id) == PickleKind::kTuple;
  };
  if (arguments.size() != 1 || !is_sequence(arguments[0])) {
    return Refused("expected an OrderedDict to be made of nothing or of a list of pairs, got ",
                   arguments.size(), " arguments");
  }
  for (const PickleId pair : tree_.Items(arguments[0])) {
    if (!is_sequence(pair) || tree_.Items(pair).size() != 2) {
      return Refused("expected a pair of key and value in an OrderedDict, got ",
                     PickleKindName(tree_.kind(pair)));
    }
    if (absl::Status set = SetIn(dict, tree_.Items(pair), "OrderedDict"); !set.ok()) return set;
  }
  return absl::OkStatus();
}

absl::Status PickleAssembler::Build() {
  if (absl::Status need = stack_.Need(2, "BUILD"); !need.ok()) return need;
  const PickleId state = stack_.Take();
  const PickleId target = stack_.Top();
  const bool has_attributes = tree_.kind(target) == PickleKind::kDict ? tree_.HasAttributes(target)
                                                                      : IsForeignObject(target);
  if (!has_attributes) {
    return Refused("expected an object or an OrderedDict as the target of BUILD, got ",
                   Describe(target));
  }
  tree_.SetState(target, state);
  return absl::OkStatus();
}

absl::Status PickleAssembler::Persistent() {
  if (absl::Status need = stack_.Need(1, "BINPERSID"); !need.ok()) return need;
  const PickleId id = stack_.Take();
  const PickleId module_class = ModuleClass(id);
  return Push(module_class != kNoPickle ? module_class : tree_.AddPersistent(id));
}

// Before PyTorch 1.6 a module's class came with its source, as ('module', class, file, source)
// or, in the very first versions, (class, file, source). What is meant is the class.
PickleId PickleAssembler::ModuleClass(PickleId id) const {
  if (tree_.kind(id) != PickleKind::kTuple) return kNoPickle;
  absl::Span<const PickleId> items = tree_.Items(id);
  if (items.size() == 4 && tree_.AsString(items[0]) == "module") items.remove_prefix(1);
  if (items.size() != 3 || tree_.kind(items[0]) != PickleKind::kGlobal) return kNoPickle;
  return items[0];
}

}  // namespace sconce
