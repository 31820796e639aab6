// Stream memory operations: streams that wait for, or write, words of memory.
#include <vector>

#include "abi/cuda_graph.h"
#include "simgpu/driver/executor.h"

namespace simgpu {
namespace {

constexpr unsigned int kOperationsMax = 256;  // of one cuStreamBatchMemOp
constexpr unsigned int kFlush = 1u << 30;     // CU_STREAM_WAIT_VALUE_FLUSH
constexpr unsigned int kNoBarrier = 1;        // CU_STREAM_WRITE_VALUE_NO_MEMORY_BARRIER

CUresult Wait(CUstream stream, StreamForm form, CUdeviceptr address, uint64_t value, uint32_t bytes,
              unsigned int flags) {
  // Writes of other devices are never late here, but the attribute that a flush needs says no.
  if ((flags & kFlush) != 0) return CUDA_ERROR_NOT_SUPPORTED;
  if (flags > 3) return CUDA_ERROR_INVALID_VALUE;
  return Put(stream, form, WordAction{address, value, bytes, false, flags});
}

CUresult Write(CUstream stream, StreamForm form, CUdeviceptr address, uint64_t value,
               uint32_t bytes, unsigned int flags) {
  if (flags > kNoBarrier) return CUDA_ERROR_INVALID_VALUE;
  return Put(stream, form, WordAction{address, value, bytes, true, flags});
}

CUresult Batch(CUstream stream, StreamForm form, unsigned int count,
               const CUstreamBatchMemOpParams* operations, unsigned int flags) {
  SIMGPU_CURRENT(driver, context);
  if (flags != 0 || count > kOperationsMax || (count > 0 && operations == nullptr)) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  std::vector<WordAction> words;
  if (CUresult bad = WordsOf(driver, context, count, operations, &words)) return bad;
  for (const WordAction& word : words) {
    if (CUresult bad = Put(stream, form, word)) return bad;
  }
  return CUDA_SUCCESS;
}

}  // namespace

CUresult WordsOf(Driver* driver, Context* context, unsigned int count,
                 const CUstreamBatchMemOpParams* operations, std::vector<WordAction>* words) {
  for (unsigned int i = 0; i < count; ++i) {
    const CUstreamBatchMemOpParams& one = operations[i];
    WordAction word{one.address, one.value64, 4, false, one.flags};
    switch (one.operation) {
      case CU_STREAM_MEM_OP_WAIT_VALUE_64:
      case CU_STREAM_MEM_OP_WRITE_VALUE_64:
        word.bytes = 8;
        break;
      case CU_STREAM_MEM_OP_WAIT_VALUE_32:
      case CU_STREAM_MEM_OP_WRITE_VALUE_32:
        word.value &= UINT32_MAX;
        break;
      case CU_STREAM_MEM_OP_BARRIER:
        continue;  // operations of one stream are in order anyway
      case CU_STREAM_MEM_OP_FLUSH_REMOTE_WRITES:
        return CUDA_ERROR_NOT_SUPPORTED;
      default:
        return CUDA_ERROR_INVALID_VALUE;
    }
    word.write = one.operation == CU_STREAM_MEM_OP_WRITE_VALUE_32 ||
                 one.operation == CU_STREAM_MEM_OP_WRITE_VALUE_64;
    if (!word.write && (one.flags & kFlush) != 0) return CUDA_ERROR_NOT_SUPPORTED;
    if (one.flags > (word.write ? kNoBarrier : 3u)) return CUDA_ERROR_INVALID_VALUE;
    std::lock_guard guard(driver->mutex);
    int device = 0;
    if (word.address % word.bytes != 0 ||
        (ReachFor(*driver, context->device, word.address, word.bytes, word.write) == nullptr &&
         ReachInGraph(*driver, word.address, word.bytes, &device) == nullptr)) {
      return CUDA_ERROR_INVALID_VALUE;
    }
    words->push_back(word);
  }
  return CUDA_SUCCESS;
}

}  // namespace simgpu

