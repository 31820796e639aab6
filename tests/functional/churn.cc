// A guest for the memory tests: several processes of one slice allocate and free at random through
// the public driver API and check that what they hold stays theirs. Prints one line of key=value;
// exit code 0 only when all was right.
//
//   churn --processes 8 --operations 125000 --seed 1 --largest 67108864
#include <dlfcn.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "base/rng.h"

namespace {

using Ptr = unsigned long long;

struct Driver {
  int (*init)(unsigned) = nullptr;
  int (*retain)(void**, int) = nullptr;
  int (*set_current)(void*) = nullptr;
  int (*alloc)(Ptr*, size_t) = nullptr;
  int (*free)(Ptr) = nullptr;
  int (*set32)(Ptr, unsigned, size_t) = nullptr;
  int (*read)(void*, Ptr, size_t) = nullptr;
};

template <typename Fn>
void Find(void* library, const char* name, Fn** out) {
  *out = reinterpret_cast<Fn*>(dlsym(library, name));
  if (*out == nullptr) {
    std::fprintf(stderr, "churn: libcuda.so.1 has no %s\n", name);
    std::exit(2);
  }
}

struct Totals {
  std::uint64_t operations, refusals, errors, peak_live;
};

struct Held {
  Ptr address;
  std::uint64_t bytes;
  std::uint32_t mark;
};

void Work(const Driver& driver, std::uint64_t operations, std::uint64_t seed, std::uint64_t largest,
          Totals* totals) {
  tessera::Rng rng(seed);
  std::vector<Held> held;
  constexpr std::size_t kHeldMax = 64;
  for (std::uint64_t i = 0; i < operations; ++i) {
    const bool take = held.empty() || (held.size() < kHeldMax && rng.Chance(520));
    if (take) {
      // Sizes over five orders of magnitude, small ones often: both of the driver's size classes
      // are met.
      const std::uint64_t top = 1ull << rng.Between(8, 26);
      const std::uint64_t bytes = 1 + rng.Below(top < largest ? top : largest);
      Ptr address = 0;
      const int result = driver.alloc(&address, bytes);
      if (result == 2) {
        __atomic_fetch_add(&totals->refusals, 1, __ATOMIC_RELAXED);
        if (!held.empty() && driver.free(held.back().address) == 0) held.pop_back();
      } else if (result != 0) {
        __atomic_fetch_add(&totals->errors, 1, __ATOMIC_RELAXED);
      } else {
        const auto mark = static_cast<std::uint32_t>(rng.Next());
        if (bytes >= 4 && rng.Chance(50) && driver.set32(address, mark, 1) != 0) {
          __atomic_fetch_add(&totals->errors, 1, __ATOMIC_RELAXED);
        }
        held.push_back({address, bytes, 0});
        if (bytes >= 4 && driver.set32(address, mark, 1) == 0) held.back().mark = mark;
      }
    } else {
      const std::size_t pick = rng.Below(held.size());
      if (held[pick].bytes >= 4 && rng.Chance(200)) {
        std::uint32_t found = 0;
        if (driver.read(&found, held[pick].address, 4) != 0 || found != held[pick].mark) {
          __atomic_fetch_add(&totals->errors, 1, __ATOMIC_RELAXED);
        }
      }
      if (driver.free(held[pick].address) != 0)
        __atomic_fetch_add(&totals->errors, 1, __ATOMIC_RELAXED);
      held[pick] = held.back();
      held.pop_back();
    }
    __atomic_fetch_add(&totals->operations, 1, __ATOMIC_RELAXED);
  }
  for (const Held& one : held) {
    if (driver.free(one.address) != 0) __atomic_fetch_add(&totals->errors, 1, __ATOMIC_RELAXED);
  }
}

}  // namespace

int main(int argc, char** argv) {
  std::uint64_t processes = 8, operations = 1000, seed = 1, largest = 64ull << 20;
  bool stay = false;
  for (int i = 1; i < argc; ++i) {
    const std::string flag = argv[i];
    if (flag == "--stay") {
      stay = true;
      continue;
    }
    if (i + 1 >= argc) return 2;
    const std::uint64_t value = std::strtoull(argv[++i], nullptr, 10);
    if (flag == "--processes")
      processes = value;
    else if (flag == "--operations")
      operations = value;
    else if (flag == "--seed")
      seed = value;
    else if (flag == "--largest")
      largest = value;
    else
      return 2;
  }
  auto* totals = static_cast<Totals*>(
      mmap(nullptr, sizeof(Totals), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  std::vector<pid_t> children;
  for (std::uint64_t p = 0; p < processes; ++p) {
    const pid_t pid = fork();
    if (pid == 0) {
      void* library = dlopen("libcuda.so.1", RTLD_NOW);
      if (library == nullptr) {
        std::fprintf(stderr, "churn: %s\n", dlerror());
        _exit(2);
      }
      Driver driver;
      Find(library, "cuInit", &driver.init);
      Find(library, "cuDevicePrimaryCtxRetain", &driver.retain);
      Find(library, "cuCtxSetCurrent", &driver.set_current);
      Find(library, "cuMemAlloc_v2", &driver.alloc);
      Find(library, "cuMemFree_v2", &driver.free);
      Find(library, "cuMemsetD32_v2", &driver.set32);
      Find(library, "cuMemcpyDtoH_v2", &driver.read);
      void* context = nullptr;
      int result = driver.init(0);
      if (result == 0) result = driver.retain(&context, 0);
      if (result == 0) result = driver.set_current(context);
      if (result != 0) {
        std::fprintf(stderr, "churn: no context, CUDA error %d\n", result);
        _exit(2);
      }
      do {
        Work(driver, operations, seed * 1000 + p, largest, totals);
      } while (stay);
      _exit(0);
    }
    children.push_back(pid);
  }
  int failed = 0;
  for (const pid_t pid : children) {
    int status = 0;
    waitpid(pid, &status, 0);
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) ++failed;
  }
  std::printf("operations=%llu refusals=%llu errors=%llu failed=%d\n",
              static_cast<unsigned long long>(totals->operations),
              static_cast<unsigned long long>(totals->refusals),
              static_cast<unsigned long long>(totals->errors), failed);
  return failed == 0 && totals->errors == 0 ? 0 : 1;
}
