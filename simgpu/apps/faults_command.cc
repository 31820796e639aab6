// simgpu faults: rules are checked before they are put where running programs find them, and are
// put there whole.
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fstream>
#include <iostream>
#include <iterator>

#include "simgpu/apps/commands.h"
#include "simgpu/state/faults.h"
#include "simgpu/state/results.h"

namespace simgpu::apps {
namespace {

// False when it cannot be read or holds more than a rules' file may.
bool ReadText(const std::string& path, std::string* text) {
  std::ifstream file;
  if (path != "-") {
    file.open(path, std::ios::binary);
    if (!file) {
      Complain(path + ": " + strerror(errno));
      return false;
    }
  }
  std::istream& in = path == "-" ? std::cin : file;
  text->resize(kFaultFileBytesMax + 1);
  in.read(text->data(), static_cast<std::streamsize>(text->size()));
  if (in.bad()) {
    Complain(path + ": " + strerror(errno));
    return false;
  }
  text->resize(static_cast<size_t>(in.gcount()));
  if (text->size() <= kFaultFileBytesMax) return true;
  Complain(path + ": larger than kFaultFileBytesMax = " + std::to_string(kFaultFileBytesMax));
  return false;
}

bool Check(const std::string& source, const std::string& text, std::vector<FaultRule>* rules) {
  std::string errors;
  if (ParseFaults(source, text, '\n', rules, &errors)) return true;
  fprintf(stderr, "%s\n", errors.c_str());
  return false;
}

std::string Meaning(const FaultRule& rule) {
  const std::string card = "card " + std::to_string(rule.card);
  const char* name = ResultName(rule.result);
  const std::string result = name != nullptr ? name : "";
  char number[32];
  switch (rule.kind) {
    case FaultRule::Kind::kCall:
      if (rule.nth == 0) {
        snprintf(number, sizeof number, "%g", rule.probability);
        return "each call of " + rule.name + " answers " + result + " with probability " + number;
      }
      return "call " + std::to_string(rule.nth) + (rule.onwards ? " and all after it" : "") +
             " of " + rule.name + " in each process answers " + result;
    case FaultRule::Kind::kSticky:
      return "contexts on " + card + " answer " + result + " until they are destroyed";
    case FaultRule::Kind::kSlowCopy:
      snprintf(number, sizeof number, "%g", rule.factor);
      return "copies of " + card + " take " + number + " times as long";
    case FaultRule::Kind::kLost:
      return card + " has fallen off the bus";
    case FaultRule::Kind::kHang:
      return "kernels on " + card + " do not finish";
    case FaultRule::Kind::kXid:
      return "NVML reports XID " + std::to_string(rule.number) + " of " + card;
    case FaultRule::Kind::kEcc:
      return "NVML reports " + std::to_string(rule.amount) +
             (rule.uncorrected ? " uncorrected" : " corrected") + " memory errors of " + card;
    case FaultRule::Kind::kMemory:
      return "no more than " + std::to_string(rule.amount) + " bytes of " + card + " can be taken";
  }
  return "";
}

void Print(const std::vector<FaultRule>& rules) {
  for (const FaultRule& rule : rules) {
    printf("%-44s # %s\n", rule.text.c_str(), Meaning(rule).c_str());
  }
}

// In one step, so that nobody reads half of it.
int Put(const std::string& folder, const std::string& text) {
  struct stat info;
  if (stat(folder.c_str(), &info) != 0 || !S_ISDIR(info.st_mode)) {
    Complain("--state: expected a folder that is there; " + folder + " is not");
    return kExitFailed;
  }
  const std::string path = folder + "/faults", fresh = path + ".new";
  std::ofstream out(fresh, std::ios::binary | std::ios::trunc);
  out << text;
  out.close();
  if (!out || rename(fresh.c_str(), path.c_str()) != 0) {
    Complain(path + ": " + strerror(errno));
    return kExitFailed;
  }
  return 0;
}

}  // namespace

int FaultsCommand(const Words& words) {
  const std::string verb = words.empty() ? "" : words[0];
  if (verb != "check" && verb != "show" && verb != "set" && verb != "clear") {
    Complain("faults: expected check, show, set or clear" +
             (verb.empty() ? "" : ", not \"" + verb + "\""));
    return kExitUsage;
  }
  Options options;
  const Words known = verb == "check" ? Words{}
                      : verb == "set" ? Words{"state", "from"}
                                      : Words{"state"};
  if (!options.Read({words.begin() + 1, words.end()}, known, {})) return kExitUsage;
  const Words& rest = options.rest();
  std::vector<FaultRule> rules;
  std::string text;
  if (verb == "check") {
    if (rest.size() != 1) {
      Complain("faults check: expected one file, or - for the standard input");
      return kExitUsage;
    }
    if (!ReadText(rest[0], &text)) return kExitFailed;
    if (!Check(rest[0] == "-" ? "input" : rest[0], text, &rules)) return kExitFailed;
    Print(rules);
    return 0;
  }
  const std::string folder = StateFolder(options);
  if (verb == "set") {
    if (options.Has("from") == !rest.empty()) {
      Complain("faults set: expected rules, each as one word in quotes, or --from FILE");
      return kExitUsage;
    }
    if (options.Has("from") && !ReadText(options.Get("from"), &text)) return kExitFailed;
    for (const std::string& rule : rest) text += rule + "\n";
    if (!Check(options.Has("from") ? options.Get("from") : "rule", text, &rules)) {
      return kExitFailed;
    }
    return Put(folder, text);
  }
  if (!rest.empty()) {
    Complain("faults " + verb + ": expected options only, not \"" + rest[0] + "\"");
    return kExitUsage;
  }
  const std::string path = folder + "/faults";
  if (verb == "clear") {
    if (unlink(path.c_str()) == 0 || errno == ENOENT) return 0;
    Complain(path + ": " + strerror(errno));
    return kExitFailed;
  }
  if (access(path.c_str(), F_OK) != 0) {
    printf("%s: no rules\n", folder.c_str());
    return 0;
  }
  if (!ReadText(path, &text) || !Check(path, text, &rules)) return kExitFailed;
  Print(rules);
  return 0;
}

}  // namespace simgpu::apps
