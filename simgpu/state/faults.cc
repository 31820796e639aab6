#include "simgpu/state/faults.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cmath>

#include "simgpu/state/results.h"
#include "simgpu/state/state.h"

namespace simgpu {
namespace {

constexpr double kFactorMax = 1e6;

uint64_t CoarseMs() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1000 + static_cast<uint64_t>(now.tv_nsec) / 1'000'000;
}

// SplitMix64: the same seed draws the same calls everywhere.
uint64_t Draw(uint64_t* state) {
  uint64_t x = (*state += 0x9e3779b97f4a7c15);
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
}

std::vector<std::string> Words(std::string_view text) {
  std::vector<std::string> words;
  std::string word;
  for (char c : text) {
    if (c == ' ' || c == '\t' || c == '\r') {
      if (!word.empty()) words.push_back(std::move(word));
      word.clear();
    } else {
      word += c;
    }
  }
  if (!word.empty()) words.push_back(std::move(word));
  return words;
}

bool ParseUnsigned(std::string_view text, uint64_t* value) {
  auto [stop, bad] = std::from_chars(text.data(), text.data() + text.size(), *value);
  return !text.empty() && bad == std::errc() && stop == text.data() + text.size();
}

bool ParseReal(std::string_view text, double* value) {
  auto [stop, bad] = std::from_chars(text.data(), text.data() + text.size(), *value);
  return !text.empty() && bad == std::errc() && stop == text.data() + text.size() &&
         std::isfinite(*value);
}

bool ParseSize(std::string_view text, uint64_t* bytes) {
  uint64_t unit = 1;
  for (auto [suffix, size] : {std::pair<const char*, uint64_t>{"KiB", 1 << 10},
                              {"MiB", 1 << 20},
                              {"GiB", uint64_t{1} << 30}}) {
    if (text.ends_with(suffix)) {
      unit = size;
      text.remove_suffix(3);
      break;
    }
  }
  uint64_t number = 0;
  if (!ParseUnsigned(text, &number) || number > UINT64_MAX / unit) return false;
  *bytes = number * unit;
  return true;
}

// One rule's words, taken from the front; the first thing that is wrong ends it.
class RuleReader {
 public:
  explicit RuleReader(std::vector<std::string> words) : words_(std::move(words)) {}

  std::string Read(FaultRule* rule) {
    for (const std::string& word : words_) rule->text += (rule->text.empty() ? "" : " ") + word;
    const std::string first = Take();
    if (first == "call") {
      ReadCall(rule);
    } else if (first == "sticky") {
      rule->kind = FaultRule::Kind::kSticky;
      ReadCard(rule);
      ReadResult(rule);
    } else if (first == "slow-copy") {
      rule->kind = FaultRule::Kind::kSlowCopy;
      ReadCard(rule);
      const std::string factor = Take();
      if (!ParseReal(factor, &rule->factor) || rule->factor < 1 || rule->factor > kFactorMax) {
        Wrong("FACTOR", "a number from 1 to 1000000", factor);
      }
    } else if (first == "card") {
      rule->kind = FaultRule::Kind::kLost;
      ReadNumberOfCard(rule);
      if (const std::string what = Take(); what != "lost") Wrong("state", "lost", what);
    } else if (first == "hang") {
      rule->kind = FaultRule::Kind::kHang;
      ReadCard(rule);
    } else if (first == "xid") {
      rule->kind = FaultRule::Kind::kXid;
      ReadCard(rule);
      uint64_t number = 0;
      const std::string word = Take();
      if (!ParseUnsigned(word, &number) || number < 1 || number > 999) {
        Wrong("NUMBER", "an XID from 1 to 999", word);
      }
      rule->number = static_cast<uint32_t>(number);
    } else if (first == "ecc") {
      rule->kind = FaultRule::Kind::kEcc;
      ReadCard(rule);
      const std::string word = Take();
      if (word != "sbe" && word != "dbe") Wrong("error", "sbe or dbe", word);
      rule->uncorrected = word == "dbe";
      const std::string count = Take();
      if (!ParseUnsigned(count, &rule->amount) || rule->amount < 1) {
        Wrong("COUNT", "a number from 1", count);
      }
    } else if (first == "memory") {
      rule->kind = FaultRule::Kind::kMemory;
      ReadCard(rule);
      const std::string size = Take();
      if (!ParseSize(size, &rule->amount)) {
        Wrong("SIZE", "bytes, or a number with KiB, MiB or GiB", size);
      }
    } else {
      Wrong("rule", "call, sticky, slow-copy, card, hang, xid, ecc or memory", first);
    }
    if (error_.empty() && at_ < words_.size()) Wrong("end", "nothing more", words_[at_]);
    return error_;
  }

