// A driver manifest in memory: the entry points of one driver library and what Tessera does with
// each.
//
// Parse() reads the text form (explained at the top of src/abi/cuda.manifest) and checks it; the
// Emit functions turn it into C++ tables and sources for the guest and for simgpu. Standard library
// only, because this runs in every build, also on a machine with nothing but a compiler. Values; no
// threads.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace tessera::manifest {

struct Parameter {
  std::string type;  // "const void *", spelled as in the manifest without the name
  std::string name;
};

struct Entry {
  std::string base;
  std::string symbol;
  int version = 0;
  std::string flag;  // "-", "ptds" or "ptsz"
  std::string treatment;
  std::string return_type;
  std::vector<Parameter> parameters;
  int line = 0;
};

struct Manifest {
  std::vector<std::string> types;
  std::vector<Entry> entries;

  // What cuGetProcAddress answers: the entry of `base` with the highest version <= `version`, of
  // the per-thread forms if asked and there is one, else of the legacy form. Null if there is none.
  const Entry* Find(std::string_view base, int version, bool per_thread) const;
};

// The words of the treatment column, in the order of the manifest's explanation.
const std::vector<std::string>& Treatments();

// Reads `text` into `manifest`. False with "LINE: what is wrong" in `error`; `manifest` is then
// unspecified. `name` stands in front of the line number.
bool Parse(std::string_view name, std::string_view text, Manifest* manifest, std::string* error);

// One symbol a line, sorted.
std::string EmitSymbols(const Manifest& manifest);
// A linker version script that exports the symbols (and `extra`) and nothing else.
std::string EmitVersionScript(const Manifest& manifest, const std::vector<std::string>& extra);
// TESSERA_PROC(base, version, per_thread, symbol) lines sorted by base, then per_thread, then
// version: what a binary search in cuGetProcAddress wants.
std::string EmitTable(const Manifest& manifest);
// extern "C" declarations of all symbols, to stand inside namespace tessera::abi.
std::string EmitDeclarations(const Manifest& manifest);
// TESSERA_ENTRY(symbol, base, version, flag, treatment, return, (parameters), (arguments)) lines
// for the entries whose treatment is in `treatments` (empty: all). flag is none, ptds or ptsz.
std::string EmitEntries(const Manifest& manifest, const std::vector<std::string>& treatments);
// A C++ source that defines every symbol weakly. kUnsupported calls simgpu::Unsupported(symbol) and
// answers what that answers; kSuccess answers 0 at once.
enum class StubKind { kUnsupported, kSuccess };
std::string EmitStubs(const Manifest& manifest, StubKind kind);
// #define SYMBOL simgpu_SYMBOL for every symbol: included before the sources of a driver whose
// entry points stand behind a front.
std::string EmitRename(const Manifest& manifest);
// TESSERA_FRONT(index, symbol, base, return, (parameters), (arguments), (descriptions), (values))
// lines in the manifest's order; descriptions is TESSERA_PARAMETER(type, name) for each parameter,
// values TESSERA_VALUE(name), both without commas between.
std::string EmitFront(const Manifest& manifest);

// The entry points a toolkit's header (cuda.h, cudaTypedefs.h, nvml.h and their kin) declares and
// the manifest does not have, sorted: "symbol", or "symbol VERSION" where the header tells the
// version of a form the manifest knows only in others.
std::vector<std::string> Unclassified(const Manifest& manifest, std::string_view header);

}  // namespace tessera::manifest
