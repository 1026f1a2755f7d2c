#include "server/tools/tensor_tree.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace sconce::tools {
namespace {

// The rows as text, two spaces a level, modules with a colon.
std::string Drawn(const std::vector<std::string>& names) {
  std::string text;
  for (const TreeRow& row : TreeOf(names)) {
    text.append(2 * row.depth, ' ');
    text += row.label;
    text += row.tensor == TreeRow::kModule ? ":\n" : "\n";
  }
  return text;
}

TEST(TensorTree, GroupsByModuleInTheOrderOfFirstAppearance) {
  EXPECT_EQ(Drawn({"conv.weight", "fc.weight", "scale", "conv.bias"}),
            "conv:\n  weight\n  bias\nfc:\n  weight\nscale\n");
}

TEST(TensorTree, JoinsModulesThatHoldNothingElse) {
  EXPECT_EQ(Drawn({"a.b.c.w", "a.b.d.w"}), "a.b:\n  c:\n    w\n  d:\n    w\n");
  EXPECT_EQ(TreeOf(std::vector<std::string>{"a.b.w"})[0].module, "a.b");
}

TEST(TensorTree, KeepsATensorThatHasAModulesName) {
  EXPECT_EQ(Drawn({"a", "a.w"}), "a\na:\n  w\n");
}

TEST(TensorTree, KeepsEmptyParts) { EXPECT_EQ(Drawn({"a..w", ".v", ""}), "a.:\n  w\n:\n  v\n\n"); }

TEST(TensorTree, TellsEachTensorsIndex) {
  const std::vector<TreeRow> rows = TreeOf(std::vector<std::string>{"m.a", "b", "m.c"});
  ASSERT_EQ(rows.size(), 4u);
  EXPECT_EQ(rows[1].tensor, 0u);
  EXPECT_EQ(rows[2].tensor, 2u);
  EXPECT_EQ(rows[3].tensor, 1u);
}

TEST(TensorTree, StopsAtADepthThatIsSafe) {
  std::string deep;
  for (int i = 0; i < 200'000; ++i) deep += "x.";
  const std::vector<TreeRow> rows = TreeOf(std::vector<std::string>{deep + "a", deep + "b", "w"});
  ASSERT_EQ(rows.size(), 4u);  // the modules in one row, two tensors with the rest, and "w"
  EXPECT_GT(rows[1].label.size(), 300'000u);
}

}  // namespace
}  // namespace sconce::tools
