//! What is looked up when a system call is entered and left, as the table in tracer-common/src/calls.rs says.
//! What there is more than one number of goes into the ring ahead of the event of the call, with its time.

use core::ptr::{addr_of_mut, read_volatile, with_exposed_provenance, write_volatile};

use aya_ebpf::helpers::{bpf_get_current_pid_tgid, bpf_probe_read_user, generated};
use tracer_common::{
    calls::{
        ARGUMENT_ADDR, ARGUMENT_FIRST, ARGUMENT_LATE, ARGUMENT_SECOND, ARGUMENT_WORDS, Call,
        DUPLICATES, NO_TIMEOUT, Timeout,
    },
    events::{SysFd, SysText},
};

use crate::{
    emit::{emit_at, now, try_emit_tail},
    file, globals,
    maps::ABSENT_ARGUMENTS,
};

/// What is recorded of a text, in bytes.
const MAX: u32 = (ARGUMENT_WORDS * 8) as u32;

// include/uapi/linux/futex.h: the operations that wait
const FUTEX_COMMAND: u64 = 0x7f;
const FUTEX_WAIT: u64 = 0;
const FUTEX_LOCK_PI: u64 = 6;
const FUTEX_WAIT_BITSET: u64 = 9;
const FUTEX_WAIT_REQUEUE_PI: u64 = 11;
const FUTEX_LOCK_PI2: u64 = 13;

/// A power of two, so that a number of an argument can be limited to it.
const MEMORY: usize = 8;

/// The six argument registers, in memory.
pub struct Args([u64; MEMORY]);

impl Args {
    /// Takes what registers hold.
    #[inline(always)]
    pub fn new([a, b, c, d, e, f]: [u64; 6]) -> Self {
        Self([a, b, c, d, e, f, 0, 0])
    }
}

/// What goes into the event of a call that is entered at `ts`: number of the file, and timeout.
#[inline(always)]
pub fn entered(ts: u64, call: Call, args: &Args) -> (u64, i64) {
    let file = match call.fd() {
        Some(n) => file::number(argument(args, n) as i32),
        None => 0,
    };
    if let Some(n) = call.fd2() {
        tell_fd(ts, ARGUMENT_SECOND, argument(args, n) as i32);
    }
    let mut absent = 0;
    if let Some(n) = call.path() {
        absent |= path(ts, ARGUMENT_FIRST, argument(args, n));
    }
    if let Some(n) = call.path2() {
        absent |= path(ts, ARGUMENT_SECOND, argument(args, n));
    }
    absent |= given_address(ts, call, args);
    if absent != 0 {
        // Without room in the map it is not looked for again.
        let _ = ABSENT_ARGUMENTS.insert(bpf_get_current_pid_tgid(), absent, 0);
    }
    let timeout = match call.timeout() {
        Some(n) => timeout(call.timeout_kind(), argument(args, n), args.0[1]),
        None => NO_TIMEOUT,
    };
    (file, timeout)
}

/// What goes into the event of a call that is left at `ts`: number of the file that was returned.
#[inline(always)]
pub fn left(ts: u64, call: Call, args: &Args, ret: i64) -> u64 {
    let has_text = call.path().is_some() || call.addr().is_some() || call.message().is_some();
    if has_text {
        let key = bpf_get_current_pid_tgid();
        // SAFETY: only this thread has this key.
        let absent = unsafe { ABSENT_ARGUMENTS.get(&key) }.copied();
        if let Some(absent) = absent {
            let _ = ABSENT_ARGUMENTS.remove(&key);
            again(ts, call, args, absent);
        }
    }
    if ret < 0 {
        return 0;
    }
    if let Some(n) = call.pair() {
        // SAFETY: the helper checks the address.
        if let Ok(fds) = unsafe { bpf_probe_read_user(argument(args, n) as *const [i32; 2]) } {
            tell_fd(ts, ARGUMENT_FIRST, fds[0]);
            tell_fd(ts, ARGUMENT_SECOND, fds[1]);
        }
    }
    if let Some(n) = call.path_out() {
        path(ts, ARGUMENT_FIRST, argument(args, n));
    }
    if let Some(n) = call.addr_out() {
        // SAFETY: the helper checks the address.
        let len = unsafe { bpf_probe_read_user(argument(args, n + 1) as *const u32) };
        address(ts, argument(args, n), len.unwrap_or(0));
    }
    if let Some(n) = call.message_out() {
        message(ts, argument(args, n));
    }
    let duplicates = call.may_duplicate() && DUPLICATES.contains(&(args.0[1] as u32));
    if call.returns_fd() || duplicates { file::number(ret as i32) } else { 0 }
}

/// The path of an `execve` that succeeds, if it was not in memory when that was entered: afterwards the memory
/// that it was in is gone. `key` is process and thread as they were then, `filename` what the kernel has of it.
#[inline(always)]
pub fn executes(key: u64, filename: u64) {
    // SAFETY: only this thread has this key.
    if unsafe { ABSENT_ARGUMENTS.get(&key) }.is_some() {
        let _ = ABSENT_ARGUMENTS.remove(&key);
        argument_text(now(), ARGUMENT_FIRST | ARGUMENT_LATE, filename, MAX);
    }
}

/// What was not in memory before; the kernel has read it since.
#[inline(never)]
fn again(ts: u64, call: Call, args: &Args, absent: u32) {
    if let Some(n) = call.path()
        && absent & 1 << ARGUMENT_FIRST != 0
    {
        path(ts, ARGUMENT_FIRST, argument(args, n));
    }
    if let Some(n) = call.path2()
        && absent & 1 << ARGUMENT_SECOND != 0
    {
        path(ts, ARGUMENT_SECOND, argument(args, n));
    }
    if absent & 1 << ARGUMENT_ADDR != 0 {
        given_address(ts, call, args);
    }
}

