#include "node/api.h"

#include <sys/stat.h>

#include <algorithm>

#include "http/json.h"
#include "placement/engine.h"

namespace tessera::node {
namespace {

constexpr std::size_t kExecStdinMax = 1 << 20;
constexpr std::int64_t kExecMillisDefault = 60'000;
constexpr std::int64_t kExecMillisMax = 600'000;
constexpr std::int64_t kGenerationMax = http::kJsonIntMax;

http::Response Json(http::JsonWriter& json, int status = 200) {
  http::Response response;
  response.status = status;
  response.body = json.Take() + "\n";
  return response;
}

// JSON readers refuse a NUL, which a command may well print.
std::string WithoutNul(const std::string& text) {
  std::string out;
  for (const char c : text) c == '\0' ? out.append("\xEF\xBF\xBD") : out.append(1, c);
  return out;
}

http::Response NoContent() {
  http::Response response;
  response.status = 204;
  return response;
}

void WriteCard(http::JsonWriter& json, const CardView& view) {
  const device::Card& card = view.card;
  json.BeginObject()
      .Field("uuid", card.uuid)
      .Field("vendor", card.vendor)
      .Field("model", card.model)
      .Field("index", card.index)
      .Field("pci_bus_id", card.pci_bus_id)
      .Field("memory_bytes", card.memory_bytes)
      .Field("compute_units", card.compute_units)
      .Field("numa_node", card.numa_node)
      .Field("healthy", card.healthy)
      .Field("health_reason", card.health_reason)
      .Field("simulated", card.simulated)
      .Field("granule_bytes", card.granule_bytes)
      .Field("context_bytes", card.context_bytes)
      .Field("reserved_bytes", view.reserved_bytes)
      .Field("reserved_permille", view.reserved_permille)
      .Field("used_bytes", view.used_bytes)
      .Field("busy_permille", view.busy_permille)
      .Field("isolation", device::IsolationName(view.isolation))
      .Key("links")
      .BeginArray();
  for (const device::Link& link : card.links) {
    json.BeginObject().Field("card", link.peer_uuid).Field("score", link.score).EndObject();
  }
  json.EndArray().EndObject();
}

void WriteCards(http::JsonWriter& json, const std::vector<CardView>& cards) {
  json.Key("cards").BeginArray();
  for (const CardView& card : cards) WriteCard(json, card);
  json.EndArray();
}

void WriteSlice(http::JsonWriter& json, const SliceView& view, const Node& node,
                const ApiOptions& options) {
  json.BeginObject()
      .Field("id", view.id)
      .Field("generation", view.generation)
      .Field("owner", OwnerName(view.owner))
      .Field("contained", view.contained)
      .Field("socket", node.guest_socket())
      .Field("library", options.guest_library);
  WriteShares(json, view.shares);
  WriteTerms(json, view.terms);
  json.Key("pinned")
      .BeginObject()
      .Field("used_bytes", view.pinned.used)
      .Field("peak_bytes", view.pinned.peak)
      .Field("refusals", view.pinned.refusals)
      .EndObject();
  json.Key("environment").BeginArray();
  for (const std::string& variable : view.environment) json.Value(variable);
  json.EndArray().Key("cards").BeginArray();
  for (std::size_t i = 0; i < view.usage.size(); ++i) {
    const broker::CardUsage& usage = view.usage[i];
    json.BeginObject()
        .Field("card", usage.uuid)
        .Field("used_bytes", usage.used)
        .Field("peak_bytes", usage.peak)
        .Field("refusals", usage.refusals);
    if (i < view.audit.size()) {
      json.Field("recomputed_bytes", view.audit[i].recomputed)
          .Field("settled", view.audit[i].settled);
      json.Key("driver_bytes");
      view.audit[i].driver ? json.Value(*view.audit[i].driver) : json.Null();
    }
    json.EndObject();
  }
  json.EndArray().Key("processes").BeginArray();
  for (const broker::AttachedProcess& process : view.processes) {
    json.BeginObject()
        .Field("pid", process.process.pid)
        .Field("launches", process.launches)
        .Key("used_bytes")
        .BeginArray();
    for (const std::uint64_t used : process.used) json.Value(used);
    json.EndArray().EndObject();
  }
  json.EndArray().EndObject();
}

std::string_view StateName(Phase phase) {
  return phase == Phase::kStarting ? "starting" : phase == Phase::kRunning ? "running" : "exited";
}

void WriteInstance(http::JsonWriter& json, const InstanceView& view) {
  json.BeginObject()
      .Field("id", view.id)
      .Field("generation", view.generation)
      .Field("state", StateName(view.phase))
      .Field("exit_code", view.exit_code)
      .Field("started_wall_micros", view.started_wall_micros)
      .Field("ended_wall_micros", view.ended_wall_micros)
      .Field("used_bytes", view.used_bytes)
      .Field("cpu_millis", view.cpu_millis)
      .Field("ram_bytes", view.ram_bytes)
      .Field("memo", view.memo);
  WriteShares(json, view.shares);
  json.EndObject();
}

// A handler that may fail; its error becomes a problem.
template <typename Body>
http::Handler Guard(Body body) {
  return [body = std::move(body)](const http::Request& request) -> http::Response {
    Result<http::Response> done = body(request);
    return done ? *std::move(done) : http::Problem(done.error());
  };
}

const std::string& IdOf(const http::Request& request) { return request.parameters.at("id"); }

// Root may make any process a member, everybody else only processes of his own uid.
Status MayMove(const http::Request& request, pid_t pid) {
  if (!request.peer)
    return Error(Code::kPermissionDenied, "members are added over the unix socket only");
  if (request.peer->uid == 0) return {};
  struct stat info{};
  if (stat(("/proc/" + std::to_string(pid)).c_str(), &info) != 0) {
    return Error::Field("pid", "expected a live process, there is no " + std::to_string(pid));
  }
  if (info.st_uid != request.peer->uid) {
    return Error(Code::kPermissionDenied,
                 "process " + std::to_string(pid) + " belongs to another user");
  }
  return {};
}

void SliceRoutes(http::Router& router, Node& node, const ApiOptions& options) {
  router.Handle("GET", "/v1/slices", [&node, options](const http::Request&) {
    http::JsonWriter json;
    json.BeginObject().Key("slices").BeginArray();
    for (const SliceView& view : node.Slices()) WriteSlice(json, view, node, options);
    json.EndArray().EndObject();
    return Json(json);
  });
  router.Handle("GET", "/v1/slices/{id}",
                Guard([&node, options](const http::Request& request) -> Result<http::Response> {
                  TRY(const SliceView view, node.GetSlice(IdOf(request)));
                  http::JsonWriter json;
                  WriteSlice(json, view, node, options);
                  return Json(json);
                }));
  router.Handle(
      "PUT", "/v1/slices/{id}",
      Guard([&node, options](const http::Request& request) -> Result<http::Response> {
        TRY(auto body, http::JsonObject::Parse(request.body));
        TRY(const auto generation, body.Int("generation", 1, kGenerationMax));
        TRY(const auto shares, ReadShares(body));
        TRY(const auto terms, ReadTerms(body));
        TRY_STATUS(body.Finish());
        TRY(const SliceView view,
            node.PutSlice(IdOf(request), static_cast<std::uint64_t>(generation), shares, terms));
        http::JsonWriter json;
        WriteSlice(json, view, node, options);
        return Json(json);
      }));
  router.Handle("DELETE", "/v1/slices/{id}",
                Guard([&node](const http::Request& request) -> Result<http::Response> {
                  TRY_STATUS(node.DeleteSlice(IdOf(request)));
                  return NoContent();
                }));
  router.Handle("POST", "/v1/slices/{id}/members",
                Guard([&node](const http::Request& request) -> Result<http::Response> {
                  TRY(auto body, http::JsonObject::Parse(request.body));
                  TRY(const auto pid, body.Int("pid", 1, INT32_MAX));
                  TRY_STATUS(body.Finish());
                  TRY_STATUS(MayMove(request, static_cast<pid_t>(pid)));
                  TRY_STATUS(node.AddMember(IdOf(request), static_cast<pid_t>(pid)));
                  return NoContent();
                }));
  router.Handle(
      "POST", "/v1/allocations",
      Guard([&node, options](const http::Request& request) -> Result<http::Response> {
        TRY(auto body, http::JsonObject::Parse(request.body));
        placement::Request ask;
        TRY(ask.memory_bytes, body.Bytes("memory"));
        TRY(const auto cards, body.OptionalInt("cards", 1, wire::kCardsMax, 1));
        ask.slices = static_cast<std::uint32_t>(cards);
        TRY(ask.compute, body.OptionalPermille("compute", Permille{0}));
        TRY(ask.model, body.OptionalString("model"));
        TRY(ask.card_uuid, body.OptionalString("card", "", wire::kUuidTextMax - 1));
        TRY(const auto terms, ReadTerms(body));
        TRY(ask.isolation, ReadIsolation(body));
        TRY(const auto pid, body.OptionalInt("pid", 1, INT32_MAX, 0));
        TRY_STATUS(body.Finish());
        if (ask.memory_bytes == 0) return Error::Field("memory", "expected more than 0 bytes");
        if (ask.memory_bytes > placement::kCardBytesMax) {
          return Error::Field("memory", "expected at most kCardBytesMax (1048576 GiB)");
        }
        if (ask.compute.value == 0) {
          // Nothing said: compute in proportion to the memory of this node's largest card.
          std::uint64_t largest = 1;
          for (const CardView& view : node.Cards())
            largest = std::max(largest, view.card.memory_bytes);
          const std::uint64_t share = ask.memory_bytes / std::max<std::uint64_t>(largest / 1000, 1);
          ask.compute.value = static_cast<std::uint32_t>(std::clamp<std::uint64_t>(share, 1, 1000));
        }
        if (pid != 0) TRY_STATUS(MayMove(request, static_cast<pid_t>(pid)));
        TRY(SliceView view, node.Allocate(std::move(ask), terms));
        if (pid != 0) {
          if (const Status joined = node.AddMember(view.id, static_cast<pid_t>(pid)); !joined) {
            (void)node.DeleteSlice(view.id);
            return joined.error();
          }
          TRY(view, node.GetSlice(view.id));
        }
        http::JsonWriter json;
        WriteSlice(json, view, node, options);
        return Json(json, 201);
      }));
}

void InstanceRoutes(http::Router& router, Node& node) {
  router.Handle("GET", "/v1/instances", [&node](const http::Request&) {
    http::JsonWriter json;
    json.BeginObject().Key("instances").BeginArray();
    for (const InstanceView& view : node.Instances()) WriteInstance(json, view);
    json.EndArray().EndObject();
    return Json(json);
  });
  router.Handle("GET", "/v1/instances/{id}",
                Guard([&node](const http::Request& request) -> Result<http::Response> {
                  TRY(const InstanceView view, node.GetInstance(IdOf(request)));
                  http::JsonWriter json;
                  WriteInstance(json, view);
                  return Json(json);
                }));
  router.Handle("PUT", "/v1/instances/{id}",
                Guard([&node](const http::Request& request) -> Result<http::Response> {
                  TRY(auto body, http::JsonObject::Parse(request.body));
                  TRY(const auto generation, body.Int("generation", 1, kGenerationMax));
                  TRY(const auto shares, ReadShares(body));
                  TRY(auto object, body.Object("workload"));
                  TRY(const auto workload, ReadWorkload(std::move(object)));
                  TRY(const auto memo, body.OptionalString("memo", "", kMemoBytesMax));
                  TRY_STATUS(body.Finish());
                  TRY(const InstanceView view,
                      node.PutInstance(IdOf(request), static_cast<std::uint64_t>(generation),
                                       shares, workload, memo));
                  http::JsonWriter json;
                  WriteInstance(json, view);
                  return Json(json);
                }));
  router.Handle("POST", "/v1/instances/{id}/stop",
                Guard([&node](const http::Request& request) -> Result<http::Response> {
                  TRY(auto body,
                      http::JsonObject::Parse(request.body.empty() ? "{}" : request.body));
                  TRY(const auto generation, body.OptionalInt("generation", 1, kGenerationMax, 0));
                  TRY_STATUS(body.Finish());
                  TRY(const InstanceView view,
                      node.StopInstance(IdOf(request), static_cast<std::uint64_t>(generation)));
                  http::JsonWriter json;
                  WriteInstance(json, view);
                  return Json(json);
                }));
  router.Handle("DELETE", "/v1/instances/{id}",
                Guard([&node](const http::Request& request) -> Result<http::Response> {
                  TRY_STATUS(node.DeleteInstance(IdOf(request)));
                  return NoContent();
                }));
  router.Handle("GET", "/v1/instances/{id}/log",
                Guard([&node](const http::Request& request) -> Result<http::Response> {
                  std::int64_t offset = 0;
                  if (const auto at = request.query.find("offset"); at != request.query.end()) {
                    TRY(offset, ParseInt(at->second, "offset", 0, INT64_MAX));
                  }
                  TRY(auto chunk, node.ReadLog(IdOf(request), static_cast<std::uint64_t>(offset),
                                               runtime::kLogChunkBytesMax));
                  http::Response response;
                  response.content_type = "application/octet-stream";
                  response.body = std::move(chunk.bytes);
                  response.headers["tessera-log-offset"] = std::to_string(chunk.offset);
                  response.headers["tessera-log-next-offset"] = std::to_string(chunk.next_offset);
                  response.headers["tessera-log-end-offset"] = std::to_string(chunk.end_offset);
                  return response;
                }));
  router.Handle(
      "POST", "/v1/instances/{id}/exec",
      Guard([&node](const http::Request& request) -> Result<http::Response> {
        TRY(auto body, http::JsonObject::Parse(request.body));
        TRY(const auto argv, body.Strings("argv", runtime::kArgvMax, runtime::kArgvBytesMax));
        if (argv.empty()) return body.Wrong("argv", "expected 1 to 256 entries");
        TRY(const auto input, body.OptionalString("stdin", "", kExecStdinMax));
        TRY(const auto timeout,
            body.OptionalInt("timeout_millis", 1, kExecMillisMax, kExecMillisDefault));
        TRY_STATUS(body.Finish());
        TRY(const auto outcome, node.Exec(IdOf(request), argv, input, static_cast<int>(timeout)));
        http::JsonWriter json;
        json.BeginObject()
            .Field("exit_code", outcome.exit_code)
            .Field("output", WithoutNul(outcome.output))
            .Field("truncated", outcome.truncated)
            .Field("timed_out", outcome.timed_out)
            .EndObject();
        return Json(json);
      }));
}

}  // namespace

http::Router MakeRouter(Node& node, metrics::Registry& registry, const ApiOptions& options) {
  http::Router router;
  router.Handle("GET", "/healthz", [](const http::Request&) {
    http::JsonWriter json;
    json.BeginObject().Field("status", "ok").EndObject();
    return Json(json);
  });
  router.Handle("GET", "/metrics", [&registry](const http::Request&) {
    http::Response response;
    response.content_type = std::string(metrics::kContentType);
    response.body = registry.Text();
    return response;
  });
  router.Handle("GET", "/v1/node", [&node, options](const http::Request&) {
    const NodeView view = node.State();
    http::JsonWriter json;
    json.BeginObject()
        .Field("name", view.name)
        .Field("rack", view.rack)
        .Field("cpu_millis", view.cpu_millis)
        .Field("cpu_reserved_millis", view.cpu_reserved_millis)
        .Field("ram_bytes", view.ram_bytes)
        .Field("ram_reserved_bytes", view.ram_reserved_bytes)
        .Field("contained", view.contained)
        .Field("why_not_contained", view.why_not_contained)
        .Field("guest_socket", node.guest_socket())
        .Field("guest_library", options.guest_library);
    json.Key("isolations").BeginArray();
    for (const device::Isolation one : view.isolations) json.Value(device::IsolationName(one));
    json.EndArray();
    WriteCards(json, view.cards);
    json.EndObject();
    return Json(json);
  });
  router.Handle("GET", "/v1/cards", [&node](const http::Request&) {
    http::JsonWriter json;
    json.BeginObject();
    WriteCards(json, node.Cards());
    json.EndObject();
    return Json(json);
  });
  SliceRoutes(router, node, options);
  InstanceRoutes(router, node);
  return router;
}

}  // namespace tessera::node
