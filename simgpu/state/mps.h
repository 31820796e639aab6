// What clients, server and control program of the simulated MPS agree on: where they meet and what
// they say. The variables, commands and formats of text are those of NVIDIA's public documentation
// of the Multi-Process Service; the messages are our own.
//
// A client connects to `control` in the pipe folder (SOCK_SEQPACKET) and says kHello. The daemon
// hands the connection to the server of that user, made when there is none; from then on the server
// answers. A message is one packet of text:
//
//   client  "card UUID"         it has a context there: "ok PERCENT LIMIT" or "no REASON" comes
//   back client  "fault CODE"        its kernel faulted server  "fault CODE"        some client's
//   did, or it is told to end: every context has the error the end of the connection   the server,
//   or the client, is no more
//
// Pure but for MpsConnect. Thread-safe.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>

namespace simgpu {

inline constexpr char kMpsPipeFolder[] = "/tmp/nvidia-mps";  // without CUDA_MPS_PIPE_DIRECTORY
inline constexpr char kMpsControl[] = "control";
inline constexpr char kMpsHello[] = "client";
inline constexpr uint32_t kMpsMessageMax = 8192;  // bytes of a packet

// A percentage above 0 up to 100, decimals allowed, as per mille, at least 1. False: it is none.
bool ParseMpsPercentage(std::string_view text, uint32_t* permille);
// "30.0"
std::string MpsPercentageText(uint32_t permille);
// A size as the memory limits have it: an integer followed by G or M ("GB" and "MB" too), in units
// of 1024. False: it is none.
bool ParseMpsSize(std::string_view text, uint64_t* bytes);
// "0=1G,1=512M": by device ordinal. False: something in it is wrong, and nothing was changed.
bool ParseMpsLimits(std::string_view text, std::map<uint32_t, uint64_t>* limits);
// The whole multiprocessors a percentage gives of a card, as per mille of them, at least one.
uint32_t MpsCoverage(uint32_t permille, uint32_t multiprocessors);

// A connection to the daemon of that pipe folder; -1 with errno when none answers.
int MpsConnect(const std::string& pipe_folder);

}  // namespace simgpu
