#include "broker/page_guard.h"

#include <signal.h>
#include <sys/mman.h>

#include <atomic>
#include <cerrno>
#include <cstdint>
#include <mutex>
#include <utility>

#include "os/error.h"

namespace tessera::broker {
namespace {

// The handler reads this table without a lock: `start` is published last and cleared first.
struct Range {
  std::atomic<std::uintptr_t> start{0};
  std::atomic<std::size_t> bytes{0};
  std::atomic<bool> torn{false};
  bool taken = false;  // Guarded by `table_mutex`.
};

Range table[kGuardedRangesMax];
std::mutex table_mutex;
struct sigaction previous_action;

void OnSigbus(int number, siginfo_t* info, void* context) {
  const int saved_errno = errno;
  const auto address = reinterpret_cast<std::uintptr_t>(info->si_addr);
  for (Range& range : table) {
    const std::uintptr_t start = range.start.load(std::memory_order_acquire);
    if (start == 0 || address < start ||
        address - start >= range.bytes.load(std::memory_order_relaxed)) {
      continue;
    }
    range.torn.store(true, std::memory_order_release);
    void* const fresh =
        mmap(reinterpret_cast<void*>(start), range.bytes.load(std::memory_order_relaxed),
             PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    if (fresh != MAP_FAILED) {
      errno = saved_errno;
      return;
    }
    break;
  }
  if ((previous_action.sa_flags & SA_SIGINFO) != 0 && previous_action.sa_sigaction != nullptr) {
    previous_action.sa_sigaction(number, info, context);
    return;
  }
  // Returning re-executes the access, which now ends the process with the default action.
  signal(SIGBUS, SIG_DFL);
}

Status InstallOnce() {
  static const int installed = [] {
    struct sigaction action{};
    action.sa_sigaction = OnSigbus;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    sigemptyset(&action.sa_mask);
    return sigaction(SIGBUS, &action, &previous_action) == 0 ? 0 : errno;
  }();
  if (installed != 0) return os::ErrnoError("sigaction", "SIGBUS", installed);
  return {};
}

}  // namespace

Result<PageGuard> PageGuard::Watch(void* start, std::size_t bytes) {
  TRY_STATUS(InstallOnce());
  const std::lock_guard lock(table_mutex);
  for (std::size_t i = 0; i < kGuardedRangesMax; ++i) {
    Range& range = table[i];
    if (range.taken) continue;
    range.taken = true;
    range.torn.store(false, std::memory_order_relaxed);
    range.bytes.store(bytes, std::memory_order_relaxed);
    range.start.store(reinterpret_cast<std::uintptr_t>(start), std::memory_order_release);
    return PageGuard(i);
  }
  return Error(Code::kResourceExhausted,
               "page guard: kGuardedRangesMax (4096) pages are mapped already");
}

PageGuard::PageGuard(PageGuard&& other) noexcept : index_(std::exchange(other.index_, kNone)) {}

PageGuard& PageGuard::operator=(PageGuard&& other) noexcept {
  std::swap(index_, other.index_);
  return *this;
}

PageGuard::~PageGuard() {
  if (index_ == kNone) return;
  const std::lock_guard lock(table_mutex);
  table[index_].start.store(0, std::memory_order_release);
  table[index_].taken = false;
}

bool PageGuard::Torn() const {
  return index_ != kNone && table[index_].torn.load(std::memory_order_acquire);
}

}  // namespace tessera::broker
