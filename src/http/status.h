// Names of status and error codes as they travel in HTTP.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"

namespace tessera::http {

// "Not Found"; "Status" for a number this house never sends.
std::string_view ReasonPhrase(int status);
// "not_found", as in the `code` member of a problem.
std::string LowerCodeName(Code code);
std::optional<Code> CodeFromLowerName(std::string_view name);

}  // namespace tessera::http
