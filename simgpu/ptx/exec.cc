// The scheduler: blocks over host workers, warps of a block in turn, groups of lanes inside a warp.
//
// Divergence: a warp is a set of groups {frame, pc, lanes}. The group in the deepest call and at
// the lowest pc runs first, and groups that meet at one pc of one frame become one again; that
// reconverges structured code. After kGroupQuantum instructions of that the group that waited
// longest runs kFavourQuantum, so lanes that spin on another lane of their warp make progress, as
// on Volta and later. Barriers count threads, not warps.
//
// Blocks run one after the other on each worker, in order of their number, so a block may wait for
// lower ones. In a cooperative launch every block is resident on one worker and they take turns.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <mutex>
#include <thread>

#include "simgpu/ptx/code.h"
#include "simgpu/ptx/helpers.h"

namespace simgpu::ptx {
namespace {

constexpr uint32_t kGroupQuantum =
    8192;  // Warp instructions by lowest pc before a waiting group gets its turn.
constexpr uint32_t kFavourQuantum = 1024;  // Warp instructions of such a turn.
constexpr uint32_t kWarpQuantum =
    65536;  // Warp instructions of one warp before the next warp gets its turn.
constexpr uint32_t kCooperativeQuantum = 1024;  // The same where other blocks are waited for.
constexpr uint64_t kSleepNsMax = 100'000;       // The host sleeps no longer for one nanosleep.
constexpr int kBarriers = 16;

enum class GroupState : uint8_t { kReady, kBarrier, kWarpSync };

struct Group {
  Frame* frame = nullptr;
  uint32_t pc = 0;
  uint32_t mask = 0;
  GroupState state = GroupState::kReady;
  uint8_t barrier = 0;
  uint64_t last_run = 0;
};

struct Warp {
  std::vector<Group> groups;
  Frame* root = nullptr;
  uint32_t live = 0;
  uint32_t carry = 0;
  uint32_t tid[3][kWarpSize] = {};
};

struct Barrier {
  uint32_t arrived = 0;
  uint32_t explicit_count = 0;  // 0: every thread that has not exited.
  uint32_t true_count = 0;      // Of bar.red predicates.
  uint32_t voters = 0;
};

// Shared by the workers of one launch.
struct Launch {
  const Module::Impl* module;
  const Kernel* kernel;
  const Function* function;
  const LaunchConfig* config;
  std::vector<std::vector<uint64_t>> constants;  // By slot, beside Function::constants.
  alignas(64) uint8_t grid_workspace[kGridWorkspaceBytes] = {};
  uint64_t grid_id = 0;
  uint32_t local_bytes = 0;
  uint32_t shared_bytes = 0;
  uint32_t threads = 0;
  uint64_t blocks = 0;
  std::atomic<uint64_t> next_block{0};
  std::atomic<uint64_t> instructions{0};
  std::atomic<bool> stop{false};
  std::mutex mutex;  // Guards `result` and the print sink.
  LaunchResult result;

  uint32_t SlotOf(int index) const {
    const std::vector<int>& closure = kernel->closure;
    return static_cast<uint32_t>(std::lower_bound(closure.begin(), closure.end(), index) -
                                 closure.begin());
  }
};

// The state in which one host thread runs blocks: any number one after the other, or one of a
// cooperative launch a turn at a time.
class Worker {
 public:
  Worker(Launch* launch, uint32_t number) : launch_(*launch) {
    const LaunchConfig& config = *launch_.config;
    shared_.resize((launch_.shared_bytes + 7) / 8 + 1);
    local_.reset(static_cast<uint8_t*>(
        std::calloc(1, static_cast<size_t>(launch_.local_bytes) * launch_.threads + 16)));
    caches_.resize(launch_.kernel->closure.size());
    free_frames_.resize(caches_.size());
    const uint32_t root = launch_.SlotOf(launch_.kernel->function);
    const uint32_t warps = (launch_.threads + kWarpSize - 1) / kWarpSize;
    warps_.resize(warps);
    for (uint32_t w = 0; w < warps; ++w) {
      Warp& warp = warps_[w];
      warp.root = NewFrame(root);
      for (int lane = 0; lane < kWarpSize; ++lane) {
        const uint32_t t = w * kWarpSize + static_cast<uint32_t>(lane);
        warp.tid[0][lane] = t % config.block[0];
        warp.tid[1][lane] = t / config.block[0] % config.block[1];
        warp.tid[2][lane] = t / config.block[0] / config.block[1];
      }
    }
    e_.shared = reinterpret_cast<uint8_t*>(shared_.data());
    e_.shared_bytes = launch_.shared_bytes;
    e_.local_bytes = launch_.local_bytes;
    e_.params = static_cast<const uint8_t*>(config.params);
    e_.param_bytes = static_cast<uint32_t>(config.param_bytes);
    if (config.cooperative) e_.grid_workspace = launch_.grid_workspace;
    e_.grid_id = launch_.grid_id;
    quantum_ = config.cooperative ? kCooperativeQuantum : kWarpQuantum;
    e_.memory = config.memory;
    e_.config = &config;
    e_.worker = number;
  }

  // Runs blocks until there are no more.
  void Run() {
    while (!launch_.stop.load(std::memory_order_relaxed)) {
      const uint64_t block = launch_.next_block.fetch_add(1, std::memory_order_relaxed);
      if (block >= launch_.blocks) break;
      Begin(block);
      while (Step()) {
      }
    }
  }

