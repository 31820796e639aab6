#include "node/cdi.h"

#include <cctype>

#include "http/json.h"

namespace tessera::node {

namespace {
constexpr char kPrefix[] = "tessera-";
constexpr char kSuffix[] = ".json";

void WriteMount(http::JsonWriter* json, const std::string& from, const std::string& to,
                bool writable) {
  json->BeginObject()
      .Field("hostPath", from)
      .Field("containerPath", to)
      .Key("options")
      .BeginArray();
  for (const char* option : {writable ? "rw" : "ro", "nosuid", "nodev", "bind"})
    json->Value(option);
  json->EndArray().EndObject();
}
}  // namespace

Result<std::string> CdiSpec(const CdiOptions& options, const std::string& guest_folder,
                            const std::string& slice, const std::vector<device::Share>& shares) {
  if (slice.empty() || std::isalnum(static_cast<unsigned char>(slice.back())) == 0) {
    return Error::Field("slice",
                        "expected a name that ends in a letter or digit, as CDI asks of a device");
  }
  http::JsonWriter json;
  // Nothing here is newer than 0.5.0, and podman 4.3 (Debian 12) does not read specs of 0.6.0.
  json.BeginObject().Field("cdiVersion", "0.5.0").Field("kind", kCdiKind);
  json.Key("devices")
      .BeginArray()
      .BeginObject()
      .Field("name", slice)
      .Key("containerEdits")
      .BeginObject();
  json.Key("env").BeginArray();
  json.Value("TESSERA_SLICE=" + slice);
  // Keeps NVIDIA's own runtime, where there is one, from adding the cards a second time.
  json.Value("NVIDIA_VISIBLE_DEVICES=void");
  for (const std::string& variable : options.environment) json.Value(variable);
  json.EndArray();
  std::vector<std::string> nodes = options.device_nodes;
  for (const device::Share& share : shares) {
    if (const auto at = options.node_of_card.find(share.card_uuid);
        at != options.node_of_card.end()) {
      nodes.push_back(at->second);
    }
  }
  if (!nodes.empty()) {
    json.Key("deviceNodes").BeginArray();
    for (const std::string& node : nodes) json.BeginObject().Field("path", node).EndObject();
    json.EndArray();
  }
  json.Key("mounts").BeginArray();
  WriteMount(&json, guest_folder, "/run/tessera", false);
  WriteMount(&json, options.cuda, std::string(kInsideReal) + "/libcuda.so.1", false);
  WriteMount(&json, options.nvml, std::string(kInsideReal) + "/libnvidia-ml.so.1", false);
  for (const char* folder : kInsideLibraries) {
    // One file under both names: whichever a program opens first, it has one library of ours.
    WriteMount(&json, options.wall_library, std::string(folder) + "/libcuda.so.1", false);
    WriteMount(&json, options.wall_library, std::string(folder) + "/libnvidia-ml.so.1", false);
  }
  for (const runtime::Bind& bind : options.mounts) {
    WriteMount(&json, bind.source, bind.target.empty() ? bind.source : bind.target, bind.writable);
  }
  json.EndArray().EndObject().EndObject().EndArray().EndObject();
  return json.Take() + "\n";
}

std::string CdiPath(const CdiOptions& options, const std::string& slice) {
  return options.folder + "/" + kPrefix + slice + kSuffix;
}

std::string CdiSliceOf(const std::string& file) {
  const std::size_t prefix = sizeof(kPrefix) - 1, suffix = sizeof(kSuffix) - 1;
  if (file.size() <= prefix + suffix || !file.starts_with(kPrefix) || !file.ends_with(kSuffix))
    return "";
  return file.substr(prefix, file.size() - prefix - suffix);
}

}  // namespace tessera::node
