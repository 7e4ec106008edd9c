//! Constants of the running kernel, which user space reads from its BTF and sets before load.
//! (Rust has no CO-RE relocations; the verifier sees them as constants of a frozen map.)

use core::ptr;

macro_rules! globals {
    ($( #[doc = $doc:literal] $name:ident, $get:ident; )*) => {
        $(
            #[doc = $doc]
            #[unsafe(no_mangle)]
            static $name: u32 = 0;

            #[doc = $doc]
            #[inline(always)]
            pub fn $get() -> usize {
                // SAFETY: a plain static; volatile, because its value is only known at load.
                (unsafe { ptr::read_volatile(&raw const $name) }) as usize
            }
        )*
    };
}

globals! {
    /// Offset of task_struct.pid, the thread id.
    TASK_PID, task_pid;
    /// Offset of task_struct.tgid, the process id.
    TASK_TGID, task_tgid;
    /// Offset of task_struct.comm.
    TASK_COMM, task_comm;
    /// Offset of task_struct.exit_code.
    TASK_EXIT_CODE, task_exit_code;
    /// Offset of task_struct.se.sum_exec_runtime.
    TASK_RUNTIME, task_runtime;
    /// Offset of task_struct.thread_info.status.
    TASK_SYSCALL_STATUS, task_syscall_status;
    /// Offset of task_struct.thread.fsbase.
    TASK_FSBASE, task_fsbase;
    /// Offset of task_struct.start_boottime.
    TASK_START, task_start;
    /// Offset of task_struct.cred.
    TASK_CRED, task_cred;
    /// Offset of cred.euid.
    CRED_EUID, cred_euid;
    /// Offset of task_struct.mm.
    TASK_MM, task_mm;
    /// Offset of mm_struct.arg_start.
    MM_ARG_START, mm_arg_start;
    /// Offset of mm_struct.arg_end.
    MM_ARG_END, mm_arg_end;
    /// Offset of linux_binprm.filename.
    BPRM_FILENAME, bprm_filename;
    /// 1 if the interrupt probes are attached, so that a waker can be told from an interrupt.
    INTERRUPTS_KNOWN, interrupts_known;
    /// Bytes of unread records past which user space is woken.
    WAKE_AT, wake_at;
}
