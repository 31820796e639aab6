/* Stands in for the guest library in the runtime's tests: shows every program that it was loaded.
 */
#include <stdlib.h>

__attribute__((constructor)) static void Loaded(void) { setenv("TEST_GUEST_LOADED", "yes", 1); }
