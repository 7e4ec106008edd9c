//! The scheduler: who leaves the CPU, who comes, who wakes whom.

use core::ffi::c_void;

use aya_ebpf::{
    EbpfContext as _,
    helpers::generated::bpf_get_stack,
    macros::btf_tracepoint,
    programs::{BtfTracePointContext, tracing::StackIdContext as _},
};
use tracer_common::{
    events::{
        CONTEXT_UNKNOWN, LOST_KERNEL_STACK, NO_CALL, NO_DELAY, NO_KERNEL_STACK, SWITCH_COMPAT,
        SWITCH_FAULT, SWITCH_FAULT_KNOWN, SWITCH_FROM_TRACED, SWITCH_IO, SWITCH_IO_KNOWN,
        SWITCH_PREEMPT, SWITCH_THROTTLED, SWITCH_TO_TRACED, SchedSwitch, SchedThrottled,
        SchedWaking,
    },
    target::KERNEL_STACKS,
};

use super::irq;
use crate::{
    emit::emit,
    globals,
    maps::{FAULT_FRAMES, KERNEL_STACKS_SEEN, LEAVER_STACK, traced},
    task::Task,
};

/// include/linux/sched.h: TASK_UNINTERRUPTIBLE
const UNINTERRUPTIBLE: u32 = 2;

/// trace_sched_switch(bool preempt, struct task_struct *prev, struct task_struct *next,
/// unsigned int prev_state)
#[btf_tracepoint(function = "sched_switch")]
pub fn sched_switch(ctx: BtfTracePointContext) -> i32 {
    let prev = Task::new(ctx.arg::<*const c_void>(1));
    let next = Task::new(ctx.arg::<*const c_void>(2));
    let (prev_tgid, next_tgid) = (prev.tgid(), next.tgid());
    // 0 for one that is not traced. (No `Option`: the verifier would see its content being looked at where there is none.)
    let (leaves, arrives) = (traced(prev_tgid).unwrap_or(0), traced(next_tgid).unwrap_or(0));
    if leaves | arrives == 0 {
        return 0;
    }
    let kernel_stack = if leaves & KERNEL_STACKS != 0 {
        ctx.get_stackid(&KERNEL_STACKS_SEEN, 0).map_or(LOST_KERNEL_STACK, |id| id as i32)
    } else {
        NO_KERNEL_STACK
    };
    let preempt = ctx.arg::<u64>(0) & 1 != 0;
    let prev_state = ctx.arg::<u64>(3) as u32;
    let (mut flags, mut nr) = (0, NO_CALL);
    let (mut prev_delay, mut prev_arrivals, mut next_delay) = (NO_DELAY, 0, NO_DELAY);
    if leaves != 0 {
        (flags, nr) = why(&ctx, prev, preempt, prev_state);
        flags |= SWITCH_FROM_TRACED;
        (prev_delay, prev_arrivals) = prev.run_delay();
    }
    if arrives != 0 {
        flags |= SWITCH_TO_TRACED;
        next_delay = next.run_delay_until_now();
    }
    let prev_runtime = prev.runtime();
    let next_tid = next.tid();
    let next_comm = next.comm();
    emit(|header| SchedSwitch {
        header,
        prev_tgid,
        prev_state,
        next_tid,
        next_tgid,
        flags,
        nr,
        kernel_stack,
        prev_runtime,
        prev_delay,
        next_delay,
        prev_arrivals,
        reserved: 0,
        next_comm,
    });
    0
}

