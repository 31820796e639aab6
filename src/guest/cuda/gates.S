// The wrappers of everything that submits work (treatment "gate" of the manifest), whatever its parameters: count one
// submission of this process, look at the turn word, jump to the driver. No argument is touched, so one shape serves
// every signature, and a launch pays nine instructions. Only integer and pointer arguments exist in these calls.
//
// The count is one plain increment: two threads may count one for two, an exact count would cost a locked instruction.
// generated.cc asserts the offsets and gives the same wrappers in C++ to other machines.
#if defined(__x86_64__)

#define PROCESS_SLOT 0
#define PROCESS_GATE 16
#define SLOT_LAUNCHES 16

        .set    index, 0

// No unwind table: these jump and never call, so they are on no stack, and a hundred entries are kilobytes.
.macro gate symbol
        .section .text.gate, "ax", @progbits
        .globl  \symbol
        .type   \symbol, @function
        .p2align 4
\symbol:
        endbr64
        movq    tessera_process+PROCESS_SLOT(%rip), %rax
        testq   %rax, %rax
        je      1f
        incq    SLOT_LAUNCHES(%rax)
        movq    tessera_process+PROCESS_GATE(%rip), %rax
        cmpl    $0, (%rax)
        jne     2f
1:      movq    tessera_cuda_real+8*index(%rip), %rax
        testq   %rax, %rax
        je      2f
        jmp     *%rax
2:      movl    $index, %eax
        jmp     tessera_gate_slow
        .size   \symbol, .-\symbol
        .set    index, index + 1
.endm

.macro other
        .set    index, index + 1
.endm

#define TESSERA_DO_gate(symbol) gate symbol
#define TESSERA_DO_account(symbol) other
#define TESSERA_DO_free(symbol) other
#define TESSERA_DO_virtualise(symbol) other
#define TESSERA_DO_lifecycle(symbol) other
#define TESSERA_DO_deny(symbol) other
#define TESSERA_ENTRY(symbol, base, version, flag, treatment, ret, parameters, arguments) \
  TESSERA_DO_##treatment(symbol);
#include "guest/cuda/wrapped.inc"

// The turn word is shut, or the driver's function is not known yet: index in %eax, the caller's arguments everywhere.
        .text
        .hidden tessera_gate_slow
        .globl  tessera_gate_slow
        .type   tessera_gate_slow, @function
        .p2align 4
tessera_gate_slow:
        .cfi_startproc
        pushq   %rdi
        .cfi_adjust_cfa_offset 8
        pushq   %rsi
        .cfi_adjust_cfa_offset 8
        pushq   %rdx
        .cfi_adjust_cfa_offset 8
        pushq   %rcx
        .cfi_adjust_cfa_offset 8
        pushq   %r8
        .cfi_adjust_cfa_offset 8
        pushq   %r9
        .cfi_adjust_cfa_offset 8
        pushq   %rax
        .cfi_adjust_cfa_offset 8
        movl    %eax, %edi
        call    tessera_gate_open
        popq    %rdi
        .cfi_adjust_cfa_offset -8
        popq    %r9
        .cfi_adjust_cfa_offset -8
        popq    %r8
        .cfi_adjust_cfa_offset -8
        popq    %rcx
        .cfi_adjust_cfa_offset -8
        popq    %rdx
        .cfi_adjust_cfa_offset -8
        popq    %rsi
        .cfi_adjust_cfa_offset -8
        testq   %rax, %rax
        je      1f
        popq    %rdi
        .cfi_adjust_cfa_offset -8
        jmp     *%rax
        .cfi_adjust_cfa_offset 8
1:      addq    $8, %rsp
        .cfi_adjust_cfa_offset -8
        jmp     tessera_gate_missing
        .cfi_endproc
        .size   tessera_gate_slow, .-tessera_gate_slow

#endif
        .section .note.GNU-stack, "", %progbits
