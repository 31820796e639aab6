#include "placement/request.h"

#include <algorithm>
#include <limits>
#include <string_view>

namespace tessera::placement {
namespace {

constexpr std::uint32_t kWholeCard = 1000;  // per mille

Status ValidateList(const char* field, const std::vector<std::string>& list) {
  if (list.size() > kSelectorsMax) {
    return Error::Field(field, "expected at most selectors_max (" + std::to_string(kSelectorsMax) +
                                   ") entries, got " + std::to_string(list.size()));
  }
  for (const std::string& one : list) {
    if (one.empty() || one.size() > kSelectorBytesMax) {
      return Error::Field(
          field, "expected entries of 1 to " + std::to_string(kSelectorBytesMax) + " bytes");
    }
  }
  return {};
}

Status ValidateName(const char* field, const std::string& name) {
  if (name.size() <= kSelectorBytesMax) return {};
  return Error::Field(field, "expected at most " + std::to_string(kSelectorBytesMax) + " bytes");
}

}  // namespace

Status Validate(const Request& request) {
  if (request.id.empty() || request.id.size() > kRequestIdBytesMax) {
    return Error::Field("id", "expected 1 to " + std::to_string(kRequestIdBytesMax) + " bytes");
  }
  if (request.slices < 1 || request.slices > kSlicesMax) {
    return Error::Field("slices", "expected 1 to " + std::to_string(kSlicesMax) + ", got " +
                                      std::to_string(request.slices));
  }
  if (request.memory_bytes == 0) return Error::Field("memory", "expected more than 0 bytes");
  if (request.compute.value < 1 || request.compute.value > kWholeCard) {
    return Error::Field(
        "compute", "expected 1 to 1000 per mille, got " + std::to_string(request.compute.value));
  }
  if (!request.card_uuid.empty() && request.slices != 1) {
    return Error::Field("slices", "expected 1 when card_uuid names one card, got " +
                                      std::to_string(request.slices));
  }
  constexpr auto kAmountMax = static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max());
  if (request.ram_bytes > kAmountMax) return Error::Field("ram", "expected less than 2^63 bytes");
  if (request.disk_bytes > kAmountMax) {
    return Error::Field("disk", "expected less than 2^63 bytes");
  }
  TRY_STATUS(ValidateName("pool", request.pool));
  TRY_STATUS(ValidateName("tenant", request.tenant));
  TRY_STATUS(ValidateList("models", request.models));
  TRY_STATUS(ValidateList("models_excluded", request.models_excluded));
  TRY_STATUS(ValidateList("cards", request.cards));
  TRY_STATUS(ValidateList("cards_excluded", request.cards_excluded));
  TRY_STATUS(ValidateList("apart_from", request.apart_from));
  if (static_cast<std::uint32_t>(request.isolation) >= kIsolations) {
    return Error::Field("isolation", "expected a known mode");
  }
  if (request.apart != Apart::kNone && request.tenant.empty()) {
    return Error::Field("tenant", "expected the tenant that stays apart from others");
  }
  if (request.apart == Apart::kNone && !request.apart_from.empty()) {
    return Error::Field("apart_from", "expected no tenants where apart asks for nothing");
  }
  if (std::count(request.apart_from.begin(), request.apart_from.end(), request.tenant) > 0) {
    return Error::Field("apart_from", "expected other tenants than " + request.tenant);
  }
  if (request.priority > kPriorityMax) {
    return Error::Field("priority", "expected at most priority_max (" +
                                        std::to_string(kPriorityMax) + "), got " +
                                        std::to_string(request.priority));
  }
  return {};
}

namespace {

struct Sum {
  std::uint64_t slices = 0, cpu_millis = 0, ram_bytes = 0, disk_bytes = 0;

  // What saturates is more than Validate lets through.
  static std::uint64_t Add(std::uint64_t a, std::uint64_t b) {
    return a > std::numeric_limits<std::uint64_t>::max() - b
               ? std::numeric_limits<std::uint64_t>::max()
               : a + b;
  }
  void Add(const ContainerNeeds& one) {
    slices = Add(slices, one.slices);
    cpu_millis = Add(cpu_millis, one.cpu_millis);
    ram_bytes = Add(ram_bytes, one.ram_bytes);
    disk_bytes = Add(disk_bytes, one.disk_bytes);
  }
  void AtLeast(const Sum& other) {
    slices = std::max(slices, other.slices);
    cpu_millis = std::max(cpu_millis, other.cpu_millis);
    ram_bytes = std::max(ram_bytes, other.ram_bytes);
    disk_bytes = std::max(disk_bytes, other.disk_bytes);
  }
};

}  // namespace

Result<Request> RequestOf(const std::vector<ContainerNeeds>& containers,
                          const std::vector<ContainerNeeds>& init_containers, Request base) {
  if (containers.size() + init_containers.size() > kContainersMax) {
    return Error::Field("containers",
                        "expected at most containers_max (" + std::to_string(kContainersMax) +
                            "), got " + std::to_string(containers.size() + init_containers.size()));
  }
  if (containers.empty()) return Error::Field("containers", "expected at least one container");
  base.memory_bytes = 0;
  base.compute = {0};
  const auto largest = [&](const ContainerNeeds& one) {
    if (one.slices == 0) return;
    base.memory_bytes = std::max(base.memory_bytes, one.memory_bytes);
    base.compute = std::max(base.compute, one.compute);
  };
  Sum most, beside;
  for (const ContainerNeeds& one : init_containers) {
    largest(one);
    Sum now = beside;
    now.Add(one);
    most.AtLeast(now);
    if (one.restarts) beside = now;
  }
  for (std::size_t i = 0; i < containers.size(); ++i) {
    if (containers[i].restarts) {
      return Error::Field("containers[" + std::to_string(i) + "].restarts",
                          "expected only init containers to be sidecars");
    }
    largest(containers[i]);
    beside.Add(containers[i]);
  }
  most.AtLeast(beside);
  if (most.slices > kSlicesMax) {
    return Error::Field("slices", "expected at most " + std::to_string(kSlicesMax) +
                                      " over the containers, got " + std::to_string(most.slices));
  }
  if (most.cpu_millis > std::numeric_limits<std::uint32_t>::max()) {
    return Error::Field("cpu", "expected less than 2^32 CPU millis over the containers");
  }
  base.slices = static_cast<std::uint32_t>(most.slices);
  base.cpu_millis = static_cast<std::uint32_t>(most.cpu_millis);
  base.ram_bytes = most.ram_bytes;
  base.disk_bytes = most.disk_bytes;
  TRY_STATUS(Validate(base));
  return base;
}

}  // namespace tessera::placement
