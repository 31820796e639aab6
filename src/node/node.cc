#include "node/node.h"

#include <sys/eventfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <utility>

#include "base/log.h"
#include "node/id_lock.h"
#include "os/error.h"
#include "placement/engine.h"

namespace tessera::node {
namespace {

constexpr std::uint32_t kWholeCard = 1000;  // per mille

std::string BootId(os::Files& files) {
  auto text = files.Read("/proc/sys/kernel/random/boot_id");
  if (!text) return "unknown";
  while (!text->empty() && text->back() == '\n') text->pop_back();
  return *text;
}

// Element by element the larger share: what must stay reserved while it is unsure which of the two
// counts.
std::vector<device::Share> Larger(std::vector<device::Share> a,
                                  const std::vector<device::Share>& b) {
  for (std::size_t i = 0; i < a.size() && i < b.size(); ++i) {
    a[i].memory_bytes = std::max(a[i].memory_bytes, b[i].memory_bytes);
    a[i].compute = std::max(a[i].compute, b[i].compute);
  }
  return a;
}

}  // namespace

Status CheckRack(const std::string& rack, const std::string& field) {
  const bool named = std::all_of(rack.begin(), rack.end(), [](unsigned char c) {
    return std::isalnum(c) != 0 || c == '.' || c == '-' || c == '_';
  });
  if (named && rack.size() <= kRackTextMax) return {};
  return Error::Field(
      field,
      "expected at most 63 letters, digits, dots, dashes and underscores, got \"" + rack + "\"");
}

Node::Node(Options options)
    : options_(std::move(options)),
      files_(options_.files != nullptr ? *options_.files : os::PosixFiles()),
      clock_(options_.clock != nullptr ? *options_.clock : os::RealClock()),
      records_(files_, options_.state_dir),
      mps_({options_.mps_control, options_.run_dir + "/mps", options_.files, options_.clock}),
      auditor_(options_.audit) {}

Node::~Node() {
  stopping_.store(true);
  if (wake_) {
    const std::uint64_t one = 1;
    [[maybe_unused]] const ssize_t n = write(wake_.get(), &one, sizeof(one));
  }
  if (thread_.joinable()) thread_.join();
  broker_.reset();  // Its thread calls DriverBytes.
}

Result<std::unique_ptr<Node>> Node::Start(Options options) {
  std::unique_ptr<Node> node(new Node(std::move(options)));
  Options& given = node->options_;
  if (given.boot_id.empty()) given.boot_id = BootId(os::PosixFiles());
  if (given.cpu_millis == 0) {
    given.cpu_millis =
        static_cast<std::uint32_t>(std::max(1L, sysconf(_SC_NPROCESSORS_ONLN))) * 1000;
  }
  if (given.ram_bytes == 0) {
    given.ram_bytes = static_cast<std::uint64_t>(sysconf(_SC_PHYS_PAGES)) *
                      static_cast<std::uint64_t>(sysconf(_SC_PAGESIZE));
  }
  // Instances of other uids reach their own folder through here; the records below are the node's
  // alone.
  TRY_STATUS(node->files_.MakeDirs(given.state_dir, 0755));
  // Tenants reach the guest socket through here; what is below decides who reads it.
  TRY_STATUS(node->files_.MakeDirs(given.run_dir, 0755));
  TRY_STATUS(node->files_.MakeDirs(given.run_dir + "/guest", 0755));
  TRY_STATUS(node->records_.Prepare());
  node->wake_ = os::Fd(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!node->wake_) return os::ErrnoError("eventfd", "node", errno);
  TRY_STATUS(node->Discover());

  broker::Broker::Options broker;
  broker.run_folder = given.run_dir;
  broker.socket_path = node->guest_socket();
  broker.settle = [raw = node.get()](const std::string& uuid, pid_t pid) {
    return raw->DriverBytes(uuid, pid);
  };
  broker.files = &node->files_;
  broker.clock = &node->clock_;
  broker.kernel = given.kernel;
  TRY(node->broker_, broker::Broker::Start(std::move(broker)));
  {
    // Until the records are replayed, whoever asks is told to wait, not that he has no slice.
    const auto announcement = node->broker_->Announce();
    TRY_STATUS(node->Replay());
  }
  node->RefreshCdi();
  node->RefreshTelemetry();
  for (const device::Card& card : node->cards_) node->audit_.strangers[card.uuid] = 0;
  if (given.background) node->thread_ = std::thread([raw = node.get()] { raw->Loop(); });
  return node;
}

// ---- cards ----

Status Node::Discover() {
  for (vendors::Vendor* const vendor : options_.vendors) {
    auto found = vendor->Discover();
    if (!found) return found.error().Wrap(std::string(vendor->name()));
    const std::string driver = vendor->DriverVersion().value_or("unknown");
    for (device::Card& card : *found) {
      std::string failure;
      card.context_bytes = ContextOf(*vendor, card, driver, &failure);
      if (!failure.empty() && card.healthy) {
        // Without this figure a tenant would pay for contexts the ledger does not know.
        card.healthy = false;
        card.health_reason = "the size of a context could not be measured: " + failure;
      }
      if (!vendor_of_.emplace(card.uuid, vendor).second) {
        return Error(Code::kInternal, "card " + card.uuid + " was discovered twice");
      }
      Log(LogLevel::kInfo, "card.found",
          {{"card", card.uuid},
           {"model", card.model},
           {"bytes", card.memory_bytes},
           {"context_bytes", card.context_bytes},
           {"simulated", card.simulated},
           {"healthy", card.healthy},
           {"why", card.health_reason}});
      cards_.push_back(std::move(card));
    }
  }
  return {};
}

// One measurement a card and driver version, kept in the state folder: it costs seconds on a busy
// card.
std::uint64_t Node::ContextOf(vendors::Vendor& vendor, const device::Card& card,
                              const std::string& driver, std::string* failure) {
  if (card.context_bytes != 0) return card.context_bytes;
  const std::string path = options_.state_dir + "/contexts.json";
  std::map<std::string, std::uint64_t> known;
  const std::string key = card.uuid + "|" + driver;
  if (const auto text = files_.Read(path)) {
    if (auto json = http::JsonObject::Parse(*text)) {
      for (const std::string& name : json->Keys()) {
        if (const auto bytes = json->Bytes(name)) known[name] = *bytes;
      }
    }
  }
  if (const auto at = known.find(key); at != known.end() && at->second > 0) return at->second;
  auto measured = vendor.MeasureContext(card.uuid);
  if (!measured) {
    *failure = measured.error().message();
    return 0;
  }
  const std::uint64_t granule = std::max<std::uint64_t>(card.granule_bytes, 1);
  known[key] = (*measured + granule - 1) / granule * granule;
  http::JsonWriter json;
  json.BeginObject();
  for (const auto& [name, bytes] : known) json.Field(name, bytes);
  json.EndObject();
  if (const auto saved = files_.WriteAtomically(path, json.Take()); !saved) {
    Log(LogLevel::kWarn, "contexts.not_saved", {{"error", saved.error().ToString()}});
  }
  return known[key];
}

void Node::RefreshTelemetry() {
  std::map<std::string, vendors::CardTelemetry> fresh;
  std::map<std::string, vendors::CardHealth> health;
  std::map<std::string, std::map<pid_t, std::optional<std::uint64_t>>> sampled;
  std::map<std::string, std::map<pid_t, std::uint32_t>> busy;
  std::map<std::string, std::set<pid_t>> mps_clients;
  for (const auto& [uuid, vendor] : vendor_of_) {
    if (const auto processes = vendor->Busy(uuid)) {
      auto& of_card = busy[uuid];
      for (const auto& process : *processes) of_card[process.host_pid] = process.busy.value;
    }
    if (auto telemetry = vendor->Telemetry(uuid)) fresh[uuid] = *telemetry;
    if (const auto processes = vendor->Processes(uuid)) {
      auto& held = sampled[uuid];
      auto& clients = mps_clients[uuid];
      for (const auto& process : *processes) {
        if (process.mps) clients.insert(process.host_pid);
        auto& bytes = held.emplace(process.host_pid, 0).first->second;
        bytes = bytes && process.bytes ? std::optional(*bytes + *process.bytes) : std::nullopt;
      }
    }
  }
  for (vendors::Vendor* const vendor : options_.vendors) {
    if (auto all = vendor->Health()) {
      for (auto& item : *all) health[item.card_uuid] = item;
    }
  }
  const std::lock_guard lock(mutex_);
  telemetry_ = std::move(fresh);
  sampled_ = std::move(sampled);
  busy_time_ = std::move(busy);
  mps_clients_ = std::move(mps_clients);
  for (device::Card& card : cards_) {
    const auto at = health.find(card.uuid);
    // A card whose context is unknown stays out, however well it is.
    if (at == health.end() || card.context_bytes == 0) continue;
    if (card.healthy != at->second.healthy) {
      Log(LogLevel::kWarn, "card.health",
          {{"card", card.uuid}, {"healthy", at->second.healthy}, {"why", at->second.reason}});
    }
    card.healthy = at->second.healthy;
    card.health_reason = at->second.reason;
  }
}

std::optional<std::uint64_t> Node::SampledBytes(const std::string& uuid, pid_t pid) const {
  const std::lock_guard lock(mutex_);
  const auto card = sampled_.find(uuid);
  if (card == sampled_.end()) return std::nullopt;
  const auto process = card->second.find(pid);
  return process == card->second.end() ? 0 : process->second;
}

std::optional<std::uint64_t> Node::DriverBytes(const std::string& uuid, pid_t pid) {
  const auto at = vendor_of_.find(uuid);
  if (at == vendor_of_.end()) return std::nullopt;
  const auto processes = at->second->Processes(uuid);
  if (!processes) return std::nullopt;
  std::uint64_t sum = 0;
  for (const auto& process : *processes) {
    if (process.host_pid != pid) continue;
    if (!process.bytes) return std::nullopt;
    sum += *process.bytes;
  }
  return sum;  // A process the driver does not list holds nothing.
}

std::vector<CardView> Node::Cards() {
  const std::lock_guard lock(mutex_);
  std::vector<CardView> views;
  for (const device::Card& card : cards_) {
    CardView view;
    view.card = card;
    std::uint64_t permille = 0;
    ReservedOn(card.uuid, "", &view.reserved_bytes, &permille);
    view.reserved_permille = static_cast<std::uint32_t>(permille);
    std::string holder;
    view.isolation = IsolationOf(card.uuid, "", &holder).value_or(device::Isolation::kShim);
    if (const auto at = telemetry_.find(card.uuid); at != telemetry_.end()) {
      view.used_bytes = at->second.used_bytes;
      view.busy_permille = at->second.busy ? at->second.busy->value : 0;
    }
    views.push_back(std::move(view));
  }
  return views;
}

NodeView Node::State() {
  NodeView view;
  view.name = options_.name;
  view.rack = options_.rack;
  for (const device::Isolation one : kNodeIsolations) {
    if (one != device::Isolation::kSpatial || mps_.Offered()) view.isolations.push_back(one);
  }
  view.cpu_millis = options_.cpu_millis;
  view.ram_bytes = options_.ram_bytes;
  view.contained = options_.runner != nullptr && options_.runner->contained();
  if (options_.runner != nullptr) view.why_not_contained = options_.runner->why_not_contained();
  view.cards = Cards();
  const std::lock_guard lock(mutex_);
  std::uint64_t cpu = 0;
  ReservedCpu("", &cpu, &view.ram_reserved_bytes);
  view.cpu_reserved_millis = static_cast<std::uint32_t>(cpu);
  return view;
}

// ---- the ledger (mutex_ held) ----

const device::Card* Node::FindCard(const std::string& uuid) const {
  const auto at = std::find_if(cards_.begin(), cards_.end(),
                               [&](const auto& card) { return card.uuid == uuid; });
  return at == cards_.end() ? nullptr : &*at;
}

void Node::ReservedOn(const std::string& uuid, const std::string& except, std::uint64_t* bytes,
                      std::uint64_t* permille) const {
  *bytes = 0;
  *permille = 0;
  for (const auto& [id, entry] : entries_) {
    if (entry.released || id == except) continue;
    for (const device::Share& share : entry.held) {
      if (share.card_uuid != uuid) continue;
      *bytes += share.memory_bytes;
      *permille += share.compute.value;
    }
  }
}

void Node::ReservedCpu(const std::string& except, std::uint64_t* cpu_millis,
                       std::uint64_t* ram_bytes) const {
  *cpu_millis = 0;
  *ram_bytes = 0;
  for (const auto& [id, entry] : entries_) {
    if (entry.released || id == except) continue;
    *cpu_millis += entry.record.workload.cpu_millis;
    *ram_bytes += entry.record.workload.ram_bytes;
  }
}

Status Node::CheckShares(const std::vector<device::Share>& shares) const {
  if (shares.empty() || shares.size() > wire::kCardsMax) {
    return Error::Field("shares", "expected 1 to kCardsMax (16) shares");
  }
  for (std::size_t i = 0; i < shares.size(); ++i) {
    const std::string field = "shares[" + std::to_string(i) + "]";
    const device::Share& share = shares[i];
    const device::Card* const card = FindCard(share.card_uuid);
    if (card == nullptr)
      return Error::Field(field + ".card", "expected a card of this node, got " + share.card_uuid);
    for (std::size_t j = 0; j < i; ++j) {
      if (shares[j].card_uuid == share.card_uuid) {
        return Error::Field(field + ".card", "expected a different card for every share");
      }
    }
    if (share.compute.value < 1 || share.compute.value > kWholeCard) {
      return Error::Field(field + ".compute_permille", "expected 1 to 1000");
    }
    if (share.memory_bytes <= card->context_bytes) {
      return Error::Field(field + ".memory_bytes",
                          "expected more than one context of this card takes (" +
                              FormatBytes(card->context_bytes) + ")");
    }
    if (share.memory_bytes > placement::kCardBytesMax) {
      return Error::Field(field + ".memory_bytes", "expected at most kCardBytesMax (1048576 GiB)");
    }
  }
  return {};
}

Status Node::CheckFits(const std::string& id, const std::vector<device::Share>& shares,
                       std::uint32_t cpu_millis, std::uint64_t ram_bytes) const {
  TRY_STATUS(CheckIsolation(id, shares));
  for (const device::Share& share : shares) {
    const device::Card& card = *FindCard(share.card_uuid);
    if (!card.healthy) {
      return Error(Code::kFailedPrecondition,
                   "card " + card.uuid + " is out of service: " + card.health_reason);
    }
    std::uint64_t bytes = 0;
    std::uint64_t permille = 0;
    ReservedOn(card.uuid, id, &bytes, &permille);
    const std::uint64_t free = card.memory_bytes > bytes ? card.memory_bytes - bytes : 0;
    if (share.memory_bytes > free) {
      return Error(Code::kResourceExhausted, "memory: asked " + FormatBytes(share.memory_bytes) +
                                                 " on card " + card.uuid + ", free " +
                                                 FormatBytes(free));
    }
    if (permille + share.compute.value > kWholeCard) {
      return Error(Code::kResourceExhausted,
                   "compute: asked " + FormatPermille(share.compute) + " of card " + card.uuid +
                       ", free " +
                       FormatPermille({static_cast<std::uint32_t>(
                           kWholeCard - std::min<std::uint64_t>(permille, kWholeCard))}));
    }
  }
  std::uint64_t cpu = 0;
  std::uint64_t ram = 0;
  ReservedCpu(id, &cpu, &ram);
  const std::uint64_t cpu_free = options_.cpu_millis > cpu ? options_.cpu_millis - cpu : 0;
  if (cpu_millis > cpu_free) {
    return Error(Code::kResourceExhausted, "cpu: asked " + std::to_string(cpu_millis) +
                                               " millis, free " + std::to_string(cpu_free) +
                                               " millis");
  }
  const std::uint64_t ram_free = options_.ram_bytes > ram ? options_.ram_bytes - ram : 0;
  if (ram_bytes > ram_free) {
    return Error(Code::kResourceExhausted,
                 "ram: asked " + FormatBytes(ram_bytes) + ", free " + FormatBytes(ram_free));
  }
  return {};
}

Status Node::Insert(Record record) {
  if (entries_.size() >= kRecordsMax && !entries_.contains(record.id)) {
    return Error(Code::kResourceExhausted,
                 "kRecordsMax (1024) slices and instances are kept on this node");
  }
  Entry entry;
  entry.held = record.shares;
  entry.born = clock_.MonotonicNanos();
  const std::string id = record.id;
  entry.record = std::move(record);
  entries_.insert_or_assign(id, std::move(entry));
  return {};
}

std::vector<broker::CardLimits> Node::LimitsOf(const std::string& id,
                                               const std::vector<device::Share>& shares) {
  const std::lock_guard lock(mutex_);
  std::vector<broker::CardLimits> limits;
  for (const device::Share& share : shares) {
    broker::CardLimits card;
    card.uuid = share.card_uuid;
    card.limit_bytes = share.memory_bytes;
    card.ceiling_bytes = share.memory_bytes;
    card.compute_permille = share.compute.value;
    // What was sold is a part of what contends, not a ceiling: idle time goes to whoever has work.
    card.weight = share.compute_capped ? 0 : share.compute.value;
    if (share.isolation == device::Isolation::kSpatial) {
      card.mps_percentage = std::max(mps_.Percentage(share.card_uuid, id), 1u);
    }
    const device::Card* const known = FindCard(share.card_uuid);
    card.context_bytes = known != nullptr ? known->context_bytes : 0;
    card.granule_bytes = known != nullptr ? known->granule_bytes : 2 * kMiB;
    limits.push_back(std::move(card));
  }
  return limits;
}

// ---- the steps every slice shares (id locked) ----

// Record, then pages. When either fails everything is taken back, now or by Tick().
Status Node::Establish(const std::string& id) {
  Record record;
  {
    const std::lock_guard lock(mutex_);
    record = entries_.at(id).record;
  }
  Status done = records_.Save(record);
  if (done) done = JoinMps(id, record.shares);
  if (done) {
    done = broker_->CreateSlice(id, LimitsOf(id, record.shares), record.terms.pinned_bytes);
  }
  if (done) done = WriteCdi(record);
  if (!done) (void)Undo(id);
  RefreshMps(id, record.shares);
  return done;
}

// Instances run in containers of ours and need none.
Status Node::WriteCdi(const Record& record) {
  if (options_.cdi.folder.empty() || record.owner == Owner::kInstance) return {};
  const auto spec = CdiSpec(options_.cdi, options_.run_dir + "/guest", record.id, record.shares);
  if (!spec) {
    Log(LogLevel::kWarn, "cdi.no_name", {{"slice", record.id}, {"why", spec.error().ToString()}});
    return {};
  }
  return files_.WriteAtomically(CdiPath(options_.cdi, record.id), *spec);
}

// After a restart: specs of the slices there are, by the paths of today, and none of others.
void Node::RefreshCdi() {
  if (options_.cdi.folder.empty()) return;
  Status done = files_.MakeDirs(options_.cdi.folder, 0755);
  for (const auto& [id, entry] : entries_) {
    if (done && !entry.released) done = WriteCdi(entry.record);
  }
  const auto files = files_.List(options_.cdi.folder);
  for (const std::string& file : files ? *files : std::vector<std::string>()) {
    const std::string slice = CdiSliceOf(file);
    if (slice.empty() || entries_.contains(slice)) continue;
    if (done) done = files_.Remove(options_.cdi.folder + "/" + file);
  }
  if (!done) Log(LogLevel::kError, "cdi.failed", {{"error", done.error().ToString()}});
}

// Pages, cgroup, record, memory. What fails is left to Tick(), and the shares stay reserved until
// then.
Status Node::Undo(const std::string& id) {
  Record record;
  {
    const std::lock_guard lock(mutex_);
    const auto at = entries_.find(id);
    if (at == entries_.end()) return {};
    record = at->second.record;
  }
  const auto work = [&]() -> Status {
    if (!options_.cdi.folder.empty()) TRY_STATUS(files_.Remove(CdiPath(options_.cdi, id)));
    TRY_STATUS(broker_->RemoveSlice(id));
    if (record.owner != Owner::kInstance && !record.cgroup.empty() && options_.cgroups) {
      TRY_STATUS(runtime::RemoveCgroups(LeafOf(id).folders));
    }
    TRY_STATUS(LeaveMps(id, record.shares));
    return records_.Remove(id);
  };
  Status done = work();
  const std::lock_guard lock(mutex_);
  if (done) {
    entries_.erase(id);
  } else {
    entries_.at(id).releasing = true;
    Log(LogLevel::kWarn, "slice.not_released", {{"slice", id}, {"error", done.error().ToString()}});
  }
  return done;
}

runtime::CgroupLeaf Node::LeafOf(const std::string& id) const {
  return options_.cgroups->LeafOf(RunCgroupName(id), false, false);
}

// ---- slices ----

SliceView Node::ViewSlice(const Record& record) {
  SliceView view;
  view.id = record.id;
  view.generation = record.generation;
  view.owner = record.owner;
  view.shares = record.shares;
  view.contained = !record.cgroup.empty();
  view.cgroup = record.cgroup;
  const auto truth = [this](const std::string& uuid, pid_t pid) { return SampledBytes(uuid, pid); };
  if (auto audit = broker_->Audit(record.id, truth)) view.audit = *std::move(audit);
  {
    const std::lock_guard lock(mutex_);
    if (const auto at = overruns_.find(record.id); at != overruns_.end())
      view.overruns = at->second.count;
  }
  view.terms = record.terms;
  if (auto usage = broker_->Usage(record.id)) view.usage = *std::move(usage);
  if (auto pinned = broker_->HostUsage(record.id)) view.pinned = *std::move(pinned);
  if (const auto activity = broker_->Activity(record.id)) view.activity = *activity;
  view.turns = broker_->TurnsOf(record.id);
  if (auto processes = broker_->Processes(record.id)) view.processes = *std::move(processes);
  for (const device::Share& share : record.shares) {
    for (std::string& variable : mps_.Variables(share.card_uuid, record.id)) {
      view.environment.push_back(std::move(variable));
    }
  }
  return view;
}

Result<SliceView> Node::PutSlice(const std::string& id, std::uint64_t generation,
                                 const std::vector<device::Share>& shares,
                                 const SliceTerms& terms) {
  TRY_STATUS(broker::CheckSliceId(id));
  if (generation == 0) return Error::Field("generation", "expected at least 1");
  const IdLock id_lock(*this, id);
  if (!id_lock.held()) return id_lock.Busy();
  Record before;
  Record record;
  bool exists = false;
  {
    const std::lock_guard lock(mutex_);
    if (const auto at = entries_.find(id); at != entries_.end()) {
      exists = true;
      before = at->second.record;
      if (before.owner != Owner::kSlice) {
        return Error(Code::kAlreadyExists,
                     id + " is the slice of a " + std::string(OwnerName(before.owner)));
      }
      if (at->second.releasing)
        return Error(Code::kUnavailable, "slice " + id + " is being taken back; try again");
      if (generation < before.generation) {
        return Error(Code::kAborted, "slice " + id + ": generation " + std::to_string(generation) +
                                         " is older than the known " +
                                         std::to_string(before.generation));
      }
      if (generation == before.generation && (shares != before.shares || terms != before.terms)) {
        return Error(Code::kAlreadyExists, "slice " + id + " has other terms at generation " +
                                               std::to_string(generation));
      }
    }
    TRY_STATUS(CheckShares(shares));
    if (!exists || generation > before.generation) {
      if (exists) {
        const bool same_cards =
            std::equal(shares.begin(), shares.end(), before.shares.begin(), before.shares.end(),
                       [](const auto& a, const auto& b) {
                         return a.card_uuid == b.card_uuid && a.isolation == b.isolation;
                       });
        if (!same_cards) {
          return Error(Code::kFailedPrecondition,
                       "slice " + id + ": its cards and isolation cannot change, only its limits");
        }
      }
      TRY_STATUS(CheckFits(id, shares, 0, 0));
    }
    record = exists ? before : Record{};
    record.id = id;
    record.generation = generation;
    record.shares = shares;
    record.terms = terms;
    record.boot_id = options_.boot_id;
    if (!exists) {
      record.owner = Owner::kSlice;
      record.phase = Phase::kRunning;
      record.created_wall_micros = clock_.WallMicros();
      TRY_STATUS(Insert(record));
    } else if (generation > before.generation) {
      Entry& entry = entries_.at(id);
      entry.held = Larger(before.shares, shares);
      entry.record = record;
    }
  }
  if (!exists) {
    TRY_STATUS(Establish(id));
    Log(LogLevel::kInfo, "slice.created", {{"slice", id}, {"generation", generation}});
  } else if (generation > before.generation) {
    Status done = records_.Save(record);
    if (done) done = JoinMps(id, shares);
    if (done) done = broker_->SetLimits(id, LimitsOf(id, shares), terms.pinned_bytes);
    if (!done) (void)JoinMps(id, before.shares);
    RefreshMps(id, shares);
    const std::lock_guard lock(mutex_);
    Entry& entry = entries_.at(id);
    if (done) {
      entry.held = shares;
      entry.dirty = false;
    } else {
      // The file may hold either; both stay reserved until the old one is surely written again.
      entry.record = before;
      entry.dirty = true;
      return done.error();
    }
    Log(LogLevel::kInfo, "slice.changed", {{"slice", id}, {"generation", generation}});
  }
  return ViewSlice(record);
}

Result<SliceView> Node::GetSlice(const std::string& id) {
  Record record;
  {
    const std::lock_guard lock(mutex_);
    const auto at = entries_.find(id);
    if (at == entries_.end() || at->second.released)
      return Error(Code::kNotFound, "slice " + id + " does not exist");
    record = at->second.record;
  }
  return ViewSlice(record);
}

std::vector<SliceView> Node::Slices() {
  std::vector<Record> records;
  {
    const std::lock_guard lock(mutex_);
    for (const auto& [id, entry] : entries_) {
      if (!entry.released) records.push_back(entry.record);
    }
  }
  std::vector<SliceView> views;
  for (const Record& record : records) views.push_back(ViewSlice(record));
  return views;
}

Status Node::DeleteSlice(const std::string& id) {
  TRY_STATUS(broker::CheckSliceId(id));
  const IdLock id_lock(*this, id);
  if (!id_lock.held()) return id_lock.Busy();
  Record record;
  {
    const std::lock_guard lock(mutex_);
    const auto at = entries_.find(id);
    if (at == entries_.end()) return {};
    record = at->second.record;
  }
  if (record.owner == Owner::kInstance) {
    return Error(Code::kFailedPrecondition,
                 "slice " + id + " belongs to an instance; stop that instead");
  }
  std::string living;
  for (const os::ProcessId& root : broker_->LiveRoots(id)) living += " " + std::to_string(root.pid);
  if (const auto processes = broker_->Processes(id)) {
    for (const auto& process : *processes) {
      if (os::IsAlive(process.process)) living += " " + std::to_string(process.process.pid);
    }
  }
  if (!record.cgroup.empty() && options_.cgroups) {
    if (const auto procs = os::PosixFiles().Read(LeafOf(id).unified + "/cgroup.procs")) {
      std::string pid;
      for (const char c : *procs) {
        if (c != '\n') {
          pid += c;
          continue;
        }
        living += " " + pid;
        pid.clear();
      }
    }
  }
  if (!living.empty()) {
    return Error(Code::kFailedPrecondition, "slice " + id + ": processes live in it:" + living);
  }
  TRY_STATUS(Undo(id));
  Log(LogLevel::kInfo, "slice.removed", {{"slice", id}});
  return {};
}

Result<SliceView> Node::Allocate(placement::Request request, const SliceTerms& terms) {
  {
    std::unique_lock lock(mutex_);
    do {
      request.id = "run-" + std::to_string(clock_.WallMicros()) + "-" + std::to_string(next_run_++);
    } while (entries_.contains(request.id));
    TRY_STATUS(placement::Validate(request));
    if (request.slices > wire::kCardsMax)
      return Error::Field("cards", "expected 1 to kCardsMax (16)");
    // The engine is asked about room alone, on the cards that are held this way or not at all.
    const auto isolation = std::exchange(request.isolation, device::Isolation::kShim);
    placement::NodeInventory inventory{options_.name.empty() ? "node" : options_.name,
                                       options_.cpu_millis,
                                       options_.ram_bytes,
                                       {}};
    placement::ForeignUse foreign;
    for (const device::Card& card : cards_) {
      std::string holder;
      const auto there = IsolationOf(card.uuid, "", &holder);
      if (there && (*there != isolation || isolation == device::Isolation::kWhole)) continue;
      inventory.cards.push_back(card);
      device::Share share;
      share.card_uuid = card.uuid;
      std::uint64_t permille = 0;
      ReservedOn(card.uuid, "", &share.memory_bytes, &permille);
      share.compute.value = static_cast<std::uint32_t>(permille);
      foreign.cards.push_back(std::move(share));
    }
    placement::Engine engine;
    TRY_STATUS(engine.UpdateNode(inventory, foreign));
    const placement::Placement* const answer = engine.Consider(request);
    if (answer == nullptr) {
      const placement::Scarcity scarcity = engine.WhyNot(request);
      return Error(scarcity.never ? Code::kFailedPrecondition : Code::kResourceExhausted,
                   scarcity.message);
    }
    Record record;
    record.id = request.id;
    record.generation = 1;
    record.owner = Owner::kRun;
    record.phase = Phase::kStarting;
    record.shares = answer->shares;
    record.terms = terms;
    for (device::Share& share : record.shares) share.isolation = isolation;
    record.boot_id = options_.boot_id;
    record.created_wall_micros = clock_.WallMicros();
    TRY_STATUS(CheckShares(record.shares));
    TRY_STATUS(CheckFits(record.id, record.shares, 0, 0));
    TRY_STATUS(Insert(record));
  }
  const IdLock held(*this, request.id);
  if (!held.held()) return held.Busy();
  TRY_STATUS(Establish(request.id));
  Log(LogLevel::kInfo, "slice.allocated", {{"slice", request.id}});
  return GetSlice(request.id);
}

Status Node::AddMember(const std::string& id, pid_t pid) {
  TRY_STATUS(broker::CheckSliceId(id));
  const IdLock id_lock(*this, id);
  if (!id_lock.held()) return id_lock.Busy();
  const auto identity = os::IdentifyProcess(pid);
  if (!identity)
    return Error::Field("pid", "expected a live process, there is no " + std::to_string(pid));
  Record before;
  {
    const std::lock_guard lock(mutex_);
    const auto at = entries_.find(id);
    if (at == entries_.end() || at->second.releasing) {
      return Error(Code::kNotFound, "slice " + id + " does not exist");
    }
    before = at->second.record;
  }
  if (before.owner == Owner::kInstance) {
    return Error(Code::kFailedPrecondition,
                 "slice " + id + " belongs to an instance; its members are its processes");
  }
  if (const auto other = broker_->SliceOf(pid); other && *other != id) {
    return Error(Code::kFailedPrecondition,
                 "process " + std::to_string(pid) + " belongs to slice " + *other);
  }
  Record record = before;
  record.phase = Phase::kRunning;
  record.boot_id = options_.boot_id;
  if (options_.cgroups) record.cgroup = LeafOf(id).path;
  std::erase_if(record.roots, [](const os::ProcessId& root) { return !os::IsAlive(root); });
  if (std::find(record.roots.begin(), record.roots.end(), *identity) == record.roots.end()) {
    if (record.roots.size() >= broker::kRootsPerSliceMax) {
      return Error(Code::kResourceExhausted,
                   "slice " + id + ": kRootsPerSliceMax (256) root processes live");
    }
    record.roots.push_back(*identity);
  }
  const auto work = [&]() -> Status {
    TRY_STATUS(records_.Save(record));
    if (!options_.cgroups) return broker_->AddRoot(id, *identity);
    const auto leaf = LeafOf(id);
    TRY(const auto unenforced, options_.cgroups->Make(leaf, RunCgroupName(id), 0, 0));
    TRY_STATUS(broker_->AddCgroup(id, leaf.path));
    for (const std::string& procs : leaf.procs) TRY_STATUS(files_.Poke(procs, std::to_string(pid)));
    return {};
  };
  Status done = work();
  const std::lock_guard lock(mutex_);
  Entry& entry = entries_.at(id);
  if (done) {
    entry.record = record;
    return {};
  }
  // A leaf that was made stays with the slice: the record keeps its name so that it is removed in
  // the end.
  entry.record.cgroup = record.cgroup;
  entry.dirty = true;
  return done;
}

}  // namespace tessera::node
