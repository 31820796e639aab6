// How commands talk to the cloud and show its answers. Internal to the room.
#pragma once

#include <boost/json.hpp>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

#include "base/result.h"
#include "cli/commands.h"

namespace tessera::cli {

// A POST carries a key that names this one intention; tries again send the same.
Result<boost::json::value> Call(const Context& context, const std::string& method,
                                const std::string& target,
                                const boost::json::value& body = nullptr);
// Ids come from a person's keyboard: nothing but what an id can hold may reach the path.
Result<std::string> CheckedId(const std::string& id, const char* field);
const boost::json::value* Find(const boost::json::value& object, std::string_view key);
std::string Text(const boost::json::value& object,
                 std::string_view key);  // "" when it is not there
std::int64_t Number(const boost::json::value& object, std::string_view key);
const boost::json::array& Items(const boost::json::value& object, std::string_view key);
void Print(const Context& context, const std::string& text);
// Prints the API's JSON, or what `table` makes of it.
int Finish(const Context& context, const Result<boost::json::value>& reply,
           const std::function<std::string(const boost::json::value&)>& table);

}  // namespace tessera::cli
