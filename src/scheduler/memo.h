// What a node keeps of an order beside the instance, as text it does not read: lets a scheduler
// that starts again restore everything that others may not share, take or wait for. Written with
// the start, listed back by the node. Pure.
#pragma once

#include <string>

#include "base/result.h"
#include "placement/queue.h"

namespace tessera::scheduler {

// Every field of the order, those at their default left out.
std::string WriteMemo(const placement::Order& order);
// The order of an instance as its node lists it. Fields that a newer scheduler wrote and this one
// does not know are passed over, and absent ones have their default. kInvalidArgument names a
// field that makes no sense.
Result<placement::Order> ReadMemo(const std::string& text, const std::string& instance_id);

}  // namespace tessera::scheduler
