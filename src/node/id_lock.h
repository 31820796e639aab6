// Serialises changes to one id while others go on. Part of Node's implementation.
#pragma once

#include <chrono>
#include <string>

#include "node/node.h"

namespace tessera::node {

class Node::IdLock {
 public:
  // Waits up to kBusyWaitSecondsMax; `held()` is false when another change still runs then.
  IdLock(Node& node, std::string id, bool wait = true) : node_(node), id_(std::move(id)) {
    std::unique_lock lock(node_.mutex_);
    const auto free = [this] { return !node_.busy_.contains(id_); };
    held_ = wait ? node_.unlocked_.wait_for(lock, std::chrono::seconds(kBusyWaitSecondsMax), free)
                 : free();
    if (held_) node_.busy_.insert(id_);
  }
  ~IdLock() {
    if (!held_) return;
    const std::lock_guard lock(node_.mutex_);
    node_.busy_.erase(id_);
    node_.unlocked_.notify_all();
  }
  IdLock(const IdLock&) = delete;
  IdLock& operator=(const IdLock&) = delete;
  bool held() const { return held_; }
  Error Busy() const {
    return Error(
        Code::kUnavailable,
        id_ + ": another change to it runs for longer than kBusyWaitSecondsMax (60 s); try again");
  }

 private:
  Node& node_;
  std::string id_;
  bool held_ = false;
};

}  // namespace tessera::node
