#include "node/runner.h"

namespace tessera::node {
namespace {

class RuntimeRunner : public Runner {
 public:
  explicit RuntimeRunner(std::unique_ptr<runtime::Runtime> runtime)
      : runtime_(std::move(runtime)) {}
  bool contained() const override { return runtime_->contained(); }
  std::string why_not_contained() const override { return runtime_->why_not_contained(); }
  Result<runtime::Report> Start(const runtime::Spec& spec) override {
    return runtime_->Start(spec);
  }
  Result<runtime::Report> Inspect(const std::string& id) override { return runtime_->Inspect(id); }
  Result<runtime::Report> Stop(const std::string& id, int grace_millis) override {
    return runtime_->Stop(id, grace_millis);
  }
  Result<os::Fd> WatchEnd(const std::string& id) override { return runtime_->WatchEnd(id); }
  Result<runtime::ExecOutcome> Exec(const std::string& id, const std::vector<std::string>& argv,
                                    const std::string& stdin_bytes, int timeout_millis) override {
    return runtime_->Exec(id, argv, stdin_bytes, timeout_millis);
  }
  Result<runtime::LogChunk> ReadLog(const std::string& id, std::uint64_t offset,
                                    std::size_t bytes_max) override {
    return runtime_->ReadLog(id, offset, bytes_max);
  }
  Status Remove(const std::string& id) override { return runtime_->Remove(id); }
  Result<std::vector<runtime::Report>> List() override { return runtime_->List(); }

 private:
  std::unique_ptr<runtime::Runtime> runtime_;
};

}  // namespace

Result<std::unique_ptr<Runner>> MakeRuntimeRunner(runtime::Options options) {
  TRY(auto runtime, runtime::Runtime::Create(std::move(options)));
  return std::unique_ptr<Runner>(std::make_unique<RuntimeRunner>(std::move(runtime)));
}

}  // namespace tessera::node
