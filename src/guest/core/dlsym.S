// dlsym and dlvsym. Each asks tessera_choose_* first: a non-null answer is returned, else control JUMPS to the
// loader's function with the caller's return address still in place, because the loader finds out who asks for
// RTLD_NEXT by looking at it. The choice comes back as a pair: the answer and the name to ask for.

#if defined(__x86_64__)
.macro door name, choose, real
        .globl  \name
        .hidden \name
        .type   \name, @function
        .p2align 4
\name:
        .cfi_startproc
        endbr64
        pushq   %rdi
        .cfi_adjust_cfa_offset 8
        pushq   %rsi
        .cfi_adjust_cfa_offset 8
        pushq   %rdx
        .cfi_adjust_cfa_offset 8
        call    \choose
        movq    %rdx, %rcx
        popq    %rdx
        .cfi_adjust_cfa_offset -8
        popq    %rsi
        .cfi_adjust_cfa_offset -8
        popq    %rdi
        .cfi_adjust_cfa_offset -8
        testq   %rax, %rax
        jne     1f
        movq    %rcx, %rsi
        movq    \real(%rip), %rax
        testq   %rax, %rax
        je      1f
        jmp     *%rax
1:      ret
        .cfi_endproc
        .size   \name, .-\name
.endm
#elif defined(__aarch64__)
.macro door name, choose, real
        .globl  \name
        .hidden \name
        .type   \name, %function
        .p2align 4
\name:
        .cfi_startproc
        stp     x29, x30, [sp, #-48]!
        .cfi_def_cfa_offset 48
        .cfi_offset 29, -48
        .cfi_offset 30, -40
        mov     x29, sp
        stp     x0, x1, [sp, #16]
        str     x2, [sp, #32]
        bl      \choose
        mov     x9, x0
        mov     x10, x1
        ldp     x0, x1, [sp, #16]
        ldr     x2, [sp, #32]
        ldp     x29, x30, [sp], #48
        .cfi_restore 29
        .cfi_restore 30
        .cfi_def_cfa_offset 0
        cbnz    x9, 1f
        mov     x1, x10
        adrp    x9, \real
        ldr     x9, [x9, :lo12:\real]
        cbz     x9, 1f
        br      x9
1:      mov     x0, x9
        ret
        .cfi_endproc
        .size   \name, .-\name
.endm
#endif

        .text
        door    tessera_dlsym, tessera_choose_dlsym, tessera_real_dlsym
        door    tessera_dlvsym, tessera_choose_dlvsym, tessera_real_dlvsym

// Programs were linked to the function under either version, so both are given; the newer is the default.
        .globl  tessera_dlsym_oldest
        .type   tessera_dlsym_oldest, %function
        .set    tessera_dlsym_oldest, tessera_dlsym
        .globl  tessera_dlsym_newest
        .type   tessera_dlsym_newest, %function
        .set    tessera_dlsym_newest, tessera_dlsym
        .globl  tessera_dlvsym_oldest
        .type   tessera_dlvsym_oldest, %function
        .set    tessera_dlvsym_oldest, tessera_dlvsym
        .globl  tessera_dlvsym_newest
        .type   tessera_dlvsym_newest, %function
        .set    tessera_dlvsym_newest, tessera_dlvsym
#if defined(__x86_64__)
        .symver tessera_dlsym_oldest, dlsym@GLIBC_2.2.5
        .symver tessera_dlsym_newest, dlsym@@GLIBC_2.34
        .symver tessera_dlvsym_oldest, dlvsym@GLIBC_2.2.5
        .symver tessera_dlvsym_newest, dlvsym@@GLIBC_2.34
#else
        .symver tessera_dlsym_oldest, dlsym@GLIBC_2.17
        .symver tessera_dlsym_newest, dlsym@@GLIBC_2.34
        .symver tessera_dlvsym_oldest, dlvsym@GLIBC_2.17
        .symver tessera_dlvsym_newest, dlvsym@@GLIBC_2.34
#endif

        .section .note.GNU-stack, "", %progbits
