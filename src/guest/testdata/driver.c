/* A library with the driver's name and a handful of its functions, each of which answers a number
   of its own. For the doors: which function does a lookup end in? */
#include <stddef.h>
#include <string.h>

typedef int (*function)(void);

int cuInit(unsigned flags) { return (int)flags == 0 ? 0 : 5001; }
int cuDriverGetVersion(int* version) {
  *version = 13000;
  return 0;
}
int cuDeviceGetCount(int* count) {
  *count = 0;
  return 0;
}
int cuMemAlloc_v2(unsigned long long* pointer, size_t bytes) {
  (void)pointer;
  (void)bytes;
  return 5002;
}
int cuMemcpyHtoD_v2(unsigned long long d, const void* h, size_t n) {
  (void)d;
  (void)h;
  (void)n;
  return 5003;
}
int cuMemcpyHtoD_v2_ptds(unsigned long long d, const void* h, size_t n) {
  (void)d;
  (void)h;
  (void)n;
  return 5004;
}
int cuMemPrefetchAsync(unsigned long long p, size_t n, int d, void* s) {
  (void)p;
  (void)n;
  (void)d;
  (void)s;
  return 5005;
}
int cuMemPrefetchAsync_v2(unsigned long long p, size_t n, unsigned long long l, unsigned f,
                          void* s) {
  (void)p;
  (void)n;
  (void)l;
  (void)f;
  (void)s;
  return 5006;
}
int cuMemPrefetchAsync_ptsz(unsigned long long p, size_t n, int d, void* s) {
  (void)p;
  (void)n;
  (void)d;
  (void)s;
  return 5007;
}
int cuMemPrefetchAsync_v2_ptsz(unsigned long long p, size_t n, unsigned long long l, unsigned f,
                               void* s) {
  (void)p;
  (void)n;
  (void)l;
  (void)f;
  (void)s;
  return 5008;
}
int cuIpcGetMemHandle(void* handle, unsigned long long pointer) {
  (void)handle;
  (void)pointer;
  return 5009;
}
int cuArrayCreate(void** a, const void* d) {
  (void)a;
  (void)d;
  return 5010;
}
int cuGetExportTable(const void** table, const void* id) {
  (void)table;
  (void)id;
  return 5011;
}

/* Answers as the real one: the newest form not above the version asked for. */
int cuGetProcAddress_v2(const char* name, void** address, int version, unsigned long flags,
                        int* found) {
  int thread = (flags & 2) != 0;
  *address = NULL;
  if (strcmp(name, "cuInit") == 0) *address = (void*)cuInit;
  if (strcmp(name, "cuDeviceGetCount") == 0) *address = (void*)cuDeviceGetCount;
  if (strcmp(name, "cuMemAlloc") == 0) *address = (void*)cuMemAlloc_v2;
  if (strcmp(name, "cuMemcpyHtoD") == 0)
    *address = thread ? (void*)cuMemcpyHtoD_v2_ptds : (void*)cuMemcpyHtoD_v2;
  if (strcmp(name, "cuMemPrefetchAsync") == 0) {
    *address = version >= 12020
                   ? (thread ? (void*)cuMemPrefetchAsync_v2_ptsz : (void*)cuMemPrefetchAsync_v2)
                   : (thread ? (void*)cuMemPrefetchAsync_ptsz : (void*)cuMemPrefetchAsync);
  }
  if (strcmp(name, "cuGetProcAddress") == 0) *address = (void*)cuGetProcAddress_v2;
  if (found != NULL) *found = *address == NULL;
  return *address == NULL ? 500 : 0;
}
