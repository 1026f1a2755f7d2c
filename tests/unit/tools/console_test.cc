#include "server/tools/console.h"

#include <gtest/gtest.h>

namespace sconce::tools {
namespace {

TEST(Console, PadsByCharactersNotBytes) {
  EXPECT_EQ(PadRight("é", 3), "é  ");
  EXPECT_EQ(PadLeft("é", 3), "  é");
  EXPECT_EQ(PadRight("four", 3), "four");
}

TEST(Console, DoesNotColourWhatIsNoTerminal) {
  const Console console("test");
  if (console.width() > 0) GTEST_SKIP() << "the output is a terminal";
  EXPECT_EQ(console.Paint(Style::kBad, "text"), "text");
}

}  // namespace
}  // namespace sconce::tools
