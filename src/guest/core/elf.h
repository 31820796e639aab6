// Finds libraries that are already loaded and the symbols in them, without asking the loader's
// lookup (which would answer with ourselves). Allocates nothing.
#pragma once

#include <stdint.h>

namespace tessera::guest {

// A loaded object's dynamic tables. Valid while the object stays loaded.
struct Library {
  uint64_t base;
  uint64_t low, high;  // address range of its segments
  const char* path;    // as the loader knows it; may be empty
  const char* soname;  // DT_SONAME or ""
  const char* strings;
  const void* symbols;
  const uint32_t* gnu_hash;
  const uint32_t* sysv_hash;
  const uint16_t* versions;
};

// The first loaded object, in load order, that `matches` accepts; our own object is never offered.
// Walks with dl_iterate_phdr, whose lock glibc does not reset in a forked child: only for use while
// the process is being loaded.
bool FindLibrary(bool (*matches)(const Library&), Library* found);
// The tables of an object the loader gave us a handle of: both libcs begin it with base, name and
// dynamic section.
bool ReadHandle(const void* handle, Library* found);
// The tables of our own object, which the loader has not to be asked for.
void ReadSelf(Library* found);
// A defined function or object symbol of the library's default version, or null.
void* FindSymbol(const Library& library, const char* name);

}  // namespace tessera::guest
