#include "vendors/fake.h"

#include <algorithm>
#include <cstdio>
#include <utility>

namespace tessera::vendors {

device::Card FakeVendor::MakeCard(int index, std::uint64_t memory_bytes) {
  char uuid[48];
  std::snprintf(uuid, sizeof uuid, "GPU-fa4e0000-0000-0000-0000-%012d", index);
  char bus[24];
  std::snprintf(bus, sizeof bus, "00000000:%02X:00.0", index + 1);
  device::Card card;
  card.uuid = uuid;
  card.vendor = "fake";
  card.model = "Fake Card";
  card.index = index;
  card.pci_bus_id = bus;
  card.memory_bytes = memory_bytes;
  card.compute_units = 64;
  card.simulated = true;
  return card;
}

Status FakeVendor::Check(const std::string& uuid) const {
  if (failure_) return *failure_;
  const bool known =
      uuid.empty() || std::any_of(cards_.begin(), cards_.end(),
                                  [&](const device::Card& card) { return card.uuid == uuid; });
  if (!known) return Error(Code::kNotFound, "no card " + uuid);
  return {};
}

void FakeVendor::SetTelemetry(const std::string& uuid, const CardTelemetry& telemetry) {
  const std::lock_guard lock(mutex_);
  telemetry_[uuid] = telemetry;
}

void FakeVendor::SetProcesses(const std::string& uuid, std::vector<CardProcess> processes) {
  const std::lock_guard lock(mutex_);
  processes_[uuid] = std::move(processes);
}

void FakeVendor::SetBusy(const std::string& uuid, std::vector<ProcessBusy> busy) {
  const std::lock_guard lock(mutex_);
  busy_[uuid] = std::move(busy);
}

void FakeVendor::SetHealth(const std::string& uuid, bool healthy, std::string reason) {
  const std::lock_guard lock(mutex_);
  for (device::Card& card : cards_) {
    if (card.uuid != uuid) continue;
    card.healthy = healthy;
    card.health_reason = std::move(reason);
    return;
  }
}

void FakeVendor::SetContextBytes(std::uint64_t bytes) {
  const std::lock_guard lock(mutex_);
  context_bytes_ = bytes;
}

void FakeVendor::Fail(Error error) {
  const std::lock_guard lock(mutex_);
  failure_ = std::move(error);
}

void FakeVendor::ClearFailure() {
  const std::lock_guard lock(mutex_);
  failure_.reset();
}

Result<std::string> FakeVendor::DriverVersion() {
  const std::lock_guard lock(mutex_);
  TRY_STATUS(Check(""));
  return std::string("1.0-fake");
}

Result<std::vector<device::Card>> FakeVendor::Discover() {
  const std::lock_guard lock(mutex_);
  TRY_STATUS(Check(""));
  return cards_;
}

Result<std::vector<CardHealth>> FakeVendor::Health() {
  const std::lock_guard lock(mutex_);
  TRY_STATUS(Check(""));
  std::vector<CardHealth> out;
  out.reserve(cards_.size());
  for (const device::Card& card : cards_) {
    out.push_back({card.uuid, card.healthy, card.health_reason});
  }
  return out;
}

Result<CardTelemetry> FakeVendor::Telemetry(const std::string& card_uuid) {
  const std::lock_guard lock(mutex_);
  TRY_STATUS(Check(card_uuid));
  return telemetry_[card_uuid];
}

Result<std::vector<CardProcess>> FakeVendor::Processes(const std::string& card_uuid) {
  const std::lock_guard lock(mutex_);
  TRY_STATUS(Check(card_uuid));
  return processes_[card_uuid];
}

Result<std::vector<ProcessBusy>> FakeVendor::Busy(const std::string& card_uuid) {
  const std::lock_guard lock(mutex_);
  TRY_STATUS(Check(card_uuid));
  return busy_[card_uuid];
}

Result<std::uint64_t> FakeVendor::MeasureContext(const std::string& card_uuid) {
  const std::lock_guard lock(mutex_);
  TRY_STATUS(Check(card_uuid));
  return context_bytes_;
}

}  // namespace tessera::vendors
