// The control plane: tenants, catalogue, instances, purse and bill over one database and one
// scheduling plane.
//
// Every change is one transaction that holds the state, its events, the money it moves, the audit
// record and the remembered answer. The scheduling plane is called between transactions; its calls
// are idempotent by instance id and generation, and Tick() repeats whatever a crash cut off until
// the instance is as wanted.
//
// Thread-safe. The database, the scheduling plane and the clock must outlive it. Nobody else may
// write to the database.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "cloud/books.h"
#include "cloud/execution.h"
#include "cloud/model.h"
#include "os/clock.h"
#include "store/database.h"

namespace tessera::cloud {

// The field of the error that says the purse is too small; REST answers 402.
inline constexpr std::string_view kPurseField = "purse";

struct ServiceOptions {
  // The next hour's hold is taken this long before the hour begins.
  std::int64_t hold_margin_micros = 60'000'000;
  // How old a stored heartbeat may get while the node vouches for the run; at most 5 s by the
  // billing rule.
  std::int64_t heartbeat_micros = 2'000'000;
  // How long a running instance may be unknown to the scheduling plane before it counts as lost.
  std::int64_t lost_micros = 60'000'000;
  // What a spot instance pays less than the list price. An instance keeps the price it was rented
  // at.
  std::uint32_t spot_discount_permille = 500;
};

// The rules of the queue and what is held under them.
struct QueueRules {
  placement::QueuePolicy policy;
  std::int64_t version = 0;  // of the stored rules; 0: none were ever set
  std::string file;          // where the rules come from instead; empty: the store
  std::vector<placement::QuotaUse> use;
};

// What a tenant may hold and ask for.
struct OwnQuota {
  std::int32_t priority_max = 0;
  std::optional<placement::QuotaUse> use;  // not set: no quota limits him
};

struct NewTenant {
  Tenant tenant;
  std::string api_key;  // shown once
};

class Service {
 public:
  // Migrates the database and creates the admin key at the very first start.
  static Result<std::unique_ptr<Service>> Open(store::Database& database, Execution& execution,
                                               const os::Clock& clock, ServiceOptions options = {});

  // The admin key made by Open, once; empty when there was one already.
  std::string TakeNewAdminKey();
  // A new admin key in place of the old one, for the owner of the machine who lost it.
  Result<std::string> ResetAdminKey();
  Result<Caller> Authenticate(const std::string& key);

  // Tenants and money (admin).
  Result<NewTenant> CreateTenant(const std::string& name, const Once* once = nullptr);
  Result<std::string> ResetTenantKey(const std::string& tenant_id);
  Result<std::vector<Tenant>> Tenants();
  Result<Tenant> GetTenant(const std::string& tenant_id);
  Result<Purse> GetPurse(const std::string& tenant_id) { return ReadPurse(database_, tenant_id); }
  // `id` names the payment: the same id again pays nothing.
  Status Deposit(const std::string& tenant_id, const std::string& id, Money amount,
                 const Once* once = nullptr);
  Result<LedgerState> Ledger() { return ReadLedger(database_); }
  Result<commerce::Bill> Bill(const std::string& tenant_id);

  // Catalogue. Adding a name that exists makes its next version; the very same shape and price
  // again is the existing version.
  Result<Sku> AddSku(Sku sku, const Once* once = nullptr);
  Result<std::vector<Sku>> Skus();  // the current version of each

  // Reservations (admin). All units stand when it is made (or, with a later start, could stand), or
  // it is refused: kResourceExhausted says how many fit. Ended ones stay listed until deleted.
  Result<Reservation> CreateReservation(const std::string& tenant_id, const std::string& sku,
                                        Reservation wanted, const Once* once = nullptr);
  // With a tenant, his alone.
  Result<std::vector<Reservation>> Reservations(const std::string& tenant_id);
  // Ends it: units that nobody uses are given back, what runs in it goes on as an ordinary
  // instance.
  Status DeleteReservation(const std::string& id);

  // The rules of the queue (admin; queue.cc). A quota is of a tenant, by his id, or of a group that
  // others name as their parent.
  // What holds now: the file's, or the last ones set.
  Result<QueueRules> GetQueue();
  // Takes effect at once and outlives a restart. `version` is the one that was read before the
  // change: kAborted when another change came between; the very rules that hold already change
  // nothing and are no error. kFailedPrecondition while a file gives the
  // rules.
  Status SetQueue(const placement::QueuePolicy& policy, std::optional<std::int64_t> version);
  // Rules that a file gives, in place of the stored ones as long as the process lives or until
  // called again; nullopt: the stored ones hold.
  Status UseQueueFile(const std::optional<placement::QueuePolicy>& policy, const std::string& file);
  // The highest priority a tenant may ask for. What he rented before keeps its own.
  Result<Tenant> SetPriorityMax(const std::string& tenant_id, std::int32_t priority_max);
  Result<OwnQuota> QuotaOf(const std::string& tenant_id);

