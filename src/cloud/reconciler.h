// Two threads that keep a Service's rounds going until it is destroyed: one records, one converges.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>

#include "cloud/service.h"

namespace tessera::cloud {

// Owns its threads; the service must outlive it. The destructor waits for the rounds under way.
class Reconciler {
 public:
  explicit Reconciler(Service& service, std::int64_t period_millis = 1000);
  ~Reconciler();
  Reconciler(const Reconciler&) = delete;
  Reconciler& operator=(const Reconciler&) = delete;

 private:
  void Run(const char* name, Status (Service::*round)());

  Service& service_;
  const std::int64_t period_millis_;
  std::mutex mutex_;
  std::condition_variable stop_changed_;
  bool stop_ = false;  // guarded by mutex_
  std::thread recorder_;
  std::thread converger_;
};

}  // namespace tessera::cloud
