// Turns errno into an Error whose code a caller can act on and whose message names the path.
#pragma once

#include <string_view>

#include "base/result.h"

namespace tessera::os {

// "open /run/x: No such file or directory", kNotFound. `number` is an errno value.
Error ErrnoError(std::string_view action, std::string_view subject, int number);

}  // namespace tessera::os
