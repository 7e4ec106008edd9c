//! Which argument of which system call is what: the one table by which kernel programs find what is worth
//! recording, and user space decodes it. Numbers and arguments are those of x86-64
//! (arch/x86/entry/syscalls/syscall_64.tbl, include/linux/syscalls.h).

use crate::{
    Header,
    events::{NO_PROC, SysEnter},
};

/// Numbers of calls are below this.
pub const CALLS: usize = 512;

/// The file descriptor that stands for the working directory.
pub const AT_FDCWD: i32 = -100;

/// Commands of `fcntl` that return a new file descriptor: `F_DUPFD`, `F_DUPFD_CLOEXEC`.
pub const DUPLICATES: [u32; 2] = [0, 1030];

/// Most of what a file descriptor refers to that is recorded, in words of 8 bytes: names of 512 bytes, and the
/// one that goes beyond.
pub const FILE_WORDS: usize = 96;

/// For how long user space remembers what a file is after it was described, in ns, at least: kernel programs
/// then describe it again.
pub const FILE_REMEMBERED: u64 = 10_000_000_000;

/// Most of a text that is an argument of a system call that is recorded, in words of 8 bytes.
pub const ARGUMENT_WORDS: usize = 32;

/// Bit of `SysFile::flags`: the outermost names of the path are missing.
pub const FILE_CUT: u32 = 1;
/// Bit of `SysFile::flags`: the path leads there no more.
pub const FILE_DELETED: u32 = 2;
/// Bit of `SysFile::flags`: it is in no folder; its only name is the one that the kernel gave it.
pub const FILE_OF_KERNEL: u32 = 4;

/// `SysText::what` and `SysFd::what`: the first path or file descriptor.
pub const ARGUMENT_FIRST: u32 = 0;
/// Likewise the second one.
pub const ARGUMENT_SECOND: u32 = 1;
/// `SysText::what`: a socket address, as `struct sockaddr`.
pub const ARGUMENT_ADDR: u32 = 2;
/// Bit of `SysText::what`: it belongs to the call that the thread is in, and has a time of its own.
pub const ARGUMENT_LATE: u32 = 1 << 8;

/// `SysEnter::timeout`: the call may wait for ever, or does not wait, or an argument says it.
pub const NO_TIMEOUT: i64 = -1;

impl SysEnter {
    /// A call of a thread of which no goroutine is known, nor a file or a timeout.
    #[inline(always)]
    pub const fn of_thread(header: Header, tgid: u32, nr: u32, args: [u64; 6]) -> Self {
        Self {
            header,
            tgid,
            nr,
            args,
            goid: 0,
            startpc: 0,
            gstatus: 0,
            proc: NO_PROC,
            tick: 0,
            reserved: 0,
            stack: 0,
            file: 0,
            timeout: NO_TIMEOUT,
        }
    }
}

/// How an argument says how long a call may wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Timeout {
    /// Not at all.
    None,
    /// Milliseconds, negative for ever.
    Millis,
    /// Address of a `struct timespec` with a length of time; 0 for ever.
    Timespec,
    /// Address of a `struct timeval` with a length of time; 0 for ever.
    Timeval,
    /// Of `futex`: address of a `struct timespec`, if the operation (argument 1) waits; with some operations a
    /// point in time.
    Futex,
    /// Of `clock_nanosleep`: address of a `struct timespec`; with a flag (argument 1) a point in time of a
    /// clock (argument 0).
    ClockNanosleep,
}

/// What the arguments of a system call are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct Call(u64);

/// Bits for the number of an argument, counted from 1; 0 for none.
const BITS: u32 = 4;
const MASK: u64 = (1 << BITS) - 1;
const TIMEOUT_KIND: u32 = 48;
const RETURNS_FD: u64 = 1 << 52;
const MAY_DUPLICATE: u64 = 1 << 53;

