// The node of `tessera up`: joins a tesserad that already serves the run folder, or starts one as a
// child; when either ends it starts one (again). Not thread-safe except Stop(), which may come from
// any thread once.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <string>
#include <thread>
#include <vector>

#include "base/result.h"

namespace tessera::apps {

inline constexpr int kNodeReadyMillisMax =
    60'000;  // a tesserad answers within this time or start fails
inline constexpr int kNodeRestartMillisFirst =
    200;  // pause before a dead child is started again; doubles
inline constexpr int kNodeRestartMillisMax = 10'000;
inline constexpr int kNodeJoinedPollMillis =
    500;  // how often a joined node is asked whether it still serves
inline constexpr int kNodeStopMillisMax = 15'000;  // then it is killed

class NodeChild {
 public:
  // `argv` of the tesserad; `socket` is where it will answer.
  NodeChild(std::vector<std::string> argv, std::string socket)
      : argv_(std::move(argv)), socket_(std::move(socket)) {}
  ~NodeChild() { Stop(); }
  // Returns when the node answers.
  Status Start();
  void Stop();
  bool joined() const {
    return joined_;
  }  // an already running tesserad is used and will be left alone

 private:
  Result<pid_t> Spawn();
  bool Answers() const;
  void Watch();
  void Pause(int millis) const;

  std::vector<std::string> argv_;
  std::string socket_;
  std::atomic<bool> joined_{false};
  std::atomic<pid_t> pid_{0};
  std::atomic<bool> stopping_{false};
  std::thread watcher_;
};

}  // namespace tessera::apps
