// The tenant's program of tesserad_test: a plain driver-API program that knows nothing of Tessera.
// Finds the driver as any program does, makes a context, and does what its standard input says: "a
// BYTES" allocates, "f" frees the last allocation, "i" asks for free and total memory; each answers
// one line.
#include <dlfcn.h>

#include <cstdio>
#include <cstdlib>
#include <vector>

namespace {

template <typename Fn>
Fn* Find(void* library, const char* name) {
  void* const found = dlsym(library, name);
  if (found == nullptr) {
    std::printf("missing %s\n", name);
    std::exit(3);
  }
  return reinterpret_cast<Fn*>(found);
}

}  // namespace

int main() {
  std::setvbuf(stdout, nullptr, _IOLBF, 0);
  void* const driver = dlopen("libcuda.so.1", RTLD_NOW);
  if (driver == nullptr) {
    std::printf("no driver: %s\n", dlerror());
    return 2;
  }
  using Address = unsigned long long;
  auto* const init = Find<int(unsigned)>(driver, "cuInit");
  auto* const device_get = Find<int(int*, int)>(driver, "cuDeviceGet");
  auto* const retain = Find<int(void**, int)>(driver, "cuDevicePrimaryCtxRetain");
  auto* const set_current = Find<int(void*)>(driver, "cuCtxSetCurrent");
  auto* const alloc = Find<int(Address*, std::size_t)>(driver, "cuMemAlloc_v2");
  auto* const release = Find<int(Address)>(driver, "cuMemFree_v2");
  auto* const info = Find<int(std::size_t*, std::size_t*)>(driver, "cuMemGetInfo_v2");
  int device = 0;
  void* context = nullptr;
  int code = init(0);
  if (code == 0) code = device_get(&device, 0);
  if (code == 0) code = retain(&context, device);
  if (code == 0) code = set_current(context);
  std::printf("ready %d\n", code);
  std::vector<Address> held;
  char line[128];
  while (std::fgets(line, sizeof line, stdin) != nullptr) {
    if (line[0] == 'a') {
      Address address = 0;
      code = alloc(&address, std::strtoull(line + 1, nullptr, 10));
      if (code == 0) held.push_back(address);
      std::printf("alloc %d\n", code);
    } else if (line[0] == 'f' && !held.empty()) {
      code = release(held.back());
      held.pop_back();
      std::printf("free %d\n", code);
    } else if (line[0] == 'i') {
      std::size_t free = 0;
      std::size_t total = 0;
      code = info(&free, &total);
      std::printf("info %d %zu %zu\n", code, free, total);
    }
  }
  return 0;
}
