// Port: what runs instances on this machine. `MakeRuntimeRunner` binds it to runtime/; tests put a
// fake in.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "os/fd.h"
#include "runtime/runtime.h"

namespace tessera::node {

// Thread-safe; semantics as runtime::Runtime.
class Runner {
 public:
  virtual ~Runner() = default;
  virtual bool contained() const = 0;
  virtual std::string why_not_contained() const = 0;
  virtual Result<runtime::Report> Start(const runtime::Spec& spec) = 0;
  virtual Result<runtime::Report> Inspect(const std::string& id) = 0;
  virtual Result<runtime::Report> Stop(const std::string& id, int grace_millis) = 0;
  virtual Result<os::Fd> WatchEnd(const std::string& id) = 0;
  virtual Result<runtime::ExecOutcome> Exec(const std::string& id,
                                            const std::vector<std::string>& argv,
                                            const std::string& stdin_bytes, int timeout_millis) = 0;
  virtual Result<runtime::LogChunk> ReadLog(const std::string& id, std::uint64_t offset,
                                            std::size_t bytes_max) = 0;
  virtual Status Remove(const std::string& id) = 0;
  virtual Result<std::vector<runtime::Report>> List() = 0;
};

Result<std::unique_ptr<Runner>> MakeRuntimeRunner(runtime::Options options);

}  // namespace tessera::node