 private:
  std::string Take() { return at_ < words_.size() ? words_[at_++] : std::string(); }

  void Wrong(const char* field, const char* expected, const std::string& found) {
    if (!error_.empty()) return;
    error_ = std::string(field) + ": expected " + expected + ", " +
             (found.empty() ? "not the end" : "not \"" + found + "\"");
  }

  void ReadNumberOfCard(FaultRule* rule) {
    uint64_t card = 0;
    const std::string word = Take();
    if (!ParseUnsigned(word, &card) || card >= kCardsMax) {
      Wrong("card", "an index from 0 to 7", word);
      return;
    }
    rule->card = static_cast<uint32_t>(card);
  }

  void ReadCard(FaultRule* rule) {
    if (const std::string word = Take(); word != "card") Wrong("card", "the word card", word);
    ReadNumberOfCard(rule);
  }

  void ReadResult(FaultRule* rule) {
    const std::string word = Take();
    if (!ParseResult(word, &rule->result) || rule->result == 0) {
      Wrong("RESULT", "an error's name or number, as CUDA_ERROR_OUT_OF_MEMORY", word);
    }
  }

  void ReadCall(FaultRule* rule) {
    rule->kind = FaultRule::Kind::kCall;
    rule->name = Take();
    if (rule->name.rfind("cu", 0) != 0) {
      Wrong("NAME", "an entry point of the driver, as cuMemAlloc_v2", rule->name);
    }
    std::string which = Take();
    if (!which.empty() && which[0] == 'p') {
      if (!ParseReal(std::string_view(which).substr(1), &rule->probability) ||
          rule->probability < 0 || rule->probability > 1) {
        Wrong("pP", "a probability from p0 to p1", which);
      }
      ReadResult(rule);
      if (const std::string word = Take(); word != "seed") Wrong("seed", "the word seed", word);
      if (const std::string word = Take(); !ParseUnsigned(word, &rule->seed)) {
        Wrong("seed", "a number", word);
      }
      return;
    }
    const std::string given = which;
    if (!which.empty() && which.back() == '+') {
      rule->onwards = true;
      which.pop_back();
    }
    if (!ParseUnsigned(which, &rule->nth) || rule->nth == 0) {
      Wrong("N", "a number from 1, a number with +, or a probability as p0.5", given);
    }
    ReadResult(rule);
  }

  std::vector<std::string> words_;
  size_t at_ = 0;
  std::string error_;
};

void Complain(const std::string& errors) {
  if (getenv("SIMGPU_QUIET") != nullptr) return;
  std::string_view rest = errors;
  while (!rest.empty()) {
    const size_t end = std::min(rest.find('\n'), rest.size());
    fprintf(stderr, "simgpu: faults: %s\n", std::string(rest.substr(0, end)).c_str());
    rest.remove_prefix(std::min(end + 1, rest.size()));
  }
}

void Prepare();
void Resume();

std::string StateFolder() {
  const char* chosen = getenv("SIMGPU_STATE");
  return chosen != nullptr && *chosen != 0 ? chosen : "/dev/shm/simgpu";
}

}  // namespace

bool ParseFaults(std::string_view source, std::string_view text, char separator,
                 std::vector<FaultRule>* rules, std::string* errors) {
  rules->clear();
  errors->clear();
  uint64_t line = 0;
  auto fail = [&](const std::string& what) {
    *errors += (errors->empty() ? "" : "\n") + std::string(source) + ":" + std::to_string(line) +
               ": " + what;
  };
  while (!text.empty()) {
    ++line;
    const size_t end = std::min(text.find(separator), text.size());
    std::string_view row = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    row = row.substr(0, row.find('#'));
    std::vector<std::string> words = Words(row);
    if (words.empty()) continue;
    if (rules->size() == kFaultRulesMax) {
      fail("more than kFaultRulesMax = " + std::to_string(kFaultRulesMax) + " rules");
      break;
    }
    FaultRule rule;
    if (std::string wrong = RuleReader(std::move(words)).Read(&rule); !wrong.empty()) fail(wrong);
    rules->push_back(std::move(rule));
  }
  if (!errors->empty()) rules->clear();
  return errors->empty();
}

