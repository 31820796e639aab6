#include "apps/up.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>
#include <memory>

#include "apps/execution_binding.h"
#include "apps/node_child.h"
#include "apps/node_client.h"
#include "apps/paths.h"
#include "apps/up_config.h"
#include "base/log.h"
#include "cloud/reconciler.h"
#include "cloud/rest.h"
#include "cloud/seed_skus.h"
#include "cloud/service.h"
#include "http/server.h"
#include "metrics/registry.h"
#include "node/node.h"
#include "os/clock.h"
#include "os/fd.h"
#include "os/files.h"
#include "scheduler/scheduler.h"
#include "store/database.h"

namespace tessera::apps {
namespace {

// The file of --config; without one, what holds by itself.
Result<UpConfig> ReadConfig(const std::string& path) {
  if (path.empty()) return UpConfig();
  TRY(const std::string text, os::PosixFiles().Read(path));
  return ParseUpConfig(text, path);
}

// Gives the cloud the file's rules of the queue, or takes them back where it has none any more.
Status UseQueue(cloud::Service& service, const UpConfig& config, const std::string& path) {
  const Status used = service.UseQueueFile(config.queue, path);
  return used ? used : Status(Locate(config, used.error()));
}

// SIGHUP: a file that cannot be used changes nothing.
void ReloadQueue(cloud::Service& service, const std::string& path) {
  const auto config = ReadConfig(path);
  const Status used = config ? UseQueue(service, *config, path) : Status(config.error());
  if (used) {
    Log(LogLevel::kInfo, "up.queue_read",
        {{"file", path}, {"from", config->queue ? "file" : "store"}});
  } else {
    Log(LogLevel::kError, "up.queue_refused", {{"error", used.error().ToString()}});
  }
}

struct Address {
  std::string host;
  std::uint16_t port = 0;
};

Result<Address> ParseAddress(const std::string& text) {
  const auto colon = text.rfind(':');
  if (colon == std::string::npos || colon == 0) {
    return Error::Field("listen",
                        "expected host:port such as 127.0.0.1:7070, got \"" + text + "\"");
  }
  TRY(const std::int64_t port, ParseInt(text.substr(colon + 1), "listen", 0, 65535));
  return Address{text.substr(0, colon), static_cast<std::uint16_t>(port)};
}

// One `up` per data folder: the database has one writer.
Result<os::Fd> Lock(const std::string& path) {
  os::Fd fd(open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  if (!fd) return Error(Code::kInternal, path + ": " + std::strerror(errno));
  if (flock(fd.get(), LOCK_EX | LOCK_NB) != 0) {
    return Error(Code::kAlreadyExists,
                 "another tessera up uses this data folder (" + path + " is locked)");
  }
  return fd;
}

// A new key is in the file, synced and mode 0600, before anybody relies on it.
Status WriteSecret(const std::string& path, const std::string& secret) {
  const mode_t before = umask(0077);
  Status written = os::PosixFiles().WriteAtomically(path, secret + "\n");
  umask(before);
  if (!written) return written;
  if (chmod(path.c_str(), 0600) != 0)
    return Error(Code::kInternal, path + ": " + std::strerror(errno));
  return {};
}

void AddMetrics(metrics::Registry& registry, scheduler::Scheduler& scheduler) {
  auto& memory = registry.AddGauges("tessera_card_memory_bytes", "Memory of a card.",
                                    {"node", "card", "model"});
  auto& reserved =
      registry.AddGauges("tessera_card_reserved_bytes", "Memory sold on a card.", {"node", "card"});
  auto& used = registry.AddGauges("tessera_card_used_bytes", "Memory the driver reports as used.",
                                  {"node", "card"});
  auto& busy =
      registry.AddGauges("tessera_card_busy_ratio", "Engine busy, 0 to 1.", {"node", "card"});
  auto& available = registry.AddGauges("tessera_node_available",
                                       "1 when the node answered its last poll.", {"node"});
  registry.AddCollector([&scheduler, &memory, &reserved, &used, &busy, &available] {
    for (auto* family : {&memory, &reserved, &used, &busy, &available}) family->Clear();
    for (const auto& card : scheduler.Cards()) {
      memory.Set({card.node, card.card.uuid, card.card.model},
                 static_cast<double>(card.card.memory_bytes));
      reserved.Set({card.node, card.card.uuid}, static_cast<double>(card.reserved_bytes));
      used.Set({card.node, card.card.uuid}, static_cast<double>(card.used_bytes));
      busy.Set({card.node, card.card.uuid}, card.busy_permille / 1000.0);
    }
    for (const auto& node : scheduler.Nodes()) available.Set({node.name}, node.available ? 1 : 0);
  });
}

// The tesserad that answered at first may have been going down with an earlier `up`, killed a
// moment ago; ours follows it.
Result<scheduler::NodeState> FirstState(scheduler::Node& node) {
  const auto& clock = os::RealClock();
  const std::int64_t end = clock.MonotonicNanos() + kNodeReadyMillisMax * 1'000'000ll;
  for (;;) {
    auto state = node.State();
    if (state || clock.MonotonicNanos() >= end) return state;
    clock.SleepNanos(50'000'000);
  }
}

Status Run(const cli::UpFlags& flags) {
  const std::string data = flags.data_dir.empty() ? DefaultDataDir() : flags.data_dir;
  const std::string run = flags.run_dir.empty() ? DefaultRunDir() : flags.run_dir;
  TRY(const Address address, ParseAddress(flags.listen));
  TRY(const UpConfig config, ReadConfig(flags.config));
  const std::string library =
      flags.guest_library.empty() ? FindGuestLibrary() : flags.guest_library;
  if (library.empty() || access(library.c_str(), R_OK) != 0) {
    return Error::Field(
        "guest-library",
        "expected the path of libtessera.so; it is not beside the program nor in ../lib");
  }
  if (flags.json_log) SetLog(2, LogFormat::kJson, LogLevel::kInfo);

  os::Files& files = os::PosixFiles();
  TRY_STATUS(files.MakeDirs(data, 0700));
  TRY_STATUS(files.MakeDirs(run, 0755));
  TRY(const os::Fd lock, Lock(data + "/up.lock"));
  const std::string endpoint_file = data + "/endpoint";
  TRY_STATUS(files.Remove(endpoint_file));

  // Signals are taken by sigtimedwait below; every thread started from here on inherits the mask.
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGHUP);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  signal(SIGPIPE, SIG_IGN);

  std::vector<std::string> argv = {ProgramFolder() + "/tesserad",
                                   "--run-dir",
                                   run,
                                   "--state-dir",
                                   data + "/node",
                                   "--guest-library",
                                   library,
                                   "--name",
                                   flags.name};
  if (!config.rack.empty()) argv.insert(argv.end(), {"--rack", config.rack});
  if (flags.no_containment) argv.push_back("--no-containment");
  if (flags.json_log) argv.insert(argv.end(), {"--log", "json"});
  NodeChild node_child(argv, run + "/node.sock");
  TRY_STATUS(node_child.Start());

  TRY(const auto database, store::Database::OpenSqlite(data + "/tessera.db"));
  scheduler::Options scheduler_options;
  scheduler_options.queue_max = static_cast<std::size_t>(config.queue_max);
  scheduler_options.policy = config.placement_policy;
  scheduler_options.period_millis = 500;
  scheduler::Scheduler scheduler(scheduler_options, os::RealClock());
  auto node = std::make_shared<HttpNode>(run + "/node.sock");
  TRY(const scheduler::NodeState node_state, FirstState(*node));
  TRY_STATUS(scheduler.AddNode(node_state.name, node));
  scheduler.Tick();
  SchedulerExecution execution(scheduler);

  TRY(const auto service,
      cloud::Service::Open(*database, execution, os::RealClock(),
                           {.spot_discount_permille = config.spot_discount_permille}));
  const std::string key_file = data + "/admin.key";
  std::string new_key = service->TakeNewAdminKey();
  if (new_key.empty() && !files.Exists(key_file)) {
    // A crash between the first start's commit and this file: the owner of the data folder gets a
    // new key.
    TRY(new_key, service->ResetAdminKey());
  }
  if (!new_key.empty()) TRY_STATUS(WriteSecret(key_file, new_key));
  TRY_STATUS(UseQueue(*service, config, flags.config));
  TRY(const std::size_t seeded, cloud::SeedCatalogue(*service, config.prices));
  if (const Status first = service->Tick(); !first) {
    Log(LogLevel::kWarn, "cloud.first_round", {{"error", first.error().ToString()}});
  }

  metrics::Registry registry;
  AddMetrics(registry, scheduler);
  http::Router router;
  cloud::AddRoutes(router, *service);
  router.Handle("GET", "/metrics", [&registry](const http::Request&) {
    return http::Response{200, std::string(metrics::kContentType), registry.Text(), {}};
  });
  http::Options options;
  options.host = address.host;
  options.port = address.port;
  options.workers = static_cast<unsigned>(config.workers);
  TRY(auto server, http::Server::Start(options, std::move(router)));
  const std::string endpoint = "http://" + address.host + ":" + std::to_string(server->port());
  TRY_STATUS(files.WriteAtomically(endpoint_file, endpoint + "\n"));

  {
    cloud::Reconciler reconciler(*service, 500);
    std::printf("tessera up: %s\n", endpoint.c_str());
    std::printf("  key of the operator: %s\n", key_file.c_str());
    std::printf("  node %s: %zu card(s)%s%s\n", node_state.name.c_str(), node_state.cards.size(),
                node_state.contained ? "" : ", instances are not contained",
                node_child.joined() ? ", joined a tesserad that was already running" : "");
    for (const auto& card : node_state.cards) {
      std::printf("  card %s  %s  %s%s\n", card.card.uuid.c_str(), card.card.model.c_str(),
                  FormatBytes(card.card.memory_bytes).c_str(),
                  card.card.simulated ? "  (simulated)" : "");
    }
    if (seeded > 0) std::printf("  %zu SKUs offered: tessera skus\n", seeded);
    std::fflush(stdout);
    int signal_number = 0;
    while (sigwait(&signals, &signal_number) == 0 && signal_number == SIGHUP) {
      ReloadQueue(*service, flags.config);
    }
    Log(LogLevel::kInfo, "up.stopping", {{"signal", signal_number}});
    // The order matters: nobody asks any more, nothing is decided any more, then the node goes.
    server.reset();
  }
  TRY_STATUS(files.Remove(endpoint_file));
  node_child.Stop();
  return {};
}

}  // namespace

int Up(const cli::UpFlags& flags) {
  const Status status = Run(flags);
  if (status) return 0;
  std::fprintf(stderr, "tessera: %s%s%s\n", status.error().field().c_str(),
               status.error().field().empty() ? "" : ": ", status.error().message().c_str());
  return status.error().code() == Code::kInvalidArgument ? 2 : 1;
}

}  // namespace tessera::apps
