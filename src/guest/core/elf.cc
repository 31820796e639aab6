#include "guest/core/elf.h"

#include <elf.h>
#include <link.h>

#include "guest/core/text.h"

// Made by the linker: where this object begins.
extern "C" [[gnu::visibility("hidden")]] const ElfW(Ehdr) __ehdr_start;

namespace tessera::guest {

namespace {

// Any address inside this object.
const char kSelf = 0;

void ReadSegments(const ElfW(Phdr) * headers, int count, Library* library,
                  const ElfW(Dyn) * *dynamic) {
  library->low = ~0ull;
  for (int i = 0; i < count; ++i) {
    const uint64_t start = library->base + headers[i].p_vaddr;
    if (headers[i].p_type == PT_LOAD) {
      if (start < library->low) library->low = start;
      if (start + headers[i].p_memsz > library->high) library->high = start + headers[i].p_memsz;
    } else if (headers[i].p_type == PT_DYNAMIC) {
      *dynamic = reinterpret_cast<const ElfW(Dyn)*>(start);
    }
  }
}

bool ReadDynamic(const ElfW(Dyn) * dynamic, Library* library) {
  library->soname = "";
  if (dynamic == nullptr) return false;
  int64_t soname = -1;
  for (; dynamic->d_tag != DT_NULL; ++dynamic) {
    // glibc relocates these addresses in memory, musl leaves them relative.
    uint64_t address = dynamic->d_un.d_ptr;
    if (address < library->base) address += library->base;
    switch (dynamic->d_tag) {
      case DT_STRTAB:
        library->strings = reinterpret_cast<const char*>(address);
        break;
      case DT_SYMTAB:
        library->symbols = reinterpret_cast<const void*>(address);
        break;
      case DT_GNU_HASH:
        library->gnu_hash = reinterpret_cast<const uint32_t*>(address);
        break;
      case DT_HASH:
        library->sysv_hash = reinterpret_cast<const uint32_t*>(address);
        break;
      case DT_VERSYM:
        library->versions = reinterpret_cast<const uint16_t*>(address);
        break;
      case DT_SONAME:
        soname = static_cast<int64_t>(dynamic->d_un.d_val);
        break;
      default:
        break;
    }
  }
  if (library->strings == nullptr || library->symbols == nullptr) return false;
  if (soname >= 0) library->soname = library->strings + soname;
  return true;
}

bool Read(const dl_phdr_info& info, Library* library) {
  *library = {};
  library->base = info.dlpi_addr;
  library->path = info.dlpi_name == nullptr ? "" : info.dlpi_name;
  const ElfW(Dyn)* dynamic = nullptr;
  ReadSegments(info.dlpi_phdr, info.dlpi_phnum, library, &dynamic);
  return ReadDynamic(dynamic, library);
}

bool Holds(const Library& library, const void* address) {
  const auto at = reinterpret_cast<uint64_t>(address);
  return at >= library.low && at < library.high;
}

struct Search {
  bool (*matches)(const Library&);
  Library* found;
};

int Visit(dl_phdr_info* info, size_t, void* context) {
  auto* search = static_cast<Search*>(context);
  Library library;
  if (!Read(*info, &library)) return 0;
  if (Holds(library, &kSelf) || !search->matches(library)) return 0;
  *search->found = library;
  return 1;
}

uint32_t GnuHash(const char* name) {
  uint32_t hash = 5381;
  for (; *name != '\0'; ++name) hash = hash * 33 + static_cast<unsigned char>(*name);
  return hash;
}

uint32_t SysvHash(const char* name) {
  uint32_t hash = 0;
  for (; *name != '\0'; ++name) {
    hash = (hash << 4) + static_cast<unsigned char>(*name);
    const uint32_t high = hash & 0xf0000000;
    if (high != 0) hash ^= high >> 24;
    hash &= ~high;
  }
  return hash;
}

// The symbol's address when entry `index` is a definition of `name` in its default version.
void* Defined(const Library& library, uint32_t index, const char* name) {
  const auto& symbol = static_cast<const ElfW(Sym)*>(library.symbols)[index];
  const unsigned type = symbol.st_info & 15;
  if (symbol.st_shndx == SHN_UNDEF || symbol.st_value == 0 ||
      (type != STT_FUNC && type != STT_OBJECT && type != STT_NOTYPE)) {
    return nullptr;
  }
  constexpr uint16_t kHiddenVersion = 0x8000;
  if (library.versions != nullptr && (library.versions[index] & kHiddenVersion) != 0)
    return nullptr;
  if (!Equal(library.strings + symbol.st_name, name)) return nullptr;
  return reinterpret_cast<void*>(library.base + symbol.st_value);
}

}  // namespace

bool FindLibrary(bool (*matches)(const Library&), Library* found) {
  Search search = {matches, found};
  return dl_iterate_phdr(Visit, &search) == 1;
}

bool ReadHandle(const void* handle, Library* found) {
  const auto* map = static_cast<const link_map*>(handle);
  *found = {};
  found->base = map->l_addr;
  found->path = map->l_name == nullptr ? "" : map->l_name;
  const auto* header = reinterpret_cast<const ElfW(Ehdr)*>(map->l_addr);
  const ElfW(Dyn)* ignored = nullptr;
  if (header != nullptr && header->e_ident[0] == ELFMAG0 && header->e_ident[1] == ELFMAG1 &&
      header->e_ident[2] == ELFMAG2 && header->e_ident[3] == ELFMAG3) {
    ReadSegments(reinterpret_cast<const ElfW(Phdr)*>(map->l_addr + header->e_phoff),
                 header->e_phnum, found, &ignored);
  }
  return ReadDynamic(map->l_ld, found);
}

void ReadSelf(Library* found) {
  *found = {};
  found->base = reinterpret_cast<uint64_t>(&__ehdr_start);
  found->path = "";
  ReadDynamic(_DYNAMIC, found);
}

void* FindSymbol(const Library& library, const char* name) {
  if (library.gnu_hash != nullptr) {
    const uint32_t* const header = library.gnu_hash;
    const uint32_t bucket_count = header[0], first = header[1], bloom_words = header[2];
    const uint32_t* const buckets = header + 4 + bloom_words * (sizeof(ElfW(Addr)) / 4);
    const uint32_t* const chain = buckets + bucket_count;
    if (bucket_count == 0) return nullptr;
    const uint32_t hash = GnuHash(name);
    uint32_t index = buckets[hash % bucket_count];
    if (index < first) return nullptr;
    for (;; ++index) {
      const uint32_t link = chain[index - first];
      if ((link | 1) == (hash | 1)) {
        if (void* address = Defined(library, index, name)) return address;
      }
      if ((link & 1) != 0) return nullptr;
    }
  }
  if (library.sysv_hash != nullptr) {
    const uint32_t bucket_count = library.sysv_hash[0];
    const uint32_t* const buckets = library.sysv_hash + 2;
    const uint32_t* const chain = buckets + bucket_count;
    if (bucket_count == 0) return nullptr;
    for (uint32_t i = buckets[SysvHash(name) % bucket_count]; i != 0; i = chain[i]) {
      if (void* address = Defined(library, i, name)) return address;
    }
  }
  return nullptr;
}

}  // namespace tessera::guest
