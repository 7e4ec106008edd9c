//! What system calls refer to.

use tracer_common::calls::{
    ARGUMENT_ADDR, ARGUMENT_FIRST, ARGUMENT_LATE, ARGUMENT_SECOND, ARGUMENT_WORDS, FILE_REMEMBERED,
    FILE_WORDS, NO_TIMEOUT,
};
use tracer_common::events::{SysFd, SysFile, SysText};
use tracer_store::Syscall;

use super::*;

const OPENAT: u32 = 257;
const PREAD: u32 = 17;
const CONNECT: u32 = 42;
const EPOLL_CTL: u32 = 233;
const RENAME: u32 = 82;
const PIPE2: u32 = 293;
const EXECVE: u32 = 59;

fn call(ts: u64, nr: u32, args: [u64; 6], file: u64) -> SysEnter {
    SysEnter { nr, args, file, timeout: NO_TIMEOUT, ..enter(ts, 0, 0) }
}

fn returns(ts: u64, ret: i64, file: u64) -> SysExit {
    SysExit { ret, file, ..exit(ts) }
}

impl Bench {
    /// A file is described.
    fn file(&mut self, ts: u64, id: u64, names: &str) {
        let mut tail = [0; 8 * FILE_WORDS];
        tail[..names.len()].copy_from_slice(names.as_bytes());
        let head = SysFile {
            header: header::<SysFile>(ts, PID),
            id,
            ino: 1,
            peer: 0,
            magic: 0xef53,
            mode: 0o100_644,
            flags: 0,
            names: names.len() as u32,
            address: 0,
            family: 0,
            protocol: 0,
            local: [0; 16],
            remote: [0; 16],
            local_port: 0,
            remote_port: 0,
        };
        self.push_with_tail(head, &tail);
    }

    fn argument(&mut self, ts: u64, what: u32, text: &[u8]) {
        let mut tail = [0; 8 * ARGUMENT_WORDS];
        tail[..text.len()].copy_from_slice(text);
        let (header, len) = (header::<SysText>(ts, PID), text.len() as u32);
        self.push_with_tail(SysText { header, tgid: PID, what, len, reserved: 0 }, &tail);
    }

    fn fd(&mut self, ts: u64, what: u32, fd: i32, file: u64) {
        let header = header::<SysFd>(ts, PID);
        self.push(SysFd { header, tgid: PID, what, fd, reserved: 0, file });
    }

    fn call(&mut self, until: u64) -> Syscall {
        self.run(until);
        self.rows.closed.syscall.pop().expect("a call")
    }
}

#[test]
fn a_call_has_its_files_and_path() {
    let mut bench = Bench::new();
    bench.file(1_090, 7, "tmp\0");
    bench.argument(1_100, ARGUMENT_FIRST, b"x/../y\0");
    bench.push(call(1_100, OPENAT, [0xffff_ff9c, 64, 0, 0, 0, 0], 7));
    bench.file(1_190, 9, "y\0tmp\0");
    bench.push(returns(1_200, 3, 9));
    let row = bench.call(1_300);
    assert_eq!((row.fd, row.file.as_deref()), (Some(-100), Some("/tmp")));
    assert_eq!((row.path.as_deref(), row.path2.as_deref()), (Some("x/../y"), None));
    assert_eq!((row.ret, row.ret_file.as_deref(), row.error), (Some(3), Some("/tmp/y"), None));

    // The next one has none of it.
    bench.push(call(1_310, PREAD, [3, 64, 512, 0, 0, 0], 9));
    bench.push(returns(1_320, -9, 0));
    let row = bench.call(1_400);
    assert_eq!((row.fd, row.file.as_deref()), (Some(3), Some("/tmp/y")));
    assert_eq!((row.path, row.ret_file, row.size), (None, None, Some(512)));
    assert_eq!(row.error.map(|id| bench.text(id)), Some("EBADF"));
    assert_eq!(bench.losses(), []);
}

