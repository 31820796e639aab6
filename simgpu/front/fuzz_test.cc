// Calls of random entry points with hostile arguments. What libcuda owes is that none crashes it
// and none hangs it, as long as host pointers point to memory that is there (a wild host pointer
// may crash a real driver too): handles are live, dead, of another sort or no handles at all,
// addresses are device memory, freed memory, host memory or nonsense, numbers are anything.
//
// Each child makes kCallsPerChild calls drawn from its seed, which is printed when it ends badly;
// SIMGPU_FUZZ_SEED runs one child of that seed again. TESSERA_SOAK makes 10^6 calls in all.
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <thread>
#include <utility>

#include "abi/cuda_graph.h"
#include "simgpu/driver/test_support.h"
#include "simgpu/front/describe.h"

namespace simgpu::front {
namespace {

constexpr int kCallsPerChild = 2000;
constexpr int kChildrenFast = 6;
constexpr int kCallsSoak = 1'000'000;
constexpr auto kChildMax = std::chrono::seconds(120);
constexpr size_t kBufferBytes = 2 << 20;
// No single transfer is larger, so that none leaves a buffer, wherever in it it begins.
constexpr uint64_t kTransferMax = 16 << 10;
constexpr size_t kTargets = 4;  // what host addresses point to; the others are one a parameter
constexpr size_t kBuffers = kParametersMax + kTargets;
constexpr size_t kPoolMax = 24;

// Writes to at most the addressed word; bounded by `n`, so that no draw makes it run for long.
constexpr char kPtx[] = R"(
.version 6.4
.target sm_70
.address_size 64
.visible .entry fill(.param .u64 p, .param .u32 n)
{
  .reg .pred %p<2>; .reg .b32 %r<4>; .reg .b64 %rd<5>;
  ld.param.u64 %rd1, [p]; ld.param.u32 %r1, [n];
  mov.u32 %r2, %tid.x; setp.ge.u32 %p1, %r2, %r1; @%p1 bra DONE;
  mul.wide.u32 %rd2, %r2, 4; add.s64 %rd3, %rd1, %rd2; st.global.u32 [%rd3], %r2;
DONE: ret;
}
.visible .global .align 4 .b8 table[64];
)";

// Left out, with the reason.
bool LeftOut(const Site& site) {
  for (const char* part : {
           "WaitValue", "BatchMemOp",  // a stream may wait for ever for what nobody writes
           "Checkpoint",               // stops the process it names, which may be this one
           "DumpToFile", "DebugDot",   // write files
           "GetExportTable",           // private
       }) {
    if (strstr(site.base, part) != nullptr) return true;
  }
  return false;
}

extern "C" uint64_t Harmless() { return 0; }

template <typename T>
T From(uint64_t bits) {
  T value;
  // NOLINTBEGIN(bugprone-sizeof-expression): a pointer's own bits are meant.
  memset(static_cast<void*>(&value), 0, sizeof value);
  if constexpr (sizeof(T) <= sizeof bits) memcpy(static_cast<void*>(&value), &bits, sizeof value);
  // NOLINTEND(bugprone-sizeof-expression)
  return value;
}

template <typename... P, size_t... I>
CUresult CallWith(CUresult (*function)(P...), const uint64_t* values, std::index_sequence<I...>) {
  (void)values;
  return function(From<P>(values[I])...);
}

template <auto function>
CUresult Invoke(const uint64_t* values) {
  return []<typename... P>(CUresult (*f)(P...), const uint64_t* v) {
    return CallWith(f, v, std::index_sequence_for<P...>());
  }(function, values);
}

#define TESSERA_UNPACK(...) __VA_ARGS__
#define TESSERA_PARAMETER(type, name) Describe<type>(#type, #name),
#define TESSERA_FRONT(index, symbol, base, result, parameters, arguments, descriptions, values) \
  constexpr Parameter kParameters_##symbol[] = {TESSERA_UNPACK descriptions Parameter{}};
#include "simgpu/cuda_front.inc"
#undef TESSERA_FRONT

struct Entry {
  Site site;
  CUresult (*invoke)(const uint64_t* values);
};

const Entry kEntries[] = {
#define TESSERA_FRONT(index, symbol, base, result, parameters, arguments, descriptions, values)   \
  {{#symbol, #base, kParameters_##symbol, static_cast<int>(std::size(kParameters_##symbol)) - 1}, \
   &Invoke<&tessera::abi::symbol>},
#include "simgpu/cuda_front.inc"
#undef TESSERA_FRONT
};

bool Has(const char* text, std::initializer_list<const char*> parts) {
  return std::any_of(parts.begin(), parts.end(),
                     [&](const char* part) { return strstr(text, part) != nullptr; });
}

std::string SortOf(const Parameter& parameter) {
  std::string text = parameter.type;
  if (text.rfind("const ", 0) == 0) text.erase(0, 6);
  return text.substr(0, text.find_first_of(" *"));
}

// Where a child is, for its parent to name.
struct Progress {
  int call;
  char symbol[64];
  int successes;
  bool succeeded[1024];  // by entry
};

class Fuzzer {
 public:
  Fuzzer(uint64_t seed, Progress* progress) : state_(seed), progress_(progress) {
    for (auto& buffer : buffers_) {
      buffer = static_cast<uint8_t*>(
          mmap(nullptr, kBufferBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    }
  }

  void Run(int calls) {
    Begin();
    for (int i = 0; i < calls; ++i) {
      const Entry& entry = Pick();
      progress_->call = i;
      snprintf(progress_->symbol, sizeof progress_->symbol, "%s", entry.site.symbol);
      uint64_t values[kParametersMax + 1] = {};
      for (int p = 0; p < entry.site.count; ++p) values[p] = Argument(entry.site, p);
      const CUresult result = entry.invoke(values);
      if (result != CUDA_SUCCESS) continue;
      ++progress_->successes;
      progress_->succeeded[&entry - kEntries] = true;
      Learn(entry.site, values);
    }
  }

 private:
  uint64_t Draw() {
    uint64_t x = (state_ += 0x9e3779b97f4a7c15);
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
    x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
    return x ^ (x >> 31);
  }
  uint64_t Below(uint64_t n) { return Draw() % n; }
  bool Chance(int percent) { return Below(100) < static_cast<uint64_t>(percent); }
  template <typename T, size_t N>
  T OneOf(const T (&list)[N]) {
    return list[Below(N)];
  }

  // Something to work with, or else most calls would find nothing.
  void Begin() {
    if (Chance(5)) return;  // some programs forget cuInit
    cuInit(0);
    CUcontext context = nullptr;
    if (Chance(5)) return;
    if (cuDevicePrimaryCtxRetain(&context, static_cast<int>(Below(2))) != CUDA_SUCCESS) return;
    cuCtxSetCurrent(context);
    Know("CUcontext", reinterpret_cast<uint64_t>(context));
    for (int i = 0; i < 3; ++i) {
      CUdeviceptr memory = 0;
      if (cuMemAlloc_v2(&memory, kTransferMax << Below(5)) == CUDA_SUCCESS)
        addresses_.push_back(memory);
    }
    CUmodule module = nullptr;
    CUfunction function = nullptr;
    if (cuModuleLoadData(&module, kPtx) == CUDA_SUCCESS)
      Know("CUmodule", reinterpret_cast<uint64_t>(module));
    if (cuModuleGetFunction(&function, module, "fill") == CUDA_SUCCESS) {
      Know("CUfunction", reinterpret_cast<uint64_t>(function));
    }
    CUstream stream = nullptr;
    if (cuStreamCreate(&stream, 0) == CUDA_SUCCESS)
      Know("CUstream", reinterpret_cast<uint64_t>(stream));
    CUgraph graph = nullptr;
    if (cuGraphCreate(&graph, 0) == CUDA_SUCCESS)
      Know("CUgraph", reinterpret_cast<uint64_t>(graph));
  }

  const Entry& Pick() {
    while (true) {
      const Entry& entry = kEntries[Below(std::size(kEntries))];
      if (LeftOut(entry.site)) continue;
      // What ends everything is called seldom, or little else would be reached.
      if (Has(entry.site.base, {"PrimaryCtxReset", "PrimaryCtxRelease", "CtxDestroy", "CtxPop",
                                "CtxSetCurrent", "CtxDetach"}) &&
          !Chance(4)) {
        continue;
      }
      return entry;
    }
  }

  uint8_t* Target() { return buffers_[kParametersMax + Below(kTargets)]; }

  void Know(const std::string& sort, uint64_t handle) {
    if (handle == 0) return;
    auto& pool = live_[sort];
    if (pool.size() < kPoolMax) {
      pool.push_back(handle);
    } else {
      pool[Below(kPoolMax)] = handle;
    }
  }

  uint64_t Handle(const std::string& sort) {
    const uint64_t dice = Below(100);
    if (dice < 8) return 0;
    if (dice < 12 && sort == "CUstream") return 1 + Below(2);
    if (dice < 18 && !dead_.empty()) return dead_[Below(dead_.size())];
    if (dice < 24 && !live_.empty()) {
      auto at = live_.begin();
      std::advance(at, static_cast<long>(Below(live_.size())));
      if (!at->second.empty()) return at->second[Below(at->second.size())];
    }
    if (dice < 28) return reinterpret_cast<uint64_t>(buffers_[0]);
    const auto at = live_.find(sort);
    return at == live_.end() || at->second.empty() ? 0 : at->second[Below(at->second.size())];
  }

  // Of the device or, where the API unifies them, of the host. Never so near an end that a transfer
  // of kTransferMax would leave host memory.
  uint64_t Address(bool host_too) {
    const uint64_t dice = Below(100);
    if (dice < 5) return 0;
    if (dice < 10 && !host_too) return Draw() | uint64_t{1} << 62;  // else a wild host pointer
    if (dice < 15 && !freed_.empty()) return freed_[Below(freed_.size())];
    if (dice < 30 && host_too) return reinterpret_cast<uint64_t>(Target());
    // What a pool or a reservation had may be unmapped once that is gone, and is a wild pointer
    // then.
    if (!host_too && Chance(40) && !loose_.empty()) return loose_[Below(loose_.size())];
    if (addresses_.empty()) return 0;
    const uint64_t base = addresses_[Below(addresses_.size())];
    return base + (Chance(70) ? 0 : Below(kTransferMax));
  }

  uint64_t Number(const Site& site, int index) {
    const Parameter& parameter = site.parameters[index];
    const char* name = parameter.name;
    // Options are pairs of numbers and pointers that mean what the number says.
    if (Has(name, {"numOptions", "numJitOptions", "numLibraryOptions"})) return 0;
    if (Has(name, {"num", "count", "Count", "Num", "nbGroups", "numAttrs", "length"}) &&
        strcmp(name, "ByteCount") != 0) {
      return OneOf<uint64_t>({0, 1, 1, 2, 3, 8});
    }
    if (Has(name, {"gridDim", "GridDim", "grid_"})) return Below(4);
    if (Has(name, {"blockDim", "BlockDim"}))
      return OneOf<uint64_t>({0, 1, 1, 2, 32, 33, 1024, 5000});
    if (parameter.size == 8) {
      bool host = Has(site.base, {"Memcpy", "HostRegister"});
      for (int p = 0; p < site.count; ++p) {
        const Parameter& other = site.parameters[p];
        host |= other.stars == 1 && (other.base == Base::kVoid || other.base == Base::kChar);
      }
      if (host) return OneOf<uint64_t>({0, 1, 3, 4, 64, 1000, 4096, kTransferMax});
      return OneOf<uint64_t>({0, 1, 2, 7, 64, 4096, 2 << 20, 4 << 20, uint64_t{1} << 40,
                              uint64_t{1} << 63, ~uint64_t{0}, ~uint64_t{0} - 511});
    }
    if (Chance(60)) return Below(9);
    return OneOf<uint64_t>({16, 32, 64, 100, 255, 1 << 20, 0x7fffffff, 0x80000000, 0xffffffff});
  }

  uint64_t Argument(const Site& site, int index) {
    const Parameter& parameter = site.parameters[index];
    if (parameter.stars > 0) return Pointer(site, index);
    switch (parameter.base) {
      case Base::kSigned:
      case Base::kUnsigned:
        // A name's buffer is as long as it is said to be.
        if (index > 0 && site.parameters[index - 1].base == Base::kChar &&
            !site.parameters[index - 1].is_const && parameter.size == 4) {
          return OneOf<uint64_t>({0, 1, 5, 64, kTransferMax, 0x80000000});
        }
        return Number(site, index);
      case Base::kFloat: {
        const float value = OneOf<float>({0, 1, -1, 1e30f});
        uint32_t bits = 0;
        memcpy(&bits, &value, sizeof bits);
        return bits;
      }
      case Base::kAddress:
        return Address(Has(site.base, {"Memcpy", "Pointer", "Prefetch", "Advise"}));
      case Base::kHandle:
        return Handle(SortOf(parameter));
      case Base::kFunction:
        return Chance(20) ? 0 : reinterpret_cast<uint64_t>(&Harmless);
      default:
        return 0;
    }
  }

  uint64_t Pointer(const Site& site, int index) {
    const Parameter& parameter = site.parameters[index];
    if (Chance(8)) return 0;
    uint8_t* buffer = buffers_[index];
    const auto address = reinterpret_cast<uint64_t>(buffer);
    if (parameter.base == Base::kChar && parameter.stars == 1) {
      if (!parameter.is_const) return address;
      const char* text = OneOf<const char*>(
          {"", "fill", "table", "nothing", "/nowhere/at/all", "cuMemAlloc", "0000:17:00.0",
           "a name that is a good deal longer than any function of any module is likely to be"});
      snprintf(reinterpret_cast<char*>(buffer), 256, "%s", text);
      return address;
    }
    if (parameter.base == Base::kVoid && parameter.stars == 2) {
      if (strcmp(parameter.name, "extra") == 0) return 0;
      // A list of pointers to words that are small numbers or addresses.
      auto* list = reinterpret_cast<uint64_t*>(buffer);
      for (uint64_t i = 0; i < 64; ++i) {
        list[i] = address + 4096 + i * 64;
        *reinterpret_cast<uint64_t*>(list[i]) = Chance(50) ? Address(false) : Below(40);
      }
      return address;
    }
    if (parameter.base == Base::kVoid &&
        Has(site.base, {"LoadData", "LinkAddData", "LoadFatBinary"})) {
      const char* image =
          OneOf<const char*>({kPtx, kPtx, "", ".version 6.4\n.target sm_70\n", "{}"});
      snprintf(reinterpret_cast<char*>(buffer), 4096, "%s", image);
      return address;
    }
    if (parameter.base == Base::kVoid && Has(site.base, {"HostUnregister", "FreeHost"}) &&
        !hosts_.empty()) {
      return hosts_[Below(hosts_.size())];
    }
    if (parameter.base == Base::kStruct) {
      Structure(parameter, buffer);
      return address;
    }
    auto* words = reinterpret_cast<uint64_t*>(buffer);
    for (int i = 0; i < 16; ++i) {
      switch (parameter.base) {
        case Base::kHandle:
          words[i] = Handle(SortOf(parameter));
          break;
        case Base::kAddress:
          words[i] = Address(true);
          break;
        default:
          words[i] = parameter.size == 8 ? Below(kTransferMax) : Below(9) | Below(9) << 32;
      }
    }
    return address;
  }

  void Copy(CUDA_MEMCPY3D* copy) {
    copy->srcXInBytes = Below(64);
    copy->srcY = Below(3);
    copy->srcZ = Below(3);
    copy->srcMemoryType = static_cast<CUmemorytype>(Below(6));
    copy->srcHost = Chance(10) ? nullptr : Target();
    copy->srcDevice = Address(copy->srcMemoryType == CU_MEMORYTYPE_UNIFIED);
    copy->srcArray = From<CUarray>(Handle("CUarray"));
    copy->srcPitch = OneOf<size_t>({0, 16, 256, 512});
    copy->srcHeight = Below(9);
    copy->dstXInBytes = Below(64);
    copy->dstY = Below(3);
    copy->dstZ = Below(3);
    copy->dstMemoryType = static_cast<CUmemorytype>(Below(6));
    copy->dstHost = Chance(10) ? nullptr : Target();
    copy->dstDevice = Address(copy->dstMemoryType == CU_MEMORYTYPE_UNIFIED);
    copy->dstArray = From<CUarray>(Handle("CUarray"));
    copy->dstPitch = OneOf<size_t>({0, 16, 256, 512});
    copy->dstHeight = Below(9);
    copy->WidthInBytes = Below(300);
    copy->Height = Below(9);
    copy->Depth = Below(5);
  }

  void Kernel(CUDA_KERNEL_NODE_PARAMS* node) {
    memset(node, 0, sizeof *node);
    node->func = From<CUfunction>(Handle("CUfunction"));
    node->gridDimX = static_cast<unsigned>(Below(4));
    node->gridDimY = node->gridDimZ = 1;
    node->blockDimX = OneOf<unsigned>({0, 1, 32, 1024, 4000});
    node->blockDimY = node->blockDimZ = 1;
    static uint64_t words[2];
    static void* list[2] = {&words[0], &words[1]};
    words[0] = Address(false);
    words[1] = Below(40);
    node->kernelParams = Chance(10) ? nullptr : list;
  }

  void Structure(const Parameter& parameter, uint8_t* buffer) {
    memset(buffer, 0, 4096);
    const std::string sort = SortOf(parameter);
    auto* words = reinterpret_cast<uint64_t*>(buffer);
    auto* halves = reinterpret_cast<uint32_t*>(buffer);
    if (sort == "CUDA_MEMCPY3D") {
      Copy(reinterpret_cast<CUDA_MEMCPY3D*>(buffer));
    } else if (sort == "CUDA_MEMCPY2D") {
      CUDA_MEMCPY3D whole = {};
      Copy(&whole);
      auto* copy = reinterpret_cast<CUDA_MEMCPY2D*>(buffer);
      *copy = {whole.srcXInBytes, whole.srcY,          whole.srcMemoryType, whole.srcHost,
               whole.srcDevice,   whole.srcArray,      whole.srcPitch,      whole.dstXInBytes,
               whole.dstY,        whole.dstMemoryType, whole.dstHost,       whole.dstDevice,
               whole.dstArray,    whole.dstPitch,      whole.WidthInBytes,  whole.Height};
    } else if (sort == "CUDA_KERNEL_NODE_PARAMS") {
      Kernel(reinterpret_cast<CUDA_KERNEL_NODE_PARAMS*>(buffer));
    } else if (sort == "CUDA_KERNEL_NODE_PARAMS_v1") {
      CUDA_KERNEL_NODE_PARAMS node;
      Kernel(&node);
      memcpy(buffer, &node, sizeof(CUDA_KERNEL_NODE_PARAMS_v1));
    } else if (sort == "CUDA_HOST_NODE_PARAMS") {
      words[0] = Chance(20) ? 0 : reinterpret_cast<uint64_t>(&Harmless);
    } else if (sort == "CUgraphNodeParams") {
      auto* node = reinterpret_cast<CUgraphNodeParams*>(buffer);
      node->type =
          static_cast<CUgraphNodeType>(OneOf<unsigned>({0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 77}));
      switch (node->type) {
        case CU_GRAPH_NODE_TYPE_KERNEL:
          Kernel(&node->kernel);
          break;
        case CU_GRAPH_NODE_TYPE_MEMCPY:
          Copy(&node->memcpy.copyParams);
          break;
        case CU_GRAPH_NODE_TYPE_MEMSET:
          node->memset.dst = Address(false);
          node->memset.elementSize = static_cast<unsigned>(Below(5));
          node->memset.width = Below(100);
          node->memset.height = Below(3);
          break;
        case CU_GRAPH_NODE_TYPE_HOST:
          node->host.fn = From<CUhostFn>(reinterpret_cast<uint64_t>(&Harmless));
          break;
        case CU_GRAPH_NODE_TYPE_GRAPH:
          node->graph.graph = From<CUgraph>(Handle("CUgraph"));
          break;
        case CU_GRAPH_NODE_TYPE_WAIT_EVENT:
        case CU_GRAPH_NODE_TYPE_EVENT_RECORD:
          node->event = From<CUevent>(Handle("CUevent"));
          break;
        case CU_GRAPH_NODE_TYPE_MEM_FREE:
          node->free = Address(false);
          break;
        default:
          break;
      }
    } else if (sort == "CUDA_MEMSET_NODE_PARAMS") {
      auto* node = reinterpret_cast<CUDA_MEMSET_NODE_PARAMS*>(buffer);
      node->dst = Address(false);
      node->pitch = Below(600);
      node->elementSize = static_cast<unsigned>(Below(5));
      node->width = Chance(10) ? ~uint64_t{0} : Below(100);
      node->height = Below(4);
    } else if (sort == "CUlaunchConfig") {
      auto* config = reinterpret_cast<CUlaunchConfig*>(buffer);
      config->gridDimX = static_cast<unsigned>(Below(4));
      config->gridDimY = config->gridDimZ = 1;
      config->blockDimX = OneOf<unsigned>({0, 1, 32, 1024, 4000});
      config->blockDimY = config->blockDimZ = 1;
      config->hStream = From<CUstream>(Handle("CUstream"));
    } else if (sort == "CUDA_ARRAY_DESCRIPTOR" || sort == "CUDA_ARRAY3D_DESCRIPTOR") {
      const int sizes = sort == "CUDA_ARRAY_DESCRIPTOR" ? 2 : 3;
      for (int i = 0; i < sizes; ++i) words[i] = Chance(5) ? ~uint64_t{0} : Below(40);
      halves[2 * sizes] = OneOf<uint32_t>({1, 2, 3, 8, 16, 32, 77});
      halves[2 * sizes + 1] = static_cast<uint32_t>(Below(6));
      if (sizes == 3) halves[8] = static_cast<uint32_t>(Below(5));
    } else if (sort == "CUmemAllocationProp" || sort == "CUmemPoolProps") {
      halves[0] = static_cast<uint32_t>(Below(3));
      halves[1] = OneOf<uint32_t>({0, 1, 8});
      halves[2] = static_cast<uint32_t>(Below(6));
      halves[3] = static_cast<uint32_t>(Below(4)) - 1;
    } else if (sort == "CUmemAccessDesc" || sort == "CUmemLocation") {
      for (int i = 0; i < 6; ++i) halves[i] = static_cast<uint32_t>(Below(5)) - (Chance(5) ? 1 : 0);
    }
    // All others are left zero: their members include pointers.
  }

  // What a call handed out or ended.
  void Learn(const Site& site, const uint64_t* values) {
    const bool ends = Has(site.base, {"Destroy", "Free", "Unload", "Release", "Detach", "Close"}) &&
                      !Has(site.base, {"GraphAdd"});
    for (int p = 0; p < site.count; ++p) {
      const Parameter& parameter = site.parameters[p];
      if (parameter.stars == 0 && ends) {
        if (parameter.base == Base::kHandle) End(SortOf(parameter), values[p]);
        if (parameter.base == Base::kAddress) {
          const bool sturdy = std::erase(addresses_, values[p]) > 0;
          if (sturdy && freed_.size() < kPoolMax) freed_.push_back(values[p]);
          std::erase(loose_, values[p]);
        }
      }
      if (values[p] == 0 || parameter.is_const) continue;
      if (!InBuffers(values[p])) continue;
      const uint64_t word = *reinterpret_cast<const uint64_t*>(values[p]);
      if (parameter.stars == 1 && parameter.base == Base::kHandle && parameter.size == 8) {
        Know(SortOf(parameter), word);
      } else if (parameter.stars == 1 && parameter.base == Base::kAddress && parameter.size == 8 &&
                 Has(site.base, {"Alloc", "Reserve"})) {
        const bool sturdy =
            strcmp(site.base, "cuMemAlloc") == 0 || strcmp(site.base, "cuMemAllocPitch") == 0;
        auto& list = sturdy ? addresses_ : loose_;
        if (list.size() < kPoolMax) list.push_back(word);
      } else if (parameter.stars == 2 && Has(site.base, {"MemHostAlloc", "MemAllocHost"}) &&
                 hosts_.size() < kPoolMax) {
        hosts_.push_back(word);
      }
    }
  }

  bool InBuffers(uint64_t address) const {
    return std::any_of(std::begin(buffers_), std::end(buffers_), [&](const uint8_t* buffer) {
      return address - reinterpret_cast<uint64_t>(buffer) < kBufferBytes;
    });
  }

  void End(const std::string& sort, uint64_t handle) {
    auto& pool = live_[sort];
    if (std::erase(pool, handle) > 0 && dead_.size() < kPoolMax) dead_.push_back(handle);
  }

  uint64_t state_;
  Progress* progress_;
  uint8_t* buffers_[kBuffers];
  std::map<std::string, std::vector<uint64_t>> live_;
  std::vector<uint64_t> dead_, addresses_, loose_, freed_, hosts_;
};

class ApiFuzz : public DriverTest {
 protected:
  // One child of this seed; what went wrong, or nothing.
  std::string RunChild(uint64_t seed) {
    auto* progress = static_cast<Progress*>(
        mmap(nullptr, sizeof(Progress), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
    const pid_t pid = fork();
    if (pid == 0) {
      Fuzzer(seed, progress).Run(kCallsPerChild);
      snprintf(progress->symbol, sizeof progress->symbol, "the end of the process");
      exit(0);  // the driver's exit path too
    }
    const auto deadline = std::chrono::steady_clock::now() + kChildMax;
    int status = 0;
    bool late = false;
    while (waitpid(pid, &status, WNOHANG) == 0) {
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
      if (!late && std::chrono::steady_clock::now() > deadline) {
        late = true;
        kill(pid, SIGKILL);
      }
    }
    std::string wrong;
    if (late) {
      wrong = "hangs";
    } else if (WIFSIGNALED(status)) {
      wrong = "dies of signal " + std::to_string(WTERMSIG(status));
    } else if (WEXITSTATUS(status) != 0) {
      wrong = "ends with " + std::to_string(WEXITSTATUS(status));
    }
    if (!wrong.empty()) {
      wrong = std::string(progress->symbol) + " " + wrong +
              " (SIMGPU_FUZZ_SEED=" + std::to_string(seed) + ", call " +
              std::to_string(progress->call) + ")";
    }
    successes_ += progress->successes;
    for (size_t i = 0; i < std::size(kEntries); ++i) succeeded_[i] |= progress->succeeded[i];
    munmap(progress, sizeof *progress);
    return wrong;
  }

  long successes_ = 0;
  bool succeeded_[std::size(kEntries)] = {};
};
static_assert(std::size(kEntries) <= 1024);

TEST_F(ApiFuzz, NoCallCrashesOrHangs) {
  if (const char* one = getenv("SIMGPU_FUZZ_SEED"); one != nullptr) {
    EXPECT_EQ(RunChild(strtoull(one, nullptr, 10)), "");
    return;
  }
  const bool soak = getenv("TESSERA_SOAK") != nullptr;
  const int children = soak ? kCallsSoak / kCallsPerChild : kChildrenFast;
  // A soak of another day is of other calls.
  const uint64_t first = soak ? static_cast<uint64_t>(time(nullptr)) * 1000 : 1;
  for (int i = 0; i < children; ++i) {
    EXPECT_EQ(RunChild(first + static_cast<uint64_t>(i)), "");
  }
  // Calls that are all refused at the door would prove little.
  const auto reached = std::count(std::begin(succeeded_), std::end(succeeded_), true);
  printf("%ld of %d calls succeeded, of %ld entry points\n", successes_, children * kCallsPerChild,
         static_cast<long>(reached));
  EXPECT_GT(successes_, children * kCallsPerChild / 20);
  EXPECT_GT(reached, 100);
}

}  // namespace
}  // namespace simgpu::front
