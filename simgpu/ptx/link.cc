#include "simgpu/ptx/link.h"

#include <algorithm>
#include <map>
#include <unordered_map>
#include <unordered_set>

#include "simgpu/ptx/ast.h"
#include "simgpu/ptx/lexer.h"
#include "simgpu/ptx/parser.h"

namespace simgpu::ptx {
namespace {

enum class Linkage { kLocal, kVisible, kWeak, kExternal };

// One module-level statement: its tokens [first, last), and what it defines or declares.
struct Item {
  size_t first = 0, last = 0;
  bool header = false;  // .version, .target, .address_size: written once, in front.
  bool definition = false;
  Linkage linkage = Linkage::kLocal;
  bool shared = false;
  std::vector<std::string_view> names;
};

bool IsSpaceDirective(const Token& token) {
  for (std::string_view space : {".global", ".const", ".shared", ".local", ".param", ".tex"}) {
    if (token.Is(space)) return true;
  }
  return false;
}

// Cuts a text that the parser accepted into its module-level statements.
class Cutter {
 public:
  explicit Cutter(const std::vector<Token>& tokens) : tokens_(tokens) {}

  std::vector<Item> Run() {
    std::vector<Item> items;
    while (tokens_[at_].kind != Tok::kEnd) {
      const size_t before = at_;
      items.push_back(One());
      if (at_ == before) ++at_;
      items.back().last = at_;
    }
    return items;
  }

 private:
  const Token& Cur() const { return tokens_[at_]; }
  void Next() {
    if (Cur().kind != Tok::kEnd) ++at_;
  }
  // Past the bracket that closes the one at the present token.
  void SkipGroup() {
    int depth = 0;
    do {
      if (Cur().Is('{') || Cur().Is('(') || Cur().Is('[')) ++depth;
      if (Cur().Is('}') || Cur().Is(')') || Cur().Is(']')) --depth;
      Next();
    } while (depth > 0 && Cur().kind != Tok::kEnd);
  }

  Item One() {
    Item item;
    item.first = at_;
    if (Cur().Is(".version") || Cur().Is(".address_size")) {
      item.header = true;
      Next();
      Next();
      return item;
    }
    if (Cur().Is(".target")) {
      item.header = true;
      do {
        Next();
        Next();
      } while (Cur().Is(','));
      return item;
    }
    while (true) {
      if (Cur().Is(".visible")) {
        item.linkage = Linkage::kVisible;
      } else if (Cur().Is(".weak") || Cur().Is(".common")) {
        item.linkage = Linkage::kWeak;
      } else if (Cur().Is(".extern")) {
        item.linkage = Linkage::kExternal;
      } else {
        break;
      }
      Next();
    }
    if (Cur().Is(".entry") || Cur().Is(".func")) {
      Function(&item);
    } else if (IsSpaceDirective(Cur())) {
      item.shared = Cur().Is(".shared");
      Variables(&item);
    } else {
      Other();
    }
    return item;
  }

  void Function(Item* item) {
    Next();
    while (Cur().kind == Tok::kDirective) {  // .attribute(...)
      Next();
      if (Cur().Is('(')) SkipGroup();
    }
    if (Cur().Is('(')) SkipGroup();
    if (Cur().kind == Tok::kWord) item->names.push_back(Cur().text);
    while (Cur().kind != Tok::kEnd && !Cur().Is('{') && !Cur().Is(';')) Next();
    item->definition = Cur().Is('{');
    if (item->definition) {
      SkipGroup();
    } else {
      Next();
    }
  }

  // `.global .align 4 .u32 a = 1, b[2] = {3, 4};`
  void Variables(Item* item) {
    item->definition = item->linkage != Linkage::kExternal;
    bool name = true;
    while (Cur().kind != Tok::kEnd && !Cur().Is(';')) {
      if (Cur().Is('{') || Cur().Is('(') || Cur().Is('[')) {
        SkipGroup();
        continue;
      }
      if (Cur().kind == Tok::kWord && name) {
        item->names.push_back(Cur().text);
        name = false;
      }
      if (Cur().Is(',')) name = true;
      Next();
    }
    Next();
  }