/// Why a thread leaves the CPU: the flags of `SchedSwitch`, and the system call that it is in.
#[inline(always)]
fn why(ctx: &BtfTracePointContext, task: Task, preempt: bool, state: u32) -> (u16, u16) {
    let mut flags = if preempt { SWITCH_PREEMPT } else { 0 };
    if preempt || state == 0 {
        if task.is_throttled() {
            flags |= SWITCH_THROTTLED;
        }
    } else {
        flags |= match task.in_iowait() {
            Some(true) => SWITCH_IO_KNOWN | SWITCH_IO,
            Some(false) => SWITCH_IO_KNOWN,
            None => 0,
        };
    }
    let nr = task.call().map_or(NO_CALL, |nr| nr as u16);
    if nr != NO_CALL && task.in_compat_call() {
        flags |= SWITCH_COMPAT;
    }
    // Walking the stack costs more than all the rest: it is left out for the many waits of system calls that a signal
    // can end. Of those only that for the server of a userfaultfd can be a page fault.
    let may_fault = nr == NO_CALL || state & UNINTERRUPTIBLE != 0;
    if !preempt && state != 0 && globals::page_faults_known() != 0 {
        flags |= SWITCH_FAULT_KNOWN;
        if may_fault && in_page_fault(ctx) {
            flags |= SWITCH_FAULT;
        }
    }
    (flags, nr)
}

/// Whether the current thread is in the kernel's handler of page faults.
#[inline(always)]
fn in_page_fault(ctx: &BtfTracePointContext) -> bool {
    let Some(stack) = LEAVER_STACK.get_ptr_mut(0) else {
        return false;
    };
    // SAFETY: a slot of this CPU, where nothing comes between a switch and its end.
    let len = unsafe {
        bpf_get_stack(ctx.as_ptr(), stack.cast(), size_of::<[u64; FAULT_FRAMES]>() as u32, 0)
    };
    let [start, end, other_start, other_end] = globals::page_faults();
    let mut found = false;
    for i in 0..FAULT_FRAMES {
        if (i * 8) as i64 >= len {
            break;
        }
        // SAFETY: as above; the helper has written that many bytes.
        let pc = unsafe { (*stack)[i] };
        found |= (start..end).contains(&pc) || (other_start..other_end).contains(&pc);
    }
    found
}

/// trace_sched_waking(struct task_struct *p): in the context of the waker.
#[btf_tracepoint(function = "sched_waking")]
pub fn sched_waking(ctx: BtfTracePointContext) -> i32 {
    woken(Task::new(ctx.arg::<*const c_void>(0)), 0)
}

/// trace_sched_wakeup_new(struct task_struct *p): in the context of the creator.
#[btf_tracepoint(function = "sched_wakeup_new")]
pub fn sched_wakeup_new(ctx: BtfTracePointContext) -> i32 {
    woken(Task::new(ctx.arg::<*const c_void>(0)), 1)
}

#[inline(always)]
fn woken(wakee: Task, is_new: u16) -> i32 {
    let wakee_tgid = wakee.tgid();
    if traced(wakee_tgid).is_none() {
        return 0;
    }
    let current = Task::current();
    let context = if globals::interrupts_known() == 0 { CONTEXT_UNKNOWN } else { irq::context() };
    let (wakee_tid, waker_tgid, waker_comm) = (wakee.tid(), current.tgid(), current.comm());
    emit(|header| SchedWaking {
        header,
        wakee_tid,
        wakee_tgid,
        waker_tgid,
        context,
        is_new,
        waker_comm,
    });
    0
}

/// What an iterator over tasks is given (kernel/bpf/task_iter.c, struct bpf_iter__task).
#[repr(C)]
struct TaskIteration {
    _meta: *const c_void,
    /// Null at the end.
    task: *const c_void,
}

/// Called for each thread that there is, when user space reads the iterator.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task")]
extern "C" fn throttled_threads(ctx: *const TaskIteration) -> i32 {
    // SAFETY: the kernel passes a valid context.
    let task = unsafe { (*ctx).task };
    if task.is_null() {
        return 0;
    }
    let task = Task::new(task);
    let tgid = task.tgid();
    if traced(tgid).is_none() || !task.is_throttled() {
        return 0;
    }
    let throttled_tid = task.tid();
    emit(|header| SchedThrottled { header, throttled_tid, tgid });
    0
}
