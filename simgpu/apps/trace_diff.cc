#include "simgpu/apps/trace_diff.h"

#include <algorithm>
#include <cctype>
#include <map>
#include <set>

namespace simgpu::apps {
namespace {

using Threads = std::map<int, std::vector<TraceCall>>;

// One step of the way from a to b: indices of calls, or -1 for a call that the side lacks.
struct Step {
  int a = -1;
  int b = -1;
};

// Splits at commas that stand in no quotes or brackets.
std::vector<std::string> SplitArguments(std::string_view text) {
  std::vector<std::string> parts;
  std::string part;
  int depth = 0;
  bool quoted = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (quoted) {
      part += c;
      if (c == '\\' && i + 1 < text.size()) part += text[++i];
      if (c == '"') quoted = false;
      continue;
    }
    if (c == '"') quoted = true;
    if (c == '{' || c == '[') ++depth;
    if (c == '}' || c == ']') --depth;
    if (c == ',' && depth == 0) {
      parts.push_back(std::move(part));
      part.clear();
      if (i + 1 < text.size() && text[i + 1] == ' ') ++i;
      continue;
    }
    part += c;
  }
  if (!part.empty()) parts.push_back(std::move(part));
  return parts;
}

// Where the argument list that begins at `open` ends.
size_t Close(std::string_view line, size_t open) {
  bool quoted = false;
  for (size_t i = open + 1; i < line.size(); ++i) {
    if (quoted && line[i] == '\\') {
      ++i;
    } else if (line[i] == '"') {
      quoted = !quoted;
    } else if (line[i] == ')' && !quoted) {
      return i;
    }
  }
  return std::string_view::npos;
}

bool ReadAll(std::string_view text, const char* side, Threads* threads, std::string* error) {
  size_t line = 0;
  while (!text.empty()) {
    ++line;
    const size_t end = std::min(text.find('\n'), text.size());
    const std::string_view row = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    if (row.empty() || row[0] == '#') continue;
    if (line > kTraceLinesMax) {
      *error = std::string(side) +
               ": more than kTraceLinesMax = " + std::to_string(kTraceLinesMax) + " lines";
      return false;
    }
    TraceCall call;
    std::string thread;
    if (!ParseCall(row, &thread, &call)) {
      *error = std::string(side) + ":" + std::to_string(line) + ": expected a call as in \"1 t0 " +
               "cuInit(Flags=0) = CUDA_SUCCESS\"";
      return false;
    }
    (*threads)[std::stoi(thread)].push_back(std::move(call));
  }
  for (auto& [number, calls] : *threads) {
    std::stable_sort(calls.begin(), calls.end(), [](const TraceCall& x, const TraceCall& y) {
      return std::stoull(x.sequence) < std::stoull(y.sequence);
    });
  }
  return true;
}

// Myers' greedy algorithm over names. False when the sides lie too far apart.
bool LineUp(const std::vector<TraceCall>& a, const std::vector<TraceCall>& b,
            std::vector<Step>* steps) {
  const int n = static_cast<int>(a.size()), m = static_cast<int>(b.size());
  const int limit = std::min(n + m, static_cast<int>(kTraceStepsMax));
  std::vector<int> reach(2 * static_cast<size_t>(limit) + 3, 0);
  std::vector<std::vector<int>> history;
  const int middle = limit + 1;
  for (int d = 0; d <= limit; ++d) {
    history.emplace_back(reach.begin() + middle - d, reach.begin() + middle + d + 1);
    for (int k = -d; k <= d; k += 2) {
      int x = k == -d || (k != d && reach[middle + k - 1] < reach[middle + k + 1])
                  ? reach[middle + k + 1]
                  : reach[middle + k - 1] + 1;
      int y = x - k;
      while (x < n && y < m && a[x].name == b[y].name) ++x, ++y;
      reach[middle + k] = x;
      if (x < n || y < m) continue;
      // Walk back. history[d] is what was reached before round d.
      for (int step = d; step > 0; --step) {
        const std::vector<int>& was = history[step];
        auto at = [&](int diagonal) { return was[diagonal + step]; };
        const int diagonal = x - y;
        const bool down =
            diagonal == -step || (diagonal != step && at(diagonal - 1) < at(diagonal + 1));
        const int from = down ? diagonal + 1 : diagonal - 1;
        const int from_x = at(from), from_y = from_x - from;
        while (x > from_x + (down ? 0 : 1) && y > from_y + (down ? 1 : 0)) {
          steps->push_back({--x, --y});
        }
        if (down) {
          steps->push_back({-1, --y});
        } else {
          steps->push_back({--x, -1});
        }
      }
      while (x > 0 && y > 0) steps->push_back({--x, --y});
      std::reverse(steps->begin(), steps->end());
      return true;
    }
  }
  return false;
}

// Which handle of a is which of b, as far as seen.
class Names {
 public:
  // Whether the values are the same but for numbers, which are matched from now on.
  bool Same(std::string_view a, std::string_view b) {
    std::vector<std::pair<std::string, std::string>> fresh;
    while (!a.empty() && !b.empty()) {
      const std::string left = Token(&a), right = Token(&b);
      const size_t number_a = left.find('#'), number_b = right.find('#');
      if (number_a == std::string::npos || number_b == std::string::npos) {
        if (left != right) return false;
        continue;
      }
      if (left.substr(0, number_a) != right.substr(0, number_b)) return false;
      auto there = to_b_.find(left);
      auto back = to_a_.find(right);
      if (there == to_b_.end() && back == to_a_.end()) {
        fresh.emplace_back(left, right);
      } else if (there == to_b_.end() || there->second != right) {
        return false;
      }
    }
    if (a.size() != b.size()) return false;
    for (const auto& [left, right] : fresh) {
      to_b_[left] = right;
      to_a_[right] = left;
    }
    return true;
  }