Faults& Faults::Get() {
  static Faults* faults = [] {
    const char* variable = getenv("SIMGPU_FAULTS");
    auto* made = new Faults(StateFolder(), variable != nullptr ? variable : "");
    return made;
  }();
  // A fork while another thread holds the mutex must not leave it locked in the child.
  static const int registered = pthread_atfork(Prepare, Resume, Resume);
  (void)registered;
  return *faults;
}

namespace {
void Prepare() { Faults::Get().LockForFork(); }
void Resume() { Faults::Get().UnlockAfterFork(); }
}  // namespace

Faults::Faults(std::string folder, const std::string& variable)
    : folder_(std::move(folder)), path_(folder_ + "/faults") {
  std::vector<FaultRule> rules;
  std::string errors;
  if (!ParseFaults("SIMGPU_FAULTS", variable, ';', &rules, &errors)) Complain(errors);
  for (FaultRule& rule : rules) {
    Counted counted;
    counted.random = rule.seed;
    counted.rule = std::move(rule);
    Learn(counted.rule);
    rules_.push_back(std::move(counted));
  }
  Publish();
}

void Faults::Learn(const FaultRule& rule) {
  if (rule.kind != FaultRule::Kind::kXid) return;
  if (xids_.size() == kXidEventsMax) xids_.erase(xids_.begin());
  xids_.push_back({++xid_sequence_, rule.card, rule.number});
}

bool Faults::Ready() {
  if (CoarseMs() >= look_again_ms_.load(std::memory_order_relaxed)) Look();
  return any_.load(std::memory_order_relaxed);
}

void Faults::Look(bool at_once) {
  std::lock_guard guard(mutex_);
  const uint64_t now = CoarseMs();
  if (!at_once && now < look_again_ms_.load(std::memory_order_relaxed)) return;
  look_again_ms_.store(now + kFaultsCheckMs, std::memory_order_relaxed);
  struct stat info;
  Stamp stamp;
  if (stat(path_.c_str(), &info) == 0) {
    stamp = {true, info.st_mtim.tv_sec, info.st_mtim.tv_nsec, static_cast<uint64_t>(info.st_size),
             static_cast<uint64_t>(info.st_ino)};
  }
  if (stamp == stamp_) return;
  stamp_ = stamp;
  std::string text;
  if (stamp.there) {
    const int fd = open(path_.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) {
      Refuse(path_ + ": " + strerror(errno));
      return;
    }
    text.resize(kFaultFileBytesMax + 1);
    size_t have = 0;
    ssize_t got = 0;
    while (have < text.size() && (got = read(fd, text.data() + have, text.size() - have)) > 0) {
      have += static_cast<size_t>(got);
    }
    const int bad = got < 0 ? errno : 0;
    close(fd);
    if (bad != 0) {
      Refuse(path_ + ": " + strerror(bad));
      return;
    }
    if (have > kFaultFileBytesMax) {
      Refuse(path_ + ": larger than kFaultFileBytesMax = " + std::to_string(kFaultFileBytesMax));
      return;
    }
    text.resize(have);
  }
  std::vector<FaultRule> rules;
  std::string errors;
  if (!ParseFaults(path_, text, '\n', &rules, &errors)) {
    Refuse(errors);
    return;
  }
  said_.clear();
  Replace(std::move(rules));
}

void Faults::Refuse(const std::string& errors) {
  if (errors != said_) Complain(errors);
  said_ = errors;
}

// Rules that stand as before keep their counts.
void Faults::Replace(std::vector<FaultRule> fresh) {
  std::vector<Counted> next;
  std::vector<Counted> old;
  for (Counted& one : rules_) (one.from_file ? old : next).push_back(std::move(one));
  for (FaultRule& rule : fresh) {
    auto same = std::find_if(old.begin(), old.end(),
                             [&](const Counted& one) { return one.rule.text == rule.text; });
    Counted counted;
    if (same != old.end()) {
      counted = std::move(*same);
      old.erase(same);
    } else {
      counted.from_file = true;
      counted.random = rule.seed;
      counted.rule = std::move(rule);
      Learn(counted.rule);
    }
    next.push_back(std::move(counted));
  }
  rules_ = std::move(next);
  Publish();
}