namespace tessera::abi {
using namespace simgpu;  // NOLINT

extern "C" {

CUresult cuStreamWaitValue32_v2(CUstream stream, CUdeviceptr address, cuuint32_t value,
                                unsigned int flags) {
  return Wait(stream, StreamForm::kLegacy, address, value, 4, flags);
}
CUresult cuStreamWaitValue32_v2_ptsz(CUstream stream, CUdeviceptr address, cuuint32_t value,
                                     unsigned int flags) {
  return Wait(stream, StreamForm::kPerThread, address, value, 4, flags);
}

CUresult cuStreamWaitValue64_v2(CUstream stream, CUdeviceptr address, cuuint64_t value,
                                unsigned int flags) {
  return Wait(stream, StreamForm::kLegacy, address, value, 8, flags);
}
CUresult cuStreamWaitValue64_v2_ptsz(CUstream stream, CUdeviceptr address, cuuint64_t value,
                                     unsigned int flags) {
  return Wait(stream, StreamForm::kPerThread, address, value, 8, flags);
}

CUresult cuStreamWriteValue32_v2(CUstream stream, CUdeviceptr address, cuuint32_t value,
                                 unsigned int flags) {
  return Write(stream, StreamForm::kLegacy, address, value, 4, flags);
}
CUresult cuStreamWriteValue32_v2_ptsz(CUstream stream, CUdeviceptr address, cuuint32_t value,
                                      unsigned int flags) {
  return Write(stream, StreamForm::kPerThread, address, value, 4, flags);
}

CUresult cuStreamWriteValue64_v2(CUstream stream, CUdeviceptr address, cuuint64_t value,
                                 unsigned int flags) {
  return Write(stream, StreamForm::kLegacy, address, value, 8, flags);
}
CUresult cuStreamWriteValue64_v2_ptsz(CUstream stream, CUdeviceptr address, cuuint64_t value,
                                      unsigned int flags) {
  return Write(stream, StreamForm::kPerThread, address, value, 8, flags);
}

CUresult cuStreamBatchMemOp_v2(CUstream stream, unsigned int count,
                               CUstreamBatchMemOpParams* operations, unsigned int flags) {
  return Batch(stream, StreamForm::kLegacy, count, operations, flags);
}
CUresult cuStreamBatchMemOp_v2_ptsz(CUstream stream, unsigned int count,
                                    CUstreamBatchMemOpParams* operations, unsigned int flags) {
  return Batch(stream, StreamForm::kPerThread, count, operations, flags);
}

}  // extern "C"

// The first version of these calls differs in nothing but what has to be asked before using it.
SIMGPU_ALIAS(cuStreamWaitValue32_v2, cuStreamWaitValue32);
SIMGPU_ALIAS(cuStreamWaitValue32_v2_ptsz, cuStreamWaitValue32_ptsz);
SIMGPU_ALIAS(cuStreamWaitValue64_v2, cuStreamWaitValue64);
SIMGPU_ALIAS(cuStreamWaitValue64_v2_ptsz, cuStreamWaitValue64_ptsz);
SIMGPU_ALIAS(cuStreamWriteValue32_v2, cuStreamWriteValue32);
SIMGPU_ALIAS(cuStreamWriteValue32_v2_ptsz, cuStreamWriteValue32_ptsz);
SIMGPU_ALIAS(cuStreamWriteValue64_v2, cuStreamWriteValue64);
SIMGPU_ALIAS(cuStreamWriteValue64_v2_ptsz, cuStreamWriteValue64_ptsz);
SIMGPU_ALIAS(cuStreamBatchMemOp_v2, cuStreamBatchMemOp);
SIMGPU_ALIAS(cuStreamBatchMemOp_v2_ptsz, cuStreamBatchMemOp_ptsz);

}  // namespace tessera::abi
