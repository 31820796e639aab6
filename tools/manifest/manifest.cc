#include "manifest.h"

#include <algorithm>
#include <cctype>
#include <charconv>
#include <map>
#include <set>

namespace tessera::manifest {
namespace {

// Enough for any driver we know by a factor of ten; beyond it the input is not a manifest.
constexpr size_t kEntriesMax = 10000;
// A version from here on is 1000 * major + 10 * minor of a release; below, the number of a suffix.
constexpr int kReleaseMin = 1000;
constexpr int kSuffixMax = 99;

bool IsName(std::string_view word) {
  if (word.empty() || std::isdigit(static_cast<unsigned char>(word[0]))) return false;
  return std::all_of(word.begin(), word.end(),
                     [](unsigned char c) { return std::isalnum(c) || c == '_'; });
}

std::string_view Trim(std::string_view text) {
  while (!text.empty() && std::isspace(static_cast<unsigned char>(text.front()))) {
    text.remove_prefix(1);
  }
  while (!text.empty() && std::isspace(static_cast<unsigned char>(text.back()))) {
    text.remove_suffix(1);
  }
  return text;
}

std::string_view TakeWord(std::string_view* text) {
  *text = Trim(*text);
  size_t end = 0;
  while (end < text->size() && !std::isspace(static_cast<unsigned char>((*text)[end]))) ++end;
  std::string_view word = text->substr(0, end);
  text->remove_prefix(end);
  return word;
}

// The type without const and stars: what must be named on a "types" line.
std::string BareType(std::string_view type) {
  std::string bare;
  std::string_view rest = type;
  while (!(rest = Trim(rest)).empty()) {
    if (rest[0] == '*') {
      rest.remove_prefix(1);
      continue;
    }
    size_t end = 0;
    while (end < rest.size() && rest[end] != '*' && rest[end] != ' ') ++end;
    std::string_view word = rest.substr(0, end);
    rest.remove_prefix(end);
    if (word == "const") continue;
    if (!bare.empty()) bare += ' ';
    bare += word;
  }
  return bare;
}

const std::set<std::string>& BuiltIns() {
  static const auto* types = new std::set<std::string>{
      "char",   "unsigned char", "short",     "unsigned short",     "int",   "unsigned int",
      "long",   "unsigned long", "long long", "unsigned long long", "float", "double",
      "size_t", "void"};
  return *types;
}

// "(type name, type name)" into parameters; false with the reason in `why`.
bool ParseParameters(std::string_view text, const std::set<std::string>& types, Entry* entry,
                     std::string* why) {
  text = Trim(text);
  if (text.size() < 2 || text.front() != '(' || text.back() != ')') {
    *why = "expected the parameters in parentheses at the end of the line";
    return false;
  }
  text = Trim(text.substr(1, text.size() - 2));
  if (text.empty()) return true;
  std::set<std::string> names;
  while (true) {
    size_t comma = text.find(',');
    std::string_view one = Trim(text.substr(0, comma));
    size_t start = one.size();
    while (start > 0 &&
           (std::isalnum(static_cast<unsigned char>(one[start - 1])) || one[start - 1] == '_')) {
      --start;
    }
    Parameter parameter{std::string(Trim(one.substr(0, start))), std::string(one.substr(start))};
    if (parameter.type.empty() || !IsName(parameter.name)) {
      *why = "expected \"type name\" for a parameter, not \"" + std::string(one) + "\"";
      return false;
    }
    std::string bare = BareType(parameter.type);
    if (!types.contains(bare) && !BuiltIns().contains(bare)) {
      *why = "unknown type \"" + bare + "\" (name it on a types line and in the abi header)";
      return false;
    }
    if (bare == "void" && parameter.type.find('*') == std::string::npos) {
      *why = "parameter \"" + parameter.name + "\" is void; no parameters are written ()";
      return false;
    }
    if (!names.insert(parameter.name).second) {
      *why = "two parameters are called \"" + parameter.name + "\"";
      return false;
    }
    entry->parameters.push_back(std::move(parameter));
    if (comma == std::string_view::npos) return true;
    text.remove_prefix(comma + 1);
  }
}

// The suffix rule of the manifest: which symbol an entry must carry, given the versions of the
// unflagged forms of its base.
std::string ExpectedSymbol(const Entry& entry, const std::vector<int>& unflagged) {
  // A manifest without release numbers (NVML) numbers its forms by their suffix.
  size_t form = entry.version < kReleaseMin
                    ? entry.version
                    : std::count_if(
                          unflagged.begin(), unflagged.end(),
                          [&](int version) { return version <= entry.version; });
  std::string symbol = entry.base;
  if (form > 1) symbol += "_v" + std::to_string(form);
  if (entry.flag != "-") symbol += "_" + entry.flag;
  return symbol;
}

std::string FlagWord(const Entry& entry) { return entry.flag == "-" ? "none" : entry.flag; }

std::string Parameters(const Entry& entry, bool names) {
  std::string text = "(";
  for (size_t i = 0; i < entry.parameters.size(); ++i) {
    const Parameter& parameter = entry.parameters[i];
    if (i > 0) text += ", ";
    text += parameter.type;
    if (!names) continue;
    if (parameter.type.back() != '*') text += ' ';
    text += parameter.name;
  }
  return text + ")";
}

std::string Arguments(const Entry& entry) {
  std::string text = "(";
  for (size_t i = 0; i < entry.parameters.size(); ++i) {
    if (i > 0) text += ", ";
    text += entry.parameters[i].name;
  }
  return text + ")";
}

constexpr std::string_view kHeader = "// Made by tessera-manifest; change the manifest instead.\n";

}  // namespace

const std::vector<std::string>& Treatments() {
  static const auto* words = new std::vector<std::string>{"account",   "free", "gate", "virtualise",
                                                          "lifecycle", "pass", "deny"};
  return *words;
}

const Entry* Manifest::Find(std::string_view base, int version, bool per_thread) const {
  const Entry* legacy = nullptr;
  const Entry* flagged = nullptr;
  for (const Entry& entry : entries) {
    if (entry.base != base || entry.version > version) continue;
    const Entry*& best = entry.flag == "-" ? legacy : flagged;
    if (best == nullptr || best->version < entry.version) best = &entry;
  }
  return per_thread && flagged != nullptr ? flagged : legacy;
}

bool Parse(std::string_view name, std::string_view text, Manifest* manifest, std::string* error) {
  *manifest = Manifest();
  std::set<std::string> types;
  std::map<std::string, int> symbol_line;
  std::map<std::string, int> base_line;               // first line of each base
  std::map<std::string, int> last_version;            // by base and flag
  std::map<std::string, std::vector<int>> unflagged;  // versions by base
  std::string previous_base;
  int line = 0;
  auto fail = [&](int at, const std::string& what) {
    *error = std::string(name) + ":" + std::to_string(at) + ": " + what;
    return false;
  };
  while (!text.empty()) {
    ++line;
    size_t end = text.find('\n');
    std::string_view row = Trim(text.substr(0, end));
    text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
    if (row.empty() || row[0] == '#') continue;
    std::string_view rest = row;
    std::string word(TakeWord(&rest));
    if (word == "types") {
      for (std::string type(TakeWord(&rest)); !type.empty(); type = TakeWord(&rest)) {
        if (!IsName(type)) return fail(line, "types: expected a name, not \"" + type + "\"");
        if (!types.insert(type).second) return fail(line, "type \"" + type + "\" named twice");
        manifest->types.push_back(type);
      }
      continue;
    }
    if (manifest->entries.size() == kEntriesMax) {
      return fail(line, "more than kEntriesMax = " + std::to_string(kEntriesMax) + " entries");
    }
    Entry entry;
    entry.line = line;
    entry.base = word;
    entry.symbol = TakeWord(&rest);
    std::string version(TakeWord(&rest));
    entry.flag = TakeWord(&rest);
    entry.treatment = TakeWord(&rest);
    const size_t open = std::min(rest.find('('), rest.size());
    entry.return_type = Trim(rest.substr(0, open));
    rest.remove_prefix(open);
    if (!IsName(entry.base) || !IsName(entry.symbol)) {
      return fail(line, "expected \"base symbol version flag treatment return (parameters)\"");
    }
    auto [stop, bad] =
        std::from_chars(version.data(), version.data() + version.size(), entry.version);
    if (bad != std::errc() || stop != version.data() + version.size() || entry.version < 1 ||
        (entry.version > kSuffixMax && entry.version < kReleaseMin) || entry.version > 1000000) {
      return fail(line, "version \"" + version +
                            "\": expected 1000 * major + 10 * minor, or a suffix's number");
    }
    if (entry.flag != "-" && entry.flag != "ptds" && entry.flag != "ptsz") {
      return fail(line, "flag \"" + entry.flag + "\": expected -, ptds or ptsz");
    }
    if (std::find(Treatments().begin(), Treatments().end(), entry.treatment) ==
        Treatments().end()) {
      return fail(line, "unknown treatment \"" + entry.treatment + "\"");
    }
    const std::string returned = BareType(entry.return_type);
    if (!types.contains(returned) && !BuiltIns().contains(returned)) {
      return fail(line, "unknown type \"" + entry.return_type + "\"");
    }
    std::string why;
    if (!ParseParameters(rest, types, &entry, &why)) return fail(line, why);
    if (auto [at, fresh] = symbol_line.emplace(entry.symbol, line); !fresh) {
      return fail(
          line, "symbol " + entry.symbol + " stands already in line " + std::to_string(at->second));
    }
    if (auto [at, fresh] = base_line.emplace(entry.base, line);
        !fresh && previous_base != entry.base) {
      return fail(line, "the lines of " + entry.base + " must stand together (first: line " +
                            std::to_string(at->second) + ")");
    }
    previous_base = entry.base;
    int& last = last_version[entry.base + " " + entry.flag];
    if (entry.version <= last) {
      return fail(line, "version " + version + " of " + entry.base + " does not rise above " +
                            std::to_string(last));
    }
    last = entry.version;
    if (entry.flag == "-") unflagged[entry.base].push_back(entry.version);
    manifest->entries.push_back(std::move(entry));
  }
  if (manifest->entries.empty()) return fail(line, "no entry in this file");
  for (const Entry& entry : manifest->entries) {
    std::string expected = ExpectedSymbol(entry, unflagged[entry.base]);
    // NVML spells some first forms with their number.
    const bool numbered_first = entry.version == 1 && entry.symbol == entry.base + "_v1";
    if (entry.symbol != expected && !numbered_first) {
      return fail(entry.line,
                  "symbol " + entry.symbol + " breaks the suffix rule: expected " + expected);
    }
  }
  return true;
}

std::string EmitSymbols(const Manifest& manifest) {
  std::set<std::string> symbols;
  for (const Entry& entry : manifest.entries) symbols.insert(entry.symbol);
  std::string text;
  for (const std::string& symbol : symbols) text += symbol + "\n";
  return text;
}

std::string EmitVersionScript(const Manifest& manifest, const std::vector<std::string>& extra) {
  std::string text = "{\n  global:\n";
  for (const Entry& entry : manifest.entries) text += "    " + entry.symbol + ";\n";
  for (const std::string& symbol : extra) text += "    " + symbol + ";\n";
  return text + "  local:\n    *;\n};\n";
}

std::string EmitTable(const Manifest& manifest) {
  std::vector<const Entry*> sorted;
  for (const Entry& entry : manifest.entries) sorted.push_back(&entry);
  std::sort(sorted.begin(), sorted.end(), [](const Entry* a, const Entry* b) {
    if (a->base != b->base) return a->base < b->base;
    if ((a->flag == "-") != (b->flag == "-")) return a->flag == "-";
    return a->version < b->version;
  });
  std::string text(kHeader);
  for (const Entry* entry : sorted) {
    text += "TESSERA_PROC(" + entry->base + ", " + std::to_string(entry->version) + ", " +
            (entry->flag == "-" ? "false" : "true") + ", " + entry->symbol + ")\n";
  }
  return text;
}

std::string EmitDeclarations(const Manifest& manifest) {
  std::string text(kHeader);
  for (const Entry& entry : manifest.entries) {
    text +=
        "extern \"C\" " + entry.return_type + " " + entry.symbol + Parameters(entry, true) + ";\n";
  }
  return text;
}

std::string EmitEntries(const Manifest& manifest, const std::vector<std::string>& treatments) {
  std::string text(kHeader);
  for (const Entry& entry : manifest.entries) {
    if (!treatments.empty() &&
        std::find(treatments.begin(), treatments.end(), entry.treatment) == treatments.end()) {
      continue;
    }
    text += "TESSERA_ENTRY(" + entry.symbol + ", " + entry.base + ", " +
            std::to_string(entry.version) + ", " + FlagWord(entry) + ", " + entry.treatment + ", " +
            entry.return_type + ", " + Parameters(entry, true) + ", " + Arguments(entry) + ")\n";
  }
  return text;
}

std::string EmitStubs(const Manifest& manifest, StubKind kind) {
  std::string text(kHeader);
  text += "#include \"abi/cuda.h\"\n\n";
  if (kind == StubKind::kUnsupported) {
    text +=
        "namespace simgpu {\n"
        "// Says once by name that simgpu lacks the function; answers CUDA_ERROR_NOT_SUPPORTED.\n"
        "tessera::abi::CUresult Unsupported(const char* symbol, int* said);\n"
        "}\n\n";
  }
  text += "namespace tessera::abi {\nextern \"C\" {\n\n";
  for (const Entry& entry : manifest.entries) {
    text += "__attribute__((weak)) " + entry.return_type + " " + entry.symbol +
            Parameters(entry, false) + " {\n";
    if (kind == StubKind::kUnsupported) {
      text +=
          "  static int said;\n  return simgpu::Unsupported(\"" + entry.symbol + "\", &said);\n";
    } else {
      text += "  return " + entry.return_type + "(0);\n";
    }
    text += "}\n";
  }
  return text + "\n}  // extern \"C\"\n}  // namespace tessera::abi\n";
}

std::string EmitRename(const Manifest& manifest) {
  std::string text(kHeader);
  text += "#pragma once\n";
  for (const Entry& entry : manifest.entries) {
    text += "#define " + entry.symbol + " simgpu_" + entry.symbol + "\n";
  }
  return text;
}

std::string EmitFront(const Manifest& manifest) {
  std::string text(kHeader);
  size_t index = 0;
  for (const Entry& entry : manifest.entries) {
    std::string descriptions, values;
    for (const Parameter& parameter : entry.parameters) {
      const char* space = descriptions.empty() ? "" : " ";
      descriptions += space + ("TESSERA_PARAMETER(" + parameter.type + ", " + parameter.name + ")");
      values += space + ("TESSERA_VALUE(" + parameter.name + ")");
    }
    text += "TESSERA_FRONT(" + std::to_string(index++) + ", " + entry.symbol + ", " + entry.base +
            ", " + entry.return_type + ", " + Parameters(entry, true) + ", " + Arguments(entry) +
            ", (" + descriptions + "), (" + values + "))\n";
  }
  return text;
}

}  // namespace tessera::manifest
