// What the node must not forget: one JSON file per slice or instance in the state folder, written
// before an effect becomes visible and removed after it is undone. And the JSON of the values that
// records and API share.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/result.h"
#include "device/card.h"
#include "http/json.h"
#include "os/files.h"
#include "os/process.h"
#include "runtime/workload.h"

namespace tessera::node {

// Whoever asked for a slice decides when it ends.
enum class Owner {
  kSlice,     // PUT /v1/slices: until DELETE
  kRun,       // POST /v1/allocations: until its root process and all members have ended
  kInstance,  // PUT /v1/instances: until the instance has ended
};

enum class Phase {
  kStarting,  // reserved and recorded; pages and processes may or may not exist
  kRunning,
  kExited,  // instances only: nothing is reserved any more
};

// What a slice has beside its shares of cards.
struct SliceTerms {
  std::uint64_t pinned_bytes = 0;  // page-locked memory of the machine it may hold; 0: no limit
  std::string pod;  // "namespace/name" of the pod it belongs to, for metrics; "" none
  bool operator==(const SliceTerms&) const = default;
};
inline constexpr std::size_t kPodTextMax = 63 + 1 + 253;

struct Record {
  std::string id;
  std::uint64_t generation = 0;
  Owner owner = Owner::kSlice;
  Phase phase = Phase::kStarting;
  std::vector<device::Share> shares;
  SliceTerms terms;
  std::string cgroup;                // path in the unified hierarchy; empty: members by ancestry
  std::vector<os::ProcessId> roots;  // ancestry
  std::string boot_id;               // processes and pages of another boot are gone
  std::int64_t created_wall_micros = 0;
  // Instances.
  runtime::Workload workload;
  std::string memo;  // of whoever started it, kept and listed back unread
  int exit_code = 0;
  std::int64_t started_wall_micros = 0;
  std::int64_t ended_wall_micros = 0;
};
inline constexpr std::size_t kMemoBytesMax = 256 * 1024;

// How a node can hold a slice; spatial needs the driver's MPS control program besides.
inline constexpr device::Isolation kNodeIsolations[] = {
    device::Isolation::kShim, device::Isolation::kSpatial, device::Isolation::kWhole};

std::string_view OwnerName(Owner owner);

void WriteShares(http::JsonWriter& json, const std::vector<device::Share>& shares);
// Reads "isolation" of an object; shim when it is not there.
Result<device::Isolation> ReadIsolation(http::JsonObject& object);
// Reads "shares" of an object: 1 to 16 entries of {card, memory_bytes, compute_permille} and
// optional {compute_capped, isolation}.
Result<std::vector<device::Share>> ReadShares(http::JsonObject& object);
// "pinned_bytes" and "pod" of an object; either may be absent.
void WriteTerms(http::JsonWriter& json, const SliceTerms& terms);
Result<SliceTerms> ReadTerms(http::JsonObject& object);
void WriteWorkload(http::JsonWriter& json, const runtime::Workload& workload);
Result<runtime::Workload> ReadWorkload(http::JsonObject object);
bool SameWorkload(const runtime::Workload& a, const runtime::Workload& b);

// Thread-safe as far as calls name different ids.
class RecordStore {
 public:
  RecordStore(os::Files& files, const std::string& state_folder)
      : files_(files), folder_(state_folder + "/records") {}
  Status Prepare() { return files_.MakeDirs(folder_, 0700); }
  Status Save(const Record& record);
  Status Remove(const std::string& id);
  // Every record; an unreadable one is kDataLoss with the file's name.
  Result<std::vector<Record>> Load();

 private:
  os::Files& files_;
  std::string folder_;
};

}  // namespace tessera::node
