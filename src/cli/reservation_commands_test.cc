#include <gtest/gtest.h>

#include "cli/commands.h"

namespace tessera::cli {
namespace {

TEST(Reservations, AreATable) {
  EXPECT_EQ(
      ReservationsText(
          R"({"reservations":[{"id":"r-1","tenant":"t-1","sku":"a100.third","sku_version":1,"units":4,)"
          R"("open":false,"lend":true,"state":"active","used":1,"lent":1,"free":1,"missing":1,)"
          R"("missing_for":"cards: asked 1, 0 are free","created_at":"2026-01-31T08:00:00.000000Z",)"
          R"("start":"2026-01-31T08:00:00.000000Z","end":null}]})"),
      "RESERVATION  STATE   SKU         UNITS  USED  LENT  FREE  MISSING  START                    "
      "    "
      "END  TENANT  WHY MISSING\n"
      "r-1          active  a100.third      4     1     1     1        1  "
      "2026-01-31T08:00:00.000000Z  "
      "     t-1     cards: asked 1, 0 are free\n");
}

}  // namespace
}  // namespace tessera::cli
