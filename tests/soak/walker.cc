// A CUDA program that knows nothing of Tessera and does everything at random that a slice has to
// stand: the soak's tenant.
//
//   soak_walker walk LINE SEED STEPS    STEPS 0: until the page says stop; else a child of a walk
//   soak_walker import HEX              opens another process's memory, reads it, closes it
//
// Exit code 0, 7 when there is no slice to be had (the node is away), 1 when something was wrong.
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "abi/cuda.h"
#include "abi/cuda_graph.h"
#include "abi/cuda_memory.h"
#include "base/rng.h"
#include "guest/testdata/calls.h"
#include "tests/soak/page.h"

using namespace tessera::abi;

namespace tessera::soak {
namespace {

constexpr unsigned kOutOfMemory = 2;
constexpr int kExitNoNode = 7;
constexpr std::size_t kHeldMax = 12;
constexpr std::size_t kMiB = 1 << 20;

constexpr char kCode[] = R"(
.version 8.0
.target sm_70
.address_size 64
.visible .global .align 4 .b8 table[3145728];
.visible .entry stated(.param .u64 time) {
  .pragma "simgpu.time_ns param0";
  ret;
}
)";

Line g_nowhere;
Page* g_page = nullptr;
Line* g_line = &g_nowhere;
std::string g_line_number;

void Add(std::uint64_t* word) { __atomic_fetch_add(word, 1, __ATOMIC_RELAXED); }

// True when the call did it; out of memory is an answer, anything else is wrong.
bool Good(unsigned code, const char* what) {
  Add(&g_line->progress);
  if (code == 0) return true;
  if (code == kOutOfMemory) {
    Add(&g_line->refusals);
    return false;
  }
  if (__atomic_fetch_add(&g_line->wrong, 1, __ATOMIC_RELAXED) == 0) {
    std::snprintf(g_line->what, sizeof(g_line->what), "%s answered %u (step %s)", what, code,
                  kStepNames[g_line->step]);
  }
  std::fprintf(stderr, "walker %s: %s answered %u\n", g_line_number.c_str(), what, code);
  return false;
}
template <typename... Arguments>
bool Do(const char* name, Arguments... arguments) {
  return Good(Cuda(name, arguments...), name);
}

// Something held across steps, and how it is given back.
struct Held {
  CUcontext context = nullptr;
  std::function<void()> give_back;
};

class Walk {
 public:
  Walk(std::uint64_t seed, bool child) : rng_(seed), child_(child) {}

  // False when there is no slice.
  bool Begin() {
    __atomic_store_n(&g_line->step, kStart, __ATOMIC_RELAXED);
    if (Cuda("cuInit", 0u) != 0) return false;
    int count = 0;
    if (!Do("cuDeviceGetCount", &count) || count < 1) return false;
    for (int device = 0; device < count; ++device) {
      CUcontext context = nullptr;
      if (!Do("cuDevicePrimaryCtxRetain", &context, device)) continue;
      contexts_.push_back(context);
      devices_.push_back(device);
    }
    return true;
  }

  void Run(std::uint64_t steps) {
    for (std::uint64_t i = 0; steps == 0 || i < steps; ++i) {
      if (!child_) {
        if (__atomic_load_n(&g_page->stop, __ATOMIC_ACQUIRE) != 0) break;
        if (__atomic_load_n(&g_page->pause, __ATOMIC_ACQUIRE) != 0) Pause();
      }
      if (contexts_.empty()) {
        // The slice is full; somebody will give something back.
        Add(&g_line->progress);
        usleep(2000);
        if (child_) return;
        Again();
        continue;
      }
      OneStep();
    }
    while (!held_.empty()) Drop(held_.size() - 1);
    for (std::size_t i = 0; i < contexts_.size(); ++i) {
      Do("cuCtxSetCurrent", contexts_[i]);
      Do("cuCtxSynchronize");
      Do("cuDeviceGraphMemTrim", devices_[i]);
      Do("cuDevicePrimaryCtxRelease_v2", devices_[i]);
    }
  }

