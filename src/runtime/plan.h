// From what the caller asks to what tessera-init executes: checks every field, then writes the
// plan. Pure except for looking at paths. Thread-safe.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"
#include "runtime/cgroups.h"
#include "runtime/record.h"
#include "runtime/runtime.h"

namespace tessera::runtime {

Status CheckInstanceId(const std::string& id);
// `field` names the command line in errors.
Status CheckArgv(const std::vector<std::string>& argv, const std::string& field);
// All of a spec. `contained` is how it would run.
Status CheckSpec(const Spec& spec, bool contained);
Status CheckOptions(const Options& options);

// What only Start knows beside the spec.
struct PlanContext {
  bool contained = false;
  std::string why_not_contained;
  uid_t uid = 0;
  std::string folder;     // of the instance
  std::string run_token;  // marks processes of an instance that is not contained
  CgroupLeaf leaf;        // contained
  std::string supervisors_procs;
  std::vector<std::string> unenforced;
};

// The plan of a spec that passed CheckSpec.
Record MakePlan(const Options& options, const Spec& spec, const PlanContext& context);

// The environment of the instance's programs: defaults, then the workload's, then the node's;
// LD_LIBRARY_PATH of both is joined with the node's in front.
std::vector<std::string> MakeEnvironment(const Options& options, const Spec& spec,
                                         const PlanContext& context);

}  // namespace tessera::runtime
