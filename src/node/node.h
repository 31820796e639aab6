// The node's service: the only ledger of this machine's cards. It reserves shares for slices and
// instances, keeps them as crash-safe records, directs the broker and the runner, and notices when
// something ended.
//
// Every change is: reserve in memory → record on disk → effect; undone in the opposite order. A
// record whose effect could not be undone stays reserved and is tried again by Tick(), so nothing
// is ever double-booked. Thread-safe; changes to one id are serialised, others run beside them. The
// destructor stops serving; slices and instances stay.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "base/result.h"
#include "broker/broker.h"
#include "device/card.h"
#include "node/audit.h"
#include "node/cdi.h"
#include "node/mps.h"
#include "node/records.h"
#include "node/runner.h"
#include "os/clock.h"
#include "os/files.h"
#include "placement/request.h"
#include "runtime/cgroups.h"
#include "vendors/vendor.h"

namespace tessera::node {

// Bounds; every refusal names the one it hit.
inline constexpr std::size_t kRecordsMax = 1024;  // slices and instances, ended ones included
inline constexpr int kBusyWaitSecondsMax = 60;    // for another change to the same id
inline constexpr std::int64_t kTickNanos =
    500'000'000;  // housekeeping, when nothing woke it earlier
inline constexpr std::int64_t kTelemetryNanos = 1'000'000'000;
inline constexpr std::int64_t kOrphanNanos =
    30'000'000'000;  // an allocation nobody joined is taken back after this

// A rack is named by 1 to 63 letters, digits, dots, dashes and underscores; empty is none.
inline constexpr std::size_t kRackTextMax = 63;
Status CheckRack(const std::string& rack, const std::string& field);

struct CardView {
  device::Card card;
  std::uint64_t reserved_bytes = 0;
  std::uint32_t reserved_permille = 0;
  std::uint64_t used_bytes = 0;
  std::uint32_t busy_permille = 0;
  device::Isolation isolation = device::Isolation::kShim;  // of the slices on it, if there are any
};

struct NodeView {
  std::string name;
  std::string rack;                           // where it stands; empty: nobody said
  std::vector<device::Isolation> isolations;  // how it can hold slices, now
  std::uint32_t cpu_millis = 0;
  std::uint32_t cpu_reserved_millis = 0;
  std::uint64_t ram_bytes = 0;
  std::uint64_t ram_reserved_bytes = 0;
  bool contained = false;
  std::string why_not_contained;
  std::vector<CardView> cards;
};

struct SliceView {
  std::string id;
  std::uint64_t generation = 0;
  Owner owner = Owner::kSlice;
  std::vector<device::Share> shares;
  std::vector<std::string> environment;  // what its programs are to be started with besides
  bool contained = false;                // members are held by a cgroup
  std::string cgroup;                    // that group's path in the hierarchy
  std::vector<broker::CardAudit> audit;  // with the driver's word as of the last sample
  std::uint64_t overruns = 0;
  SliceTerms terms;
  std::vector<broker::CardUsage> usage;
  broker::CardUsage pinned;  // page-locked memory of the machine
  broker::SliceActivity activity;
  std::vector<broker::TurnService> turns;
  std::vector<broker::AttachedProcess> processes;
};

// What the audit of single processes has come to, since the node started.
struct AuditCounts {
  std::map<std::string, std::uint64_t> findings;  // by AuditFindingName
  std::uint64_t frozen = 0;
  std::uint64_t evicted = 0;
  std::uint64_t cleared = 0;  // stopped for a closer look, found in order, and running again
  std::map<std::string, std::uint64_t> strangers;  // by card, in the last sample
};

struct InstanceView {
  std::string id;
  std::uint64_t generation = 0;
  Phase phase = Phase::kStarting;
  std::vector<device::Share> shares;
  std::uint32_t cpu_millis = 0;
  std::uint64_t ram_bytes = 0;
  std::string memo;
  int exit_code = 0;
  std::int64_t started_wall_micros = 0;
  std::int64_t ended_wall_micros = 0;
  std::uint64_t used_bytes = 0;
};

class Node {
 public:
  struct Options {
    std::string name;
    std::string rack;
    std::string run_dir;
    std::string state_dir;
    std::uint32_t cpu_millis = 0;             // 0: the machine's
    std::uint64_t ram_bytes = 0;              // 0: the machine's
    std::vector<vendors::Vendor*> vendors;    // outlive the node
    Runner* runner = nullptr;                 // nullptr: instances are refused
    std::optional<runtime::Cgroups> cgroups;  // absent: members by ancestry
    std::vector<runtime::Bind> instance_binds;
    std::vector<std::string> instance_environment;
    int stop_grace_millis = 10'000;
    AuditPolicy audit;
    CdiOptions cdi;
    std::string mps_control;  // empty: nvidia-cuda-mps-control from PATH
    os::Files* files = nullptr;
    const os::Clock* clock = nullptr;
    broker::Membership::Kernel kernel;
    std::string boot_id;     // empty: the machine's
    bool background = true;  // false: tests call Tick() themselves
  };
  // Discovers cards, replays the records and starts serving guests on <run_dir>/guest/guest.sock.
  static Result<std::unique_ptr<Node>> Start(Options options);
  ~Node();
  Node(const Node&) = delete;
  Node& operator=(const Node&) = delete;