 private:
  void Again() {
    CUcontext context = nullptr;
    if (!Do("cuDevicePrimaryCtxRetain", &context, 0)) return;
    contexts_.push_back(context);
    devices_.push_back(0);
  }

  // Nothing in flight and nothing kept by pools: what the driver holds is what is charged.
  void Pause() {
    for (std::size_t i = 0; i < contexts_.size(); ++i) {
      Do("cuCtxSetCurrent", contexts_[i]);
      Do("cuCtxSynchronize");
    }
    __atomic_store_n(&g_line->paused, 1u, __ATOMIC_SEQ_CST);
    while (__atomic_load_n(&g_page->pause, __ATOMIC_ACQUIRE) != 0) usleep(1000);
    __atomic_store_n(&g_line->paused, 0u, __ATOMIC_SEQ_CST);
    Add(&g_line->progress);
  }

  void OneStep() {
    here_ = rng_.Below(contexts_.size());
    Do("cuCtxSetCurrent", contexts_[here_]);
    Step step = kDrop;
    // What takes long is seldom.
    static constexpr struct {
      Step step;
      std::uint32_t weight;
    } kWeights[] = {{kPlain, 16},      {kPitch, 5},   {kManaged, 5}, {kAsync, 12},  {kPool, 6},
                    {kVirtual, 8},     {kArray, 6},   {kMipmap, 4},  {kContext, 2}, {kModule, 4},
                    {kGraphMemory, 3}, {kDrop, 60},   {kLaunch, 14}, {kGraph, 6},   {kStreams, 8},
                    {kContextFull, 3}, {kThreads, 3}, {kFork, 3},    {kExec, 2},    {kIpc, 2},
                    {kInfo, 6}};
    std::uint32_t all = 0;
    for (const auto& one : kWeights) all += one.weight;
    std::uint64_t draw = rng_.Below(all);
    for (const auto& one : kWeights) {
      step = one.step;
      if (draw < one.weight) break;
      draw -= one.weight;
    }
    if (step < kDrop && held_.size() >= kHeldMax) step = kDrop;
    if (child_ && (step == kFork || step == kExec || step == kIpc)) step = kInfo;
    __atomic_store_n(&g_line->step, step, __ATOMIC_RELAXED);
    Add(&g_line->steps[step]);
    g_line->recent[__atomic_fetch_add(&g_line->taken, 1, __ATOMIC_RELAXED) % kRecent] = step;
    switch (step) {
      case kPlain:
        return Plain();
      case kPitch:
        return Pitch();
      case kManaged:
        return Managed();
      case kAsync:
        return Async();
      case kPool:
        return Pool();
      case kVirtual:
        return Virtual();
      case kArray:
        return Array();
      case kMipmap:
        return Mipmap();
      case kContext:
        return Context();
      case kModule:
        return Module();
      case kGraphMemory:
        return GraphMemory();
      case kDrop:
        if (!held_.empty()) Drop(rng_.Below(held_.size()));
        return;
      case kLaunch:
        return Launch();
      case kGraph:
        return Graph();
      case kStreams:
        return Streams();
      case kContextFull:
        return ContextFull();
      case kThreads:
        return Threads();
      case kFork:
        return Fork();
      case kExec:
        return Exec();
      case kIpc:
        return Ipc();
      case kInfo:
        return Info();
      case kStart:
      case kSteps:
        return;
    }
  }

  // Sizes over five orders of magnitude, so that both size classes of the driver are met.
  std::size_t Size() { return 1 + rng_.Below(1ull << rng_.Between(8, 26)); }

  void Hold(std::function<void()> give_back) {
    held_.push_back({contexts_[here_], std::move(give_back)});
  }
  void Drop(std::size_t index) {
    const Held held = std::move(held_[index]);
    held_[index] = std::move(held_.back());
    held_.pop_back();
    Do("cuCtxSetCurrent", held.context);
    held.give_back();
  }

