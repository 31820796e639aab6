// How a command talks to the cloud's REST API and reads its JSON. Not thread-safe.
#pragma once

#include <boost/json.hpp>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

#include "base/result.h"
#include "cli/commands.h"

namespace tessera::cli {

namespace json = boost::json;

// One request; a server that cannot be reached is asked again a few times, under the same key.
Result<json::value> Call(const Context& context, const std::string& method,
                         const std::string& target, const json::value& body = nullptr);

// Ids come from a person's keyboard: nothing but what an id can hold may reach the path.
Result<std::string> CheckedId(const std::string& id, const char* field);

// Members of an object; what is not there is nullptr, "", 0 or empty.
const json::value* Find(const json::value& object, std::string_view key);
std::string Text(const json::value& object, std::string_view key);
std::int64_t Number(const json::value& object, std::string_view key);
const json::array& Items(const json::value& object, std::string_view key);

// An amount of slices for people: "0.333 cards", "26 GiB", "no limit".
std::string Cards(const json::value* amount);
std::string Memory(const json::value* amount);

void Print(const Context& context, const std::string& text);
// Prints the API's JSON, or what `table` makes of it; returns the exit code.
int Finish(const Context& context, const Result<json::value>& reply,
           const std::function<std::string(const json::value&)>& table);

}  // namespace tessera::cli