 private:
  // A word with its "#number", or one other character. Quoted text is never a handle.
  static std::string Token(std::string_view* text) {
    size_t end = 0;
    if ((*text)[0] == '"') {
      for (end = 1; end < text->size() && (*text)[end] != '"'; ++end) {
        if ((*text)[end] == '\\') ++end;
      }
      end = std::min(end + 1, text->size());
    } else {
      while (end < text->size() &&
             (std::isalnum(static_cast<unsigned char>((*text)[end])) || (*text)[end] == '#')) {
        ++end;
      }
      end = std::max<size_t>(end, 1);
    }
    std::string token(text->substr(0, end));
    text->remove_prefix(end);
    return token;
  }

  std::map<std::string, std::string> to_b_, to_a_;
};

std::string Text(const TraceCall& call) {
  std::string text = call.name + "(";
  for (size_t i = 0; i < call.arguments.size(); ++i) {
    text += (i > 0 ? ", " : "") + call.arguments[i].first + "=" + call.arguments[i].second;
  }
  return text + ") = " + call.result;
}

}  // namespace

bool ParseCall(std::string_view line, std::string* thread, TraceCall* call) {
  auto digits = [&] {
    std::string number;
    while (!line.empty() && std::isdigit(static_cast<unsigned char>(line[0])) != 0) {
      number += line[0];
      line.remove_prefix(1);
    }
    return number;
  };
  call->sequence = digits();
  if (call->sequence.empty() || call->sequence.size() > 18 || !line.starts_with(" t")) return false;
  line.remove_prefix(2);
  *thread = digits();
  if (thread->empty() || thread->size() > 8 || !line.starts_with(" cu")) return false;
  line.remove_prefix(1);
  const size_t open = line.find('(');
  if (open == std::string_view::npos) return false;
  call->name = line.substr(0, open);
  const size_t close = Close(line, open);
  if (close == std::string_view::npos || !line.substr(close).starts_with(") = ")) return false;
  for (const std::string& part : SplitArguments(line.substr(open + 1, close - open - 1))) {
    const size_t equals = part.find('=');
    if (equals == std::string::npos) return false;
    call->arguments.emplace_back(part.substr(0, equals), part.substr(equals + 1));
  }
  call->result = line.substr(close + 4);
  return !call->result.empty();
}

TraceDiff CompareTraces(std::string_view a, std::string_view b,
                        const std::vector<std::string>& ignore) {
  TraceDiff diff;
  Threads left, right;
  if (!ReadAll(a, "A", &left, &diff.error) || !ReadAll(b, "B", &right, &diff.error)) return diff;
  const std::set<std::string> ignored(ignore.begin(), ignore.end());
  for (Threads* threads : {&left, &right}) {
    for (auto& [number, calls] : *threads) {
      std::erase_if(calls, [&](const TraceCall& call) { return ignored.contains(call.name); });
    }
  }
  std::set<int> numbers;
  for (const Threads* threads : {&left, &right}) {
    for (const auto& [number, calls] : *threads) numbers.insert(number);
  }
  Names names;
  for (int number : numbers) {
    const std::vector<TraceCall>&calls_a = left[number], &calls_b = right[number];
    const std::string thread = "t" + std::to_string(number) + " ";
    std::vector<Step> steps;
    if (!LineUp(calls_a, calls_b, &steps)) {
      diff.error = "t" + std::to_string(number) +
                   ": more than kTraceStepsMax = " + std::to_string(kTraceStepsMax) +
                   " calls that only one side has";
      return diff;
    }
    for (const Step& step : steps) {
      if (step.b < 0) {
        diff.differences.push_back(thread + "A " + calls_a[step.a].sequence +
                                   ": only there: " + Text(calls_a[step.a]));
        continue;
      }
      if (step.a < 0) {
        diff.differences.push_back(thread + "B " + calls_b[step.b].sequence +
                                   ": only there: " + Text(calls_b[step.b]));
        continue;
      }
      ++diff.calls;
      const TraceCall &one = calls_a[step.a], &other = calls_b[step.b];
      std::string what;
      auto note = [&](const std::string& field, const std::string& x, const std::string& y) {
        what += (what.empty() ? "" : "; ") + field + " " + x + " | " + y;
      };
      if (one.result != other.result) note("result", one.result, other.result);
      for (size_t i = 0; i < std::max(one.arguments.size(), other.arguments.size()); ++i) {
        if (i >= one.arguments.size() || i >= other.arguments.size() ||
            one.arguments[i].first != other.arguments[i].first) {
          note("parameters", std::to_string(one.arguments.size()),
               std::to_string(other.arguments.size()));
          break;
        }
        const auto& [field, x] = one.arguments[i];
        const std::string& y = other.arguments[i].second;
        if (ignored.contains(one.name + "." + field) || names.Same(x, y)) continue;
        // What a failed call did not write is its result's difference, not one more.
        if (one.result != other.result && (x == "&" || y == "&")) continue;
        note(field, x, y);
      }
      if (!what.empty()) {
        diff.differences.push_back(thread + "A " + one.sequence + ", B " + other.sequence + ": " +
                                   one.name + ": " + what);
      }
    }
  }
  return diff;
}

}  // namespace simgpu::apps