/// Returns the bit of the argument if it is not in memory.
#[inline(always)]
fn given_address(ts: u64, call: Call, args: &Args) -> u32 {
    if let Some(n) = call.addr() {
        return address(ts, argument(args, n), argument(args, n + 1) as u32);
    }
    match call.message() {
        Some(n) => message(ts, argument(args, n)),
        None => 0,
    }
}

/// Without a branch for each: the verifier would follow all combinations.
#[inline(always)]
fn argument(args: &Args, n: usize) -> u64 {
    let n = n & (MEMORY - 1);
    // SAFETY: within the array. Volatile, or the compiler compares the number with each that there is.
    unsafe { read_volatile(args.0.as_ptr().add(n)) }
}

#[inline(always)]
fn tell_fd(ts: u64, what: u32, fd: i32) {
    let file = file::number(fd);
    let tgid = (bpf_get_current_pid_tgid() >> 32) as u32;
    emit_at(Some(ts), |header| SysFd { header, tgid, what, fd, reserved: 0, file });
}

#[inline(always)]
fn path(ts: u64, what: u32, at: u64) -> u32 {
    if at == 0 { 0 } else { argument_text(ts, what, at, MAX) }
}

/// The address of a struct msghdr: msg_name and msg_namelen are its first fields.
#[inline(always)]
fn message(ts: u64, at: u64) -> u32 {
    // SAFETY: the helper checks the address.
    match unsafe { bpf_probe_read_user(at as *const [u64; 2]) } {
        Ok([name, len]) => address(ts, name, len as u32),
        Err(_) => 1 << ARGUMENT_ADDR,
    }
}

#[inline(always)]
fn address(ts: u64, at: u64, len: u32) -> u32 {
    if at == 0 || len == 0 {
        return 0;
    }
    argument_text(ts, ARGUMENT_ADDR, at, len)
}

/// Submits a text: of `len` bytes if it is a socket's address, else up to its zero; what is late is in the kernel's
/// memory. Returns the bit of the argument if it is not there.
// As file::file_number, for the verifier.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn argument_text(ts: u64, what: u32, at: u64, len: u32) -> u32 {
    let tgid = (bpf_get_current_pid_tgid() >> 32) as u32;
    let read = try_emit_tail::<SysText, [u64; ARGUMENT_WORDS]>(Some(ts), |header, record, tail| {
        for i in 0..ARGUMENT_WORDS {
            // SAFETY: room that was reserved. Volatile, or the compiler makes a memset of it, which there is not.
            unsafe { write_volatile(addr_of_mut!((*tail)[i]), 0) };
        }
        let (to, from) = (tail.cast(), with_exposed_provenance(at as usize));
        // SAFETY: the helpers write no more than the tail has, and fail if they cannot read.
        let len = unsafe {
            if what == ARGUMENT_ADDR {
                let kept = if len > MAX { MAX } else { len };
                match generated::bpf_probe_read_user(to, kept, from) {
                    0 => i64::from(kept),
                    error => error,
                }
            } else if what & ARGUMENT_LATE != 0 {
                generated::bpf_probe_read_kernel_str(to, MAX, from)
            } else {
                generated::bpf_probe_read_user_str(to, MAX, from)
            }
        };
        if len < 0 {
            return false;
        }
        let len = len as u32;
        // SAFETY: as above.
        unsafe { record.write(SysText { header, tgid, what, len, reserved: 0 }) };
        true
    });
    if read == Some(false) { 1 << (what & 31) } else { 0 }
}

/// The time that an argument points to, in ns.
#[inline(always)]
fn timeout(kind: Timeout, at: u64, second: u64) -> i64 {
    let (waits, unit) = match kind {
        Timeout::None | Timeout::Millis => (false, 0),
        Timeout::Timespec | Timeout::ClockNanosleep => (true, 1),
        Timeout::Timeval => (true, 1_000),
        Timeout::Futex => {
            let command = second & FUTEX_COMMAND;
            let waits = command == FUTEX_WAIT
                || command == FUTEX_LOCK_PI
                || command == FUTEX_WAIT_BITSET
                || command == FUTEX_WAIT_REQUEUE_PI
                || command == FUTEX_LOCK_PI2;
            (waits, 1)
        }
    };
    if !waits || at == 0 {
        return NO_TIMEOUT;
    }
    // SAFETY: the helper checks the address.
    match unsafe { bpf_probe_read_user(at as *const [i64; 2]) } {
        Ok([seconds, parts]) => {
            seconds.wrapping_mul(1_000_000_000).wrapping_add(parts.wrapping_mul(unit))
        }
        Err(_) => NO_TIMEOUT,
    }
}

/// Address of the file name in a struct linux_binprm; 0 if it is not known.
#[inline(always)]
pub fn filename(binprm: u64) -> u64 {
    of_binprm(binprm, globals::binprm_filename())
}

/// Address of the struct file that is run, of which a struct linux_binprm tells; 0 if it is not known.
#[inline(always)]
pub fn executable(binprm: u64) -> u64 {
    of_binprm(binprm, globals::binprm_file())
}

#[inline(always)]
fn of_binprm(binprm: u64, offset: usize) -> u64 {
    if globals::binprm_known() == 0 {
        return 0;
    }
    let at = binprm.wrapping_add(offset as u64) as *const u64;
    // SAFETY: the helper checks the address.
    unsafe { aya_ebpf::helpers::bpf_probe_read_kernel(at) }.unwrap_or(0)
}
