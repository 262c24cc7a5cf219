# Call frame information of every sort that compilers, C libraries and kernels write, for the fuzzer to begin with. It is
# never run: each function is where the last one said it would be found, in the order of `unwind`'s places.
    .text
    .globl _start
_start:
    .cfi_startproc
    .cfi_undefined rip
    call plain
    .balign 64
    .cfi_endproc
plain:
    .cfi_startproc
    push %rbp
    .cfi_def_cfa_offset 16
    .cfi_offset rbp, -16
    mov %rsp, %rbp
    .cfi_def_cfa_register rbp
    .cfi_remember_state
    pop %rbp
    .cfi_def_cfa rsp, 8
    ret
    .cfi_restore_state
    nop
    .cfi_restore rbp
    .cfi_same_value rbx
    .cfi_register r12, r13
    .cfi_undefined r14
    .balign 64
    .cfi_endproc
# The kernel's frame of a signal: DW_CFA_def_cfa_expression, DW_CFA_expression and DW_CFA_val_expression with
# DW_OP_breg7 and DW_OP_deref.
handler:
    .cfi_startproc
    .cfi_signal_frame
    .cfi_escape 0x0f, 4, 0x77, 0x20, 0x06, 0x96
    .cfi_escape 0x10, 16, 3, 0x77, 0xa8, 0x01
    .cfi_escape 0x10, 6, 2, 0x77, 0x10
    .cfi_escape 0x16, 7, 3, 0x77, 0xa0, 0x01
    nop
    .balign 64
    .cfi_endproc
# What a linker's own jumps have: DW_OP_breg7, DW_OP_breg16, DW_OP_lit15, DW_OP_and, DW_OP_lit11, DW_OP_ge, DW_OP_lit3,
# DW_OP_shl, DW_OP_plus.
jumps:
    .cfi_startproc
    .cfi_escape 0x0f, 11, 0x77, 0x08, 0x80, 0x00, 0x3f, 0x1a, 0x3b, 0x2a, 0x33, 0x24, 0x22
    nop
    .balign 64
    .cfi_endproc
# Arithmetic and branches: DW_OP_const1u, DW_OP_dup, DW_OP_const2s, DW_OP_swap, DW_OP_minus, DW_OP_skip, DW_OP_bra,
# DW_OP_drop, DW_OP_over, DW_OP_pick, DW_OP_rot; DW_CFA_val_offset, DW_CFA_val_offset_sf, DW_CFA_offset_extended_sf,
# DW_CFA_def_cfa_sf, DW_CFA_GNU_args_size.
branches:
    .cfi_startproc
    .cfi_escape 0x12, 7, 0x7e
    .cfi_escape 0x14, 3, 2
    .cfi_escape 0x15, 12, 0x7e
    .cfi_escape 0x11, 13, 0x7f
    .cfi_escape 0x2e, 16
    .cfi_escape 0x16, 15, 19, 0x08, 0x10, 0x12, 0x0b, 0x10, 0x00, 0x16, 0x1c, 0x2f, 0x01, 0x00, 0x13, 0x14, 0x28, 0x01, 0x00, 0x15, 0x00, 0x17, 0x96
    nop
    .balign 64
    .cfi_endproc
# A personality and data of its own beside each entry.
caught:
    .cfi_startproc
    .cfi_personality 0x1b, _start
    .cfi_lsda 0x1b, caught
    sub $24, %rsp
    .cfi_adjust_cfa_offset 24
    .balign 1024
    .cfi_endproc