  // .file, .loc, .pragma, .alias, .section: up to where the next statement begins.
  void Other() {
    const int line = Cur().line;
    const bool section = Cur().Is(".section") || Cur().Is("@@DWARF");
    const bool terminated = Cur().Is(".pragma") || Cur().Is(".alias");
    Next();
    while (Cur().kind != Tok::kEnd) {
      if (section && Cur().Is('{')) {
        SkipGroup();
        return;
      }
      if (terminated && Cur().Is(';')) {
        Next();
        return;
      }
      if (!section && !terminated && Cur().line != line) return;
      Next();
    }
  }

  const std::vector<Token>& tokens_;
  size_t at_ = 0;
};

struct Unit {
  std::vector<Token> tokens;
  std::vector<Item> items;
  std::unordered_map<std::string_view, std::string> renamed;
};

bool IsBuiltin(std::string_view name) {
  return name == "vprintf" || name == "__assertfail" || name == "malloc" || name == "free" ||
         name == "cudaGraphSetConditional";
}

}  // namespace

bool Link(const std::vector<LinkInput>& inputs, std::string* merged, std::string* why) {
  if (inputs.empty()) {
    *why = "nothing to link: no PTX was added";
    return false;
  }
  std::vector<Unit> units(inputs.size());
  int version = 0, target = 0;
  std::map<std::string, size_t, std::less<>> strong, weak;  // Where a symbol is defined.
  for (size_t u = 0; u < inputs.size(); ++u) {
    ModuleAst ast;
    ParseError error;
    if (!ParseModule(inputs[u].text, &ast, &error)) {
      *why = "ptx error in '" + inputs[u].name + "': " + error.ToString();
      return false;
    }
    version = std::max(version, ast.version);
    target = std::max(target, ast.target);
    Unit& unit = units[u];
    Tokenize(inputs[u].text, &unit.tokens, &error);
    unit.items = Cutter(unit.tokens).Run();
    for (const Item& item : unit.items) {
      if (!item.definition) continue;
      for (std::string_view name : item.names) {
        if (item.linkage == Linkage::kLocal) {
          if (u > 0) {
            // The suffix cannot be met in a compiler's names, and the first module keeps its own.
            unit.renamed.emplace(name, std::string(name) + "$unit" + std::to_string(u));
          }
        } else if (item.linkage == Linkage::kWeak) {
          weak.try_emplace(std::string(name), u);
        } else if (const auto [it, fresh] = strong.try_emplace(std::string(name), u); !fresh) {
          *why = "symbol '" + std::string(name) + "' is defined in '" + inputs[it->second].name +
                 "' and in '" + inputs[u].name + "'";
          return false;
        }
      }
    }
  }
  merged->assign(".version " + std::to_string(version / 10) + "." + std::to_string(version % 10) +
                 "\n.target sm_" + std::to_string(target) + "\n.address_size 64\n");
  std::unordered_set<std::string_view> written_weak;
  for (size_t u = 0; u < inputs.size(); ++u) {
    const Unit& unit = units[u];
    for (const Item& item : unit.items) {
      if (item.header) continue;
      if (item.linkage == Linkage::kWeak && item.definition) {
        // A strong definition wins, then the first weak one.
        const bool superseded =
            std::any_of(item.names.begin(), item.names.end(), [&](std::string_view name) {
              return strong.contains(name) || !written_weak.insert(name).second;
            });
        if (superseded) continue;
      }
      if (item.linkage == Linkage::kExternal && !item.shared) {
        for (std::string_view name : item.names) {
          if (strong.contains(name) || weak.contains(name) || IsBuiltin(name)) continue;
          *why = "undefined reference to '" + std::string(name) + "' in '" + inputs[u].name + "'";
          return false;
        }
      }
      // The statement's text as it stands, but for the names that change.
      const std::string_view text = inputs[u].text;
      const auto begin = [&](size_t token) {
        const Token& t = unit.tokens[token];
        return t.kind == Tok::kEnd ? text.size()
                                   : static_cast<size_t>(t.text.data() - text.data()) -
                                         (t.kind == Tok::kString ? 1 : 0);
      };
      size_t copied = begin(item.first);
      for (size_t k = item.first; k < item.last; ++k) {
        const Token& token = unit.tokens[k];
        if (token.kind != Tok::kWord) continue;
        const auto it = unit.renamed.find(token.text);
        if (it == unit.renamed.end()) continue;
        merged->append(text.substr(copied, begin(k) - copied));
        merged->append(it->second);
        copied = begin(k) + token.text.size();
      }
      merged->append(text.substr(copied, begin(item.last) - copied));
      merged->push_back('\n');
    }
  }
  return true;
}

}  // namespace simgpu::ptx