  void Begin(uint64_t block) {
    const LaunchConfig& config = *launch_.config;
    e_.ctaid[0] = static_cast<uint32_t>(block % config.grid[0]);
    e_.ctaid[1] = static_cast<uint32_t>(block / config.grid[0] % config.grid[1]);
    e_.ctaid[2] = static_cast<uint32_t>(block / config.grid[0] / config.grid[1]);
    live_threads_ = launch_.threads;
    for (Barrier& barrier : barriers_) barrier = {};
    for (size_t w = 0; w < warps_.size(); ++w) {
      Warp& warp = warps_[w];
      const uint32_t lanes =
          std::min<uint32_t>(kWarpSize, launch_.threads - static_cast<uint32_t>(w) * kWarpSize);
      warp.live = lanes == 32 ? kFullMask : (1u << lanes) - 1;
      warp.root->lanes = warp.live;
      warp.groups.assign(1, Group{warp.root, 0, warp.live, GroupState::kReady, 0, 0});
    }
    if (!local_) {
      e_.Fail(Status::kLaunchFailed, -1, "the host has no memory for the threads' local memory");
    }
  }

  // One turn for every warp of the block. False: the block is finished, or the launch has ended.
  bool Step() {
    if (e_.fault.status == Status::kOk) Turn();
    Account();
    if (e_.fault.status != Status::kOk) {
      Report();
      return false;
    }
    return live_threads_ > 0 && !launch_.stop.load(std::memory_order_relaxed);
  }

 private:
  struct Free {
    void operator()(uint8_t* p) const { std::free(p); }
  };

  Frame* NewFrame(uint32_t slot) {
    if (!free_frames_[slot].empty()) {
      Frame* frame = free_frames_[slot].back();
      free_frames_[slot].pop_back();
      return frame;
    }
    const Function& function =
        launch_.module->functions[static_cast<size_t>(launch_.kernel->closure[slot])];
    if (caches_[slot].empty()) caches_[slot].resize(function.sites + 1);
    frames_.push_back(std::make_unique<Frame>());
    Frame* frame = frames_.back().get();
    frame->function = &function;
    frame->slot = slot;
    frame->storage.resize(function.register_bytes / 8 + 8);
    // Aligned to a cache line so that a register's lanes never straddle one more than they must.
    frame->registers = reinterpret_cast<uint8_t*>(
        (reinterpret_cast<uintptr_t>(frame->storage.data()) + 63) & ~uintptr_t{63});
    const std::vector<uint64_t>& values = launch_.constants[slot];
    for (size_t i = 0; i < values.size(); ++i) {
      const Constant& constant = function.constants[i];
      uint8_t* to = frame->registers + constant.offset;
      for (int lane = 0; lane < kWarpSize; ++lane) {
        switch (constant.cls) {
          case RegClass::kPred:
            reinterpret_cast<uint32_t*>(to)[0] = values[i] ? kFullMask : 0;
            break;
          case RegClass::k16:
            reinterpret_cast<uint16_t*>(to)[lane] = static_cast<uint16_t>(values[i]);
            break;
          case RegClass::k32:
            reinterpret_cast<uint32_t*>(to)[lane] = static_cast<uint32_t>(values[i]);
            break;
          default:
            reinterpret_cast<uint64_t*>(to)[lane] = values[i];
            break;
        }
      }
    }
    return frame;
  }

  void FreeFrame(Frame* frame) { free_frames_[frame->slot].push_back(frame); }

  void Account() {
    const uint64_t fresh = e_.instructions - accounted_;
    accounted_ = e_.instructions;
    const uint64_t total = launch_.instructions.fetch_add(fresh, std::memory_order_relaxed) + fresh;
    const LaunchConfig& config = *launch_.config;
    if (total > config.instruction_budget) {
      e_.Fail(
          Status::kLaunchTimeout, -1,
          "the instruction budget of " + std::to_string(config.instruction_budget) + " is spent");
    }
    if (config.cancel != nullptr && config.cancel->load(std::memory_order_relaxed)) {
      e_.Fail(Status::kCancelled, -1, "the launch was cancelled");
    }
  }

  void Report() {
    std::string where = "kernel '" + launch_.function->name + "'";
    if (fault_instr_ != nullptr) {
      where += ", " + fault_function_->names[fault_instr_->name] + " at PTX line " +
               std::to_string(fault_instr_->line);
      if (fault_function_ != launch_.function) where += " of '" + fault_function_->name + "'";
    }
    where += ", block (" + std::to_string(e_.ctaid[0]) + "," + std::to_string(e_.ctaid[1]) + "," +
             std::to_string(e_.ctaid[2]) + ")";
    if (fault_warp_ != nullptr && e_.fault.lane >= 0) {
      const int lane = e_.fault.lane;
      where += ", thread (" + std::to_string(fault_warp_->tid[0][lane]) + "," +
               std::to_string(fault_warp_->tid[1][lane]) + "," +
               std::to_string(fault_warp_->tid[2][lane]) + ")";
    }
    const std::lock_guard<std::mutex> lock(launch_.mutex);
    if (launch_.result.status == Status::kOk) {
      launch_.result.status = e_.fault.status;
      launch_.result.message = e_.fault.what + ": " + where;
    }
    launch_.stop.store(true, std::memory_order_relaxed);
  }

  void Turn() {
    bool progress = false;
    sleep_ns_ = 0;
    bool all_sleep = true;
    for (size_t w = 0; w < warps_.size(); ++w) {
      if (warps_[w].live == 0) continue;
      bool sleeps = false;
      if (RunWarp(warps_[w], static_cast<uint32_t>(w), &sleeps)) {
        progress = true;
        all_sleep = all_sleep && sleeps;
      }
      if (e_.fault.status != Status::kOk) return;
    }
    if (!progress && live_threads_ > 0 && !ReleaseWarpBarriers()) {
      DescribeDeadlock();
    } else if (progress && all_sleep && sleep_ns_ > 0) {
      std::this_thread::sleep_for(std::chrono::nanoseconds(sleep_ns_));
    }
  }