void Faults::Publish() {
  bool for_calls = false;
  for (const Counted& one : rules_) {
    for_calls |= one.rule.kind == FaultRule::Kind::kCall ||
                 one.rule.kind == FaultRule::Kind::kSticky ||
                 one.rule.kind == FaultRule::Kind::kLost;
  }
  any_.store(!rules_.empty(), std::memory_order_relaxed);
  any_for_calls_.store(for_calls, std::memory_order_relaxed);
}

double Faults::CopyFactor(uint32_t card) {
  if (!Ready()) return 1;
  std::lock_guard guard(mutex_);
  double factor = 1;
  for (const Counted& one : rules_) {
    if (one.rule.kind == FaultRule::Kind::kSlowCopy && one.rule.card == card) {
      factor = std::max(factor, one.rule.factor);
    }
  }
  return factor;
}

bool Faults::Has(FaultRule::Kind kind, uint32_t card) {
  if (!Ready()) return false;
  std::lock_guard guard(mutex_);
  return std::any_of(rules_.begin(), rules_.end(), [&](const Counted& one) {
    return one.rule.kind == kind && one.rule.card == card;
  });
}

bool Faults::Hung(uint32_t card) { return Has(FaultRule::Kind::kHang, card); }
bool Faults::Lost(uint32_t card) { return Has(FaultRule::Kind::kLost, card); }

uint32_t Faults::Sticky(uint32_t card) {
  if (!Ready()) return 0;
  std::lock_guard guard(mutex_);
  for (const Counted& one : rules_) {
    if (one.rule.kind == FaultRule::Kind::kSticky && one.rule.card == card) return one.rule.result;
  }
  return 0;
}

uint64_t Faults::MemoryLimit(uint32_t card) {
  if (!Ready()) return UINT64_MAX;
  std::lock_guard guard(mutex_);
  uint64_t limit = UINT64_MAX;
  for (const Counted& one : rules_) {
    if (one.rule.kind == FaultRule::Kind::kMemory && one.rule.card == card) {
      limit = std::min(limit, one.rule.amount);
    }
  }
  return limit;
}

std::vector<XidEvent> Faults::Xids(uint64_t after) {
  Ready();
  std::lock_guard guard(mutex_);
  std::vector<XidEvent> events;
  for (const XidEvent& one : xids_) {
    if (one.sequence > after) events.push_back(one);
  }
  return events;
}

EccCounts Faults::Ecc(uint32_t card) {
  EccCounts counts;
  if (!Ready()) return counts;
  std::lock_guard guard(mutex_);
  for (const Counted& one : rules_) {
    if (one.rule.kind != FaultRule::Kind::kEcc || one.rule.card != card) continue;
    (one.rule.uncorrected ? counts.uncorrected : counts.corrected) += one.rule.amount;
  }
  return counts;
}

uint32_t Faults::Call(std::string_view symbol, std::string_view base) {
  if (!Ready()) return 0;
  std::lock_guard guard(mutex_);
  uint32_t result = 0;
  for (Counted& one : rules_) {
    const FaultRule& rule = one.rule;
    if (rule.kind != FaultRule::Kind::kCall || (rule.name != symbol && rule.name != base)) continue;
    ++one.calls;
    const bool now =
        rule.nth == 0
            // 53 bits make every double below 1 alike likely; probability 1 is always above.
            ? static_cast<double>(Draw(&one.random) >> 11) * 0x1p-53 < rule.probability
            : one.calls == rule.nth || (rule.onwards && one.calls > rule.nth);
    if (now && result == 0) result = rule.result;
  }
  return result;
}

std::vector<FaultRule> Faults::Rules() {
  Ready();
  std::lock_guard guard(mutex_);
  std::vector<FaultRule> rules;
  for (const Counted& one : rules_) rules.push_back(one.rule);
  return rules;
}

}  // namespace simgpu
