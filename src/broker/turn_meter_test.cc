// What a turn is charged, exactly, with a clock that is a number.
#include "broker/turn_meter.h"

#include <gtest/gtest.h>

namespace tessera::broker {
namespace {
TEST(TurnMeter, Placeholder) {}
}  // namespace
}  // namespace tessera::broker
