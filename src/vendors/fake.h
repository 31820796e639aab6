// A Vendor whose cards and numbers a test sets. Thread-safe.
#pragma once

#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "vendors/vendor.h"

namespace tessera::vendors {

class FakeVendor : public Vendor {
 public:
  explicit FakeVendor(std::vector<device::Card> cards) : cards_(std::move(cards)) {
    for (const device::Card& card : cards_) telemetry_[card.uuid].total_bytes = card.memory_bytes;
  }
  // A card as the NVML adapter would describe it; index and uuid follow `index`.
  static device::Card MakeCard(int index, std::uint64_t memory_bytes);

  void SetTelemetry(const std::string& uuid, const CardTelemetry& telemetry);
  void SetProcesses(const std::string& uuid, std::vector<CardProcess> processes);
  void SetBusy(const std::string& uuid, std::vector<ProcessBusy> busy);
  void SetHealth(const std::string& uuid, bool healthy, std::string reason);
  void SetContextBytes(std::uint64_t bytes);
  // Every call answers this error until ClearFailure.
  void Fail(Error error);
  void ClearFailure();

  std::string_view name() const override { return "fake"; }
  Result<std::string> DriverVersion() override;
  Result<std::vector<device::Card>> Discover() override;
  Result<std::vector<CardHealth>> Health() override;
  Result<CardTelemetry> Telemetry(const std::string& card_uuid) override;
  Result<std::vector<CardProcess>> Processes(const std::string& card_uuid) override;
  Result<std::vector<ProcessBusy>> Busy(const std::string& card_uuid) override;
  Result<std::uint64_t> MeasureContext(const std::string& card_uuid) override;

 private:
  Status Check(const std::string& uuid) const;

  mutable std::mutex mutex_;
  std::vector<device::Card> cards_;
  std::map<std::string, CardTelemetry> telemetry_;
  std::map<std::string, std::vector<CardProcess>> processes_;
  std::map<std::string, std::vector<ProcessBusy>> busy_;
  std::uint64_t context_bytes_ = 256 * kMiB;
  std::optional<Error> failure_;
};

}  // namespace tessera::vendors
