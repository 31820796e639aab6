// The HTTP/JSON surface of a Node (api/node.yaml): strict bodies, every refusal a problem+json that
// names the field.
#pragma once

#include <string>

#include "http/server.h"
#include "metrics/registry.h"
#include "node/node.h"

namespace tessera::node {

struct ApiOptions {
  std::string guest_library;  // told to `tessera run`, which preloads it without containment
};

// Routes on `node` and `registry`, which outlive the router.
http::Router MakeRouter(Node& node, metrics::Registry& registry, const ApiOptions& options);

// Makes the node's metric families and fills them at every scrape.
void ExportMetrics(Node& node, metrics::Registry& registry);

}  // namespace tessera::node
