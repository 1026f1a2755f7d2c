// The pickle machine alone: the input is one pickle.

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "server/checkpoint/pickle/pickle_machine.h"
#include "server/checkpoint/pickle/pickle_value.h"
#include "tests/fuzz/custom_mutator.h"
#include "tests/fuzz/exercise.h"
#include "tests/fuzz/mutators.h"

namespace sconce {
namespace {

// Every value that is reached leads to values of the tree, and has a name that can be printed.
void CheckTree(const PickleTree& tree) {
  std::vector<PickleId> todo = {tree.root()};
  std::vector<bool> seen;
  const auto visit = [&](PickleId id) {
    if (id >= seen.size()) seen.resize(id + 1);
    if (seen[id]) return;
    seen[id] = true;
    todo.push_back(id);
  };
  while (!todo.empty()) {
    const PickleId id = todo.back();
    todo.pop_back();
    Require(!tree.TypeName(id).empty(), "a value's type has a name");
    switch (tree.kind(id)) {
      case PickleKind::kTuple:
      case PickleKind::kList:
      case PickleKind::kSet:
        for (const PickleId item : tree.Items(id)) visit(item);
        break;
      case PickleKind::kDict:
        Require(tree.KeysAndValues(id).size() % 2 == 0, "a dict has as many values as keys");
        for (const PickleId item : tree.KeysAndValues(id)) visit(item);
        if (tree.State(id) != kNoPickle) visit(tree.State(id));
        break;
      case PickleKind::kCall:
        visit(tree.Callable(id));
        visit(tree.Arguments(id));
        if (tree.State(id) != kNoPickle) visit(tree.State(id));
        break;
      case PickleKind::kPersistent:
        visit(tree.PersistentId(id));
        break;
      case PickleKind::kString:
      case PickleKind::kBytes:
      case PickleKind::kBigInt:
        Require(tree.Text(id).size() <= tree.stream().size(), "a text is part of the stream");
        break;
      case PickleKind::kGlobal:
        Require(!tree.GlobalName(id).module.empty(), "a global has a module");
        break;
      default:
        break;
    }
  }
}

}  // namespace

void Mutate(std::string& input, Random& random) {
  random.OneIn(8) ? MutateBytes(input) : MutatePickle(input, random);
}

}  // namespace sconce

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  sconce::WithinMeans(size, [&] {
    const absl::StatusOr<sconce::PickleTree> tree =
        sconce::ParsePickle(std::string(reinterpret_cast<const char*>(data), size));
    tree.ok() ? sconce::CheckTree(*tree) : sconce::RequireGoodError(tree.status());
  });
  return 0;
}