  // ---- memory, held ----

  // Memory that is written now and found unchanged when it is given back.
  void HoldChecked(CUdeviceptr pointer, std::size_t bytes, const std::function<void()>& free) {
    const auto mark = static_cast<unsigned>(rng_.Next());
    const bool marked = bytes >= 4 && Do("cuMemsetD32_v2", pointer, mark, std::size_t{1});
    Hold([=] {
      unsigned found = mark;
      if (marked && Do("cuMemcpyDtoH_v2", static_cast<void*>(&found), pointer, std::size_t{4}) &&
          found != mark) {
        Good(7001, "memory of ours that somebody else wrote");
      }
      free();
    });
  }
  void Plain() {
    CUdeviceptr pointer = 0;
    const std::size_t bytes = Size();
    if (!Do("cuMemAlloc_v2", &pointer, bytes)) return;
    HoldChecked(pointer, bytes, [pointer] { Do("cuMemFree_v2", pointer); });
  }
  void Pitch() {
    CUdeviceptr pointer = 0;
    std::size_t pitch = 0;
    const std::size_t width = 1 + rng_.Below(5000);
    const std::size_t height = 1 + rng_.Below(3000);
    if (!Do("cuMemAllocPitch_v2", &pointer, &pitch, width, height, 4u)) return;
    if (pitch < width) Good(7002, "a pitch below the width");
    HoldChecked(pointer, width, [pointer] { Do("cuMemFree_v2", pointer); });
  }
  void Managed() {
    CUdeviceptr pointer = 0;
    if (!Do("cuMemAllocManaged", &pointer, Size(), 1u)) return;
    Hold([pointer] { Do("cuMemFree_v2", pointer); });
  }
  void Async() {
    CUdeviceptr pointer = 0;
    const std::size_t bytes = Size();
    if (!Do("cuMemAllocAsync", &pointer, bytes, CUstream{})) return;
    const bool plainly = rng_.Chance(300);
    HoldChecked(pointer, bytes, [pointer, plainly] {
      if (plainly) {
        Do("cuMemFree_v2", pointer);
      } else {
        Do("cuMemFreeAsync", pointer, CUstream{});
      }
    });
  }
  void Pool() {
    CUmemPoolProps props = {};
    props.allocType = CU_MEM_ALLOCATION_TYPE_PINNED;
    props.location = {CU_MEM_LOCATION_TYPE_DEVICE, devices_[here_]};
    CUmemoryPool pool = nullptr;
    if (!Do("cuMemPoolCreate", &pool, &props)) return;
    if (rng_.Chance(500)) {
      cuuint64_t threshold = 64 * kMiB;
      Do("cuMemPoolSetAttribute", pool, 4u, static_cast<void*>(&threshold));
    }
    std::vector<CUdeviceptr> pointers;
    for (std::uint64_t i = 1 + rng_.Below(4); i > 0; --i) {
      CUdeviceptr pointer = 0;
      if (Do("cuMemAllocFromPoolAsync", &pointer, Size(), pool, CUstream{}))
        pointers.push_back(pointer);
    }
    Do("cuCtxSynchronize");
    const bool trim = rng_.Chance(500);
    Hold([=] {
      for (const CUdeviceptr pointer : pointers) Do("cuMemFreeAsync", pointer, CUstream{});
      if (trim) {
        Do("cuCtxSynchronize");
        Do("cuMemPoolTrimTo", pool, std::size_t{0});
      }
      Do("cuMemPoolDestroy", pool);
    });
  }
  void Virtual() {
    CUmemAllocationProp prop = {};
    prop.type = CU_MEM_ALLOCATION_TYPE_PINNED;
    prop.location = {CU_MEM_LOCATION_TYPE_DEVICE, devices_[here_]};
    const std::size_t bytes = (1 + rng_.Below(8)) * 2 * kMiB;
    CUmemGenericAllocationHandle handle = 0;
    if (!Do("cuMemCreate", &handle, bytes, &prop, 0ull)) return;
    CUdeviceptr address = 0;
    if (!Do("cuMemAddressReserve", &address, bytes, std::size_t{0}, CUdeviceptr{0}, 0ull)) {
      Do("cuMemRelease", handle);
      return;
    }
    if (!Do("cuMemMap", address, bytes, std::size_t{0}, handle, 0ull)) {
      Do("cuMemAddressFree", address, bytes);
      Do("cuMemRelease", handle);
      return;
    }
    const bool early = rng_.Chance(500);
    if (early) Do("cuMemRelease", handle);
    Hold([=] {
      Do("cuMemUnmap", address, bytes);
      Do("cuMemAddressFree", address, bytes);
      if (!early) Do("cuMemRelease", handle);
    });
  }
  // Arrays are never small: where one shares a granule with linear memory that is freed, the
  // ledger may hold a granule more than the driver until the next settlement.
  void Array() {
    CUarray array = nullptr;
    if (rng_.Chance(500)) {
      const CUDA_ARRAY_DESCRIPTOR wanted = {1024 + rng_.Below(2000), 512 + rng_.Below(1000),
                                            CU_AD_FORMAT_FLOAT, 1};
      if (!Do("cuArrayCreate_v2", &array, &wanted)) return;
    } else {
      const CUDA_ARRAY3D_DESCRIPTOR wanted = {128 + rng_.Below(128),
                                              128 + rng_.Below(128),
                                              32 + rng_.Below(64),
                                              CU_AD_FORMAT_FLOAT,
                                              1,
                                              0};
      if (!Do("cuArray3DCreate_v2", &array, &wanted)) return;
    }
    Hold([array] { Do("cuArrayDestroy", array); });
  }
  void Mipmap() {
    const CUDA_ARRAY3D_DESCRIPTOR wanted = {
        1024 + rng_.Below(1000), 512 + rng_.Below(1000), 0, CU_AD_FORMAT_FLOAT, 1, 0};
    CUmipmappedArray array = nullptr;
    if (!Do("cuMipmappedArrayCreate", &array, &wanted, 8u)) return;
    Hold([array] { Do("cuMipmappedArrayDestroy", array); });
  }
  void Context() {
    CUcontext made = nullptr;
    if (!Do("cuCtxCreate_v2", &made, 0u, devices_[here_])) return;
    CUcontext popped = nullptr;
    Do("cuCtxPopCurrent_v2", &popped);
    Hold([made] { Do("cuCtxDestroy_v2", made); });
  }
  void Module() {
    CUmodule module = nullptr;
    if (!Do("cuModuleLoadData", &module, static_cast<const void*>(kCode))) return;
    Hold([module] { Do("cuModuleUnload", module); });
  }
  void GraphMemory() {
    CUgraph graph = nullptr;
    if (!Do("cuGraphCreate", &graph, 0u)) return;
    CUDA_MEM_ALLOC_NODE_PARAMS memory = {};
    memory.poolProps.allocType = CU_MEM_ALLOCATION_TYPE_PINNED;
    memory.poolProps.location = {CU_MEM_LOCATION_TYPE_DEVICE, devices_[here_]};
    memory.bytesize = Size();
    CUgraphNode node = nullptr;
    CUgraphNode free = nullptr;
    const CUgraphNode* const none = nullptr;
    CUgraphExec exec = nullptr;
    bool good = Do("cuGraphAddMemAllocNode", &node, graph, none, std::size_t{0}, &memory) &&
                Do("cuGraphAddMemFreeNode", &free, graph, static_cast<const CUgraphNode*>(&node),
                   std::size_t{1}, memory.dptr) &&
                Do("cuGraphInstantiateWithFlags", &exec, graph, 0ull);
    if (good) {
      Do("cuGraphLaunch", exec, CUstream{});
      Do("cuCtxSynchronize");
    }
    const int device = devices_[here_];
    const auto give_back = [=] {
      if (exec != nullptr) Do("cuGraphExecDestroy", exec);
      Do("cuGraphDestroy", graph);
      Do("cuDeviceGraphMemTrim", device);
    };
    if (!good) return give_back();
    const std::uint64_t claim = (memory.bytesize + 2 * kMiB - 1) / (2 * kMiB) * (2 * kMiB);
    if (!child_) g_line->claimed += claim;
    Hold([=, this] {
      give_back();
      if (!child_) g_line->claimed -= claim;
    });
  }

