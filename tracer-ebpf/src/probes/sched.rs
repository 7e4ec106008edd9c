//! The scheduler: who leaves the CPU, who comes, who wakes whom.

use core::ffi::c_void;

use aya_ebpf::{
    macros::btf_tracepoint,
    programs::{BtfTracePointContext, tracing::StackIdContext as _},
};
use tracer_common::{
    events::{
        CONTEXT_INTERRUPT, CONTEXT_TASK, CONTEXT_UNKNOWN, LOST_KERNEL_STACK, NO_KERNEL_STACK,
        SchedSwitch, SchedWaking,
    },
    target::KERNEL_STACKS,
};

use super::irq;
use crate::{
    emit::emit,
    globals,
    maps::{KERNEL_STACKS_SEEN, traced},
    task::Task,
};

/// trace_sched_switch(bool preempt, struct task_struct *prev, struct task_struct *next,
/// unsigned int prev_state)
#[btf_tracepoint(function = "sched_switch")]
pub fn sched_switch(ctx: BtfTracePointContext) -> i32 {
    let prev = Task::new(ctx.arg::<*const c_void>(1));
    let next = Task::new(ctx.arg::<*const c_void>(2));
    let (prev_tgid, next_tgid) = (prev.tgid(), next.tgid());
    let leaves = traced(prev_tgid);
    if leaves.is_none() && traced(next_tgid).is_none() {
        return 0;
    }
    let kernel_stack = match leaves {
        Some(flags) if flags & KERNEL_STACKS != 0 => {
            ctx.get_stackid(&KERNEL_STACKS_SEEN, 0).map_or(LOST_KERNEL_STACK, |id| id as i32)
        }
        _ => NO_KERNEL_STACK,
    };
    let preempt = ctx.arg::<u64>(0) as u32 & 1;
    let prev_state = ctx.arg::<u64>(3) as u32;
    let prev_runtime = prev.runtime();
    let next_tid = next.tid();
    let next_comm = next.comm();
    emit(|header| SchedSwitch {
        header,
        prev_tgid,
        prev_state,
        next_tid,
        next_tgid,
        preempt,
        kernel_stack,
        prev_runtime,
        next_comm,
    });
    0
}

/// trace_sched_waking(struct task_struct *p): in the context of the waker.
#[btf_tracepoint(function = "sched_waking")]
pub fn sched_waking(ctx: BtfTracePointContext) -> i32 {
    woken(Task::new(ctx.arg::<*const c_void>(0)))
}

/// trace_sched_wakeup_new(struct task_struct *p): in the context of the creator.
#[btf_tracepoint(function = "sched_wakeup_new")]
pub fn sched_wakeup_new(ctx: BtfTracePointContext) -> i32 {
    woken(Task::new(ctx.arg::<*const c_void>(0)))
}

#[inline(always)]
fn woken(wakee: Task) -> i32 {
    let wakee_tgid = wakee.tgid();
    if traced(wakee_tgid).is_none() {
        return 0;
    }
    let current = Task::current();
    let context = if globals::interrupts_known() == 0 {
        CONTEXT_UNKNOWN
    } else if irq::in_interrupt() {
        CONTEXT_INTERRUPT
    } else {
        CONTEXT_TASK
    };
    let (wakee_tid, waker_tgid, waker_comm) = (wakee.tid(), current.tgid(), current.comm());
    emit(|header| SchedWaking { header, wakee_tid, wakee_tgid, waker_tgid, context, waker_comm });
    0
}
