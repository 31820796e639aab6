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

.macro gate symbol
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
// None of them touches the stack, so one unwinding entry serves them all.
        .section .text.gate, "ax", @progbits
        .p2align 4
        .cfi_startproc
#include "guest/cuda/wrapped.inc"
        .cfi_endproc
#undef TESSERA_ENTRY

// Where every wrapper is, as distances from here: a table of pointers would be 24 bytes of relocation each.
        .section .rodata.wrappers, "a", @progbits
        .p2align 2
        .hidden tessera_cuda_wrappers
        .globl  tessera_cuda_wrappers
        .type   tessera_cuda_wrappers, @object
tessera_cuda_wrappers:
#define TESSERA_ENTRY(symbol, base, version, flag, treatment, ret, parameters, arguments) \
  .long symbol - tessera_cuda_wrappers;
#include "guest/cuda/wrapped.inc"
        .size   tessera_cuda_wrappers, .-tessera_cuda_wrappers

// The gate is not open, or the driver's function is not known yet: index in %eax, the caller's arguments everywhere.
// The arguments go into a GateFrame (gate.h). What concerns no turn is jumped to as above; a gated call is made from
// here, because the turn's books are kept on its return. Five arguments at most are on the stack; six words are copied.
#define FRAME 112
#define FRAME_MORE 48
#define FRAME_CALLED 56
        .text
        .hidden tessera_gate_slow
        .globl  tessera_gate_slow
        .type   tessera_gate_slow, @function
        .p2align 4
tessera_gate_slow:
        .cfi_startproc
        pushq   %rbp
        .cfi_def_cfa_offset 16
        .cfi_offset %rbp, -16
        movq    %rsp, %rbp
        .cfi_def_cfa_register %rbp
        subq    $FRAME, %rsp
        movq    %rdi, 0(%rsp)
        movq    %rsi, 8(%rsp)
        movq    %rdx, 16(%rsp)
        movq    %rcx, 24(%rsp)
        movq    %r8, 32(%rsp)
        movq    %r9, 40(%rsp)
        leaq    16(%rbp), %rcx
        movq    %rcx, FRAME_MORE(%rsp)
        movq    %rsp, %rdi
        movl    %eax, %esi
        call    tessera_gate_enter
        testq   %rax, %rax
        je      3f
        movq    0(%rsp), %rdi
        movq    8(%rsp), %rsi
        movq    16(%rsp), %rdx
        movq    24(%rsp), %rcx
        movq    32(%rsp), %r8
        movq    40(%rsp), %r9
        cmpl    $0, FRAME_CALLED(%rsp)
        jne     2f
        .cfi_remember_state
        leave
        .cfi_def_cfa %rsp, 8
        jmp     *%rax
2:      .cfi_restore_state
        pushq   56(%rbp)
        pushq   48(%rbp)
        pushq   40(%rbp)
        pushq   32(%rbp)
        pushq   24(%rbp)
        pushq   16(%rbp)
        call    *%rax
        leaq    -FRAME(%rbp), %rdi
        movl    %eax, %esi
        movl    %eax, -8(%rbp)
        movq    %rdi, %rsp
        call    tessera_gate_leave
        movl    -8(%rbp), %eax
        .cfi_remember_state
        leave
        .cfi_def_cfa %rsp, 8
        ret
3:      .cfi_restore_state
        leave
        .cfi_def_cfa %rsp, 8
        jmp     tessera_gate_missing
        .cfi_endproc
        .size   tessera_gate_slow, .-tessera_gate_slow

#endif
        .section .note.GNU-stack, "", %progbits
