#include "simgpu/ptx/helpers.h"

#include <algorithm>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

namespace simgpu::ptx {
namespace {

// Threads are started when first needed and kept, because starting one costs more than a small
// launch. They are never ended: a program may launch from an exit handler. Thread-safe.
class Helpers {
 public:
  static Helpers& Get() {
    static Helpers* helpers = new Helpers;
    return *helpers;
  }

  void Run(uint32_t count, const std::function<void(uint32_t)>& body) {
    Job job{&body, 1, count, 0};
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      jobs_.push_back(&job);
      for (uint32_t wanted = count - 1; idle_ < wanted && threads_ < kHelperThreadsMax; ++idle_) {
        ++threads_;
        std::thread([this] { Loop(); }).detach();
      }
    }
    wake_.notify_all();
    body(0);
    std::unique_lock<std::mutex> lock(mutex_);
    while (job.next < job.end) {
      const uint32_t number = Take(&job);
      lock.unlock();
      body(number);
      lock.lock();
    }
    done_.wait(lock, [&job] { return job.running == 0; });
  }

 private:
  struct Job {
    const std::function<void(uint32_t)>* body;
    uint32_t next;  // The first number that nobody runs yet.
    uint32_t end;
    uint32_t running;  // On helpers.
  };

  // With the mutex held. A job whose numbers are all taken leaves the list.
  uint32_t Take(Job* job) {
    const uint32_t number = job->next++;
    if (job->next == job->end) jobs_.erase(std::find(jobs_.begin(), jobs_.end(), job));
    return number;
  }

  void Loop() {
    std::unique_lock<std::mutex> lock(mutex_);
    while (true) {
      wake_.wait(lock, [this] { return !jobs_.empty(); });
      --idle_;
      Job* job = jobs_.front();
      const uint32_t number = Take(job);
      ++job->running;
      lock.unlock();
      (*job->body)(number);
      lock.lock();
      ++idle_;
      if (--job->running == 0) done_.notify_all();
    }
  }

  std::mutex mutex_;
  std::condition_variable wake_, done_;
  std::vector<Job*> jobs_;  // With numbers left, oldest first.
  uint32_t idle_ = 0;       // Helpers that wait, or that were started and are about to.
  uint32_t threads_ = 0;
};

}  // namespace

void RunWithHelpers(uint32_t count, const std::function<void(uint32_t)>& body) {
  Helpers::Get().Run(count, body);
}

}  // namespace simgpu::ptx
