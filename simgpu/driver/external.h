// Memory and semaphores that other interfaces made, as a descriptor names them.
//
// Memory is a file: one that cuMemExportToShareableHandle or a pool's export gave is that memory;
// any other regular file or memory file stands for an allocation of another interface (as Vulkan
// exports one) on the device of the current context, as long as the file. Such an interface takes
// nothing of the card by itself here, so the first process that imports the file does, by the same
// lock as for memory whose maker is gone (vmm.h), until its import and all that was mapped from it
// are gone.
//
// A semaphore is a file whose first 8 bytes are its value: a timeline's, or 0 and 1 of one that a
// signal sets and a wait takes back.
#pragma once

#include "simgpu/driver/array.h"

namespace simgpu {

inline constexpr size_t kExternalSemaphoresMax = 4'096;  // of one call that signals or waits

// Storage for a mipmapped array in external memory. Mutex held.
CUresult TakeExternal(Driver* driver, const ExternalPlace& place, uint64_t bytes, Allocation* made);
// Destroys what the context has imported. Mutex held.
void DropExternals(Driver* driver, Context* context);

}  // namespace simgpu