macro_rules! arguments {
    ($( #[doc = $doc:literal] $get:ident $place:literal; )*) => {
        impl Call {
            $(
                #[doc = $doc]
                #[inline(always)]
                pub const fn $get(self) -> Option<usize> {
                    let number = self.0 >> ($place * BITS) & MASK;
                    if number == 0 { None } else { Some(number as usize - 1) }
                }
            )*
        }

        /// For the table: a call of which one argument is known.
        mod with {
            use super::{BITS, Call};
            $(
                pub const fn $get(call: Call, argument: u64) -> Call {
                    assert!(argument < 6);
                    Call(call.0 | (argument + 1) << ($place * BITS))
                }
            )*
        }
    };
}

arguments! {
    /// The first file descriptor.
    fd 0;
    /// The second one.
    fd2 1;
    /// Address of the first path.
    path 2;
    /// Address of the second one.
    path2 3;
    /// Address of a socket address that is given; its length is the next argument.
    addr 4;
    /// Address of a socket address that is returned; the address of its length is the next argument.
    addr_out 5;
    /// Address of a `struct msghdr`, with a socket address that is given.
    message 6;
    /// Likewise, with one that is returned.
    message_out 7;
    /// Number of bytes.
    size 8;
    /// Says how long the call may wait, see [`Call::timeout_kind`].
    timeout 9;
    /// Address of two file descriptors that are returned.
    pair 10;
    /// Address of a path that is returned.
    path_out 11;
}

impl Call {
    /// What [`Call::timeout`] is.
    #[inline(always)]
    pub const fn timeout_kind(self) -> Timeout {
        match self.0 >> TIMEOUT_KIND & MASK {
            1 => Timeout::Millis,
            2 => Timeout::Timespec,
            3 => Timeout::Timeval,
            4 => Timeout::Futex,
            5 => Timeout::ClockNanosleep,
            _ => Timeout::None,
        }
    }

    /// Whether the call returns a file descriptor.
    #[inline(always)]
    pub const fn returns_fd(self) -> bool {
        self.0 & RETURNS_FD != 0
    }

    /// Whether it does with some commands (argument 1), see [`DUPLICATES`].
    #[inline(always)]
    pub const fn may_duplicate(self) -> bool {
        self.0 & MAY_DUPLICATE != 0
    }

    /// Whether there is nothing to be looked up when it is entered or left.
    #[inline(always)]
    pub const fn is_plain(self) -> bool {
        self.0 == 0
    }

    const fn waits(self, argument: u64, kind: Timeout) -> Self {
        let call = with::timeout(self, argument);
        Self(call.0 | (kind as u64) << TIMEOUT_KIND)
    }
}

/// One thing that is known of a call.
macro_rules! known {
    ($call:expr, returns_fd) => {
        Call($call.0 | RETURNS_FD)
    };
    ($call:expr, may_duplicate) => {
        Call($call.0 | MAY_DUPLICATE)
    };
    ($call:expr, millis $n:literal) => {
        $call.waits($n, Timeout::Millis)
    };
    ($call:expr, timespec $n:literal) => {
        $call.waits($n, Timeout::Timespec)
    };
    ($call:expr, timeval $n:literal) => {
        $call.waits($n, Timeout::Timeval)
    };
    ($call:expr, futex $n:literal) => {
        $call.waits($n, Timeout::Futex)
    };
    ($call:expr, clock $n:literal) => {
        $call.waits($n, Timeout::ClockNanosleep)
    };
    ($call:expr, $what:ident $n:literal) => {
        with::$what($call, $n)
    };
}

macro_rules! calls {
    ($( $number:literal $name:ident: $( $what:ident $($n:literal)? ),+; )*) => {
        /// What is known of each call, by number.
        pub static TABLE: [Call; CALLS] = {
            let mut table = [Call(0); CALLS];
            $( {
                let call = Call(0);
                $( let call = known!(call, $what $($n)?); )+
                assert!(table[$number].0 == 0, concat!(stringify!($name), " is there twice"));
                table[$number] = call;
            } )*
            table
        };

        /// Numbers and names in the table.
        pub const NAMES: &[(u32, &str)] = &[$( ($number, stringify!($name)), )*];
    };
}

/// The call with this number; a plain one if there is nothing to be said of it.
#[inline(always)]
pub fn call(number: u32) -> Call {
    TABLE.get(number as usize).copied().unwrap_or_default()
}

calls! {
    0 read: fd 0, size 2;
    1 write: fd 0, size 2;
    2 open: path 0, returns_fd;
    3 close: fd 0;
    4 stat: path 0;
    5 fstat: fd 0;
    6 lstat: path 0;
    7 poll: millis 2;
    8 lseek: fd 0;
    9 mmap: fd 4, size 1;
    10 mprotect: size 1;
    11 munmap: size 1;
    16 ioctl: fd 0;
    17 pread64: fd 0, size 2;
    18 pwrite64: fd 0, size 2;
    19 readv: fd 0;
    20 writev: fd 0;
    21 access: path 0;
    22 pipe: pair 0;
    23 select: timeval 4;
    25 mremap: size 2;
    26 msync: size 1;
    28 madvise: size 1;
    32 dup: fd 0, returns_fd;
    33 dup2: fd 0, fd2 1, returns_fd;
    35 nanosleep: timespec 0;
    40 sendfile: fd 0, fd2 1, size 3;
    41 socket: returns_fd;
    42 connect: fd 0, addr 1;
    43 accept: fd 0, addr_out 1, returns_fd;
    44 sendto: fd 0, size 2, addr 4;
    45 recvfrom: fd 0, size 2, addr_out 4;
    46 sendmsg: fd 0, message 1;
    47 recvmsg: fd 0, message_out 1;
    48 shutdown: fd 0;
    49 bind: fd 0, addr 1;
    50 listen: fd 0;
    51 getsockname: fd 0, addr_out 1;
    52 getpeername: fd 0, addr_out 1;
    53 socketpair: pair 3;
    54 setsockopt: fd 0;
    55 getsockopt: fd 0;
    59 execve: path 0;
    72 fcntl: fd 0, may_duplicate;
    73 flock: fd 0;
    74 fsync: fd 0;
    75 fdatasync: fd 0;
    76 truncate: path 0, size 1;
    77 ftruncate: fd 0, size 1;
    78 getdents: fd 0, size 2;
    79 getcwd: path_out 0, size 1;
    80 chdir: path 0;
    81 fchdir: fd 0;
    82 rename: path 0, path2 1;
    83 mkdir: path 0;
    84 rmdir: path 0;
    85 creat: path 0, returns_fd;
    86 link: path 0, path2 1;
    87 unlink: path 0;
    88 symlink: path 0, path2 1;
    89 readlink: path 0, size 2;
    90 chmod: path 0;
    91 fchmod: fd 0;
    92 chown: path 0;
    93 fchown: fd 0;
    94 lchown: path 0;
    128 rt_sigtimedwait: timespec 2;
    132 utime: path 0;
    133 mknod: path 0;
    137 statfs: path 0;
    138 fstatfs: fd 0;
    149 mlock: size 1;
    150 munlock: size 1;
    155 pivot_root: path 0, path2 1;
    161 chroot: path 0;
    163 acct: path 0;
    165 mount: path 0, path2 1;
    166 umount2: path 0;
    167 swapon: path 0;
    168 swapoff: path 0;
    187 readahead: fd 0, size 2;
    188 setxattr: path 0, size 3;
    189 lsetxattr: path 0, size 3;
    190 fsetxattr: fd 0, size 3;
    191 getxattr: path 0, size 3;
    192 lgetxattr: path 0, size 3;
    193 fgetxattr: fd 0, size 3;
    194 listxattr: path 0, size 2;
    195 llistxattr: path 0, size 2;
    196 flistxattr: fd 0, size 2;
    197 removexattr: path 0;
    198 lremovexattr: path 0;
    199 fremovexattr: fd 0;
    202 futex: futex 3;
    208 io_getevents: timespec 4;
    213 epoll_create: returns_fd;
    217 getdents64: fd 0, size 2;
    220 semtimedop: timespec 3;
    221 fadvise64: fd 0;
    230 clock_nanosleep: clock 2;
    232 epoll_wait: fd 0, millis 3;
    233 epoll_ctl: fd 0, fd2 2;
    235 utimes: path 0;
    240 mq_open: path 0, returns_fd;
    241 mq_unlink: path 0;
    242 mq_timedsend: fd 0, size 2;
    243 mq_timedreceive: fd 0, size 2;
    244 mq_notify: fd 0;
    245 mq_getsetattr: fd 0;
    253 inotify_init: returns_fd;
    254 inotify_add_watch: fd 0, path 1;
    255 inotify_rm_watch: fd 0;
    257 openat: fd 0, path 1, returns_fd;
    258 mkdirat: fd 0, path 1;
    259 mknodat: fd 0, path 1;
    260 fchownat: fd 0, path 1;
    261 futimesat: fd 0, path 1;
    262 newfstatat: fd 0, path 1;
    263 unlinkat: fd 0, path 1;
    264 renameat: fd 0, path 1, fd2 2, path2 3;
    265 linkat: fd 0, path 1, fd2 2, path2 3;
    266 symlinkat: path 0, fd 1, path2 2;
    267 readlinkat: fd 0, path 1, size 3;
    268 fchmodat: fd 0, path 1;
    269 faccessat: fd 0, path 1;
    270 pselect6: timespec 4;
    271 ppoll: timespec 2;
    275 splice: fd 0, fd2 2, size 4;
    276 tee: fd 0, fd2 1, size 2;
    277 sync_file_range: fd 0;
    278 vmsplice: fd 0;
    280 utimensat: fd 0, path 1;
    281 epoll_pwait: fd 0, millis 3;
    282 signalfd: fd 0, returns_fd;
    283 timerfd_create: returns_fd;
    284 eventfd: returns_fd;
    285 fallocate: fd 0, size 3;
    286 timerfd_settime: fd 0;
    287 timerfd_gettime: fd 0;
    288 accept4: fd 0, addr_out 1, returns_fd;
    289 signalfd4: fd 0, returns_fd;
    290 eventfd2: returns_fd;
    291 epoll_create1: returns_fd;
    292 dup3: fd 0, fd2 1, returns_fd;
    293 pipe2: pair 0;
    294 inotify_init1: returns_fd;
    295 preadv: fd 0;
    296 pwritev: fd 0;
    298 perf_event_open: returns_fd;
    299 recvmmsg: fd 0, timespec 4;
    300 fanotify_init: returns_fd;
    301 fanotify_mark: fd 0, fd2 3, path 4;
    303 name_to_handle_at: fd 0, path 1;
    304 open_by_handle_at: fd 0, returns_fd;
    306 syncfs: fd 0;
    307 sendmmsg: fd 0;
    308 setns: fd 0;
    313 finit_module: fd 0;
    316 renameat2: fd 0, path 1, fd2 2, path2 3;
    318 getrandom: size 1;
    319 memfd_create: returns_fd;
    322 execveat: fd 0, path 1;
    323 userfaultfd: returns_fd;
    326 copy_file_range: fd 0, fd2 2, size 4;
    327 preadv2: fd 0;
    328 pwritev2: fd 0;
    332 statx: fd 0, path 1;
    424 pidfd_send_signal: fd 0;
    425 io_uring_setup: returns_fd;
    426 io_uring_enter: fd 0;
    427 io_uring_register: fd 0;
    428 open_tree: fd 0, path 1, returns_fd;
    429 move_mount: fd 0, path 1, fd2 2, path2 3;
    430 fsopen: returns_fd;
    431 fsconfig: fd 0;
    432 fsmount: fd 0, returns_fd;
    433 fspick: fd 0, path 1, returns_fd;
    434 pidfd_open: returns_fd;
    437 openat2: fd 0, path 1, returns_fd;
    438 pidfd_getfd: fd 0, returns_fd;
    439 faccessat2: fd 0, path 1;
    441 epoll_pwait2: fd 0, timespec 3;
    442 mount_setattr: fd 0, path 1;
    443 quotactl_fd: fd 0;
    444 landlock_create_ruleset: returns_fd;
    445 landlock_add_rule: fd 0;
    446 landlock_restrict_self: fd 0;
    447 memfd_secret: returns_fd;
    451 cachestat: fd 0;
    452 fchmodat2: fd 0, path 1;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_those_of_the_kernel() {
        let openat = call(257);
        assert_eq!((openat.fd(), openat.path(), openat.path2()), (Some(0), Some(1), None));
        assert!(openat.returns_fd() && !openat.is_plain());
        let poll = call(7);
        assert_eq!((poll.timeout(), poll.timeout_kind()), (Some(2), Timeout::Millis));
        assert!(call(39).is_plain() && call(60_000).is_plain());
    }
}
