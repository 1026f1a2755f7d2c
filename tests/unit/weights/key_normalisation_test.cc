#include "server/weights/key_normalisation.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace sconce {
namespace {

std::string Prefix(std::vector<std::string> names) { return WrapperPrefix(names); }

TEST(WrapperPrefix, IsWhatWrappersPutBeforeEveryName) {
  EXPECT_EQ(Prefix({"module.fc.weight", "module.fc.bias"}), "module.");
  EXPECT_EQ(Prefix({"_orig_mod.weight"}), "_orig_mod.");
  EXPECT_EQ(Prefix({"model.0.weight", "model.2.weight"}), "model.");
  EXPECT_EQ(Prefix({"module._orig_mod.model.module.a", "module._orig_mod.model.module.b"}),
            "module._orig_mod.model.module.");
}

TEST(WrapperPrefix, IsEmptyUnlessAllNamesShareIt) {
  EXPECT_EQ(Prefix({}), "");
  EXPECT_EQ(Prefix({"fc.weight", "fc.bias"}), "");
  EXPECT_EQ(Prefix({"module.fc.weight", "criterion.weight"}), "");
  EXPECT_EQ(Prefix({"module.model.a", "module.b"}), "module.");
  EXPECT_EQ(Prefix({"modules.a", "modules.b"}), "");
}

TEST(WrapperPrefix, LeavesSomethingOfEveryName) {
  EXPECT_EQ(Prefix({"module.", "module.a"}), "");
  EXPECT_EQ(Prefix({"module.module.", "module.a"}), "module.");
}

TEST(StripModuleName, RootIsTheModuleThatThePrefixNames) {
  const auto stripped = [](const std::string& prefix, std::string name) {
    return StripModuleName(prefix, name) ? name : "(dropped) " + name;
  };
  EXPECT_EQ(stripped("module.", "module"), "");
  EXPECT_EQ(stripped("module.", "module.bn1"), "bn1");
  EXPECT_EQ(stripped("module._orig_mod.", "module._orig_mod"), "");
  EXPECT_EQ(stripped("", "bn1"), "bn1");
  EXPECT_EQ(stripped("module.", ""), "(dropped) ");
  EXPECT_EQ(stripped("module.", "modulex"), "(dropped) modulex");
}

}  // namespace
}  // namespace sconce
