// What a toolkit's headers declare, held against a manifest.
#include <algorithm>
#include <cctype>
#include <set>

#include "manifest.h"

namespace tessera::manifest {
namespace {

bool InWord(char c) { return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_'; }

// The text with blanks for comments: those speak of many functions.
std::string WithoutComments(std::string_view text) {
  std::string code(text);
  for (size_t i = 0; i + 1 < code.size(); ++i) {
    if (code[i] != '/' || (code[i + 1] != '*' && code[i + 1] != '/')) continue;
    const bool block = code[i + 1] == '*';
    size_t end = block ? code.find("*/", i + 2) : code.find('\n', i);
    end = end == std::string::npos ? code.size() : end + (block ? 2 : 0);
    std::fill(code.begin() + static_cast<long>(i), code.begin() + static_cast<long>(end), ' ');
  }
  return code;
}

std::string WordAt(const std::string& text, size_t at) {
  size_t end = at;
  while (end < text.size() && InWord(text[end])) ++end;
  return text.substr(at, end - at);
}

size_t SkipBlanks(const std::string& text, size_t at) {
  while (at < text.size() && std::isspace(static_cast<unsigned char>(text[at])) != 0) ++at;
  return at;
}

bool Driver(const std::string& word) {
  return word.size() > 2 && word.starts_with("cu") && std::isupper(word[2]) != 0;
}

// "PFN_cuMemcpy_v7000_ptds" in its parts; false when it is none.
bool Typedef(std::string word, std::string* base, int* version, std::string* flag) {
  *flag = "-";
  for (const char* end : {"ptds", "ptsz"}) {
    const std::string suffix = std::string("_") + end;
    if (!word.ends_with(suffix)) continue;
    *flag = end;
    word.resize(word.size() - suffix.size());
  }
  const size_t at = word.rfind("_v");
  if (!word.starts_with("PFN_cu") || at == std::string::npos || at + 2 == word.size()) return false;
  for (size_t i = at + 2; i < word.size(); ++i) {
    if (std::isdigit(static_cast<unsigned char>(word[i])) == 0) return false;
  }
  *base = word.substr(4, at - 4);
  *version = std::stoi(word.substr(at + 2));
  return true;
}

}  // namespace

std::vector<std::string> Unclassified(const Manifest& manifest, std::string_view header) {
  std::set<std::string> known, missing;
  for (const Entry& entry : manifest.entries) known.insert({entry.base, entry.symbol});
  const std::string text = WithoutComments(header);
  // What the header itself gives a body is no entry point of the library.
  std::set<std::string> bodies;
  for (size_t i = text.find("inline"); i != std::string::npos; i = text.find("inline", i + 1)) {
    const size_t open = text.find('(', i);
    if (open == std::string::npos) break;
    size_t begin = open;
    while (begin > 0 && InWord(text[begin - 1])) --begin;
    bodies.insert(text.substr(begin, open - begin));
  }
  const auto want = [&](const std::string& symbol) {
    if (!known.contains(symbol) && !bodies.contains(symbol)) missing.insert(symbol);
  };
  for (size_t i = 0; i < text.size(); ++i) {
    if (!InWord(text[i]) || (i > 0 && InWord(text[i - 1]))) continue;
    const std::string word = WordAt(text, i);
    const size_t next = SkipBlanks(text, i + word.size());
    std::string base, flag;
    int version = 0;
    if (Typedef(word, &base, &version, &flag)) {
      const bool found =
          std::any_of(manifest.entries.begin(), manifest.entries.end(), [&](const Entry& entry) {
            return entry.base == base && entry.version == version && entry.flag == flag;
          });
      if (!found) {
        missing.insert(base + " " + std::to_string(version) + (flag == "-" ? "" : " " + flag));
      }
    } else if (word == "CUDAAPI") {
      // A prototype: the name, then the parameters. Types of callbacks have a star there.
      const std::string name = WordAt(text, next);
      const size_t after = SkipBlanks(text, next + name.size());
      if (Driver(name) && after < text.size() && text[after] == '(') want(name);
    } else if (word.starts_with("nvml") && next < text.size() && text[next] == '(' &&
               word.size() > 4 && std::isupper(word[4]) != 0) {
      want(word);
    } else if (word == "define") {
      // "#define cuMemAlloc cuMemAlloc_v2": the name a program is really linked to.
      const std::string name = WordAt(text, next);
      const size_t value = text.find_first_not_of(" \t", next + name.size());
      if (value == std::string::npos) continue;
      const std::string target = WordAt(text, value);
      const bool named = (Driver(name) && Driver(target)) ||
                         (name.starts_with("nvml") && target.starts_with("nvml"));
      if (named && target.starts_with(name)) want(target);
      // "#define cuMemcpy __CUDA_API_PTDS(cuMemcpy)"
      for (const auto& [macro, suffix] :
           {std::pair("__CUDA_API_PTDS", "_ptds"), std::pair("__CUDA_API_PTSZ", "_ptsz")}) {
        const size_t open = value + target.size();
        if (!Driver(name) || target != macro || open >= text.size() || text[open] != '(') continue;
        const std::string inner = WordAt(text, open + 1);
        want(inner);
        want(inner + suffix);
      }
    }
  }
  return {missing.begin(), missing.end()};
}

}  // namespace tessera::manifest
