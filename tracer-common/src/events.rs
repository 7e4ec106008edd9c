//! The events. Adding one: a block here, one probe function in tracer-ebpf, one row in the daemon's
//! table of probes, one test.

use crate::calls::{ARGUMENT_WORDS, FILE_WORDS};
pub use crate::numbers::*;
pub use crate::record::Record;
pub use crate::sched::*;

use crate::record::{DecodeError, EventDef, FieldDef, HEADER_SIZE, Header, events, read_record};

/// Kind numbers are below this; the kernel's counters are arrays of this length.
pub const KIND_LIMIT: usize = 64;

events! {
    /// A CPU switched from one thread to another, and at least one of them is traced.
    SchedSwitch = 1, "sched_switch" => "thread_state" {
        /// Process of the thread that leaves.
        prev_tgid: u32, "pid";
        /// Its state as the scheduler passes it (0: still runnable).
        prev_state: u32, "task state bits";
        /// Thread that gets the CPU (the header has the one that leaves).
        next_tid: u32, "tid";
        /// Its process.
        next_tgid: u32, "pid";
        /// Why it leaves, as the bits SWITCH_PREEMPT and the others.
        flags: u16, "bits";
        /// Number of the system call that it is in; 65535 if in none.
        nr: u16, "syscall number";
        /// Kernel stack of the thread that leaves, in the map KERNEL_STACKS_SEEN; -1 if it was not asked for, -2 if there was no room.
        kernel_stack: i32, "id";
        /// Time on CPUs of the thread that leaves, in all its life (se.sum_exec_runtime).
        prev_runtime: u64, "ns";
        /// Time on run queues of the thread that leaves, in all its life (sched_info.run_delay); 2^64-1 if it is not traced or the kernel does not tell.
        prev_delay: u64, "ns";
        /// Time on run queues of the thread that gets the CPU, in all its life up to now (sched_info.run_delay); 2^64-1 if it is not traced or the kernel does not tell.
        next_delay: u64, "ns";
        /// How often the thread that leaves got a CPU, in all its life (sched_info.pcount, its lower half); means nothing without `prev_delay`.
        prev_arrivals: u32, "count";
        /// Always 0.
        reserved: u32, "always 0";
        /// Name of the thread that gets the CPU.
        next_comm: [u8; COMM_LEN], "text, zero padded";
    }
    /// A traced thread is being woken, or runnable for the first time.
    SchedWaking = 2, "sched_waking" => "thread_state" {
        /// Thread that is woken.
        wakee_tid: u32, "tid";
        /// Its process.
        wakee_tgid: u32, "pid";
        /// Process of the current thread.
        waker_tgid: u32, "pid";
        /// Whether the current thread is the waker (0), an interrupt (1), not known (2), a softirq (3) or a timer (4).
        context: u16, "0 to 4";
        /// 1 if it is new, and runnable for the first time.
        is_new: u16, "0 or 1";
        /// Name of the current thread.
        waker_comm: [u8; COMM_LEN], "text, zero padded";
    }
    /// A traced thread was created; the header has its creator.
    SchedFork = 3, "sched_fork" => "thread" {
        /// Process of the creator.
        parent_tgid: u32, "pid";
        /// The new thread.
        child_tid: u32, "tid";
        /// Its process: another one than the creator's after fork.
        child_tgid: u32, "pid";
        /// Whose it is, as in `process.uid`; 4294967295 if that is not known.
        uid: u32, "uid";
        /// The control group that says where it is ([`crate::cgroup::key`]); 0 if that is not known.
        cgroup: u64, "cgroup id";
        /// When the new thread was created, on the clock that goes on while the machine sleeps.
        child_start: u64, "ns of CLOCK_BOOTTIME";
        /// Name of the new thread.
        child_comm: [u8; COMM_LEN], "text, zero padded";
    }
    /// A traced thread was found that may not run until its control group gets CPU time again; the header has the thread that looked.
    SchedThrottled = 50, "sched_throttled" => "thread_state" {
        /// The thread.
        throttled_tid: u32, "tid";
        /// Its process.
        tgid: u32, "pid";
    }
    /// A process replaced its program (execve succeeded). After it: the names of the program's path, the innermost first, each with a zero at its end, in [`EXEC_NAMES`] bytes, and the first [`EXEC_ARGS`] bytes of the arguments, each with its terminating zero; zeros to the end of both.
    SchedExec = 4, "sched_exec" => "process" tail [u64; EXEC_WORDS] {
        /// The process.
        tgid: u32, "pid";
        /// Thread id of the caller before it became the leader.
        old_tid: u32, "tid";
        /// Whose it is, as in `process.uid`; 4294967295 if that is not known.
        uid: u32, "uid";
        /// Length of all arguments with their terminating zeros, recorded or not; 0 if they could not be read.
        args_len: u32, "bytes";
        /// 1 if the process is stopped until it gets SIGCONT, see HOLD_AT_EXEC.
        held: u32, "0 or 1";
        /// The process that created it; 0 if that is not known.
        parent: u32, "pid";
        /// The control group that says where it is ([`crate::cgroup::key`]); 0 if that is not known.
        cgroup: u64, "cgroup id";
        /// When the process was created, on the clock that goes on while the machine sleeps.
        start: u64, "ns of CLOCK_BOOTTIME";
        /// Length of the names; NAMES_CUT if they are not whole, 0 if they are not known.
        names: u32, "bytes";
        /// Always 0.
        reserved: u32, "always 0";
        /// [`crate::target::Traced::exec`] from now on.
        entry: u64, "ns";
        /// Name of the thread from now on.
        comm: [u8; COMM_LEN], "text, zero padded";
    }
    /// The path of a program for which there is too little room in `sched_exec`, right behind that. After it: the names as there, in [`LONG_NAMES`] bytes.
    ExecNames = 56, "exec_names" => "process" tail [u64; LONG_NAMES_WORDS] {
        /// [`SchedExec::entry`] of its exec.
        entry: u64, "ns";
        /// The process.
        tgid: u32, "pid";
        /// Length of the names; NAMES_CUT if they are not whole.
        names: u32, "bytes";
    }
    /// The arguments of a program for which there is too little room in `sched_exec`, ahead of that. After it: the first [`LONG_ARGS`] bytes of them.
    ExecArgs = 57, "exec_args" => "process" tail [u64; LONG_ARGS_WORDS] {
        /// [`SchedExec::entry`] of its exec.
        entry: u64, "ns";
        /// The process.
        tgid: u32, "pid";
        /// Length of all of them; 0 if they could not be read.
        args_len: u32, "bytes";
    }
    /// A control group was made. After it: its path within its hierarchy, zeros to the end.
    CgroupMade = 58, "cgroup_made" => "process" tail [u64; CGROUP_WORDS] {
        /// The inode number of its folder.
        cgroup: u64, "cgroup id";
        /// Number of its hierarchy, 0 for that of version 2.
        hierarchy: u32, "number";
        /// Length of the path with a zero at its end; that of the tail if there is no room for all of it.
        path_len: u32, "bytes";
    }
    /// A process, or a thread of one, got into another control group; the header has who put it there. After it: the path as in `cgroup_made`.
    CgroupMoved = 59, "cgroup_moved" => "process" tail [u64; CGROUP_WORDS] {
        /// The inode number of its folder.
        cgroup: u64, "cgroup id";
        /// Number of its hierarchy, 0 for that of version 2.
        hierarchy: u32, "number";
        /// Length of the path with a zero at its end; that of the tail if there is no room for all of it.
        path_len: u32, "bytes";
        /// The control group that says where the process is now ([`crate::cgroup::key`]); 0 if that is not known.
        now: u64, "cgroup id";
        /// The first thread of the process, or the one that was moved.
        moved_tid: u32, "tid";
        /// The process.
        tgid: u32, "pid";
    }
    /// A traced thread ends; the header has it.
    SchedExit = 5, "sched_exit" => "thread" {
        /// Its process.
        tgid: u32, "pid";
        /// How the process ends, as wait(2) gives it: signal in bits 0-6, status in bits 8-15; means nothing unless `ends`.
        exit_code: u32, "wait status";
        /// 1 if the process ends: this is its last thread, or all are being killed; 0 if other threads go on.
        ends: u32, "0 or 1";
        /// Always 0.
        reserved: u32, "always 0";
    }
    /// A traced thread got another name; the header has the thread that asked for it.
    ThreadName = 6, "thread_name" => "thread" {
        /// The thread.
        named_tid: u32, "tid";
        /// Its process.
        tgid: u32, "pid";
        /// Its new name.
        comm: [u8; COMM_LEN], "text, zero padded";
    }
    /// A traced thread enters a system call.
    SysEnter = 7, "sys_enter" => "syscall" {
        /// Its process.
        tgid: u32, "pid";
        /// Number of the call, with the bit COMPAT_CALL for the 32-bit interface.
        nr: u32, "syscall number";
        /// The six argument registers, whether the call uses them or not.
        args: [u64; 6], "raw";
        /// Goroutine on whose behalf (0: none, or not a Go program).
        goid: u64, "goid";
        /// Entry address of that goroutine's start function.
        startpc: u64, "address in the process";
        /// The goroutine's status (3: the Go scheduler knows that it is in a syscall).
        gstatus: u32, "Go runtime status";
        /// P that the thread holds, or -1.
        proc: i32, "P id";
        /// Syscalltick of that P, as it was when a system call that goes on began.
        tick: u32, "count";
        /// Always 0.
        reserved: u32, "always 0";
        /// Its stack, see `go_stack`; 0 for none.
        stack: u64, "stack id";
        /// What the first file descriptor among the arguments refers to, see `sys_file`; 0 if to nothing, or if there is none.
        file: u64, "file id";
        /// The time in memory that an argument points to; -1 if there is none.
        timeout: i64, "ns";
    }
    /// A traced thread leaves a system call.
    SysExit = 8, "sys_exit" => "syscall" {
        /// Its process.
        tgid: u32, "pid";
        /// Number of the call, with the bit COMPAT_CALL for the 32-bit interface.
        nr: u32, "syscall number";
        /// What it returned: a negative errno on failure.
        ret: i64, "raw";
        /// What the file descriptor that it returned refers to, see `sys_file`; 0 if it returned none.
        file: u64, "file id";
    }
    /// As `sys_exit`, with the arguments, of a thread whose calls may be refused before `sys_enter`: it has a filter (seccomp), or is traced by ptrace.
    SysExitArgs = 48, "sys_exit_args" => "syscall" {
        /// Its process.
        tgid: u32, "pid";
        /// Number of the call, with the bit COMPAT_CALL for the 32-bit interface.
        nr: u32, "syscall number";
        /// What it returned: a negative errno on failure.
        ret: i64, "raw";
        /// What the file descriptor that it returned refers to, see `sys_file`; 0 if it returned none.
        file: u64, "file id";
        /// The six argument registers.
        args: [u64; 6], "raw";
        /// What the first file descriptor among the arguments refers to, see `sys_file`; only looked up if the call may have been refused, else 0.
        given_file: u64, "file id";
    }
    /// The kernel does not make a call, and sends the thread a signal instead (seccomp, Syscall User Dispatch).
    SysRefused = 49, "sys_refused" => "syscall" {
        /// Its process.
        tgid: u32, "pid";
        /// Number of the call, with the bit COMPAT_CALL for the 32-bit interface.
        nr: u32, "syscall number";
        /// The six argument registers.
        args: [u64; 6], "raw";
        /// The signal (SIGSYS, or SIGKILL in the strict mode of seccomp).
        signal: u32, "signal number";
        /// Always 0.
        reserved: u32, "always 0";
    }
    /// What a file descriptor refers to, ahead of the first event with it and again from time to time. After it: names, the innermost first, each with a zero at its end, and the address of a Unix socket.
    SysFile = 24, "sys_file" => "syscall" tail [u64; FILE_WORDS] {
        /// Its number in events: a hash of all of it.
        id: u64, "file id";
        /// Number of the inode.
        ino: u64, "inode number";
        /// Of a Unix socket that is connected: inode of the other end; of a netlink socket: its port.
        peer: u64, "inode number or port";
        /// Kind of file system (super_block.s_magic).
        magic: u32, "linux/magic.h";
        /// inode.i_mode
        mode: u32, "mode bits";
        /// FILE_CUT and the others.
        flags: u32, "bits";
        /// Bytes of the names.
        names: u32, "bytes";
        /// Bytes of the Unix socket's address behind them.
        address: u32, "bytes";
        /// Family of a socket (AF_UNIX...); 0 if it is none or not known.
        family: u16, "address family";
        /// sock.sk_protocol
        protocol: u16, "protocol number";
        /// Local address of a socket of IPv4 or IPv6.
        local: [u8; 16], "address in network order";
        /// Address of its peer.
        remote: [u8; 16], "address in network order";
        /// Local port.
        local_port: u32, "port";
        /// Port of the peer, 0 if there is none.
        remote_port: u32, "port";
    }
    /// A text that is an argument of a system call, ahead of the call's event and with the same time. After it: the text.
    SysText = 25, "sys_text" => "syscall" tail [u64; ARGUMENT_WORDS] {
        /// The process.
        tgid: u32, "pid";
        /// Which one (ARGUMENT_FIRST and the others).
        what: u32, "number";
        /// Length of what was read of it, for a path with the zero at its end.
        len: u32, "bytes";
        /// Always 0.
        reserved: u32, "always 0";
    }
    /// A further file descriptor among arguments or results of a system call, ahead of the call's event and with the same time.
    SysFd = 26, "sys_fd" => "syscall" {
        /// The process.
        tgid: u32, "pid";
        /// Which one (ARGUMENT_FIRST or ARGUMENT_SECOND).
        what: u32, "number";
        /// The file descriptor.
        fd: i32, "fd";
        /// Always 0.
        reserved: u32, "always 0";
        /// What it refers to, see `sys_file`; 0 if to nothing.
        file: u64, "file id";
    }
    /// A goroutine changes its status.
    GoStatus = 9, "go_status" => "goroutine_state" {
        /// The goroutine.
        goid: u64, "goid";
        /// Entry address of its start function.
        startpc: u64, "address in the process";
        /// Goroutine that runs on the current thread (0: none, or the change is not 4 to 1).
        doer_goid: u64, "goid";
        /// Status before, without the scan bit.
        old: u8, "Go runtime status";
        /// Status after.
        new: u8, "Go runtime status";
        /// The wait reason in the goroutine, as a number of its Go version; for a change from 2 to 1 why it stopped (1 it yielded, 2 it was preempted, 0 not known).
        reason: u8, "wait reason number";
        /// Status in the goroutine before the change: `old`, or else the offsets are wrong.
        found: u8, "Go runtime status";
        /// P that the thread holds, or -1.
        proc: i32, "P id";
        /// Syscalltick of that P.
        tick: u32, "count";
        /// Always 0.
        reserved: u32, "always 0";
        /// The stack at which it stopped or blocked, or that of the goroutine that ends its wait; 0 for none.
        stack: u64, "stack id";
    }
    /// A goroutine was created.
    GoCreate = 10, "go_create" => "goroutine" {
        /// The new goroutine.
        goid: u64, "goid";
        /// Entry address of its start function.
        startpc: u64, "address in the process";
        /// Address of the go statement that created it.
        gopc: u64, "address in the process";
        /// Goroutine with that go statement.
        parent_goid: u64, "goid";
        /// Status that it starts with (1 runnable, 4 waiting).
        status: u8, "Go runtime status";
        /// Its wait reason, as a number of its Go version, if it starts waiting.
        reason: u8, "wait reason number";
        /// Always 0.
        reserved: u16, "always 0";
        /// P that the thread holds, or -1.
        proc: i32, "P id";
        /// Stack of the creator; 0 for none.
        stack: u64, "stack id";
    }
    /// A stack of a traced process, ahead of the first event with it. After it: return addresses from the innermost one outwards; 0 where there is none.
    GoStack = 17, "go_stack" => "stack" tail [u64; MAX_FRAMES] {
        /// Its number in the events of this process: a hash of all of it.
        id: u64, "stack id";
        /// The process.
        tgid: u32, "pid";
        /// How many of the innermost frames (inlined ones count) are the runtime's machinery and not shown; bit 31: the outermost ones of the main goroutine were cut off.
        skip: u32, "frames";
    }
    /// A goroutine hands its thread over to another one (coroutines, iter.Pull).
    GoSwitch = 15, "go_switch" => "goroutine_state" {
        /// The goroutine that runs until now.
        goid: u64, "goid";
        /// Entry address of its start function.
        startpc: u64, "address in the process";
        /// The goroutine that runs from now on.
        next_goid: u64, "goid";
        /// Entry address of its start function.
        next_startpc: u64, "address in the process";
        /// 1 if the first one ends, which is an event of its own; 0 if it waits.
        exit: u32, "0 or 1";
        /// P that the thread holds, or -1.
        proc: i32, "P id";
        /// Syscalltick of that P.
        tick: u32, "count";
        /// Status in the first one: 2, or else the offsets are wrong.
        found: u8, "Go runtime status";
        /// Status in the second one: 4, or else the offsets are wrong.
        next_found: u8, "Go runtime status";
        /// Always 0.
        reserved: u16, "always 0";
        /// Stack of the first one; 0 for none.
        stack: u64, "stack id";
    }
    /// A thread gets a P. If it has a goroutine, that one comes back from a system call.
    GoProc = 16, "go_proc" => "proc_state" {
        /// The goroutine (0: none).
        goid: u64, "goid";
        /// Entry address of its start function, 0 if there is none.
        startpc: u64, "address in the process";
        /// The P.
        proc: i32, "P id";
        /// Always 0.
        reserved: u32, "always 0";
    }
    /// A thread gives up its P, or takes that of another thread, which is in a system call.
    GoProcStop = 32, "go_proc_stop" => "proc_state" {
        /// The P.
        proc: i32, "P id";
        /// 0 if it was the thread's own until now; 1 if it was another one's, unless nobody had it.
        taken: u32, "0 or 1";
    }
    /// The runtime counts its Ps anew while the world is stopped: every thread but this one has none.
    GoMaxProcs = 33, "go_max_procs" => "gomaxprocs" {
        /// The goroutine that stopped the world (0: none).
        goid: u64, "goid";
        /// How many there are from now on.
        count: i32, "count";
        /// P that the thread holds, or -1.
        proc: i32, "P id";
        /// The stack of that goroutine, see `go_stack`; 0 for none.
        stack: u64, "stack id";
        /// If the P that it holds is no more, the stack at which the goroutine stops; 0 for none.
        stop_stack: u64, "stack id";
    }
    /// A goroutine asks to stop the world.
    GoStwBegin = 11, "go_stw_begin" => "stw" {
        /// Its goroutine (0: none).
        goid: u64, "goid";
        /// Why, as a number of the Go version; -1 in versions without such numbers.
        reason: i64, "stop reason number";
        /// Return addresses of the three innermost functions on its stack: who asks.
        callers: [u64; 3], "addresses in the process";
        /// Its stack, see `go_stack`; 0 for none.
        stack: u64, "stack id";
    }
    /// The world starts again.
    GoStwEnd = 12, "go_stw_end" => "stw" {
        /// The goroutine that starts it (0: none).
        goid: u64, "goid";
    }
    /// A garbage collection cycle begins.
    GoGcBegin = 34, "go_gc_begin" => "gc" {
        /// The goroutine that begins it (0: none).
        goid: u64, "goid";
        /// Its stack, see `go_stack`; 0 for none.
        stack: u64, "stack id";
    }
    /// A garbage collection cycle ends (mark termination).
    GoGcEnd = 13, "go_gc_end" => "gc" {
        /// The goroutine that ends it (0: none).
        goid: u64, "goid";
    }
    /// The size of the heap changed.
    GoHeap = 14, "go_heap" => "heap" {
        /// Heap that is live or not yet swept, gcController.heapLive.
        live: u64, "bytes";
        /// gcController.gcPercentHeapGoal.
        percent_goal: u64, "bytes";
    }
    /// The runtime has set a heap goal.
    GoHeapGoal = 35, "go_heap_goal" => "heap_goal" {
        /// The goal, GOGC and GOMEMLIMIT considered; the largest number if there is none.
        goal: u64, "bytes";
    }
    /// A goroutine helps the garbage collector to mark, perhaps once more in the same assist.
    GoAssistBegin = 36, "go_assist_begin" => "gc_assist" {
        /// The goroutine.
        goid: u64, "goid";
        /// How far its stack reaches down, from where it begins.
        depth: u64, "bytes";
        /// Its stack, see `go_stack`; 0 for none.
        stack: u64, "stack id";
    }
    /// A goroutine goes on after it was asked to help the garbage collector, whether it has or not.
    GoAssistEnd = 37, "go_assist_end" => "gc_assist" {
        /// The goroutine.
        goid: u64, "goid";
        /// How far its stack reaches down, from where it begins: less than when the assist began, unless something within it is meant.
        depth: u64, "bytes";
    }
    /// A goroutine that has just started to run is a worker of the garbage collector.
    GoWorker = 38, "go_worker" => "goroutine_state" {
        /// The goroutine.
        goid: u64, "goid";
        /// p.gcMarkWorkerMode.
        mode: u32, "worker mode number";
        /// Always 0.
        reserved: u32, "always 0";
    }
    /// A task of runtime/trace begins.
    GoUserTask = 39, "go_user_task" => "user_task" {
        /// The goroutine that begins it.
        goid: u64, "goid";
        /// Its number.
        task: u64, "task number";
        /// Number of the task that it is a part of, 0 if of none.
        parent: u64, "task number";
        /// Its type, see `go_text`.
        name: u64, "text id";
        /// Its stack, see `go_stack`; 0 for none.
        stack: u64, "stack id";
    }
    /// A task of runtime/trace ends.
    GoUserTaskEnd = 40, "go_user_task_end" => "user_task" {
        /// The goroutine that ends it.
        goid: u64, "goid";
        /// Its number.
        task: u64, "task number";
    }
    /// A region of runtime/trace begins or ends.
    GoUserRegion = 41, "go_user_region" => "user_region" {
        /// The goroutine.
        goid: u64, "goid";
        /// Number of its task, 0 if of none; -1 if not known, because the program does not trace itself.
        task: i64, "task number";
        /// 0 if it begins, 1 if it ends.
        mode: u64, "0 or 1";
        /// Its type, see `go_text`; 0 at the end of one whose task is not known.
        name: u64, "text id";
        /// The return address: who tells.
        caller: u64, "address in the process";
        /// Its stack, see `go_stack`; 0 for none.
        stack: u64, "stack id";
    }
    /// A program logs something by runtime/trace.
    GoUserLog = 42, "go_user_log" => "user_log" {
        /// The goroutine.
        goid: u64, "goid";
        /// Number of its task, 0 if of none.
        task: u64, "task number";
        /// Its category, see `go_text`.
        category: u64, "text id";
        /// The message, see `go_text`.
        message: u64, "text id";
        /// Its stack, see `go_stack`; 0 for none.
        stack: u64, "stack id";
    }
    /// An allocation: Go's heap profiler samples it or, in a program without one, it is the first from a span.
    GoAlloc = 43, "go_alloc" => "alloc" {
        /// The goroutine on whose behalf it is made (0: none).
        goid: u64, "goid";
        /// Size of the object.
        size: u64, "bytes";
        /// Its address; 0 if it is not known yet.
        address: u64, "address in the process";
        /// Bytes of the span that are free; 0 if Go's profiler samples it.
        weight: u64, "bytes";
        /// Its stack, see `go_stack`; 0 for none.
        stack: u64, "stack id";
    }
    /// A P begins to sweep, before an allocation.
    GoSweepBegin = 44, "go_sweep_begin" => "gc_sweep" {
        /// The P that the thread holds, or -1.
        proc: i32, "P id";
        /// Always 0.
        reserved: u32, "always 0";
        /// Its stack, see `go_stack`; 0 for none.
        stack: u64, "stack id";
    }
    /// The thread goes on with the allocation.
    GoSweepEnd = 45, "go_sweep_end" => "gc_sweep" {
        /// Memory that was looked at.
        swept: u64, "bytes";
    }
    /// A goroutine enters or leaves a call of the kernel or of C; in a program without C code: one without a P.
    GoSyscall = 47, "go_syscall" => "goroutine_state" {
        /// The goroutine.
        goid: u64, "goid";
        /// Entry address of its start function.
        startpc: u64, "address in the process";
        /// Its stack, see `go_stack`; 0 for none, and when it leaves.
        stack: u64, "stack id";
        /// What it does: 0 it enters, 1 it leaves, 2 it enters, giving its P up.
        change: u32, "0, 1 or 2";
        /// P that the thread holds, or -1.
        proc: i32, "P id";
        /// Syscalltick of that P.
        tick: u32, "count";
        /// Always 0.
        reserved: u32, "always 0";
    }
    /// A text of a traced process that was not seen before, ahead of the event that it belongs to.
    GoText = 46, "go_text" => "string" tail [u64; TEXT_WORDS] {
        /// Its number in the events of this process: a hash of all of it.
        id: u64, "text id";
        /// The process.
        tgid: u32, "pid";
        /// Its length; at most 200 bytes of it follow.
        len: u32, "bytes";
    }
}

#[cfg(test)]
#[path = "events_tests.rs"]
mod tests;
