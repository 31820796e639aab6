// Every entry point of both driver libraries that Tessera hands on (treatment "pass"), as one jump to the real one. No
// argument is touched, so one shape serves every signature. Only in the library that is the driver; a preloaded one
// leaves these names alone.
#if !defined(__x86_64__)
#error "the wall is built for x86-64"
#endif

        .set    index, 0

.macro pass symbol
        .section .text.pass, "ax", @progbits
        .globl  \symbol
        .type   \symbol, @function
        .p2align 4
\symbol:
        endbr64
        movq    tessera_pass_real+8*index(%rip), %rax
        testq   %rax, %rax
        je      1f
        jmp     *%rax
1:      movl    $index, %eax
        jmp     tessera_pass_slow
        .size   \symbol, .-\symbol
        .set    index, index + 1
.endm

#define TESSERA_ENTRY(symbol, base, version, flag, treatment, ret, parameters, arguments) pass symbol;
#include "guest/cuda/passed.inc"
#include "guest/nvml/passed.inc"

// The real function is not known yet: index in %eax, the caller's arguments everywhere, those in vector registers too.
        .text
        .type   tessera_pass_slow, @function
        .p2align 4
tessera_pass_slow:
        .cfi_startproc
        pushq   %rbp
        .cfi_adjust_cfa_offset 8
        .cfi_rel_offset %rbp, 0
        movq    %rsp, %rbp
        .cfi_def_cfa_register %rbp
        pushq   %rdi
        pushq   %rsi
        pushq   %rdx
        pushq   %rcx
        pushq   %r8
        pushq   %r9
        subq    $64, %rsp
        movsd   %xmm0, (%rsp)
        movsd   %xmm1, 8(%rsp)
        movsd   %xmm2, 16(%rsp)
        movsd   %xmm3, 24(%rsp)
        movl    %eax, %edi
        call    tessera_pass_open
        movsd   (%rsp), %xmm0
        movsd   8(%rsp), %xmm1
        movsd   16(%rsp), %xmm2
        movsd   24(%rsp), %xmm3
        addq    $64, %rsp
        popq    %r9
        popq    %r8
        popq    %rcx
        popq    %rdx
        popq    %rsi
        popq    %rdi
        popq    %rbp
        .cfi_def_cfa %rsp, 8
        jmp     *%rax
        .cfi_endproc
        .size   tessera_pass_slow, .-tessera_pass_slow

        .section .note.GNU-stack, "", %progbits