  // bar.warp.sync may be met at different places by the lanes of one warp; once nothing else can
  // run, lanes parked at any of them meet there.
  bool ReleaseWarpBarriers() {
    bool released = false;
    for (Warp& warp : warps_) {
      uint32_t parked = 0;
      for (const Group& group : warp.groups) {
        if (IsWarpBarrier(group)) parked |= group.mask;
      }
      for (Group& group : warp.groups) {
        if (!IsWarpBarrier(group)) continue;
        const Instr& i = group.frame->function->code[group.pc];
        const uint32_t* members = reinterpret_cast<const uint32_t*>(group.frame->registers + i.a);
        bool complete = true;
        for (uint32_t m = group.mask; m != 0; m &= m - 1) {
          if ((members[__builtin_ctz(m)] & warp.live & ~parked) != 0) complete = false;
        }
        if (complete) {
          group.state = GroupState::kReady;
          ++group.pc;
          released = true;
        }
      }
    }
    return released;
  }

  static bool IsWarpBarrier(const Group& group) {
    if (group.state != GroupState::kWarpSync) return false;
    return group.frame->function->code[group.pc].fn == nullptr;
  }

  void DescribeDeadlock() {
    for (Warp& warp : warps_) {
      for (const Group& group : warp.groups) {
        const uint32_t pc = group.state == GroupState::kBarrier ? group.pc - 1 : group.pc;
        fault_function_ = group.frame->function;
        fault_instr_ = &fault_function_->code[pc];
        fault_warp_ = &warp;
        e_.Fail(Status::kLaunchTimeout, __builtin_ctz(group.mask),
                "threads wait for each other for ever");
        return;
      }
    }
  }

  // Makes group `index` one with any other that stands at the same place. Answers the index it has
  // now.
  size_t Merge(Warp& warp, size_t index) {
    for (size_t other = 0; other < warp.groups.size(); ++other) {
      if (other == index) continue;
      Group& a = warp.groups[index];
      Group& b = warp.groups[other];
      if (a.frame != b.frame || a.pc != b.pc || b.state == GroupState::kBarrier ||
          a.state == GroupState::kBarrier) {
        continue;
      }
      a.mask |= b.mask;
      a.state = GroupState::kReady;
      a.last_run = std::max(a.last_run, b.last_run);
      Remove(warp, other);
      if (index == warp.groups.size()) index = other;
      other = SIZE_MAX;  // Start over: indices moved.
    }
    return index;
  }

  static void Remove(Warp& warp, size_t index) {
    warp.groups[index] = warp.groups.back();
    warp.groups.pop_back();
  }

  // The next group to run, or -1: the deepest call's lowest pc, or with `oldest` the one that
  // waited longest.
  static int Pick(const Warp& warp, bool oldest) {
    int best = -1;
    for (size_t i = 0; i < warp.groups.size(); ++i) {
      const Group& g = warp.groups[i];
      if (g.state != GroupState::kReady) continue;
      if (best < 0) {
        best = static_cast<int>(i);
        continue;
      }
      const Group& b = warp.groups[static_cast<size_t>(best)];
      const bool before = oldest                             ? g.last_run < b.last_run
                          : g.frame->depth != b.frame->depth ? g.frame->depth > b.frame->depth
                                                             : g.pc < b.pc;
      if (before) best = static_cast<int>(i);
    }
    return best;
  }

  // The group that holds one of `lanes` and can run, or -1.
  static int PickLanes(const Warp& warp, uint32_t lanes) {
    for (size_t i = 0; i < warp.groups.size(); ++i) {
      if ((warp.groups[i].mask & lanes) != 0 && warp.groups[i].state == GroupState::kReady)
        return static_cast<int>(i);
    }
    return -1;
  }

  // Answers whether anything ran; `sleeps`: and it ended in a nanosleep of all that could run.
  bool RunWarp(Warp& warp, uint32_t number, bool* sleeps) {
    for (int d = 0; d < 3; ++d) e_.tid[d] = warp.tid[d];
    e_.warp_id = number;
    e_.live = warp.live;
    e_.carry = warp.carry;
    e_.local = local_.get() + static_cast<size_t>(number) * kWarpSize * launch_.local_bytes;
    fault_warp_ = &warp;
    bool ran = false;
    int64_t quantum = quantum_;
    int64_t turn = kGroupQuantum;  // What is left of the present way to pick.
    uint32_t favoured = 0;         // A lane whose group has its turn, as a mask.
    while (quantum > 0) {
      int index = favoured != 0 ? PickLanes(warp, favoured) : -1;
      if (index < 0) {
        favoured = 0;
        index = Pick(warp, false);
      }
      if (index < 0) break;
      ran = true;
      const uint32_t whole = static_cast<uint32_t>(std::max<int64_t>(turn, 1));
      uint32_t left = whole;
      const bool gives_way = RunGroup(warp, static_cast<size_t>(index), &left);
      const int64_t used = std::max<int64_t>(whole - left, 1);
      quantum -= used;
      turn -= used;
      if (e_.fault.status != Status::kOk) break;
      if (turn > 0 && !gives_way) continue;
      turn = kGroupQuantum;
      const bool was_favoured = favoured != 0;
      favoured = 0;
      if (warp.groups.size() > 1 && (!was_favoured || gives_way)) {
        const int oldest = Pick(warp, true);
        if (oldest >= 0) {
          const uint32_t mask = warp.groups[static_cast<size_t>(oldest)].mask;
          favoured = mask & (0 - mask);
          turn = kFavourQuantum;
        }
      } else if (gives_way) {
        *sleeps = true;
        break;  // Nothing else to run in this warp: the next warp's turn.
      }
    }
    warp.carry = e_.carry;
    return ran;
  }