  NodeView State();
  std::vector<CardView> Cards();

  // Idempotent. A higher generation changes the limits of the same cards live.
  Result<SliceView> PutSlice(const std::string& id, std::uint64_t generation,
                             const std::vector<device::Share>& shares,
                             const SliceTerms& terms = {});
  Result<SliceView> GetSlice(const std::string& id);
  std::vector<SliceView> Slices();
  // kFailedPrecondition while processes of the slice live; an unknown id is fine.
  Status DeleteSlice(const std::string& id);
  // Places a slice on this node's own cards for `tessera run`.
  Result<SliceView> Allocate(placement::Request request, const SliceTerms& terms = {});
  Status AddMember(const std::string& id, pid_t pid);

  // `memo` is kept with the instance and listed back unread; that of the first call stays.
  Result<InstanceView> PutInstance(const std::string& id, std::uint64_t generation,
                                   const std::vector<device::Share>& shares,
                                   const runtime::Workload& workload, const std::string& memo = "");
  Result<InstanceView> GetInstance(const std::string& id);
  std::vector<InstanceView> Instances();
  // generation 0: whichever runs.
  Result<InstanceView> StopInstance(const std::string& id, std::uint64_t generation);
  Status DeleteInstance(const std::string& id);
  Result<runtime::LogChunk> ReadLog(const std::string& id, std::uint64_t offset,
                                    std::size_t bytes_max);
  Result<runtime::ExecOutcome> Exec(const std::string& id, const std::vector<std::string>& argv,
                                    const std::string& stdin_bytes, int timeout_millis);

  // Housekeeping: notices ends, retries what could not be undone, saves what could not be saved.
  void Tick();
  void RefreshTelemetry();
  // Compares the last sample with the ledger and acts by the policy. The node's thread calls it
  // each second.
  void Audit();
  AuditCounts audit() const;
  // How long ago a process of the slice last submitted work, as of the last sample; nullopt: never
  // seen.
  std::optional<std::int64_t> LastKernelNanos(const std::string& slice) const;
  // Share of the card's time that processes of the slice used in the last sample, by the driver's
  // word; nullopt where it does not tell.
  std::optional<Permille> BusyOf(const std::string& slice, const std::string& card) const;
  std::string guest_socket() const { return options_.run_dir + "/guest/guest.sock"; }
  broker::BrokerCounters broker_counters() const { return broker_->counters(); }
  std::vector<MpsDaemons::View> mps() const { return mps_.Daemons(); }

 private:
  struct Entry {
    Record record;
    std::vector<device::Share> held;  // what counts as reserved: at least record.shares
    bool dirty = false;               // the file is older than the record
    bool releasing = false;           // to be undone as soon as that works
    bool released = false;            // exited, nothing reserved
    os::Fd watch;                     // instances: readable when ended
    std::int64_t born = 0;            // monotonic
  };
  class IdLock;

  explicit Node(Options options);
  Status Discover();
  Status Replay();
  Status ReplayOne(Record record);
  std::uint64_t ContextOf(vendors::Vendor& vendor, const device::Card& card,
                          const std::string& driver, std::string* failure);
  void Loop();
  bool EndedRun(const Entry& entry);
  void TickOne(const std::string& id);

  // With mutex_ held.
  Status CheckShares(const std::vector<device::Share>& shares) const;
  // Every card of the shares holds slices of their isolation only.
  Status CheckIsolation(const std::string& id, const std::vector<device::Share>& shares) const;
  std::optional<device::Isolation> IsolationOf(const std::string& uuid, const std::string& except,
                                               std::string* holder) const;
  Status CheckFits(const std::string& id, const std::vector<device::Share>& shares,
                   std::uint32_t cpu_millis, std::uint64_t ram_bytes) const;
  void ReservedOn(const std::string& uuid, const std::string& except, std::uint64_t* bytes,
                  std::uint64_t* permille) const;
  void ReservedCpu(const std::string& except, std::uint64_t* cpu_millis,
                   std::uint64_t* ram_bytes) const;
  Status Insert(Record record);
  const device::Card* FindCard(const std::string& uuid) const;

