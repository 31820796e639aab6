// The REST /v1 of the cloud: reads requests strictly, asks the Service, writes JSON.
// api/openapi.yaml is its contract.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "cloud/service.h"
#include "http/server.h"

namespace tessera::cloud {

// Adds every route. The service must outlive the router. Handlers are thread-safe.
void AddRoutes(http::Router& router, Service& service);

// {"GET", "/v1/me"}, ... in the order of registration, for the test that compares them with the
// contract.
std::vector<std::pair<std::string, std::string>> RouteTable();

}  // namespace tessera::cloud