  // Runs one group until it blocks, splits, merges or has used its slice. Answers whether it asked
  // to give way.
  bool RunGroup(Warp& warp, size_t index, uint32_t* slice) {
    Frame* frame = warp.groups[index].frame;
    const Instr* code = frame->function->code.data();
    uint32_t pc = warp.groups[index].pc;
    const uint32_t active = warp.groups[index].mask;
    const uint32_t lanes = static_cast<uint32_t>(__builtin_popcount(active));
    warp.groups[index].last_run = ++turn_;
    e_.r = frame->registers;
    e_.frame = frame;
    e_.caches = caches_[frame->slot].data();
    const bool alone = warp.groups.size() == 1;
    uint32_t meet = UINT32_MAX;  // The nearest pc ahead where another group of this frame stands.
    if (!alone) {
      for (size_t i = 0; i < warp.groups.size(); ++i) {
        const Group& g = warp.groups[i];
        if (i != index && g.frame == frame && g.pc > pc && g.state != GroupState::kBarrier)
          meet = std::min(meet, g.pc);
      }
    }
    uint32_t left = *slice;
    while (true) {
      if (pc == meet || left == 0) {
        warp.groups[index].pc = pc;
        Merge(warp, index);
        break;
      }
      const Instr& i = code[pc];
      --left;
      e_.instructions += lanes;
      uint32_t mask = active;
      if (i.guard != kNoReg) {
        const uint32_t p = *Reg<uint32_t>(e_, i.guard);
        mask &= i.guard_negated ? ~p : p;
        if (mask == 0) {
          ++pc;
          continue;
        }
      }
      if (i.kind == Kind::kPlain) {
        i.fn(e_, i, mask);
        ++pc;
        continue;
      }
      if (i.kind == Kind::kMemory) {
        i.fn(e_, i, mask);
        if (!e_.interrupt) [[likely]] {
          ++pc;
          continue;
        }
        if (e_.fault.status != Status::kOk) {
          fault_instr_ = &i;
          fault_function_ = frame->function;
          break;
        }
        e_.interrupt = false;
        warp.groups[index].pc = pc + 1;
        Merge(warp, index);
        *slice = left;
        return true;
      }
      if (i.kind == Kind::kBranch && (alone || i.target > pc) && mask == active &&
          i.target <= meet) {
        pc = i.target;
        continue;
      }
      warp.groups[index].pc = pc;
      if (i.kind == Kind::kWarpSync && WarpSyncReady(warp, index, i, mask)) {
        if (i.fn != nullptr) i.fn(e_, i, mask);
        ++pc;
        continue;
      }
      *slice = left;
      const bool give_way = Control(warp, index, i, mask);
      if (e_.fault.status != Status::kOk && fault_instr_ == nullptr) {
        fault_instr_ = &i;
        fault_function_ = frame->function;
      }
      return give_way;
    }
    *slice = left;
    return false;
  }

  // True: every lane of `mask` has all its member lanes here and nothing has to be split.
  static bool WarpSyncReady(const Warp& warp, size_t index, const Instr& i, uint32_t mask) {
    const Group& group = warp.groups[index];
    if (mask != group.mask) return false;
    return Satisfied(warp, group, i, mask) == mask;
  }

  static uint32_t Satisfied(const Warp& warp, const Group& group, const Instr& i, uint32_t mask) {
    const uint32_t* members = reinterpret_cast<const uint32_t*>(group.frame->registers + i.a);
    uint32_t satisfied = 0;
    for (uint32_t m = mask; m != 0; m &= m - 1) {
      const int lane = __builtin_ctz(m);
      if ((members[lane] & warp.live & ~mask) == 0) satisfied |= 1u << lane;
    }
    return satisfied;
  }

  // Splits `mask` off group `index`: the rest moves past the instruction. Answers the index of the
  // `mask` part.
  size_t SplitOff(Warp& warp, size_t index, uint32_t mask) {
    Group& group = warp.groups[index];
    if (mask == group.mask) return index;
    Group rest = group;
    rest.mask &= ~mask;
    ++rest.pc;
    group.mask = mask;
    warp.groups.push_back(rest);
    // The rest may meet others; the part at `index` keeps its pc, so its own index is all that can
    // move.
    const size_t last = warp.groups.size() - 1;
    Merge(warp, last);
    for (size_t i = 0; i < warp.groups.size(); ++i) {
      if ((warp.groups[i].mask & mask) != 0) return i;
    }
    return index;
  }

