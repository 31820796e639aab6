// The scheduler's Node over a tesserad's socket. Thread-safe: short calls share one connection,
// calls that may take long (Start, Stop, Exec) make their own, so that a slow stop never delays a
// heartbeat.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "http/client.h"
#include "scheduler/nodes.h"

namespace tessera::apps {

inline constexpr int kNodeCallMillisMax = 10'000;
inline constexpr int kNodeLongCallMillisMax = 90'000;  // a start, or a stop with the default grace
inline constexpr int kNodeExecMillisMax = 60'000;      // of the command itself

class HttpNode : public scheduler::Node {
 public:
  explicit HttpNode(std::string socket_path);
  Result<scheduler::NodeState> State() override;
  Result<scheduler::RunStatus> Start(const placement::Placement& placement,
                                     std::uint64_t generation, const runtime::Workload& workload,
                                     const std::string& memo) override;
  Result<scheduler::RunStatus> Stop(const std::string& instance_id,
                                    std::uint64_t generation) override;
  Status Forget(const std::string& instance_id) override;
  Result<std::vector<scheduler::RunStatus>> List() override;
  Result<std::string> Log(const std::string& instance_id, std::uint64_t offset) override;
  Result<scheduler::ExecResult> Exec(const std::string& instance_id,
                                     const std::vector<std::string>& argv,
                                     const std::string& stdin_bytes) override;

 private:
  Result<std::string> LongCall(const std::string& method, const std::string& target,
                               const std::string& body);

  std::string socket_path_;
  http::Client quick_;
};

}  // namespace tessera::apps