  // ---- work ----

  // A module of the step's own, so that its code is charged and given back like everything else.
  template <typename Body>
  void WithKernel(const Body& body) {
    CUmodule module = nullptr;
    CUfunction kernel = nullptr;
    if (!Do("cuModuleLoadData", &module, static_cast<const void*>(kCode))) return;
    if (Do("cuModuleGetFunction", &kernel, module, "stated")) body(kernel);
    Do("cuModuleUnload", module);
  }
  static void LaunchOne(CUfunction kernel, CUstream stream, std::uint64_t nanos) {
    void* parameters[] = {&nanos};
    const auto grid = static_cast<unsigned>(1 + nanos / 1'000'000);
    Do("cuLaunchKernel", kernel, grid, 1u, 1u, 1u, 1u, 1u, 0u, stream,
       static_cast<void**>(parameters), static_cast<void**>(nullptr));
  }
  std::uint64_t Nanos() { return 1000 * rng_.Between(5, 1ull << rng_.Between(3, 11)); }
  void Launch() {
    WithKernel([this](CUfunction kernel) {
      CUstream stream = nullptr;
      if (!Do("cuStreamCreate", &stream, 1u)) return;
      for (std::uint64_t i = rng_.Below(20); i > 0; --i) LaunchOne(kernel, stream, Nanos());
      Do("cuStreamSynchronize", stream);
      Do("cuStreamDestroy_v2", stream);
    });
  }
  void Graph() {
    WithKernel([this](CUfunction kernel) {
      CUstream stream = nullptr;
      CUgraph graph = nullptr;
      CUgraphExec exec = nullptr;
      if (!Do("cuStreamCreate", &stream, 1u)) return;
      const bool with_memory = rng_.Chance(300);
      if (Do("cuStreamBeginCapture_v2", stream, 2u)) {
        CUdeviceptr pointer = 0;
        if (with_memory) Do("cuMemAllocAsync", &pointer, Size(), stream);
        for (std::uint64_t i = 1 + rng_.Below(8); i > 0; --i) LaunchOne(kernel, stream, Nanos());
        if (pointer != 0) Do("cuMemFreeAsync", pointer, stream);
        Do("cuStreamEndCapture", stream, &graph);
      }
      if (graph != nullptr && Do("cuGraphInstantiateWithFlags", &exec, graph, 0ull)) {
        for (std::uint64_t i = rng_.Below(6); i > 0; --i) Do("cuGraphLaunch", exec, stream);
        Do("cuStreamSynchronize", stream);
        Do("cuGraphExecDestroy", exec);
      }
      if (graph != nullptr) Do("cuGraphDestroy", graph);
      if (with_memory) Do("cuDeviceGraphMemTrim", devices_[here_]);
      Do("cuStreamDestroy_v2", stream);
    });
  }
  void Streams() {
    CUstream streams[3] = {};
    CUevent events[3] = {};
    for (int i = 0; i < 3; ++i) {
      Do("cuStreamCreate", &streams[i], 1u);
      Do("cuEventCreate", &events[i], 2u);
    }
    for (int i = 0; i < 12; ++i) {
      const auto from = rng_.Below(3);
      const auto to = rng_.Below(3);
      Do("cuEventRecord", events[from], streams[from]);
      Do("cuStreamWaitEvent", streams[to], events[from], 0u);
    }
    for (int i = 0; i < 3; ++i) {
      if (rng_.Chance(500)) Do("cuStreamSynchronize", streams[i]);
      Do("cuEventDestroy_v2", events[i]);
      Do("cuStreamDestroy_v2", streams[i]);
    }
  }
  // A context that goes with everything still in it.
  void ContextFull() {
    CUcontext made = nullptr;
    if (!Do("cuCtxCreate_v2", &made, 0u, devices_[here_])) return;
    for (std::uint64_t i = rng_.Below(6); i > 0; --i) {
      CUdeviceptr pointer = 0;
      CUmodule module = nullptr;
      CUstream stream = nullptr;
      Do("cuMemAlloc_v2", &pointer, Size());
      if (rng_.Chance(300)) Do("cuModuleLoadData", &module, static_cast<const void*>(kCode));
      if (rng_.Chance(300)) Do("cuStreamCreate", &stream, 1u);
    }
    Do("cuCtxDestroy_v2", made);
  }
  void Threads() {
    std::vector<std::thread> threads;
    CUcontext context = contexts_[here_];
    WithKernel([&](CUfunction kernel) {
      for (int t = 0; t < 4; ++t) {
        threads.emplace_back([kernel, context, seed = rng_.Next()] {
          Rng rng(seed);
          Do("cuCtxSetCurrent", context);
          CUstream stream = nullptr;
          if (!Do("cuStreamCreate", &stream, 1u)) return;
          std::vector<CUdeviceptr> mine;
          for (int i = 0; i < 30; ++i) {
            CUdeviceptr pointer = 0;
            const std::size_t bytes = 1 + rng.Below(1ull << rng.Between(8, 23));
            if (rng.Chance(300)) {
              LaunchOne(kernel, stream, 1000 * rng.Between(5, 100));
            } else if (!mine.empty() && rng.Chance(500)) {
              Do("cuMemFree_v2", mine.back());
              mine.pop_back();
            } else if (rng.Chance(600) ? Do("cuMemAlloc_v2", &pointer, bytes)
                                       : Do("cuMemAllocAsync", &pointer, bytes, stream)) {
              mine.push_back(pointer);
            }
          }
          Do("cuStreamSynchronize", stream);
          for (const CUdeviceptr pointer : mine) Do("cuMemFree_v2", pointer);
          Do("cuStreamDestroy_v2", stream);
        });
      }
      for (std::thread& thread : threads) thread.join();
    });
  }
  void Info() {
    std::size_t free = 0;
    std::size_t total = 0;
    if (Do("cuMemGetInfo_v2", &free, &total) && (free > total || total == 0)) {
      Good(7003, "cuMemGetInfo with more free than there is");
    }
  }