#[test]
fn a_call_has_all_of_two_paths_two_descriptors_and_an_address() {
    let mut bench = Bench::new();
    bench.argument(1_100, ARGUMENT_FIRST, b"a\0");
    bench.argument(1_100, ARGUMENT_SECOND, b"b\0");
    bench.push(call(1_100, RENAME, [64, 128, 0, 0, 0, 0], 0));
    bench.push(returns(1_110, 0, 0));
    let row = bench.call(1_120);
    assert_eq!((row.path.as_deref(), row.path2.as_deref()), (Some("a"), Some("b")));

    bench.file(1_190, 7, "socket\0");
    bench.fd(1_200, ARGUMENT_SECOND, 5, 7);
    bench.push(call(1_200, EPOLL_CTL, [4, 1, 5, 64, 0, 0], 0));
    bench.push(returns(1_210, 0, 0));
    let row = bench.call(1_220);
    assert_eq!((row.fd2, row.file2.as_deref()), (Some(5), Some("/socket")));

    bench.push(call(1_300, PIPE2, [64, 0, 0, 0, 0, 0], 0));
    bench.fd(1_310, ARGUMENT_FIRST, 8, 7);
    bench.fd(1_310, ARGUMENT_SECOND, 9, 7);
    bench.push(returns(1_310, 0, 0));
    let row = bench.call(1_320);
    assert_eq!((row.fd, row.fd2), (Some(8), Some(9)));

    bench.argument(1_400, ARGUMENT_ADDR, &[2, 0, 0, 80, 127, 0, 0, 1]);
    bench.push(call(1_400, CONNECT, [5, 64, 16, 0, 0, 0], 7));
    bench.push(returns(1_410, -115, 0));
    let row = bench.call(1_420);
    assert_eq!(row.addr.as_deref(), Some("127.0.0.1:80"));
    assert_eq!(row.error.map(|id| bench.text(id)), Some("EINPROGRESS"));
}

#[test]
fn a_path_may_come_after_the_call_was_entered() {
    let mut bench = Bench::new();
    bench.push(call(1_100, EXECVE, [64, 0, 0, 0, 0, 0], 0));
    bench.argument(1_150, ARGUMENT_FIRST | ARGUMENT_LATE, b"/bin/true\0");
    bench.push(returns(1_200, 0, 0));
    assert_eq!(bench.call(1_300).path.as_deref(), Some("/bin/true"));

    bench.push(call(1_310, OPENAT, [3, 64, 0, 0, 0, 0], 0));
    bench.argument(1_320, ARGUMENT_FIRST, b"missing\0");
    bench.push(returns(1_320, -2, 0));
    assert_eq!(bench.call(1_400).path.as_deref(), Some("missing"));
}

#[test]
fn what_belongs_to_a_lost_event_belongs_to_no_other() {
    let mut bench = Bench::new();
    bench.argument(1_100, ARGUMENT_FIRST, b"lost\0");
    bench.push(call(1_150, OPENAT, [3, 64, 0, 0, 0, 0], 0));
    bench.push(returns(1_200, 4, 0));
    assert_eq!(bench.call(1_300).path, None);
}

#[test]
fn a_file_that_was_lost_is_counted_and_not_guessed() {
    let mut bench = Bench::new();
    bench.push(call(1_100, PREAD, [3, 64, 512, 0, 0, 0], 7));
    bench.push(returns(1_200, 0, 0));
    let row = bench.call(1_300);
    assert_eq!((row.fd, row.file), (Some(3), None));
    assert_eq!(bench.losses(), [("sys_file", "state", 1)]);
}

#[test]
fn files_are_forgotten_only_after_they_would_have_been_told_again() {
    let mut bench = Bench::new();
    bench.file(1_090, 7, "x\0");
    for seconds in 1..20 {
        bench.run(seconds * 1_000_000_000);
    }
    bench.push(call(2 * FILE_REMEMBERED - 100, PREAD, [3, 64, 512, 0, 0, 0], 7));
    bench.push(returns(2 * FILE_REMEMBERED - 50, 0, 0));
    assert_eq!(bench.call(2 * FILE_REMEMBERED).file.as_deref(), Some("/x"));
    bench.run(4 * FILE_REMEMBERED);
    bench.push(call(4 * FILE_REMEMBERED + 100, PREAD, [3, 64, 512, 0, 0, 0], 7));
    bench.push(returns(4 * FILE_REMEMBERED + 200, 0, 0));
    assert_eq!(bench.call(4 * FILE_REMEMBERED + 300).file, None, "it is kept for ever");
}

