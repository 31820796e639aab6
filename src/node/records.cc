#include "node/records.h"

#include "wire/pages.h"

namespace tessera::node {
namespace {

constexpr std::int64_t kRecordVersion = 1;
constexpr std::string_view kSuffix = ".json";
constexpr std::size_t kTextMax = 32 * 1024;
constexpr std::size_t kRootsMax = 1024;
constexpr std::size_t kArgvMax = 256;

std::string_view PhaseName(Phase phase) {
  return phase == Phase::kStarting ? "starting" : phase == Phase::kRunning ? "running" : "exited";
}

Result<Record> Parse(const std::string& text) {
  TRY(auto json, http::JsonObject::Parse(text));
  Record record;
  TRY_STATUS(json.Int("version", kRecordVersion, kRecordVersion)
                 ? Status()
                 : Status(json.Wrong("version", "expected 1")));
  TRY(record.id, json.String("id"));
  TRY(const auto generation, json.Int("generation", 1, http::kJsonIntMax));
  record.generation = static_cast<std::uint64_t>(generation);
  TRY(const std::string owner, json.String("owner"));
  if (owner == "slice") {
    record.owner = Owner::kSlice;
  } else if (owner == "run") {
    record.owner = Owner::kRun;
  } else if (owner == "instance") {
    record.owner = Owner::kInstance;
  } else {
    return json.Wrong("owner", "expected slice, run or instance");
  }
  TRY(const std::string phase, json.String("phase"));
  if (phase == "starting") {
    record.phase = Phase::kStarting;
  } else if (phase == "running") {
    record.phase = Phase::kRunning;
  } else if (phase == "exited") {
    record.phase = Phase::kExited;
  } else {
    return json.Wrong("phase", "expected starting, running or exited");
  }
  TRY(record.shares, ReadShares(json));
  TRY(record.terms, ReadTerms(json));
  TRY(record.cgroup, json.OptionalString("cgroup", "", kTextMax));
  TRY(const auto roots, json.OptionalArray("roots", kRootsMax));
  for (const auto& item : roots) {
    TRY(auto root, item.Object());
    TRY(const auto pid, root.Int("pid", 1, INT32_MAX));
    TRY(const auto start, root.Int("start_time", 0, http::kJsonIntMax));
    TRY_STATUS(root.Finish());
    record.roots.push_back({static_cast<pid_t>(pid), static_cast<std::uint64_t>(start)});
  }
  TRY(record.boot_id, json.OptionalString("boot_id"));
  TRY(record.created_wall_micros, json.Int("created_wall_micros", 0, http::kJsonIntMax));
  if (record.owner == Owner::kInstance) {
    TRY(auto workload, json.Object("workload"));
    TRY(record.workload, ReadWorkload(std::move(workload)));
    // Not in records of before there were memos.
    TRY(record.memo, json.OptionalString("memo", "", kMemoBytesMax));
    TRY(const auto exit_code, json.Int("exit_code", 0, 255));
    record.exit_code = static_cast<int>(exit_code);
    TRY(record.started_wall_micros, json.Int("started_wall_micros", 0, http::kJsonIntMax));
    TRY(record.ended_wall_micros, json.Int("ended_wall_micros", 0, http::kJsonIntMax));
  }
  TRY_STATUS(json.Finish());
  return record;
}

}  // namespace

Result<device::Isolation> ReadIsolation(http::JsonObject& object) {
  TRY(const std::string name, object.OptionalString("isolation", "shim"));
  const auto named = device::IsolationNamed(name);
  for (const auto one : kNodeIsolations) {
    if (named == one) return one;
  }
  return object.Wrong("isolation", "expected shim, spatial or whole");
}

std::string_view OwnerName(Owner owner) {
  return owner == Owner::kSlice ? "slice" : owner == Owner::kRun ? "run" : "instance";
}

void WriteShares(http::JsonWriter& json, const std::vector<device::Share>& shares) {
  json.Key("shares").BeginArray();
  for (const device::Share& share : shares) {
    json.BeginObject()
        .Field("card", share.card_uuid)
        .Field("memory_bytes", share.memory_bytes)
        .Field("compute_permille", share.compute.value)
        .Field("compute_capped", share.compute_capped)
        .Field("isolation", device::IsolationName(share.isolation))
        .EndObject();
  }
  json.EndArray();
}

Result<std::vector<device::Share>> ReadShares(http::JsonObject& object) {
  TRY(const auto items, object.Array("shares", wire::kCardsMax));
  if (items.empty()) return object.Wrong("shares", "expected 1 to 16 shares");
  std::vector<device::Share> shares;
  for (const auto& item : items) {
    TRY(auto json, item.Object());
    device::Share share;
    TRY(share.card_uuid, json.String("card", wire::kUuidTextMax - 1));
    TRY(share.memory_bytes, json.Bytes("memory_bytes"));
    if (share.memory_bytes == 0) return json.Wrong("memory_bytes", "expected more than 0 bytes");
    TRY(share.compute, json.Permille("compute_permille"));
    TRY(share.compute_capped, json.OptionalBool("compute_capped", false));
    TRY(share.isolation, ReadIsolation(json));
    TRY_STATUS(json.Finish());
    for (const device::Share& other : shares) {
      if (other.card_uuid == share.card_uuid)
        return json.Wrong("card", "expected a different card for every share");
    }
    shares.push_back(std::move(share));
  }
  return shares;
}

void WriteTerms(http::JsonWriter& json, const SliceTerms& terms) {
  json.Field("pinned_bytes", terms.pinned_bytes).Field("pod", terms.pod);
}

Result<SliceTerms> ReadTerms(http::JsonObject& object) {
  SliceTerms terms;
  TRY(terms.pinned_bytes, object.OptionalBytes("pinned_bytes", 0));
  if (terms.pinned_bytes != 0 && terms.pinned_bytes < wire::kHostGranuleBytes) {
    return object.Wrong("pinned_bytes", "expected 0 or at least a page (4096 bytes)");
  }
  TRY(terms.pod, object.OptionalString("pod", "", kPodTextMax));
  return terms;
}

void WriteWorkload(http::JsonWriter& json, const runtime::Workload& workload) {
  json.Key("workload").BeginObject();
  json.Key("argv").BeginArray();
  for (const std::string& word : workload.argv) json.Value(word);
  json.EndArray().Key("environment").BeginArray();
  for (const std::string& variable : workload.environment) json.Value(variable);
  json.EndArray()
      .Field("directory", workload.directory)
      .Field("rootfs", workload.rootfs)
      .Field("cpu_millis", workload.cpu_millis)
      .Field("ram_bytes", workload.ram_bytes)
      .EndObject();
}

Result<runtime::Workload> ReadWorkload(http::JsonObject json) {
  runtime::Workload workload;
  TRY(workload.argv, json.Strings("argv", kArgvMax, kTextMax));
  if (workload.argv.empty()) return json.Wrong("argv", "expected 1 to 256 entries");
  TRY(workload.environment, json.OptionalStrings("environment", kArgvMax, kTextMax));
  TRY(workload.directory, json.OptionalString("directory", "", 4095));
  TRY(workload.rootfs, json.OptionalString("rootfs", "", 4095));
  TRY(const auto cpu, json.OptionalInt("cpu_millis", 0, UINT32_MAX, 0));
  workload.cpu_millis = static_cast<std::uint32_t>(cpu);
  TRY(workload.ram_bytes, json.OptionalBytes("ram_bytes", 0));
  TRY_STATUS(json.Finish());
  return workload;
}

bool SameWorkload(const runtime::Workload& a, const runtime::Workload& b) {
  return a.argv == b.argv && a.environment == b.environment && a.directory == b.directory &&
         a.rootfs == b.rootfs && a.cpu_millis == b.cpu_millis && a.ram_bytes == b.ram_bytes;
}

Status RecordStore::Save(const Record& record) {
  http::JsonWriter json;
  json.BeginObject()
      .Field("version", kRecordVersion)
      .Field("id", record.id)
      .Field("generation", record.generation)
      .Field("owner", OwnerName(record.owner))
      .Field("phase", PhaseName(record.phase));
  WriteShares(json, record.shares);
  WriteTerms(json, record.terms);
  json.Field("cgroup", record.cgroup).Key("roots").BeginArray();
  for (const os::ProcessId& root : record.roots) {
    json.BeginObject().Field("pid", root.pid).Field("start_time", root.start_time).EndObject();
  }
  json.EndArray()
      .Field("boot_id", record.boot_id)
      .Field("created_wall_micros", record.created_wall_micros);
  if (record.owner == Owner::kInstance) {
    WriteWorkload(json, record.workload);
    json.Field("memo", record.memo)
        .Field("exit_code", record.exit_code)
        .Field("started_wall_micros", record.started_wall_micros)
        .Field("ended_wall_micros", record.ended_wall_micros);
  }
  json.EndObject();
  return files_.WriteAtomically(folder_ + "/" + record.id + std::string(kSuffix),
                                json.Take() + "\n");
}

Status RecordStore::Remove(const std::string& id) {
  return files_.Remove(folder_ + "/" + id + std::string(kSuffix));
}

Result<std::vector<Record>> RecordStore::Load() {
  TRY(const auto names, files_.List(folder_));
  std::vector<Record> records;
  for (const std::string& name : names) {
    const std::string path = folder_ + "/" + name;
    if (name.front() == '.' && name.ends_with(".tmp")) {
      // What a crash left of a write that never became visible.
      TRY_STATUS(files_.Remove(path));
      continue;
    }
    if (!name.ends_with(kSuffix)) continue;
    TRY(const std::string text, files_.Read(path));
    auto record = Parse(text);
    if (!record) return Error(Code::kDataLoss, path + ": " + record.error().ToString());
    if (record->id + std::string(kSuffix) != name) {
      return Error(Code::kDataLoss, path + ": is the record of '" + record->id + "'");
    }
    records.push_back(*std::move(record));
  }
  return records;
}

}  // namespace tessera::node
