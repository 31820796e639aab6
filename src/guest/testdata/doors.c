/* Walks through every door to the driver and says where each one led: one line "door: owner
   result". Run with the preload and with the test driver on LD_LIBRARY_PATH. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

int chain_next_of_two(void);
int chain_next_of_two_by_version(void);

static const char* Owner(void* address) {
  Dl_info info;
  if (address == NULL) return "null";
  if (dladdr(address, &info) == 0) return "?";
  const char* slash = strrchr(info.dli_fname, '/');
  return slash == NULL ? info.dli_fname : slash + 1;
}

static void Say(const char* door, void* address) { printf("%s: %s\n", door, Owner(address)); }

int main(void) {
  Say("default before loading", dlsym(RTLD_DEFAULT, "cuInit"));
  printf("error before loading: %s\n", dlerror() == NULL ? "none" : "some");
  Say("next before loading", dlsym(RTLD_NEXT, "cuInit"));
  Say("program before loading", dlsym(dlopen(NULL, RTLD_NOW), "cuInit"));

  void* driver = dlopen("libcuda.so.1", RTLD_NOW);
  if (driver == NULL) {
    printf("no driver: %s\n", dlerror());
    return 1;
  }
  Say("handle wrapped", dlsym(driver, "cuInit"));
  Say("handle passed", dlsym(driver, "cuDeviceGetCount"));
  Say("handle export table", dlsym(driver, "cuGetExportTable"));
  Say("handle missing", dlsym(driver, "cuMemFree_v2"));
  Say("handle unknown", dlsym(driver, "cuNoSuchFunction"));
  Say("default wrapped", dlsym(RTLD_DEFAULT, "cuInit"));
  Say("next wrapped", dlsym(RTLD_NEXT, "cuInit"));
  Say("dlvsym wrong version", dlvsym(driver, "cuInit", "NO_SUCH_VERSION"));
  Say("dlvsym right version", dlvsym(driver, "cuInit", "TEST_DRIVER_1"));
  Say("default libc", dlsym(RTLD_DEFAULT, "malloc"));

  int (*get)(const char*, void**, int, unsigned long, int*) =
      (int (*)(const char*, void**, int, unsigned long, int*))dlsym(driver, "cuGetProcAddress_v2");
  Say("get proc address", (void*)get);
  static const struct {
    const char* name;
    int version;
    unsigned long flags;
  } kAsked[] = {{"cuInit", 13000, 0},
                {"cuDeviceGetCount", 13000, 0},
                {"cuMemcpyHtoD", 13000, 0},
                {"cuMemcpyHtoD", 13000, 2},
                {"cuMemPrefetchAsync", 8000, 0},
                {"cuMemPrefetchAsync", 8000, 2},
                {"cuMemPrefetchAsync", 12020, 0},
                {"cuMemPrefetchAsync", 13000, 2},
                {"cuGetProcAddress", 12000, 0},
                {"cuNoSuchFunction", 13000, 0}};
  for (size_t i = 0; i < sizeof(kAsked) / sizeof(kAsked[0]); ++i) {
    void* address = NULL;
    int found = 0;
    int result = get(kAsked[i].name, &address, kAsked[i].version, kAsked[i].flags, &found);
    printf("asked %s %d %lu: %d %s", kAsked[i].name, kAsked[i].version, kAsked[i].flags, result,
           Owner(address));
    if (address != NULL && strncmp(kAsked[i].name, "cuMem", 5) == 0) {
      /* Every one of these takes integers and pointers only, and the test driver looks at none. */
      printf(" -> %d", ((int (*)(long, long, long, long, long))address)(0, 0, 0, 0, 0));
    }
    printf("\n");
  }
  int (*array)(void**, const void*) = (int (*)(void**, const void*))dlsym(driver, "cuArrayCreate");
  printf("denied: %d\n", array(NULL, NULL));
  int (*share)(void*, unsigned long long) =
      (int (*)(void*, unsigned long long))dlsym(driver, "cuIpcGetMemHandle");
  printf("handed on: %d\n", share(NULL, 0));
  int (*init)(unsigned) = (int (*)(unsigned))dlsym(driver, "cuInit");
  printf("init: %d\n", init(0));

  printf("next of two: %d\n", chain_next_of_two());
  printf("next of two again: %d\n", chain_next_of_two());
  printf("next of two by version: %d\n", chain_next_of_two_by_version());
  return 0;
}