const GETPGID: u32 = 121;
const SIGSYS: u32 = 31;

fn refused(ts: u64, ret: i64) -> SysExitArgs {
    let header = header::<SysExitArgs>(ts, PID);
    let args = [4711, 0, 0, 0, 0, 0];
    SysExitArgs { header, tgid: PID, nr: GETPGID, ret, file: 0, args, given_file: 0 }
}

fn signalled(ts: u64) -> SysRefused {
    let header = header::<SysRefused>(ts, PID);
    let (args, signal) = ([4711, 0, 0, 0, 0, 0], SIGSYS);
    SysRefused { header, tgid: PID, nr: GETPGID, args, signal, reserved: 0 }
}

#[test]
fn a_refused_call_is_a_row_although_only_its_end_is_told() {
    let mut bench = Bench::new();
    // It may have been entered before the recording.
    bench.push(refused(1_100, -1));
    bench.push(refused(1_200, -1));
    // A supervisor answers; the thread waits twice meanwhile.
    bench.push(SchedSwitch { nr: GETPGID as u16, ..switch(1_300, PID, 1, 1, 100) });
    bench.push(switch(1_350, 1, 1, PID, 0));
    bench.push(SchedSwitch { nr: GETPGID as u16, ..switch(1_400, PID, 1, 1, 150) });
    bench.push(switch(1_500, 1, 1, PID, 0));
    bench.push(refused(1_600, 42));
    bench.run(2_000);
    let rows = bench.rows.closed.syscall.iter();
    let rows: Vec<_> = rows
        .map(|row| {
            (bench.text(row.name), row.ts, row.dur, row.ret, row.error.map(|e| bench.text(e)))
        })
        .collect();
    let expected = [
        ("getpgid", 1_200, Some(0), Some(-1), Some("EPERM")),
        ("getpgid", 1_300, Some(300), Some(42), None),
    ];
    assert_eq!(rows, expected);
    assert_eq!(bench.rows.closed.syscall[0].args[0], 4711);
}

#[test]
fn a_signal_in_place_of_a_call_is_one_row() {
    let mut bench = Bench::new();
    bench.push(signalled(1_100));
    // The kernel has put the number back into the register of the result.
    bench.push(refused(1_110, i64::from(GETPGID)));
    // Of a call that is dispatched no end is told.
    bench.push(signalled(1_200));
    bench.push(call(1_300, OPENAT, [0; 6], 0));
    bench.push(returns(1_400, 3, 0));
    bench.run(2_000);
    let rows = bench.rows.closed.syscall.iter();
    let rows: Vec<_> =
        rows.map(|row| (row.ts, row.ret, row.error.map(|e| bench.text(e)))).collect();
    let expected =
        [(1_100, None, Some("SIGSYS")), (1_200, None, Some("SIGSYS")), (1_300, Some(3), None)];
    assert_eq!(rows, expected);
    assert_eq!(bench.losses(), []);
}

#[test]
fn a_call_whose_beginning_may_be_lost_was_not_refused() {
    let mut bench = Bench::new();
    bench.push(refused(1_100, -1));
    bench.run(1_150);
    let mut counts = Counts::default();
    counts.0[EventKind::SysEnter as usize] = KindCounts { produced: 1, no_room: 1, unreadable: 0 };
    bench.pipeline.set_counts(counts, START);
    bench.push(refused(1_200, 0));
    bench.run(2_000);
    assert_eq!(bench.rows.closed.syscall.len(), 0);
    assert_eq!(bench.losses(), [("sys_enter", "ring", 1), ("sys_exit_args", "state", 1)]);
}
