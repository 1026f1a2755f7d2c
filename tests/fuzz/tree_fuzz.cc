// The trees that name what an exported program takes and gives: the first byte is how many leaves
// there are, the rest the tree's text. The text is read as a program's JSON, too.

#include <cstddef>
#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include "server/base/utf8.h"
#include "server/program/pt2_json.h"
#include "server/program/pt2_tree.h"
#include "tests/fuzz/custom_mutator.h"
#include "tests/fuzz/exercise.h"
#include "tests/fuzz/mutators.h"

namespace sconce {
namespace {

// As ParseExportedGraph calls it for a named tuple that it knows, and for one that it does not.
std::vector<std::string> Fields(const std::string& type) {
  return type == "pair" ? std::vector<std::string>{"first", "second"} : std::vector<std::string>{};
}

void CheckNames(const std::string& text, size_t leaves) {
  const std::vector<std::string> names = LeafNames(text, leaves, "output", Fields);
  Require(names.size() == leaves, "each leaf has a name");
  std::set<std::string> known;
  for (const std::string& name : names) {
    Require(!name.empty() && IsUtf8(name), "a name is text", name);
    Require(known.insert(name).second, "a name is unique", name);
  }
}

// Whatever is asked of a value, it is given or said to be another.
template <typename Ask>
void Asked(const Json& value, Ask ask) {
  try {
    ask(value);
  } catch (const BadProgram& bad) {
    RequireGoodError(bad.status);
  }
}

void CheckValue(const Json& value) {
  Asked(value, [](const Json& v) { Text(v); });
  Asked(value, [](const Json& v) { Integer(v); });
  Asked(value, [](const Json& v) { Real(v); });
  Asked(value, [](const Json& v) { Boolean(v); });
  Asked(value, [](const Json& v) { Member(v, "type"); });
  Asked(value, [](const Json& v) { Alternative(v); });
  if (!value.is_structured()) return;
  for (const Json& part : value) CheckValue(part);
}

}  // namespace

void Mutate(std::string& input, Random& random) {
  if (input.empty()) return MutateBytes(input);
  std::string text = input.substr(1);
  MutateJson(text, random);
  if (random.OneIn(8)) input[0] = static_cast<char>(random.Below(8));
  input = input.substr(0, 1) + text;
}

}  // namespace sconce

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const std::string text(reinterpret_cast<const char*>(data) + 1, size - 1);
  sconce::WithinMeans(size, [&] {
    sconce::CheckNames(text, data[0]);
    try {
      sconce::CheckValue(sconce::ParseJson(text));
    } catch (const sconce::BadProgram& bad) {
      sconce::RequireGoodError(bad.status);
    }
  });
  return 0;
}