  // Handles an instruction that moves lanes about. Answers whether the group asked to give way.
  bool Control(Warp& warp, size_t index, const Instr& i, uint32_t mask) {
    switch (i.kind) {
      case Kind::kBranch: {
        Group& group = warp.groups[index];
        if (mask == group.mask) {
          group.pc = i.target;
          Merge(warp, index);
          return false;
        }
        Group taken = group;
        taken.mask = mask;
        taken.pc = i.target;
        group.mask &= ~mask;
        ++group.pc;
        const uint32_t stays = group.mask;
        warp.groups.push_back(taken);
        Merge(warp, warp.groups.size() - 1);
        for (size_t k = 0; k < warp.groups.size(); ++k) {
          if ((warp.groups[k].mask & stays) != 0) {
            Merge(warp, k);
            break;
          }
        }
        return false;
      }
      case Kind::kBranchTable: {
        const std::vector<uint32_t>& table = warp.groups[index].frame->function->tables[i.target];
        const uint32_t* selector = Reg<uint32_t>(e_, i.a);
        index = SplitOff(warp, index, mask);
        const Group group = warp.groups[index];
        Remove(warp, index);
        for (uint32_t m = mask; m != 0; m &= m - 1) {
          const int lane = __builtin_ctz(m);
          if (selector[lane] >= table.size()) {
            e_.Fail(Status::kLaunchFailed, lane, "brx.idx index is outside of its table");
            return false;
          }
          Group one = group;
          one.mask = 1u << lane;
          one.pc = table[selector[lane]];
          warp.groups.push_back(one);
          Merge(warp, warp.groups.size() - 1);
        }
        return false;
      }
      case Kind::kExit:
        index = SplitOff(warp, index, mask);
        Exit(warp, index, mask);
        return false;
      case Kind::kRet: {
        index = SplitOff(warp, index, mask);
        Group& group = warp.groups[index];
        Frame* frame = group.frame;
        if (frame->parent == nullptr) {
          Exit(warp, index, mask);
          return false;
        }
        const CallSite& call =
            frame->parent->function
                ->calls[frame->parent->function->code[frame->return_pc - 1].target];
        if (call.function < 0) {
          CopyFrameBytes(Copies(call.result_variables, frame->function->returns, true),
                         frame->local_base, frame->parent->local_base, mask);
        } else {
          CopyFrameBytes(call.results, frame->local_base, frame->parent->local_base, mask);
        }
        group.frame = frame->parent;
        group.pc = frame->return_pc;
        frame->lanes &= ~mask;
        if (frame->lanes == 0) FreeFrame(frame);
        Merge(warp, index);
        return false;
      }
      case Kind::kCall:
        return Call(warp, index, i, mask);
      case Kind::kBarrier:
        Arrive(warp, index, i, mask);
        return false;
      case Kind::kWarpSync: {
        // Lanes whose partners are here go on alone, the rest wait.
        index = SplitOff(warp, index, mask);
        const uint32_t satisfied = Satisfied(warp, warp.groups[index], i, mask);
        if (satisfied == mask) return false;  // Whole now; it runs next time.
        if (satisfied == 0) {
          warp.groups[index].state = GroupState::kWarpSync;
          return false;
        }
        Group waiting = warp.groups[index];
        waiting.mask &= ~satisfied;
        waiting.state = GroupState::kWarpSync;
        warp.groups[index].mask = satisfied;
        if (i.fn != nullptr) i.fn(e_, i, satisfied);
        ++warp.groups[index].pc;
        warp.groups.push_back(waiting);
        Merge(warp, index);
        return false;
      }
      case Kind::kTrap:
        e_.Fail(Status::kLaunchFailed, __builtin_ctz(mask), "trap");
        return false;
      case Kind::kYield: {
        const uint64_t ns = Reg<uint32_t>(e_, i.a)[__builtin_ctz(mask)];
        const uint64_t bounded = std::min(std::max<uint64_t>(ns, 1), kSleepNsMax);
        sleep_ns_ = sleep_ns_ == 0 ? bounded : std::min(sleep_ns_, bounded);
        ++warp.groups[index].pc;
        Merge(warp, index);
        return true;
      }
      case Kind::kPlain:
      case Kind::kMemory:
        break;
    }
    return false;
  }

  void Exit(Warp& warp, size_t index, uint32_t mask) {
    // Frames of device functions that `exit` from inside give their lanes back.
    for (Frame* frame = warp.groups[index].frame; frame != nullptr; frame = frame->parent) {
      frame->lanes &= ~mask;
      if (frame->lanes == 0 && frame->parent != nullptr) FreeFrame(frame);
    }
    Remove(warp, index);
    warp.live &= ~mask;
    e_.live = warp.live;
    live_threads_ -= static_cast<uint32_t>(__builtin_popcount(mask));
    for (Group& group : warp.groups) {
      if (group.state == GroupState::kWarpSync) group.state = GroupState::kReady;
    }
    for (int b = 0; b < kBarriers; ++b) {
      if (barriers_[b].arrived > 0) CheckBarrier(b);
    }
  }

  void CopyFrameBytes(const std::vector<CallSite::Copy>& copies, uint32_t from, uint32_t to,
                      uint32_t mask) {
    for (const CallSite::Copy& copy : copies) {
      for (uint32_t m = mask; m != 0; m &= m - 1) {
        uint8_t* thread = e_.local + static_cast<size_t>(__builtin_ctz(m)) * launch_.local_bytes;
        std::memcpy(thread + to + copy.to, thread + from + copy.from, copy.bytes);
      }
    }
  }

