/* A library of a chain: each `chain_next` asks RTLD_NEXT for the function after its own, through
   dlsym. Built three times with LINK = 1, 2, 3 and linked to the program in that order. The loader
   finds out who asks by the return address. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stddef.h>

int chain_value(void) { return LINK; }

#if LINK == 2
int chain_next_of_two(void) {
  int (*next)(void) = (int (*)(void))dlsym(RTLD_NEXT, "chain_value");
  return next == NULL ? 0 : next();
}
int chain_next_of_two_by_version(void) {
  /* A library without versions serves any. */
  int (*next)(void) = (int (*)(void))dlvsym(RTLD_NEXT, "chain_value", "ANY");
  return next == NULL ? 0 : next();
}
#endif
