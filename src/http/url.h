// Percent encoding (RFC 3986). Pure functions.
#pragma once

#include <string>
#include <string_view>

#include "base/result.h"

namespace tessera::http {

// Everything but unreserved characters is encoded, so that the result is one path segment or query
// value.
std::string PercentEncode(std::string_view text);
// "%41" -> "A"; `plus_is_space` for query strings. A broken escape is kInvalidArgument.
Result<std::string> PercentDecode(std::string_view text, bool plus_is_space);

}  // namespace tessera::http