  bool Call(Warp& warp, size_t index, const Instr& i, uint32_t mask) {
    const CallSite& call = warp.groups[index].frame->function->calls[i.target];
    if (call.builtin != CallSite::kNoBuiltin) {
      Builtin(call, i, mask);
      ++warp.groups[index].pc;
      Merge(warp, index);
      return false;
    }
    index = SplitOff(warp, index, mask);
    int target = call.function;
    if (target < 0) {
      // Lanes that call something else stay where they are, for their own turn.
      const uint64_t* addresses = Reg<uint64_t>(e_, i.a);
      const int first = __builtin_ctz(mask);
      uint32_t same = 0;
      for (uint32_t m = mask; m != 0; m &= m - 1) {
        if (addresses[__builtin_ctz(m)] == addresses[first]) same |= m & (0 - m);
      }
      target = IndirectTarget(call, addresses[first], first);
      if (target < 0) return false;
      if (same != mask) {
        Group others = warp.groups[index];
        others.mask = mask & ~same;
        warp.groups[index].mask = mask = same;
        warp.groups.push_back(others);
      }
    }
    Group& group = warp.groups[index];
    const Function& callee = launch_.module->functions[static_cast<size_t>(target)];
    Frame* caller = group.frame;
    if (caller->depth + 1 > kMaxCallDepth) {
      e_.Fail(Status::kLaunchFailed, __builtin_ctz(mask), "call depth exceeds kMaxCallDepth");
      return false;
    }
    const uint32_t base = (caller->local_base + caller->function->frame_bytes + 15) & ~15u;
    if (base + callee.frame_bytes > launch_.local_bytes) {
      e_.Fail(Status::kLaunchFailed, __builtin_ctz(mask),
              "stack overflow: stack_bytes is " + std::to_string(launch_.config->stack_bytes));
      return false;
    }
    Frame* frame = NewFrame(launch_.SlotOf(target));
    frame->parent = caller;
    frame->return_pc = group.pc + 1;
    frame->lanes = mask;
    frame->local_base = base;
    frame->depth = caller->depth + 1;
    if (call.function < 0) {
      CopyFrameBytes(Copies(call.argument_variables, callee.params, false), caller->local_base,
                     base, mask);
    } else {
      CopyFrameBytes(call.arguments, caller->local_base, base, mask);
    }
    group.frame = frame;
    group.pc = 0;
    return false;
  }

  // The function at an address that a register holds, or -1 with the fault set.
  int IndirectTarget(const CallSite& call, uint64_t address, int lane) {
    const uint64_t number = (address - kFunctionWindow) / kFunctionStep;
    const std::vector<int>& closure = launch_.kernel->closure;
    if (address < kFunctionWindow || number >= launch_.module->functions.size() ||
        (address - kFunctionWindow) % kFunctionStep != 0 ||
        !std::binary_search(closure.begin(), closure.end(), static_cast<int>(number))) {
      e_.Fail(Status::kInvalidPc, lane, "call of an address where no function is");
      return -1;
    }
    const Function& callee = launch_.module->functions[number];
    if (!callee.defined || !callee.refusal.empty()) {
      e_.Fail(Status::kUnsupported, lane,
              callee.defined ? callee.refusal
                             : "function '" + callee.name + "' is not defined in this module");
      return -1;
    }
    if (callee.entry || callee.params.size() != call.argument_variables.size() ||
        callee.returns.size() != call.result_variables.size()) {
      e_.Fail(Status::kInvalidPc, lane,
              "call of '" + callee.name + "' with another number of parameters");
      return -1;
    }
    return static_cast<int>(number);
  }

  // What moves between a caller's variables and a callee's, one by one.
  std::vector<CallSite::Copy> Copies(const std::vector<int>& mine, const std::vector<int>& theirs,
                                     bool results) const {
    std::vector<CallSite::Copy> copies;
    for (size_t k = 0; k < mine.size(); ++k) {
      if (mine[k] < 0) continue;
      const Variable& a = launch_.module->ast.variables[static_cast<size_t>(mine[k])];
      const Variable& b = launch_.module->ast.variables[static_cast<size_t>(theirs[k])];
      const uint32_t bytes = static_cast<uint32_t>(std::min(a.size, b.size));
      copies.push_back(results ? CallSite::Copy{b.frame_offset, a.frame_offset, bytes}
                               : CallSite::Copy{a.frame_offset, b.frame_offset, bytes});
    }
    return copies;
  }

  template <class T>
  T FrameValue(uint32_t offset, int lane) const {
    T value;
    std::memcpy(
        &value,
        e_.local + static_cast<size_t>(lane) * launch_.local_bytes + e_.frame->local_base + offset,
        sizeof value);
    return value;
  }

  void Builtin(const CallSite& call, const Instr& i, uint32_t mask) {
    for (uint32_t m = mask; m != 0; m &= m - 1) {
      const int lane = __builtin_ctz(m);
      if (call.builtin == CallSite::kPrintf) {
        std::string text;
        if (!DevicePrintf(e_, i, FrameValue<uint64_t>(call.arguments[0].from, lane),
                          FrameValue<uint64_t>(call.arguments[1].from, lane), lane, &text)) {
          return;
        }
        Print(text);
        if (!call.results.empty()) {
          const int32_t one = 1;
          std::memcpy(e_.local + static_cast<size_t>(lane) * launch_.local_bytes +
                          e_.frame->local_base + call.results[0].to,
                      &one, sizeof one);
        }
        continue;
      }
      if (call.builtin == CallSite::kMalloc) {
        const uint64_t address = launch_.config->memory->HeapAllocate(
            FrameValue<uint64_t>(call.arguments[0].from, lane));
        if (!call.results.empty()) {
          std::memcpy(e_.local + static_cast<size_t>(lane) * launch_.local_bytes +
                          e_.frame->local_base + call.results[0].to,
                      &address, sizeof address);
        }
        continue;
      }
      if (call.builtin == CallSite::kFree) {
        const uint64_t address = FrameValue<uint64_t>(call.arguments[0].from, lane);
        if (address != 0 && !launch_.config->memory->HeapFree(address)) {
          e_.Fail(Status::kLaunchFailed, lane, "free of an address that malloc did not give");
          return;
        }
        continue;
      }
      if (call.builtin == CallSite::kSetConditional) {
        if (!launch_.config->memory->SetConditional(
                FrameValue<uint64_t>(call.arguments[0].from, lane),
                FrameValue<uint32_t>(call.arguments[1].from, lane))) {
          e_.Fail(Status::kLaunchFailed, lane, "no such handle of a conditional node");
          return;
        }
        continue;
      }
      std::string parts[3];
      uint32_t line = FrameValue<uint32_t>(call.arguments[2].from, lane);
      const uint64_t pointers[3] = {FrameValue<uint64_t>(call.arguments[0].from, lane),
                                    FrameValue<uint64_t>(call.arguments[1].from, lane),
                                    FrameValue<uint64_t>(call.arguments[3].from, lane)};
      for (int p = 0; p < 3; ++p) {
        if (!ReadDeviceString(e_, i, pointers[p], lane, &parts[p])) return;
      }
      e_.Fail(Status::kAssert, lane,
              parts[1] + ":" + std::to_string(line) + ": " + parts[2] + ": Assertion `" + parts[0] +
                  "` failed");
      return;
    }
  }

