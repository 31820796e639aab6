// Why a program's CUDA runtime cannot run on simgpu. NVIDIA's runtime, linked in or loaded, puts a
// private question to the driver at start-up; simgpu does not answer it, so such a program must
// hear a clear reason instead of a strange error. simgpu's libcuda asks in cuInit and
// cuGetExportTable. Header only; reads files, keeps nothing.
#pragma once

#include <dlfcn.h>
#include <elf.h>
#include <fcntl.h>
#include <link.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <string>

namespace simgpu {

// The loaded libcudart of this process: "" when there is none.
inline std::string LoadedRuntime() {
  std::string found;
  dl_iterate_phdr(
      [](dl_phdr_info* info, std::size_t, void* out) {
        const char* const slash = std::strrchr(info->dlpi_name, '/');
        const char* const name = slash == nullptr ? info->dlpi_name : slash + 1;
        if (std::strncmp(name, "libcudart.so", 12) != 0) return 0;
        *static_cast<std::string*>(out) = info->dlpi_name;
        return 1;
      },
      &found);
  return found;
}

// Whether an ELF file has a section called `wanted`. False for anything unreadable or malformed.
inline bool HasSection(const char* path, const char* wanted) {
  const int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return false;
  struct stat info = {};
  void* map = MAP_FAILED;
  if (fstat(fd, &info) == 0 && info.st_size >= static_cast<off_t>(sizeof(Elf64_Ehdr))) {
    map = mmap(nullptr, static_cast<std::size_t>(info.st_size), PROT_READ, MAP_PRIVATE, fd, 0);
  }
  close(fd);
  if (map == MAP_FAILED) return false;
  const auto size = static_cast<std::uint64_t>(info.st_size);
  const auto* const bytes = static_cast<const char*>(map);
  Elf64_Ehdr header;
  std::memcpy(&header, bytes, sizeof header);
  bool found = false;
  const std::uint64_t table = std::uint64_t{header.e_shnum} * sizeof(Elf64_Shdr);
  if (std::memcmp(header.e_ident, ELFMAG, SELFMAG) == 0 && header.e_ident[EI_CLASS] == ELFCLASS64 &&
      header.e_shentsize == sizeof(Elf64_Shdr) && header.e_shstrndx < header.e_shnum &&
      header.e_shoff <= size && table <= size - header.e_shoff) {
    const auto section = [&](unsigned index) {
      Elf64_Shdr one;
      std::memcpy(&one, bytes + header.e_shoff + index * sizeof one, sizeof one);
      return one;
    };
    const Elf64_Shdr names = section(header.e_shstrndx);
    const std::uint64_t length = std::strlen(wanted) + 1;
    for (unsigned i = 0; i < header.e_shnum && !found; ++i) {
      const std::uint64_t at = section(i).sh_name;
      found = names.sh_offset <= size && names.sh_size <= size - names.sh_offset &&
              at < names.sh_size && length <= names.sh_size - at &&
              std::memcmp(bytes + names.sh_offset + at, wanted, length) == 0;
    }
  }
  munmap(map, static_cast<std::size_t>(info.st_size));
  return found;
}

// One line with reason and fix, or "" when nothing stands in the way. `program` is the program's
// file.
inline std::string UnsupportedRuntime(const char* program = "/proc/self/exe") {
  const std::string loaded = LoadedRuntime();
  if (!loaded.empty()) {
    void* const handle = dlopen(loaded.c_str(), RTLD_LAZY | RTLD_NOLOAD);
    const bool ours = handle != nullptr && dlsym(handle, "simgpu_is_simulated") != nullptr;
    if (handle != nullptr) dlclose(handle);
    if (ours) return "";
    return "this process loaded NVIDIA's CUDA runtime (" + loaded +
           "), which runs on NVIDIA's driver only; put the folder of simgpu's libcudart.so.13 "
           "first in "
           "LD_LIBRARY_PATH (and build with CUDA 13: nvcc -cudart shared)";
  }
  // Device code in the program and no shared runtime: the runtime is linked in.
  if (!HasSection(program, ".nv_fatbin")) return "";
  return "this program has NVIDIA's CUDA runtime linked in (static cudart), which runs on NVIDIA's "
         "driver only; "
         "build it with nvcc -cudart shared and it uses simgpu's own libcudart.so.13";
}

// Ends the program with that line if something stands in the way, whatever SIMGPU_QUIET says: left
// alone it would fail with an error that names nothing. libcuda calls it where such a runtime first
// shows.
inline void StopUnsupportedRuntime() {
  const std::string why = UnsupportedRuntime();
  if (why.empty()) return;
  std::fprintf(stderr, "simgpu: %s\n", why.c_str());
  _exit(1);
}

}  // namespace simgpu
