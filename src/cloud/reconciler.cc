#include "cloud/reconciler.h"

#include <chrono>
#include <string>

#include "base/log.h"

namespace tessera::cloud {

Reconciler::Reconciler(Service& service, std::int64_t period_millis)
    : service_(service),
      period_millis_(period_millis),
      recorder_([this] { Run("record", &Service::Record); }),
      converger_([this] { Run("converge", &Service::Converge); }) {}

Reconciler::~Reconciler() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  stop_changed_.notify_all();
  recorder_.join();
  converger_.join();
}

void Reconciler::Run(const char* name, Status (Service::*round)()) {
  std::string last_error;
  std::unique_lock lock(mutex_);
  while (!stop_) {
    lock.unlock();
    const Status done = (service_.*round)();
    // A lasting failure is said once, not every second.
    const std::string error = done ? "" : done.error().ToString();
    if (!error.empty() && error != last_error) {
      Log(LogLevel::kError, "reconcile.failed", {{"round", name}, {"error", error}});
    }
    last_error = error;
    lock.lock();
    stop_changed_.wait_for(lock, std::chrono::milliseconds(period_millis_),
                           [this] { return stop_; });
  }
}

}  // namespace tessera::cloud