  void Print(const std::string& text) {
    const std::lock_guard<std::mutex> lock(launch_.mutex);
    if (launch_.config->print) {
      launch_.config->print(text);
    } else {
      std::fwrite(text.data(), 1, text.size(), stdout);
      std::fflush(stdout);
    }
  }

  // ---- block barriers ----

  // Instr: aux bit 0 = arrive only, bits 1..2 = reduction (0 none, 1 popc, 2 and, 3 or), bit 3 =
  // predicate negated; a = barrier number, b = thread count (kNoReg: all), c = predicate, dst =
  // result.
  void Arrive(Warp& warp, size_t index, const Instr& i, uint32_t mask) {
    index = SplitOff(warp, index, mask);
    const int first = __builtin_ctz(mask);
    const uint32_t number = Reg<uint32_t>(e_, i.a)[first];
    if (number >= kBarriers) {
      e_.Fail(Status::kLaunchFailed, first,
              "barrier number must be below 16, found " + std::to_string(number));
      return;
    }
    Barrier& barrier = barriers_[number];
    if (i.b != kNoReg) {
      const uint32_t count = Reg<uint32_t>(e_, i.b)[first];
      if (count == 0 || count % kWarpSize != 0) {
        e_.Fail(Status::kLaunchFailed, first,
                "barrier count must be a multiple of 32, found " + std::to_string(count));
        return;
      }
      barrier.explicit_count = count;
    }
    const uint32_t lanes = static_cast<uint32_t>(__builtin_popcount(mask));
    barrier.arrived += lanes;
    if (i.c != kNoReg) {
      const uint32_t p = *Reg<uint32_t>(e_, i.c) ^ ((i.aux & 8) != 0 ? kFullMask : 0);
      barrier.true_count += static_cast<uint32_t>(__builtin_popcount(p & mask));
      barrier.voters += lanes;
    }
    Group& group = warp.groups[index];
    ++group.pc;
    if ((i.aux & 1) == 0) {
      group.state = GroupState::kBarrier;
      group.barrier = static_cast<uint8_t>(number);
    } else {
      Merge(warp, index);
    }
    CheckBarrier(static_cast<int>(number));
  }

  void CheckBarrier(int number) {
    Barrier& barrier = barriers_[number];
    const uint32_t wanted = barrier.explicit_count != 0
                                ? std::min(barrier.explicit_count, live_threads_)
                                : live_threads_;
    if (barrier.arrived < wanted || barrier.arrived == 0) return;
    for (Warp& warp : warps_) {
      for (Group& group : warp.groups) {
        if (group.state != GroupState::kBarrier || group.barrier != number) continue;
        group.state = GroupState::kReady;
        const Instr& i = group.frame->function->code[group.pc - 1];
        const int reduction = i.aux >> 1 & 3;
        if (reduction == 0 || i.dst == kNoReg) continue;
        uint8_t* to = group.frame->registers + i.dst;
        if (reduction == 1) {
          for (uint32_t m = group.mask; m != 0; m &= m - 1) {
            reinterpret_cast<uint32_t*>(to)[__builtin_ctz(m)] = barrier.true_count;
          }
        } else {
          const bool value =
              reduction == 2 ? barrier.true_count == barrier.voters : barrier.true_count > 0;
          uint32_t& p = *reinterpret_cast<uint32_t*>(to);
          p = value ? p | group.mask : p & ~group.mask;
        }
      }
      for (size_t g = 0; g < warp.groups.size(); ++g) {
        const size_t before = warp.groups.size();
        Merge(warp, g);
        if (warp.groups.size() != before) g = SIZE_MAX;
      }
    }
    barrier = {};
  }