  // ---- processes ----

  // Ends with its parent, however that ends.
  static void WithParent(pid_t parent) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) _exit(0);
  }
  void Join(pid_t child, bool kill_it) {
    if (child < 0) return;
    if (kill_it) {
      usleep(static_cast<useconds_t>(rng_.Below(30'000)));
      kill(child, SIGKILL);
    }
    int status = 0;
    waitpid(child, &status, 0);
    Add(&g_line->progress);
    if (WIFSIGNALED(status) && kill_it && WTERMSIG(status) == SIGKILL) return;
    if (WIFEXITED(status) && WEXITSTATUS(status) == kExitNoNode) return Add(&g_line->unattached);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return;
    Good(8000 + static_cast<unsigned>(status), "a child's end");
  }
  // A copy of this process without a program of its own: the driver refuses it, and so do we.
  void Fork() {
    const pid_t parent = getpid();
    const pid_t child = fork();
    if (child == 0) {
      WithParent(parent);
      CUdeviceptr pointer = 0;
      const unsigned code = Cuda("cuMemAlloc_v2", &pointer, kMiB);
      _exit(code == 0 ? 1 : 0);
    }
    Join(child, rng_.Chance(300));
  }
  void Exec() {
    const std::string seed = std::to_string(rng_.Next());
    const std::string steps = std::to_string(5 + rng_.Below(30));
    const pid_t parent = getpid();
    const pid_t child = fork();
    if (child == 0) {
      WithParent(parent);
      execl("/proc/self/exe", "soak_walker", "walk", g_line_number.c_str(), seed.c_str(),
            steps.c_str(), static_cast<char*>(nullptr));
      _exit(127);
    }
    Join(child, rng_.Chance(400));
  }
  void Ipc() {
    CUdeviceptr pointer = 0;
    CUipcMemHandle handle = {};
    if (!Do("cuMemAlloc_v2", &pointer, Size())) return;
    if (Do("cuIpcGetMemHandle", &handle, pointer)) {
      std::string hex;
      for (std::size_t i = 0; i < sizeof(handle); ++i) {
        char two[3];
        std::snprintf(two, sizeof(two), "%02x", reinterpret_cast<unsigned char*>(&handle)[i]);
        hex += two;
      }
      const std::string device = std::to_string(devices_[here_]);
      const pid_t parent = getpid();
      const pid_t child = fork();
      if (child == 0) {
        WithParent(parent);
        execl("/proc/self/exe", "soak_walker", "import", hex.c_str(), device.c_str(),
              static_cast<char*>(nullptr));
        _exit(127);
      }
      Join(child, rng_.Chance(300));
    }
    Do("cuMemFree_v2", pointer);
  }

  Rng rng_;
  const bool child_;
  std::size_t here_ = 0;
  std::vector<CUcontext> contexts_;
  std::vector<int> devices_;
  std::vector<Held> held_;
};

int Import(const std::string& hex, int device) {
  CUipcMemHandle handle = {};
  for (std::size_t i = 0; i < sizeof(handle) && 2 * i + 1 < hex.size(); ++i) {
    reinterpret_cast<unsigned char*>(&handle)[i] =
        static_cast<unsigned char>(std::stoi(hex.substr(2 * i, 2), nullptr, 16));
  }
  CUcontext context = nullptr;
  if (Cuda("cuInit", 0u) != 0) return kExitNoNode;
  if (!Do("cuDevicePrimaryCtxRetain", &context, device)) return g_nowhere.wrong != 0;
  Do("cuCtxSetCurrent", context);
  CUdeviceptr pointer = 0;
  if (Do("cuIpcOpenMemHandle_v2", &pointer, handle, 1u)) {
    unsigned char byte = 0;
    Do("cuMemcpyDtoH_v2", static_cast<void*>(&byte), pointer, std::size_t{1});
    Do("cuIpcCloseMemHandle", pointer);
  }
  Do("cuDevicePrimaryCtxRelease_v2", device);
  return g_nowhere.wrong != 0;
}

bool OpenPage(const char* number) {
  const char* const path = getenv(kPageVariable);
  const int fd = path == nullptr ? -1 : open(path, O_RDWR | O_CLOEXEC);
  if (fd < 0) return false;
  void* const page = mmap(nullptr, sizeof(Page), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  close(fd);
  if (page == MAP_FAILED) return false;
  const std::uint64_t index = std::strtoull(number, nullptr, 10);
  if (index >= kWalkersMax) return false;
  g_page = static_cast<Page*>(page);
  g_line = &g_page->lines[index];
  g_line_number = number;
  return true;
}

int Main(int argc, char** argv) {
  OpenCuda();
  if (g_cuda == nullptr) return 1;
  const std::string what = argc > 1 ? argv[1] : "";
  if (what == "import" && argc == 4) return Import(argv[2], std::atoi(argv[3]));
  if (what != "walk" || argc != 5 || !OpenPage(argv[2])) {
    std::fprintf(stderr, "usage: soak_walker walk LINE SEED STEPS (and $%s)\n", kPageVariable);
    return 2;
  }
  const std::uint64_t steps = std::strtoull(argv[4], nullptr, 10);
  Walk walk(std::strtoull(argv[3], nullptr, 10), steps != 0);
  if (!walk.Begin()) return kExitNoNode;
  walk.Run(steps);
  return 0;
}

}  // namespace
}  // namespace tessera::soak

int main(int argc, char** argv) { return tessera::soak::Main(argc, argv); }