  // With the id locked and mutex_ free.
  Status Establish(const std::string& id);
  Status Undo(const std::string& id);
  Status WriteCdi(const Record& record);
  void RefreshCdi();
  Result<InstanceView> Settle(const std::string& id, const runtime::Report& report);
  Status Adopt(const std::string& id, const runtime::Report& report);
  std::vector<broker::CardLimits> LimitsOf(const std::string& id,
                                           const std::vector<device::Share>& shares);
  // Spatial isolation (node_spatial.cc). The slice's daemon is there; without it nothing changes.
  Status JoinMps(const std::string& id, const std::vector<device::Share>& shares);
  // What an instance needs besides to reach its daemon.
  void AddMpsAccess(const std::string& id, const std::vector<device::Share>& shares,
                    runtime::Spec* spec) const;
  void AdoptMps(const std::string& id, const std::vector<device::Share>& shares);
  Status LeaveMps(const std::string& id, const std::vector<device::Share>& shares);
  // Tells the other slices of these cards what has become of their percentages.
  void RefreshMps(const std::string& except, const std::vector<device::Share>& shares);
  // Whether the process is on a card in spatial isolation, and no client there, as of the last
  // sample. mutex_ held.
  bool OutsideMps(const std::string& card, pid_t pid) const;
  std::string RunCgroupName(const std::string& id) const { return "slice-" + id; }
  runtime::CgroupLeaf LeafOf(const std::string& id) const;
  SliceView ViewSlice(const Record& record);
  InstanceView ViewInstance(const Record& record);
  std::optional<std::uint64_t> DriverBytes(const std::string& uuid, pid_t pid);
  std::optional<std::uint64_t> SampledBytes(const std::string& uuid, pid_t pid) const;
  void SampleActivity(const std::vector<SliceView>& slices);
  // By slice and card: how much of the card's time it used beyond what the turns counted.
  using SliceCard = std::pair<std::string, std::string>;
  std::map<SliceCard, std::uint32_t> SampleTurns(const std::vector<SliceView>& slices);
  void AuditProcesses(const std::vector<SliceView>& slices);
  bool CarryOut(const Verdict& verdict, const SliceView* slice, std::int64_t now);
  bool StillOver(const CardHolder& holder);

  Options options_;
  os::Files& files_;
  const os::Clock& clock_;
  RecordStore records_;
  std::unique_ptr<broker::Broker> broker_;
  MpsDaemons mps_;
  std::map<std::string, vendors::Vendor*> vendor_of_;  // by card; fixed after Start

  mutable std::mutex mutex_;
  std::condition_variable unlocked_;
  std::set<std::string> busy_;
  std::map<std::string, Entry> entries_;
  std::vector<device::Card> cards_;
  std::map<std::string, vendors::CardTelemetry> telemetry_;
  // The last sample of who holds what by the driver: card -> pid -> bytes; a card it cannot tell
  // about is absent.
  std::map<std::string, std::map<pid_t, std::optional<std::uint64_t>>> sampled_;
  std::map<std::string, std::set<pid_t>> mps_clients_;  // of that sample
  struct Overrun {
    bool last = false;  // over in the sample before
    std::uint64_t count = 0;
  };
  std::map<std::string, Overrun> overruns_;  // by slice
  struct Activity {
    std::map<pid_t, std::uint64_t> launches;  // as last seen
    std::optional<std::int64_t> last;         // monotonic
  };
  std::map<std::string, Activity> activity_;  // by slice
  // The last sample of how busy a process keeps a card; a card whose driver does not tell is
  // absent.
  std::map<std::string, std::map<pid_t, std::uint32_t>> busy_time_;
  struct Served {
    std::uint64_t nanos = 0;
    std::int64_t at = 0;
    std::uint32_t permille = 0;  // of the time since the sample before
    std::optional<std::uint32_t> busy_permille;
  };
  std::map<SliceCard, Served> served_;
  Auditor auditor_;
  AuditCounts audit_;
  std::uint64_t next_run_ = 0;

  std::thread thread_;
  std::atomic<bool> stopping_{false};
  os::Fd wake_;
};

}  // namespace tessera::node
