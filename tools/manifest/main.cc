// tessera-manifest MODE MANIFEST [-o FILE] [--treatments a,b] [--extra symbol,symbol]
// Turns a driver manifest into tables and sources; see manifest.h for the modes' outputs.
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

#include "manifest.h"

namespace {

constexpr char kUsage[] =
    "usage: tessera-manifest MODE MANIFEST [-o FILE] [--treatments WORD,...] [--extra SYMBOL,...]\n"
    "       tessera-manifest headers ABI_FOLDER [INCLUDE_FOLDER...]\n"
    "modes:\n"
    "  check           validate only\n"
    "  symbols         exported symbols, one a line\n"
    "  version-script  linker script exporting them (and --extra)\n"
    "  table           TESSERA_PROC(base, version, per_thread, symbol), sorted\n"
    "  declarations    extern \"C\" prototypes\n"
    "  entries         TESSERA_ENTRY(symbol, base, version, flag, treatment, return, "
    "(parameters),\n"
    "                  (arguments)) of --treatments (default: all)\n"
    "  stubs           weak definitions that answer CUDA_ERROR_NOT_SUPPORTED and say so once\n"
    "  null            weak definitions that answer success at once\n"
    "  rename          #define SYMBOL simgpu_SYMBOL, for a driver behind a front\n"
    "  front           TESSERA_FRONT(index, symbol, base, return, (parameters), (arguments),\n"
    "                  (descriptions), (values))\n"
    "  headers         holds the folder's manifests against every toolkit header there is in the\n"
    "                  include folders, $TESSERA_TOOLKITS (one or more, with colons), .venv and\n"
    "                  /usr/local/cuda*; ends with 77 when there is none\n";

std::vector<std::string> Split(const std::string& text) {
  std::vector<std::string> words;
  std::string word;
  for (char c : text + ",") {
    if (c != ',') {
      word += c;
    } else if (!word.empty()) {
      words.push_back(word);
      word.clear();
    }
  }
  return words;
}

int Fail(const std::string& what) {
  std::cerr << "tessera-manifest: " << what << "\n";
  return 1;
}

bool ReadFile(const std::string& path, std::string* text) {
  std::ifstream in(path, std::ios::binary);
  if (!in) return false;
  text->assign(std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>());
  return true;
}

// Where toolkits put their headers: what was asked for, and the usual places.
std::vector<std::string> IncludeFolders(std::vector<std::string> folders) {
  namespace fs = std::filesystem;
  std::error_code ignored;
  if (const char* more = std::getenv("TESSERA_TOOLKITS")) {
    std::istringstream words(more);
    for (std::string folder; std::getline(words, folder, ':');) folders.push_back(folder);
  }
  // .venv/lib/python3.11/site-packages/nvidia/cu13/include, or .../nvidia/cuda_runtime/include.
  for (const auto& python : fs::directory_iterator(".venv/lib", ignored)) {
    const fs::path makers = python.path() / "site-packages/nvidia";
    for (const auto& package : fs::directory_iterator(makers, ignored)) {
      folders.push_back((package.path() / "include").string());
    }
  }
  for (const auto& entry : fs::directory_iterator("/usr/local", ignored)) {
    if (entry.path().filename().string().starts_with("cuda")) {
      folders.push_back((entry.path() / "include").string());
    }
  }
  return folders;
}

int Headers(const std::string& abi, const std::vector<std::string>& asked) {
  namespace tm = tessera::manifest;
  constexpr int kNothingThere = 77;
  int headers = 0, missing = 0;
  for (const char* maker : {"cuda", "nvml"}) {
    const std::string path = abi + "/" + maker + ".manifest";
    std::string text, error;
    tm::Manifest manifest;
    if (!ReadFile(path, &text)) return Fail(path + ": " + std::strerror(errno));
    if (!tm::Parse(path, text, &manifest, &error)) return Fail(error);
    int of_maker = 0;
    for (const std::string& folder : IncludeFolders(asked)) {
      for (const char* name :
           {"cuda.h", "cudaTypedefs.h", "cudaGL.h", "cudaGLTypedefs.h", "cudaEGL.h",
            "cudaEGLTypedefs.h", "cudaVDPAU.h", "cudaVDPAUTypedefs.h", "cudaProfiler.h",
            "cudaProfilerTypedefs.h", "nvml.h"}) {
        std::string header = folder;
        header += "/";
        header += name;
        if (!std::string_view(name).starts_with(maker) || !ReadFile(header, &text)) continue;
        ++of_maker;
        for (const std::string& symbol : tm::Unclassified(manifest, text)) {
          std::cerr << header << ": " << symbol << " has no line in " << path << "\n";
          ++missing;
        }
      }
    }
    if (of_maker == 0) std::cout << "NOT RUN: no toolkit headers of " << maker << "\n";
    headers += of_maker;
  }
  std::cout << "toolkit headers: " << headers << ", unclassified: " << missing << "\n";
  if (missing != 0) return 1;
  return headers == 0 ? kNothingThere : 0;
}

}  // namespace

int main(int argc, char** argv) {
  namespace tm = tessera::manifest;
  if (argc < 3) {
    std::cerr << kUsage;
    return 2;
  }
  if (std::string_view(argv[1]) == "headers") {
    return Headers(argv[2], std::vector<std::string>(argv + 3, argv + argc));
  }
  std::string mode = argv[1], path = argv[2], output;
  std::vector<std::string> treatments, extra;
  for (int i = 3; i < argc; i += 2) {
    std::string option = argv[i];
    if (i + 1 == argc) return Fail(option + " wants a value");
    std::string value = argv[i + 1];
    if (option == "-o") {
      output = value;
    } else if (option == "--treatments") {
      treatments = Split(value);
      for (const std::string& word : treatments) {
        bool known = false;
        for (const std::string& treatment : tm::Treatments()) known |= treatment == word;
        if (!known) return Fail("--treatments: unknown treatment \"" + word + "\"");
      }
      if (treatments.empty()) return Fail("--treatments: expected words separated by commas");
    } else if (option == "--extra") {
      extra = Split(value);
    } else {
      return Fail("unknown option " + option);
    }
  }
  std::ifstream in(path, std::ios::binary);
  if (!in) return Fail(path + ": " + std::strerror(errno));
  std::string text((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
  tm::Manifest manifest;
  std::string error;
  if (!tm::Parse(path, text, &manifest, &error)) return Fail(error);

  std::string result;
  if (mode == "symbols") {
    result = tm::EmitSymbols(manifest);
  } else if (mode == "version-script") {
    result = tm::EmitVersionScript(manifest, extra);
  } else if (mode == "table") {
    result = tm::EmitTable(manifest);
  } else if (mode == "declarations") {
    result = tm::EmitDeclarations(manifest);
  } else if (mode == "entries") {
    result = tm::EmitEntries(manifest, treatments);
  } else if (mode == "stubs") {
    result = tm::EmitStubs(manifest, tm::StubKind::kUnsupported);
  } else if (mode == "null") {
    result = tm::EmitStubs(manifest, tm::StubKind::kSuccess);
  } else if (mode == "rename") {
    result = tm::EmitRename(manifest);
  } else if (mode == "front") {
    result = tm::EmitFront(manifest);
  } else if (mode != "check") {
    return Fail("unknown mode " + mode + "\n" + kUsage);
  }
  if (output.empty()) {
    std::cout << result << std::flush;
    return std::cout ? 0 : Fail("cannot write to the standard output");
  }
  std::ofstream out(output, std::ios::binary | std::ios::trunc);
  out << result;
  out.close();
  if (!out) return Fail(output + ": " + std::strerror(errno));
  return 0;
}
