// Code for the stack of a made-up core: a handler called by the kernel's trampoline, which interrupted a leaf.
        .text
        .globl _start, main_, middle, leaf, tramp, handler, deepest
        .type _start, %function
_start: .cfi_startproc
        .cfi_undefined x30
        bl main_
after_main:
        nop
        .cfi_endproc
        .type main_, %function
main_:  .cfi_startproc
        stp x29, x30, [sp, #-32]!
        .cfi_def_cfa_offset 32
        .cfi_offset x29, -32
        .cfi_offset x30, -24
        mov x29, sp
        .cfi_def_cfa_register x29
        bl middle
after_middle:
        ldp x29, x30, [sp], #32
        ret
        .cfi_endproc
        .type middle, %function
middle: .cfi_startproc
        paciasp
        .cfi_window_save
        stp x29, x30, [sp, #-16]!
        .cfi_def_cfa_offset 16
        .cfi_offset x29, -16
        .cfi_offset x30, -8
        bl leaf
after_leaf:
        ldp x29, x30, [sp], #16
        ret
        .cfi_endproc
        .type leaf, %function
leaf:   .cfi_startproc
        ldr x0, [x1]
        ret
        .cfi_endproc
        .type tramp, %function
tramp:  mov x8, #0x8b
        svc #0
        .type handler, %function
handler:
        .cfi_startproc
        stp x29, x30, [sp, #-16]!
        .cfi_def_cfa_offset 16
        .cfi_offset x29, -16
        .cfi_offset x30, -8
        bl deepest
after_deepest:
        ldp x29, x30, [sp], #16
        ret
        .cfi_endproc
        .type deepest, %function
deepest:
        brk #1
        ret