  // Instances of one tenant. An id of somebody else is as unknown as one that never was.
  Result<Instance> CreateInstance(const std::string& tenant_id, const InstanceSpec& spec,
                                  const Once* once = nullptr);
  // `gang.size` instances that start together or not at all; `spec.name` with -1, -2, ... behind
  // it.
  Result<std::vector<Instance>> CreateGang(const std::string& tenant_id, const InstanceSpec& spec,
                                           Gang gang, const Once* once = nullptr);
  Result<std::vector<Instance>> LoadGang(const std::string& gang_id);
  Result<Instance> GetInstance(const std::string& tenant_id, const std::string& id);
  struct Page {
    std::vector<Instance> instances;  // oldest first
    std::int64_t next = 0;            // 0: no more
  };
  // Without a state: all that are not released.
  Result<Page> ListInstances(const std::string& tenant_id, std::optional<commerce::State> state,
                             std::size_t limit, std::int64_t after);
  Result<Instance> StopInstance(const std::string& tenant_id, const std::string& id);
  Result<Instance> StartInstance(const std::string& tenant_id, const std::string& id,
                                 const Once* once = nullptr);
  Result<Instance> ReleaseInstance(const std::string& tenant_id, const std::string& id);
  Result<std::string> Log(const std::string& tenant_id, const std::string& id,
                          std::uint64_t offset);
  Result<ExecOutput> Exec(const std::string& tenant_id, const std::string& id,
                          const std::vector<std::string>& command, const std::string& stdin_bytes);
  // Why it waits, or why it is where it is; kFailedPrecondition when it does neither. Of others who
  // are ahead the tenant learns the number only.
  Result<Explained> Explain(const std::string& tenant_id, const std::string& id);
  Result<std::vector<InstanceEvent>> Events(const std::string& tenant_id, const std::string& id);
  Result<std::vector<CardView>> Cards() { return execution_.Cards(); }

  Result<std::optional<Remembered>> Recall(const Once& once);
  // Whether the database answers.
  Status Healthy();

  // One round of the reconciler, in two halves so that waiting for a program to end never delays a
  // heartbeat: Record() writes down what the scheduling plane says and settles hours; Converge()
  // makes the calls that bring every instance to what is wanted, and may wait as long as a stop
  // takes. Tick() is both. Call each about once a second (reconciler.h does), and Tick() once
  // before serving after a restart. An error means that some of it is still to do; the next round
  // does it.
  Status Record();
  Status Converge();
  Status Tick();

 private:
  Service(store::Database& database, Execution& execution, const os::Clock& clock,
          ServiceOptions options)
      : database_(database), execution_(execution), clock_(clock), options_(options) {}

  Status CheckQueue(const placement::QueuePolicy& policy);
  Result<QueueRules> ReadQueue();
  Status ApplyQueue();
  void Price(Sku* sku) const;
  // What holds for an instance from its rental on: SKU, rank and price.
  Status Agree(store::Transaction& transaction, const InstanceSpec& spec, Instance* instance);

  std::mutex& Stripe(const std::string& instance_id);
  Result<Instance> Load(const std::string& id);

  struct Heartbeat {
    std::string id;
    std::uint64_t generation = 0;
    std::int64_t seen_micros = 0;
  };

  // The steps of the life cycle; the caller holds the instance's stripe.
  // Asks the plane for a place; `first` when a tenant waits for the answer and a refusal is his.
  Status Ask(const Instance& instance, bool first);
  // Does the next thing that brings an instance to what is wanted.
  Status Drive(const std::string& id);
  // Records what the plane says about the current generation.
  Status Apply(const ExecutionStatus& status);
  // The plane refused for good. `forget`: leave nothing of the attempt to see.
  Status Refuse(const Instance& asked, const Error& why, bool forget);
  Status Finish(store::Transaction& transaction, Instance instance, std::int64_t ended_micros,
                std::optional<std::int64_t> exit_code, const std::string& reason);
  Status Requeue(store::Transaction& transaction, const std::string& id);
  // Ends a run at its last heartbeat.
  Status FinishLost(const std::string& id, std::uint64_t generation, const std::string& reason);
  Status MarkReleased(const std::string& id);
  // The next run of an instance that is over: one hour is held and it waits. Nothing was written
  // when the error is about the purse or the priority.
  Status NextGeneration(store::Transaction& transaction, Instance* instance,
                        const std::string& reason);
  // Moves the money that the run costs until `until_micros`; true when the purse cannot carry it
  // on.
  Result<bool> Settle(store::Transaction& transaction, Instance* instance,
                      std::int64_t until_micros, bool ended);
  Status EndGang(store::Transaction& transaction, const Instance& member, const std::string& wanted,
                 const std::string& reason);
  // Tells the plane what it does not know of reservations, and takes away what we do not know.
  Status ConvergeReservations();
  Result<Reservation> Standing(Reservation reservation);
  Status Answer(const Once* once, int status, const std::string& body);
  Status RecordOne(const std::string& id, const ExecutionStatus& status);
  Status ConvergeOne(const std::string& id, const ExecutionStatus* status);
  Status PurgeAnswers(std::int64_t now_micros);
  Status SaveHeartbeats(const std::vector<Heartbeat>& beats);

  store::Database& database_;
  Execution& execution_;
  const os::Clock& clock_;
  const ServiceOptions options_;

  // Calls to the scheduling plane about one instance take turns; instances that share a stripe wait
  // for each other, which is correct and rare.
  std::array<std::mutex, 64> stripes_;

  // What is stored of reservations and what the plane is told of them change together.
  std::mutex reservations_mutex_;
  // Taken before a transaction, so that the plane hears of changes in the order of the store.
  std::mutex queue_mutex_;  // guards what follows
  std::optional<placement::QueuePolicy> file_policy_;
  std::string file_;
  bool queue_applied_ = false;  // the plane has been told what holds

  std::mutex mutex_;  // guards what follows
  std::string new_admin_key_;
  std::map<std::string, std::int64_t> missing_since_;  // monotonic nanoseconds, by instance id
};

}  // namespace tessera::cloud
