// User objects: things of the program that graphs keep alive by counting.
#include <limits.h>

#include "simgpu/driver/graph.h"

namespace simgpu {

struct UserObject : Object {
  UserObject() : Object(Kind::kUserObject) {}
  Destructor destructor;
  uint64_t count = 0;       // all references, those of graphs included
  uint64_t of_program = 0;  // those the program holds and may release
};

namespace {

size_t object_count = 0;  // Driver::mutex

CUresult FindObject(const Driver& driver, CUuserObject handle, UserObject** object) {
  *object = Live<UserObject>(driver, handle, Kind::kUserObject);
  return *object != nullptr ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

void Drop(Driver* driver, UserObject* object, uint64_t count, Destructors* destructors) {
  object->count -= count;
  if (object->count > 0) return;
  destructors->push_back(object->destructor);
  driver->live.erase(object);
  --object_count;
  delete object;
}

bool CountOk(unsigned int count) { return count > 0 && count <= INT_MAX; }

}  // namespace

void RetainAll(const std::map<UserObject*, unsigned int>& objects) {
  for (const auto& [object, count] : objects) object->count += count;
}

void RetainOne(UserObject* object) { ++object->count; }

void ReleaseAll(Driver* driver, std::map<UserObject*, unsigned int>* objects,
                Destructors* destructors) {
  for (const auto& [object, count] : *objects) Drop(driver, object, count, destructors);
  objects->clear();
}

void Call(const Destructors& destructors) {
  for (const Destructor& destructor : destructors) destructor.function(destructor.data);
}

void ReleaseUserObjects(Driver* driver, Graph* graph, Destructors* destructors) {
  ReleaseAll(driver, &graph->user_objects, destructors);
  for (const auto& node : graph->nodes) {
    node->body.ForEachWithin(
        [&](Graph* within) { ReleaseUserObjects(driver, within, destructors); });
  }
}

}  // namespace simgpu

namespace tessera::abi {
using namespace simgpu;  // NOLINT

extern "C" {

CUresult cuUserObjectCreate(CUuserObject* handle, void* data, CUhostFn destroy, unsigned int count,
                            unsigned int flags) {
  SIMGPU_DRIVER(driver);
  if (handle == nullptr || destroy == nullptr || !CountOk(count) ||
      flags != CU_USER_OBJECT_NO_DESTRUCTOR_SYNC) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  std::lock_guard guard(driver->mutex);
  if (object_count >= kUserObjectsMax) return BoundHit("kUserObjectsMax", kUserObjectsMax);
  ++object_count;
  auto* object = new UserObject;
  object->destructor = {destroy, data};
  object->count = object->of_program = count;
  driver->live.insert(object);
  *handle = reinterpret_cast<CUuserObject>(object);
  return CUDA_SUCCESS;
}

CUresult cuUserObjectRetain(CUuserObject handle, unsigned int count) {
  SIMGPU_DRIVER(driver);
  if (!CountOk(count)) return CUDA_ERROR_INVALID_VALUE;
  std::lock_guard guard(driver->mutex);
  UserObject* object = nullptr;
  if (CUresult bad = FindObject(*driver, handle, &object)) return bad;
  object->count += count;
  object->of_program += count;
  return CUDA_SUCCESS;
}

CUresult cuUserObjectRelease(CUuserObject handle, unsigned int count) {
  SIMGPU_DRIVER(driver);
  if (!CountOk(count)) return CUDA_ERROR_INVALID_VALUE;
  Destructors destructors;
  {
    std::lock_guard guard(driver->mutex);
    UserObject* object = nullptr;
    if (CUresult bad = FindObject(*driver, handle, &object)) return bad;
    if (count > object->of_program) return CUDA_ERROR_INVALID_VALUE;
    object->of_program -= count;
    Drop(driver, object, count, &destructors);
  }
  Call(destructors);
  return CUDA_SUCCESS;
}

CUresult cuGraphRetainUserObject(CUgraph graph_handle, CUuserObject handle, unsigned int count,
                                 unsigned int flags) {
  SIMGPU_DRIVER(driver);
  if (!CountOk(count) || (flags & ~CU_GRAPH_USER_OBJECT_MOVE) != 0) return CUDA_ERROR_INVALID_VALUE;
  std::lock_guard guard(driver->mutex);
  Graph* graph = nullptr;
  UserObject* object = nullptr;
  if (CUresult bad = FindGraph(*driver, graph_handle, &graph)) return bad;
  if (CUresult bad = FindObject(*driver, handle, &object)) return bad;
  unsigned int& held = graph->user_objects[object];
  const bool fits = held <= INT_MAX - count;
  if (!fits || ((flags & CU_GRAPH_USER_OBJECT_MOVE) != 0 && count > object->of_program)) {
    if (held == 0) graph->user_objects.erase(object);
    return CUDA_ERROR_INVALID_VALUE;
  }
  held += count;
  if ((flags & CU_GRAPH_USER_OBJECT_MOVE) != 0) {
    object->of_program -= count;
  } else {
    object->count += count;
  }
  return CUDA_SUCCESS;
}

CUresult cuGraphReleaseUserObject(CUgraph graph_handle, CUuserObject handle, unsigned int count) {
  SIMGPU_DRIVER(driver);
  if (!CountOk(count)) return CUDA_ERROR_INVALID_VALUE;
  Destructors destructors;
  {
    std::lock_guard guard(driver->mutex);
    Graph* graph = nullptr;
    UserObject* object = nullptr;
    if (CUresult bad = FindGraph(*driver, graph_handle, &graph)) return bad;
    if (CUresult bad = FindObject(*driver, handle, &object)) return bad;
    auto held = graph->user_objects.find(object);
    if (held == graph->user_objects.end() || held->second < count) return CUDA_ERROR_INVALID_VALUE;
    held->second -= count;
    if (held->second == 0) graph->user_objects.erase(held);
    Drop(driver, object, count, &destructors);
  }
  Call(destructors);
  return CUDA_SUCCESS;
}

}  // extern "C"

}  // namespace tessera::abi
