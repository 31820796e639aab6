#include "cli/table.h"

#include <gtest/gtest.h>

namespace tessera::cli {
namespace {

TEST(Table, AlignsAndTrims) {
  Table table({"NAME", ">MEMORY", "STATE"});
  table.Add({"a", "26.66 GiB", "running"});
  table.Add({"longer", "1 GiB"});
  EXPECT_EQ(table.ToString(),
            "NAME       MEMORY  STATE\n"
            "a       26.66 GiB  running\n"
            "longer      1 GiB\n");
}

TEST(Table, DoesNotPassControlCharactersOn) {
  Table table({"NAME"});
  table.Add({"\x1b[2Jboo\n"});
  EXPECT_EQ(table.ToString(), "NAME\n?[2Jboo?\n");
}

TEST(FormatDuration, PicksTwoUnits) {
  EXPECT_EQ(FormatDuration(5), "5s");
  EXPECT_EQ(FormatDuration(192), "3m12s");
  EXPECT_EQ(FormatDuration(7500), "2h05m");
  EXPECT_EQ(FormatDuration(356400), "4d03h");
}

}  // namespace
}  // namespace tessera::cli
