#include "simgpu/front/trace.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>

#include "simgpu/state/results.h"

namespace simgpu::front {

using namespace tessera::abi;  // NOLINT

namespace {

constexpr size_t kStringMax = 120;
constexpr uint64_t kListMax = 8;

// Reads what a program's pointer points to without trusting it.
bool ReadMemory(uint64_t from, void* to, size_t bytes) {
  iovec local = {to, bytes};
  iovec remote = {reinterpret_cast<void*>(from), bytes};
  return process_vm_readv(getpid(), &local, 1, &remote, 1, 0) == static_cast<ssize_t>(bytes);
}

bool ReadWord(uint64_t from, uint8_t size, uint64_t* value) {
  *value = 0;
  return size > 0 && size <= sizeof *value && ReadMemory(from, value, size);
}

std::string Quoted(uint64_t from, size_t limit) {
  std::string text = "\"";
  for (size_t i = 0; i < limit; ++i) {
    if (i == kStringMax) return text + "\"...";
    char c = 0;
    if (!ReadMemory(from + i, &c, 1)) return i == 0 ? "?" : text + "\"?";
    if (c == 0) break;
    if (c == '"' || c == '\\') {
      text += '\\';
      text += c;
    } else if (c >= 0x20 && c < 0x7f) {
      text += c;
    } else {
      char escaped[8];
      snprintf(escaped, sizeof escaped, "\\x%02x", static_cast<unsigned char>(c));
      text += escaped;
    }
  }
  return text + '"';
}

std::string Hex(uint64_t value) {
  char text[24];
  snprintf(text, sizeof text, "0x%llx", static_cast<unsigned long long>(value));
  return text;
}

bool Contains(const char* text, std::initializer_list<const char*> words) {
  return std::any_of(words.begin(), words.end(),
                     [&](const char* word) { return strstr(text, word) != nullptr; });
}

bool EndsWith(std::string_view text, std::string_view end) { return text.ends_with(end); }

// "const CUgraphNode *" -> "graphnode", the word its handles are numbered under.
std::string Sort(std::string_view type) {
  if (type.starts_with("const ")) type.remove_prefix(6);
  if (type.starts_with("CU")) type.remove_prefix(2);
  std::string word;
  for (char c : type) {
    if (c == ' ' || c == '*') break;
    word += static_cast<char>(c >= 'A' && c <= 'Z' ? c - 'A' + 'a' : c);
  }
  return word;
}

// Whether what the call hands out is made by it, so that a number seen before names a new thing.
bool Makes(const Site& site) {
  return Contains(site.base,
                  {"Create", "Alloc", "Reserve", "LoadData", "ModuleLoad", "LibraryLoad", "Clone",
                   "Instantiate", "Import", "OpenMem", "OpenEvent", "EndCapture", "GraphAdd"});
}

bool Ends(const Site& site) {
  if (strstr(site.base, "MemFreeNode") != nullptr) return false;
  return Contains(site.base, {"Destroy", "Free", "Unload", "Unregister", "Detach", "CloseMem"});
}

bool IsNumber(const Parameter& parameter) {
  return parameter.stars == 0 &&
         (parameter.base == Base::kSigned || parameter.base == Base::kUnsigned);
}

int Find(const Site& site, std::initializer_list<const char*> names) {
  for (int i = 0; i < site.count; ++i) {
    for (const char* name : names) {
      if (strcmp(site.parameters[i].name, name) == 0) return i;
    }
  }
  return -1;
}

}  // namespace

std::atomic<Trace*> Trace::trace_{nullptr};

void Trace::Open(const char* file) {
  if (file == nullptr || *file == 0) return;
  int fd = 2;
  if (strcmp(file, "-") != 0) {
    std::string path = file;
    const size_t at = path.find("%p");
    if (at != std::string::npos) path.replace(at, 2, std::to_string(getpid()));
    fd = open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    if (fd < 0) {
      fprintf(stderr, "simgpu: SIMGPU_TRACE: %s: %s\n", path.c_str(), strerror(errno));
      return;
    }
    // Out of the way of programs that expect the lowest numbers, or close them all one by one.
    const int high = fcntl(fd, F_DUPFD_CLOEXEC, 1000);
    if (high >= 0) {
      close(fd);
      fd = high;
    }
  }
  auto* trace = new Trace(fd);
  trace->NameProcess();
  trace_.store(trace, std::memory_order_release);
  // A fork while another thread writes must not leave the mutex locked in the child, whose lines
  // are told apart from its parent's.
  pthread_atfork([] { Get()->mutex_.lock(); }, [] { Get()->mutex_.unlock(); },
                 [] {
                   Get()->mutex_.unlock();
                   Get()->NameProcess();
                 });
}

void Trace::NameProcess() const {
  const std::string line =
      "# process " + std::to_string(getpid()) + " " + program_invocation_name + "\n";
  if (write(fd_, line.data(), line.size()) < 0) {
    fprintf(stderr, "simgpu: SIMGPU_TRACE: %s\n", strerror(errno));
  }
}

void Trace::Write(uint64_t sequence, const Site& site, const uint64_t* values, CUresult result,
                  bool refused) {
  static std::atomic<int> threads{0};
  static thread_local int thread = -1;
  if (thread < 0) thread = threads.fetch_add(1);
  const int error = errno;
  std::lock_guard guard(mutex_);
  const std::string line = std::to_string(sequence) + " t" + std::to_string(thread) + " " +
                           Line(site, values, result, refused) + "\n";
  // A full disk must not stop the program; the trace then has a hole.
  if (write(fd_, line.data(), line.size()) < 0) errno = error;
  errno = error;
}

std::string Trace::Line(const Site& site, const uint64_t* values, CUresult result, bool refused) {
  const bool success = result == CUDA_SUCCESS && !refused;
  std::string line = std::string(site.symbol) + "(";
  for (int i = 0; i < site.count; ++i) {
    if (i > 0) line += ", ";
    line += std::string(site.parameters[i].name) + "=" + Value(site, i, values, success);
  }
  const char* name = ResultName(result);
  line += ") = " + (name != nullptr ? std::string(name) : std::to_string(result));
  if (refused) line += " (by a fault rule)";
  if (success && Ends(site)) Forget(site, values);
  return line;
}

std::string Trace::Value(const Site& site, int index, const uint64_t* values, bool success) {
  const Parameter& parameter = site.parameters[index];
  const uint64_t value = values[index];
  if (parameter.stars == 0) return Scalar(parameter, value, false);
  if (value == 0) return "null";
  if (parameter.stars == 1) {
    switch (parameter.base) {
      case Base::kChar:
        if (parameter.is_const) return Quoted(value, kStringMax + 1);
        // A buffer: its text, when the call says how long it may be.
        if (index + 1 < site.count && IsNumber(site.parameters[index + 1])) {
          return success ? "&" + Quoted(value, values[index + 1]) : "&";
        }
        return "&";
      case Base::kVoid: {
        const std::string known = Address(value);
        return known.empty() ? "host" : known;
      }
      case Base::kStruct: {
        if (strcmp(parameter.type, "const CUlaunchConfig *") == 0) {
          CUlaunchConfig config;
          if (!ReadMemory(value, &config, sizeof config)) return "?";
          return "{grid " + std::to_string(config.gridDimX) + "x" +
                 std::to_string(config.gridDimY) + "x" + std::to_string(config.gridDimZ) +
                 " block " + std::to_string(config.blockDimX) + "x" +
                 std::to_string(config.blockDimY) + "x" + std::to_string(config.blockDimZ) +
                 " shared " + std::to_string(config.sharedMemBytes) + " stream " +
                 Handle("CUstream", reinterpret_cast<uint64_t>(config.hStream), false) +
                 " attributes " + std::to_string(config.numAttrs) + "}";
        }
        if (strcmp(parameter.type, "const CUDA_MEMCPY2D *") == 0) {
          CUDA_MEMCPY2D copy;
          if (!ReadMemory(value, &copy, sizeof copy)) return "?";
          return "{" + std::to_string(copy.WidthInBytes) + "x" + std::to_string(copy.Height) +
                 " type " + std::to_string(copy.srcMemoryType) + " to " +
                 std::to_string(copy.dstMemoryType) + "}";
        }
        if (strcmp(parameter.type, "const CUDA_MEMCPY3D *") == 0) {
          CUDA_MEMCPY3D copy;
          if (!ReadMemory(value, &copy, sizeof copy)) return "?";
          return "{" + std::to_string(copy.WidthInBytes) + "x" + std::to_string(copy.Height) + "x" +
                 std::to_string(copy.Depth) + " type " + std::to_string(copy.srcMemoryType) +
                 " to " + std::to_string(copy.dstMemoryType) + "}";
        }
        return "{..}";
      }
      default:
        break;
    }
    if (parameter.is_const) {
      // A list, when a count stands behind it; else one thing.
      uint64_t count = 1;
      for (int i = index + 1; i < site.count; ++i) {
        const Parameter& next = site.parameters[i];
        if (IsNumber(next) && Contains(next.name, {"num", "count", "Count", "Num"})) {
          count = values[i];
          break;
        }
      }
      std::string list = "[";
      for (uint64_t i = 0; i < std::min(count, kListMax); ++i) {
        uint64_t word = 0;
        if (!ReadWord(value + i * parameter.size, parameter.size, &word)) return "?";
        list += (i > 0 ? " " : "") + Scalar(parameter, word, false);
      }
      return list + (count > kListMax ? " ..]" : "]");
    }
    return success ? Written(site, index, values) : "&";
  }
  // Two stars: what a call hands out, or lists of a launch's parameters.
  if (parameter.base == Base::kChar) {
    uint64_t text = 0;
    if (!success || !ReadWord(value, 8, &text)) return "&";
    return text == 0 ? "&null" : "&" + Quoted(text, kStringMax + 1);
  }
  if (Contains(site.base, {"ProcAddress", "ExportTable"})) {
    uint64_t pointer = 0;
    if (!success || !ReadWord(value, 8, &pointer)) return "&";
    return pointer == 0 ? "&null" : "&function";
  }
  if (Contains(site.base, {"MemHostAlloc", "MemAllocHost"})) {
    uint64_t pointer = 0;
    if (!success || !ReadWord(value, 8, &pointer)) return "&";
    return "&" + NewAddress(pointer, SizeOfAllocation(site, values), "hostmem", true);
  }
  return "host";
}

// What the call wrote through a pointer to a number, a handle or an address.
std::string Trace::Written(const Site& site, int index, const uint64_t* values) {
  const Parameter& parameter = site.parameters[index];
  uint64_t word = 0;
  if (!ReadWord(values[index], parameter.size, &word)) return "&?";
  if (parameter.base == Base::kFloat) return "&~";
  if (parameter.base == Base::kAddress) {
    if (word == 0) return "&null";
    return "&" + NewAddress(word, SizeOfAllocation(site, values), "mem", Makes(site));
  }
  const std::string_view name = parameter.name;
  if (parameter.size == 8 && (EndsWith(name, "Id") || name == "id_out")) {
    return "&" + Handle("CUid", word, false);
  }
  return "&" + Scalar(parameter, word, Makes(site));
}

std::string Trace::Scalar(const Parameter& parameter, uint64_t value, bool fresh) {
  switch (parameter.base) {
    case Base::kSigned:
      return std::to_string(parameter.size == 8 ? static_cast<int64_t>(value)
                                                : static_cast<int32_t>(value));
    case Base::kUnsigned:
      return std::to_string(value);
    case Base::kFloat: {
      char text[32];
      float small = 0;
      double number = 0;
      memcpy(&small, &value, sizeof small);
      memcpy(&number, &value, sizeof number);
      snprintf(text, sizeof text, "%g", parameter.size == 4 ? static_cast<double>(small) : number);
      return text;
    }
    case Base::kAddress: {
      if (value == 0) return "null";
      const std::string known = Address(value);
      return known.empty() ? "address" : known;
    }
    case Base::kHandle:
      return Handle(parameter.type, value, fresh);
    case Base::kFunction:
      return value == 0 ? "null" : "function";
    case Base::kStruct:
      return "{..}";
    case Base::kChar:
    case Base::kVoid:
      break;
  }
  return "?";
}

std::string Trace::Handle(const char* type, uint64_t value, bool fresh) {
  if (value == 0) return "null";
  std::string sort = Sort(type);
  if (sort == "stream" && value == kStreamLegacy) return "legacy";
  if (sort == "stream" && value == kStreamPerThread) return "per-thread";
  auto& known = handles_[sort];
  if (auto at = known.find(value); at != known.end() && !fresh) {
    return sort + "#" + std::to_string(at->second);
  }
  // A launch takes a kernel's handle where it wants a function.
  if (!fresh && sort == "function") {
    auto& kernels = handles_["kernel"];
    if (auto at = kernels.find(value); at != kernels.end()) {
      return "kernel#" + std::to_string(at->second);
    }
  }
  if (known.size() >= kTraceNamesMax) return sort;
  const uint64_t number = ++counts_[sort];
  known[value] = number;
  return sort + "#" + std::to_string(number);
}

// The name of the range that holds the address, or nothing.
std::string Trace::Address(uint64_t value) {
  auto at = ranges_.upper_bound(value);
  if (at == ranges_.begin()) return "";
  --at;
  const uint64_t offset = value - at->first;
  if (offset != 0 && offset >= at->second.size) return "";
  return at->second.name + (offset != 0 ? "+" + Hex(offset) : "");
}

std::string Trace::NewAddress(uint64_t value, uint64_t size, const char* sort, bool fresh) {
  if (!fresh) {
    if (std::string known = Address(value); !known.empty()) return known;
  }
  // What stood there before is gone without our having seen it go.
  auto at = ranges_.lower_bound(value);
  while (at != ranges_.end() && (at->first == value || at->first - value < size)) {
    at = ranges_.erase(at);
  }
  if (ranges_.size() >= kTraceNamesMax) return sort;
  const std::string name = std::string(sort) + "#" + std::to_string(++counts_[sort]);
  ranges_[value] = {size, name};
  return name;
}

uint64_t Trace::SizeOfAllocation(const Site& site, const uint64_t* values) const {
  if (const int pitch = Find(site, {"pPitch"}), height = Find(site, {"Height"});
      pitch >= 0 && height >= 0) {
    uint64_t bytes = 0;
    if (ReadWord(values[pitch], site.parameters[pitch].size, &bytes)) {
      return bytes * values[height];
    }
  }
  const int size = Find(site, {"bytesize", "size", "bytes", "psize"});
  if (size < 0) return 1;
  if (site.parameters[size].stars == 0) return values[size];
  uint64_t bytes = 0;
  if (values[size] != 0 && ReadWord(values[size], site.parameters[size].size, &bytes)) return bytes;
  return 1;
}

// The things whose handles a call was given to end them.
void Trace::Forget(const Site& site, const uint64_t* values) {
  for (int i = 0; i < site.count; ++i) {
    const Parameter& parameter = site.parameters[i];
    const bool address = parameter.base == Base::kAddress && parameter.stars == 0;
    const bool host = parameter.base == Base::kVoid && parameter.stars == 1;
    if (address || host) {
      ranges_.erase(values[i]);
    } else if (parameter.base == Base::kHandle && parameter.stars == 0) {
      // An asynchronous free names its stream, which lives on.
      if (strstr(site.base, "Async") != nullptr && Sort(parameter.type) == "stream") continue;
      handles_[Sort(parameter.type)].erase(values[i]);
    }
  }
}

}  // namespace simgpu::front
