//! What the raw arguments and results of a system call mean.

use tracer_common::{
    calls::{self, Call, Timeout},
    events::{COMPAT_CALL, SysEnter},
};

// include/uapi/linux/futex.h, include/uapi/linux/time.h
const FUTEX_WAIT: u64 = 0;
const FUTEX_LOCK_PI: u64 = 6;
const FUTEX_COMMAND: u64 = 0x7f;
const FUTEX_CLOCK_REALTIME: u64 = 0x100;
const TIMER_ABSTIME: u64 = 1;
const CLOCK_MONOTONIC: u64 = 1;

/// Errors that only the kernel and who traces it see, include/linux/errno.h.
const OF_KERNEL: &[(i32, &str)] = &[
    (512, "ERESTARTSYS"),
    (513, "ERESTARTNOINTR"),
    (514, "ERESTARTNOHAND"),
    (515, "ENOIOCTLCMD"),
    (516, "ERESTART_RESTARTBLOCK"),
    (517, "EPROBE_DEFER"),
    (524, "ENOTSUPP"),
    (529, "EIOCBQUEUED"),
];

/// What is known of a call; of the 32-bit interface nothing is.
pub fn call(nr: u32) -> Call {
    if nr & COMPAT_CALL == 0 { calls::call(nr) } else { Call::default() }
}

/// A file descriptor among the arguments; -1 is none.
pub fn fd(argument: Option<usize>, event: &SysEnter) -> Option<i64> {
    let fd = *event.args.get(argument?)? as u32;
    Some(i64::from(fd.cast_signed())).filter(|fd| *fd != -1)
}

/// A number of bytes; one that is larger than any memory is none.
pub fn size(call: Call, event: &SysEnter) -> Option<i64> {
    i64::try_from(*event.args.get(call.size()?)?).ok()
}

/// How long a call may wait, in ns; none if for ever, or until a time of a clock that is not that of events.
pub fn timeout(call: Call, event: &SysEnter) -> Option<i64> {
    let argument = *event.args.get(call.timeout()?)?;
    let given = Some(event.timeout).filter(|ns| *ns >= 0);
    let until = |ns: i64| ns.saturating_sub(event.header.ts.cast_signed()).max(0);
    let second = event.args[1];
    match call.timeout_kind() {
        Timeout::None => None,
        Timeout::Millis => {
            let millis = (argument as u32).cast_signed();
            (millis >= 0).then(|| i64::from(millis) * 1_000_000)
        }
        Timeout::Timespec | Timeout::Timeval => given,
        Timeout::Futex => match second & FUTEX_COMMAND {
            FUTEX_WAIT => given,
            FUTEX_LOCK_PI => None,
            _ if second & FUTEX_CLOCK_REALTIME != 0 => None,
            _ => given.map(until),
        },
        Timeout::ClockNanosleep if second & TIMER_ABSTIME == 0 => given,
        Timeout::ClockNanosleep if event.args[0] == CLOCK_MONOTONIC => given.map(until),
        Timeout::ClockNanosleep => None,
    }
}

/// The name of the error that a call returned; none on success.
pub fn error(ret: i64) -> Option<String> {
    // include/linux/err.h, MAX_ERRNO
    const MOST: i64 = 4095;
    if !(-MOST..0).contains(&ret) {
        return None;
    }
    let number = -ret as i32;
    if let Some((_, name)) = OF_KERNEL.iter().find(|(known, _)| *known == number) {
        return Some((*name).to_owned());
    }
    Some(match nix::errno::Errno::from_raw(number) {
        nix::errno::Errno::UnknownErrno => format!("errno {number}"),
        known => format!("{known:?}"),
    })
}

#[cfg(test)]
mod tests {
    use syscalls::x86_64::Sysno;
    use tracer_common::{EventKind, Header};

    use super::*;

    fn enter(nr: Sysno, args: [u64; 6], timeout: i64) -> SysEnter {
        let header = Header { ts: 1_000, kind: EventKind::SysEnter as u16, cpu: 0, tid: 7 };
        SysEnter { timeout, ..SysEnter::of_thread(header, 7, nr.id() as u32, args) }
    }

    fn wait(nr: Sysno, args: [u64; 6], given: i64) -> Option<i64> {
        let event = enter(nr, args, given);
        timeout(call(event.nr), &event)
    }

    #[test]
    fn numbers_in_the_table_have_the_kernels_names() {
        for &(number, name) in calls::NAMES {
            if let Some(sysno) = Sysno::new(number as usize) {
                assert_eq!(sysno.name(), name, "{number}");
            }
        }
        assert!(call(COMPAT_CALL).is_plain());
    }

    #[test]
    fn timeouts_are_lengths_of_time() {
        assert_eq!(wait(Sysno::poll, [0, 0, 20, 0, 0, 0], -1), Some(20_000_000));
        assert_eq!(wait(Sysno::epoll_wait, [0, 0, 0, 0xffff_ffff, 0, 0], -1), None);
        assert_eq!(wait(Sysno::ppoll, [0, 0, 64, 0, 0, 0], 5), Some(5));
        assert_eq!(wait(Sysno::ppoll, [0, 0, 0, 0, 0, 0], -1), None);
        assert_eq!(wait(Sysno::futex, [0, 128, 0, 64, 0, 0], 5), Some(5));
        assert_eq!(wait(Sysno::futex, [0, 128 | 9, 0, 64, 0, 0], 1_700), Some(700));
        assert_eq!(wait(Sysno::futex, [0, 128 | 9 | 256, 0, 64, 0, 0], 1_700), None);
        assert_eq!(wait(Sysno::clock_nanosleep, [1, 1, 64, 0, 0, 0], 1_700), Some(700));
        assert_eq!(wait(Sysno::clock_nanosleep, [0, 1, 64, 0, 0, 0], 1_700), None);
        assert_eq!(wait(Sysno::clock_nanosleep, [0, 0, 64, 0, 0, 0], 1_700), Some(1_700));
        assert_eq!(wait(Sysno::getpid, [0; 6], -1), None);
    }

    #[test]
    fn descriptors_are_numbers_of_32_bits() {
        let event = enter(Sysno::openat, [0xffff_ffff_ffff_ff9c, 0, 0, 0, 0, 0], -1);
        assert_eq!(fd(Some(0), &event), Some(-100));
        let event = enter(Sysno::mmap, [0, u64::MAX, 0, 0, 0xffff_ffff, 0], -1);
        assert_eq!(fd(call(event.nr).fd(), &event), None);
        assert_eq!(size(call(event.nr), &event), None);
        assert_eq!(fd(None, &event), None);
    }

    #[test]
    fn errors_have_names() {
        assert_eq!(error(0), None);
        assert_eq!(error(-2).as_deref(), Some("ENOENT"));
        assert_eq!(error(-11).as_deref(), Some("EAGAIN"));
        assert_eq!(error(-95).as_deref(), Some("EOPNOTSUPP"));
        assert_eq!(error(-512).as_deref(), Some("ERESTARTSYS"));
        assert_eq!(error(-4000).as_deref(), Some("errno 4000"));
        assert_eq!(error(-4096), None);
    }
}