  Launch& launch_;
  Exec e_;
  std::vector<uint64_t> shared_;
  std::unique_ptr<uint8_t[], Free> local_;
  std::vector<std::vector<RangeCache>> caches_;  // By slot.
  std::vector<Warp> warps_;
  std::vector<std::unique_ptr<Frame>> frames_;
  std::vector<std::vector<Frame*>> free_frames_;  // By slot.
  Barrier barriers_[kBarriers];
  uint32_t live_threads_ = 0;
  int64_t quantum_ = kWarpQuantum;
  uint64_t sleep_ns_ = 0;  // The shortest nanosleep of this turn, 0: none.
  uint64_t turn_ = 0;
  uint64_t accounted_ = 0;
  const Instr* fault_instr_ = nullptr;
  const Function* fault_function_ = nullptr;
  const Warp* fault_warp_ = nullptr;
};

// The worker of a cooperative launch: all blocks resident, in turns. One host thread only, because
// blocks that wait for those of a thread that cannot start would wait for ever.
void RunResident(Launch* launch) {
  std::vector<std::unique_ptr<Worker>> blocks;
  for (uint64_t block = 0; block < launch->blocks; ++block) {
    blocks.push_back(std::make_unique<Worker>(launch, 0));
    blocks.back()->Begin(block);
  }
  while (!blocks.empty()) {
    for (size_t i = 0; i < blocks.size();) {
      if (blocks[i]->Step()) {
        ++i;
      } else {
        blocks.erase(blocks.begin() + static_cast<std::ptrdiff_t>(i));
      }
    }
  }
}

bool Invalid(LaunchResult* result, std::string message) {
  result->status = Status::kInvalidValue;
  result->message = std::move(message);
  return false;
}

bool CheckConfig(const KernelInfo& info, const LaunchConfig& config, LaunchResult* result) {
  uint64_t threads = 1, blocks = 1;
  for (int d = 0; d < 3; ++d) {
    if (config.grid[d] == 0)
      return Invalid(result, "grid dimension " + std::to_string(d) + " is zero");
    if (config.block[d] == 0)
      return Invalid(result, "block dimension " + std::to_string(d) + " is zero");
    if (config.block[d] > kMaxThreadsPerBlock || config.grid[d] > 0x7fffffffu) {
      return Invalid(result, "launch dimension " + std::to_string(d) + " is out of range");
    }
    threads *= config.block[d];
    if (blocks > (uint64_t{1} << 62) / config.grid[d]) return Invalid(result, "grid is too large");
    blocks *= config.grid[d];
    if (info.required_block[0] != 0 && info.required_block[d] != config.block[d]) {
      return Invalid(result, "block differs from the kernel's .reqntid");
    }
  }
  if (threads > info.max_threads) {
    return Invalid(result, "block of " + std::to_string(threads) +
                               " threads exceeds the kernel's " + std::to_string(info.max_threads));
  }
  if (uint64_t{info.static_shared_bytes} + config.dynamic_shared_bytes > kMaxSharedBytes) {
    return Invalid(
        result, "shared memory exceeds kMaxSharedBytes (" + std::to_string(kMaxSharedBytes) + ")");
  }
  if (config.param_bytes < info.param_bytes || (info.param_bytes > 0 && config.params == nullptr)) {
    return Invalid(result, "param_bytes is " + std::to_string(config.param_bytes) +
                               ", the kernel takes " + std::to_string(info.param_bytes));
  }
  if (config.memory == nullptr) return Invalid(result, "memory is null");
  if (config.workers == 0 || config.workers > 1024)
    return Invalid(result, "workers must be 1 to 1024");
  if (config.cooperative && blocks > kMaxCooperativeBlocks) {
    return Invalid(result, "a cooperative launch of " + std::to_string(blocks) +
                               " blocks exceeds kMaxCooperativeBlocks (" +
                               std::to_string(kMaxCooperativeBlocks) + ")");
  }
  return true;
}

}  // namespace

LaunchResult RunKernel(const Module::Impl& module, size_t kernel_index,
                       const LaunchConfig& config) {
  Launch launch;
  const KernelInfo& info = module.kernels[kernel_index];
  launch.module = &module;
  launch.kernel = &module.kernel_code[kernel_index];
  launch.function = &module.functions[static_cast<size_t>(launch.kernel->function)];
  launch.config = &config;
  if (!info.refusal.empty()) {
    launch.result.status = Status::kUnsupported;
    launch.result.message = info.refusal;
    return launch.result;
  }
  if (!CheckConfig(info, config, &launch.result)) return launch.result;
  launch.threads = config.block[0] * config.block[1] * config.block[2];
  launch.blocks = uint64_t{config.grid[0]} * config.grid[1] * config.grid[2];
  launch.shared_bytes = info.static_shared_bytes + config.dynamic_shared_bytes;
  launch.local_bytes = launch.kernel->local_bytes;
  if (launch.kernel->recursive) {
    launch.local_bytes =
        std::max(launch.local_bytes, std::min(config.stack_bytes, kMaxLocalBytesPerThread));
  }
  launch.local_bytes = (launch.local_bytes + 15) & ~15u;
  static std::atomic<uint64_t> grids{0};
  launch.grid_id = grids.fetch_add(1, std::memory_order_relaxed) + 1;
  launch.result.has_stated =
      StatedTime(info, config.params, config.param_bytes, &launch.result.stated_ns);
  launch.constants.resize(launch.kernel->closure.size());
  for (size_t slot = 0; slot < launch.constants.size(); ++slot) {
    const Function& function = module.functions[static_cast<size_t>(launch.kernel->closure[slot])];
    std::vector<uint64_t>& values = launch.constants[slot];
    values.reserve(function.constants.size());
    for (const Constant& constant : function.constants) {
      uint64_t value = constant.value;
      if (constant.variable >= 0) {
        const Variable& variable = module.ast.variables[static_cast<size_t>(constant.variable)];
        if (variable.space == Space::kShared) {
          value += launch.kernel->shared_offsets.at(constant.variable);
        } else {
          const uint64_t address = module.addresses[static_cast<size_t>(constant.variable)];
          if (address == 0) {
            launch.result.status = Status::kInvalidValue;
            launch.result.message = "variable '" + variable.name + "' has no device address";
            return launch.result;
          }
          value += address;
        }
      }
      values.push_back(value);
    }
  }
  const uint32_t workers = static_cast<uint32_t>(std::min<uint64_t>(config.workers, launch.blocks));
  if (config.cooperative) {
    RunResident(&launch);
  } else if (workers <= 1) {
    Worker(&launch, 0).Run();
  } else {
    RunWithHelpers(workers, [&launch](uint32_t number) { Worker(&launch, number).Run(); });
  }
  launch.result.instructions = launch.instructions.load();
  return launch.result;
}

}  // namespace simgpu::ptx
