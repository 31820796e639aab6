#include "os/error.h"

#include <cerrno>
#include <string>
#include <system_error>

namespace tessera::os {
namespace {

Code CodeOf(int number) {
  switch (number) {
    case ENOENT:
    case ESRCH:
      return Code::kNotFound;
    case EEXIST:
    case EADDRINUSE:
      return Code::kAlreadyExists;
    case EACCES:
    case EPERM:
      return Code::kPermissionDenied;
    case ENOSPC:
    case EDQUOT:
    case EMFILE:
    case ENFILE:
    case ENOMEM:
      return Code::kResourceExhausted;
    case ECONNREFUSED:
    case ECONNRESET:
    case EPIPE:
    case EAGAIN:
      return Code::kUnavailable;
    case ETIMEDOUT:
      return Code::kDeadlineExceeded;
    case ENAMETOOLONG:
      return Code::kInvalidArgument;
    case ENOTEMPTY:
    case EISDIR:
    case ENOTDIR:
      return Code::kFailedPrecondition;
    default:
      return Code::kInternal;
  }
}

}  // namespace

Error ErrnoError(std::string_view action, std::string_view subject, int number) {
  std::string message(action);
  message.append(" ").append(subject).append(": ");
  message.append(std::generic_category().message(number));
  return Error(CodeOf(number), std::move(message));
}

}  // namespace tessera::os
