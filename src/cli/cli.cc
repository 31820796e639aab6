#include "cli/cli.h"

#include <CLI/CLI.hpp>
#include <cstdlib>

#include "cli/commands.h"
#include "cli/quota_command.h"
#include "cli/run_command.h"
#include "cli/simulate_command.h"

namespace tessera::cli {
namespace {

std::string FromEnvironment(const char* name, const char* fallback) {
  const char* value = std::getenv(name);
  return value != nullptr && *value != '\0' ? value : fallback;
}

}  // namespace

int Main(int argc, const char* const* argv, const std::function<int(const UpFlags&)>& up) {
  CLI::App app{"Tessera: a GPU cloud in slices."};
  app.name("tessera");
  app.require_subcommand(1);
  app.set_version_flag("--version", "tessera " TESSERA_VERSION);

  Context context;
  context.endpoint = FromEnvironment("TESSERA_ENDPOINT", "http://127.0.0.1:7070");
  std::string key_file;
  std::string output = "table";
  app.add_option("--endpoint", context.endpoint, "The cloud's address (TESSERA_ENDPOINT)");
  app.add_option("--key-file", key_file, "File with the API key (TESSERA_KEY, TESSERA_KEY_FILE)");
  app.add_option("-o,--output", output, "table or json")->check(CLI::IsMember({"table", "json"}));

  int code = 0;
  // Every command but `up`, `run` and `simulate` talks to the cloud and needs a key.
  const auto with_key = [&](auto body) {
    return [&, body] {
      context.output = output == "json" ? Output::kJson : Output::kTable;
      auto key = LoadKey(key_file);
      if (!key) {
        code = Report(context, key.error());
        return;
      }
      context.key = *key;
      code = body();
    };
  };

  UpFlags up_flags;
  auto* up_command =
      app.add_subcommand("up", "Run the cloud on this machine: control plane, scheduler and node");
  up_command->add_option("--data-dir", up_flags.data_dir, "Database, keys and state");
  up_command->add_option("--run-dir", up_flags.run_dir, "Sockets");
  up_command->add_option("--listen", up_flags.listen,
                         "Address of the REST API, host:port (port 0: any free one)");
  up_command->add_option("--name", up_flags.name, "Name of this node");
  up_command->add_option("--config", up_flags.config, "YAML file with prices and limits");
  up_command->add_option("--guest-library", up_flags.guest_library,
                         "libtessera.so for the instances");
  up_command->add_flag("--no-containment", up_flags.no_containment,
                       "Run instances as plain processes");
  up_command->add_flag("--json-log", up_flags.json_log, "Log as JSON lines");
  up_command->callback([&] { code = up(up_flags); });

  RunOptions run;
  auto* run_command =
      app.add_subcommand("run", "Run a program inside a slice of a card of this machine");
  run_command->add_option("--memory", run.memory, "Memory of the slice on each card, such as 4GiB")
      ->required();
  run_command->add_option("--compute", run.compute, "Share of the card's compute, such as 33%");
  run_command->add_option("--isolation", run.isolation,
                          "How the card is shared: shim (in turns, default), spatial (at the same "
                          "time, by MPS) or whole (not at all)");
  run_command->add_option("--cards", run.cards, "Slices on that many different cards");
  run_command->add_option("program", run.command, "The program and its arguments, after --")
      ->required();
  run_command->positionals_at_end();
  run_command->callback([&] { code = RunCommand(run); });

  SimulateOptions simulate;
  simulate.policies = {"tessera", "fgd", "bestfit"};
  auto* simulate_command =
      app.add_subcommand("simulate", "What a policy would do with a trace of arrivals");
  bool placement = false;
  simulate_command->add_flag("--placement", placement, "Replay arrivals against placement policies")
      ->required();
  simulate_command->add_option("--nodes", simulate.nodes, "CSV: sn,cpu_milli,memory_mib,gpu,model")
      ->required();
  simulate_command
      ->add_option("--pods", simulate.pods, "CSV: name,cpu_milli,memory_mib,num_gpu,gpu_milli,...")
      ->required();
  auto* sequence = simulate_command->add_option("--sequence", simulate.sequence,
                                                "File with the order of arrivals and node ranks");
  simulate_command->add_option("--seed", simulate.seed,
                               "Draw the order of arrivals, and random ties, from this seed");
  simulate_command->add_option("--load", simulate.load_percent, "Percent of the cards that arrive")
      ->check(CLI::Range(1, 200))
      ->excludes(sequence);
  simulate_command->add_option("--policy", simulate.policies, "Policies, separated by commas")
      ->delimiter(',');
  auto* learn_every =
      simulate_command
          ->add_option("--learn-every", simulate.learn_every,
                       "Learn the task classes anew every N arrivals; 0: know them all")
          ->check(CLI::Range(0, 1'000'000));
  std::string ties = "rank";
  simulate_command
      ->add_option("--ties", ties, "Among nodes of the same score: the lowest rank, or any")
      ->check(CLI::IsMember({"rank", "random"}));
  simulate_command->add_option("--json", simulate.json, "Write the curves to this file");
  simulate_command->add_option("--html", simulate.html,
                               "Write a page with the curves to this file");
  simulate_command->add_option("--csv", simulate.csv,
                               "Write the curves to this file, a line a point");
  auto* batch = simulate_command->add_option(
      "--batch", simulate.batch, "Hold arrivals back in groups of N, the largest of each first");
  batch->check(CLI::Range(1, 65'536));
  auto* migrate = simulate_command->add_flag("--migrate", simulate.migrate,
                                             "Move one other for a request that fits nowhere");
  auto* churn = simulate_command->add_flag(
      "--churn", simulate.churn, "Requests come and go by creation_time and deletion_time");
  churn->excludes(sequence)->excludes(batch)->excludes(migrate);
  simulate_command
      ->add_option("--nodes-every", simulate.nodes_every, "Keep every N-th node (--churn)")
      ->check(CLI::Range(1, 1'000'000))
      ->needs(churn);
  simulate_command->add_option("--pods-every", simulate.pods_every, "Keep every N-th pod (--churn)")
      ->check(CLI::Range(1, 1'000'000))
      ->needs(churn);
  simulate_command
      ->add_option("--churn-load", simulate.churn_load_percent,
                   "Card-time asked for, in percent of what there is (--churn)")
      ->check(CLI::Range(1, 1000))
      ->needs(churn);
  auto* backfill =
      simulate_command
          ->add_option("--backfill", simulate.backfill,
                       "Who may pass a head that waits: none, easy (the head starts no later), any")
          ->check(CLI::IsMember({"none", "easy", "any"}))
          ->needs(churn);
  simulate_command
      ->add_option("--moves", simulate.moves,
                   "Moves of each plan in the runs that move; 0: no such runs (--churn)")
      ->check(CLI::Range(0, 16))
      ->needs(churn);
  auto* loss_every =
      simulate_command
          ->add_option("--loss-every", simulate.loss_every,
                       "Seconds between losses of a node, on average; 0: none (--churn)")
          ->check(CLI::Range(0, 1'000'000'000))
          ->needs(churn);
  auto* spot = simulate_command->add_flag(
      "--spot", simulate.spot, "Some requests are spot and the cards are oversold (--churn)");
  spot->needs(churn)->excludes(learn_every)->excludes(backfill)->excludes(loss_every);
  simulate_command
      ->add_option("--spot-percent", simulate.spot_percent,
                   "Requests that are spot, drawn from the seed; else those of QoS class BE")
      ->check(CLI::Range(0, 100))
      ->needs(spot);
  simulate_command
      ->add_option("--oversell", simulate.oversell,
                   "Compute sold to what there is, from 1.0 to 1.8, separated by commas; memory "
                   "likewise, up to 1.4")
      ->delimiter(',')
      ->needs(spot);
  simulate_command
      ->add_option("--use-percent", simulate.use_percent,
                   "Of what is asked, in use on average; drawn from the seed")
      ->check(CLI::Range(1, 50))
      ->needs(spot);
  simulate_command->callback([&] {
    context.output = output == "json" ? Output::kJson : Output::kTable;
    simulate.random_ties = ties == "random";
    code = SimulatePlacement(context, simulate);
  });

  auto* skus = app.add_subcommand("skus", "What can be rented, at what price");
  skus->callback(with_key([&] { return Skus(context); }));

  RentOptions rent;
  auto* rent_command = app.add_subcommand("rent", "Rent a slice and run a program in it");
  rent_command->add_option("sku", rent.sku, "Name of the SKU (tessera skus)")->required();
  rent_command->add_option("--name", rent.name, "A name for people");
  rent_command->add_option("-e,--env", rent.environment, "NAME=value, may be repeated")
      ->allow_extra_args(false);
  rent_command->add_option("--reservation", rent.reservation,
                           "Run in this reservation and nowhere else (tessera reservation list)");
  rent_command
      ->add_option("--count", rent.count, "So many alike, which start together or not at all")
      ->check(CLI::Range(1, 64));
  rent_command
      ->add_option("--per-node-min", rent.per_node_min,
                   "At least so many on every node that gets one (--count)")
      ->check(CLI::Range(1, 64));
  rent_command
      ->add_option("--same-rack", rent.same_rack,
                   "All in one rack where that can be (prefer), or not at all (require) (--count)")
      ->check(CLI::IsMember({"prefer", "require"}));
  rent_command->add_option("--isolation", rent.isolation,
                           "shim (in turns, the default), spatial (at the same time, by MPS) or "
                           "whole (a card to itself)");
  rent_command->add_option("--priority", rent.priority,
                           "The higher, the sooner; at most your maximum (tessera quota)");
  auto* rent_spot = rent_command->add_flag(
      "--spot", rent.spot, "At the spot price: may be stopped for others at any time");
  rent_command
      ->add_flag("--requeue", rent.requeue,
                 "Once stopped for another, wait again instead of ending")
      ->needs(rent_spot);
  rent_command->add_flag("--wait", rent.wait, "Wait until it runs, or has ended");
  rent_command->add_option("--wait-seconds", rent.wait_seconds_max, "Longest wait")
      ->check(CLI::Range(1, 86400));
  rent_command->add_option("command", rent.command, "The program and its arguments, after --")
      ->required();
  rent_command->callback(with_key([&] { return Rent(context, rent); }));

  bool all = false;
  auto* ps = app.add_subcommand("ps", "Your instances");
  ps->add_flag("-a,--all", all, "Released ones too");
  ps->callback(with_key([&] { return Ps(context, all); }));

  std::string id;
  const auto by_id = [&](const char* name, const char* help, auto body) {
    auto* command = app.add_subcommand(name, help);
    command->add_option("instance", id, "Instance id (tessera ps)")->required();
    command->callback(with_key([&, body] { return body(); }));
    return command;
  };
  by_id("show", "One instance with its events", [&] { return Show(context, id); });
  by_id("explain", "Why it waits, or why it is where it is: rules, queue, quota, scores",
        [&] { return Explain(context, id); });
  bool follow = false;
  by_id("logs", "What the program printed", [&] {
    return Logs(context, id, follow);
  })->add_flag("-f,--follow", follow, "Until it ends");
  by_id("stop", "Stop it: the card is given back, nothing more is charged",
        [&] { return Stop(context, id); });
  by_id("start", "Start a stopped instance again", [&] { return Start(context, id); });
  by_id("release", "Stop it and delete it", [&] { return Release(context, id); });
  std::vector<std::string> exec_command;
  bool read_stdin = false;
  auto* exec = by_id("exec", "Run a command inside the instance's slice",
                     [&] { return Exec(context, id, exec_command, read_stdin); });
  exec->add_flag("-i,--stdin", read_stdin, "Give the command this standard input (1 MiB at most)");
  exec->add_option("command", exec_command, "The command and its arguments, after --")->required();

  app.add_subcommand("bill", "What you owe and why")->callback(with_key([&] {
    return Bill(context);
  }));
  app.add_subcommand("me", "Your account: balance, held, available")->callback(with_key([&] {
    return Me(context);
  }));
  app.add_subcommand("top", "Cards: sold, used, busy")->callback(with_key([&] {
    return Top(context);
  }));

  auto* reservation =
      app.add_subcommand("reservation", "Capacity kept for a tenant on concrete cards");
  reservation->require_subcommand(1);
  ReservationOptions kept;
  auto* reserve = reservation->add_subcommand(
      "create", "Keep units of a SKU for a tenant, all or none (admin key)");
  reserve->add_option("sku", kept.sku, "Name of the SKU (tessera skus)")->required();
  reserve->add_option("--tenant", kept.tenant, "Tenant id")->required();
  reserve->add_option("--units", kept.units, "How many")->check(CLI::Range(1, 1024));
  reserve->add_flag("--open", kept.open, "The tenant's orders use it without naming it");
  reserve->add_flag("--lend", kept.lend,
                    "Lend unused units to orders that may be stopped, and call them back");
  reserve->add_option("--start", kept.start, "Such as 2026-01-31T08:05:09Z; default: now");
  reserve->add_option("--end", kept.end, "Likewise; default: until it is deleted");
  reserve->callback(with_key([&] { return CreateReservation(context, kept); }));
  reservation->add_subcommand("list", "Your reservations; with the admin key, all")
      ->callback(with_key([&] { return Reservations(context); }));
  std::string reservation_id;
  auto* drop = reservation->add_subcommand(
      "delete", "End it; what runs in it goes on as an ordinary instance (admin key)");
  drop->add_option("reservation", reservation_id, "Its id")->required();
  drop->callback(with_key([&] { return DeleteReservation(context, reservation_id); }));
  app.add_subcommand("quota", "What you hold, borrow and may hold, and ask for")
      ->callback(with_key([&] { return Quota(context); }));

  auto* admin = app.add_subcommand("admin", "For the operator: tenants, money, SKUs");
  admin->require_subcommand(1);
  std::string tenant_name, key_out, tenant_id, amount;
  auto* create = admin->add_subcommand("create-tenant", "Make a tenant and print its API key once");
  create->add_option("name", tenant_name, "Name of the tenant")->required();
  create->add_option("--key-out", key_out,
                     "Write the key to this file (mode 0600) instead of printing it");
  create->callback(with_key([&] { return CreateTenant(context, tenant_name, key_out); }));
  admin->add_subcommand("tenants", "All tenants")->callback(with_key([&] {
    return Tenants(context);
  }));
  auto* deposit = admin->add_subcommand("deposit", "Book money a tenant paid in");
  deposit->add_option("tenant", tenant_id, "Tenant id")->required();
  deposit->add_option("amount", amount, "Amount, such as 100.00")->required();
  deposit->callback(with_key([&] { return Deposit(context, tenant_id, amount); }));
  admin->add_subcommand("ledger", "Every account and the sum, which must be zero")
      ->callback(with_key([&] { return CheckLedger(context); }));
  admin->add_subcommand("queue", "Who goes next: the rules, and every quota with what is held")
      ->callback(with_key([&] { return Queue(context); }));
  QueueOptions queue;
  bool fair_share = false;
  bool preemption = true;
  auto* set_queue = admin->add_subcommand("set-queue", "Change the rules of the queue");
  auto* fair_flag = set_queue->add_option("--fair-share", fair_share,
                                          "Whoever holds least for his weight goes first");
  auto* preemption_flag =
      set_queue->add_option("--preemption", preemption, "Orders may be stopped for others");
  set_queue
      ->add_option("--reclaim", queue.reclaim,
                   "Whose borrowed quota its owner takes back: never, lower_priority or any")
      ->check(CLI::IsMember({"never", "lower_priority", "any"}));
  set_queue->callback(with_key([&] {
    if (fair_flag->count() > 0) queue.fair_share = fair_share;
    if (preemption_flag->count() > 0) queue.preemption = preemption;
    return SetQueue(context, queue);
  }));
  QuotaOptions quota;
  std::string parent;
  auto* set_quota = admin->add_subcommand(
      "set-quota", "Make or change the quota of a tenant or a group; what is not given stays");
  set_quota->add_option("name", quota.name, "A tenant's id or name, or a group's name")->required();
  auto* parent_flag = set_quota->add_option("--parent", parent,
                                            "The group it borrows from and lends to (empty: none)");
  set_quota->add_option("--cards", quota.cards, "Its own compute in cards, such as 2.5, or none");
  set_quota->add_option("--memory", quota.memory, "Its own memory, such as 160GiB, or none");
  set_quota->add_option("--borrow-cards", quota.borrow_cards, "Borrows at most so much compute");
  set_quota->add_option("--borrow-memory", quota.borrow_memory, "Borrows at most so much memory");
  set_quota->add_option("--lend-cards", quota.lend_cards, "Lends at most so much compute");
  set_quota->add_option("--lend-memory", quota.lend_memory, "Lends at most so much memory");
  set_quota->add_option("--weight", quota.weight, "Of its fair share, 1 to 1000");
  set_quota->callback(with_key([&] {
    if (parent_flag->count() > 0) quota.parent = parent;
    return SetQuota(context, quota);
  }));
  auto* remove_quota = admin->add_subcommand("remove-quota", "Take a quota away");
  remove_quota->add_option("name", quota.name, "A tenant's id or name, or a group's name")
      ->required();
  remove_quota->callback(with_key([&] { return RemoveQuota(context, quota.name); }));
  std::string priority_max;
  auto* limits =
      admin->add_subcommand("set-priority-max", "The highest priority a tenant may ask for");
  limits->add_option("tenant", tenant_id, "Tenant id")->required();
  limits->add_option("priority", priority_max, "A whole number; tenants begin with 0")->required();
  limits->callback(with_key([&] { return SetPriorityMax(context, tenant_id, priority_max); }));
  SkuOptions sku;
  auto* add_sku = admin->add_subcommand("add-sku", "Offer a slice shape at a price");
  add_sku->add_option("name", sku.name, "Name, such as a100.third")->required();
  add_sku->add_option("--price", sku.price_per_hour, "Price an hour, such as 6.40")->required();
  add_sku->add_option("--memory", sku.memory, "Memory, such as 26GiB")->required();
  add_sku->add_option("--compute", sku.compute, "Share of the card's compute, such as 33.3%")
      ->required();
  add_sku->add_option("--cpu", sku.cpu, "CPU in thousandths of a core");
  add_sku->add_option("--ram", sku.ram, "RAM, such as 8GiB");
  add_sku->add_option("--model", sku.model, "Only cards whose model contains this");
  add_sku->callback(with_key([&] { return AddSku(context, sku); }));

  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    const int parse_code = app.exit(error);
    return parse_code == 0 ? 0 : 2;
  }
  return code;
}

}  // namespace tessera::cli
