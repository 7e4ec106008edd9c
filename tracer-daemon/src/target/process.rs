//! A process as /proc shows it.

use std::{
    collections::HashMap,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use procfs::{
    FromBufRead, ProcError, ProcessCGroups,
    process::{MemoryMap, MemoryMaps, Process, StatFlags, Status},
};
use thiserror::Error;
use tracer_common::events::{COMPAT_CALL, LONG_ARGS};

use super::{cgroup, memory::Memory, time};

/// Inode of the first pid namespace (include/linux/proc_ns.h, PROC_PID_INIT_INO).
const INITIAL_PID_NAMESPACE: u64 = 0xefff_fffc;

/// What the kernel adds to a path that leads to the file no more.
const DELETED: &str = " (deleted)";

/// Arguments of a program as they are stored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cmdline {
    /// Joined by spaces; what is not UTF-8 is replaced (U+FFFD). Empty if there are none, or they are not known.
    pub text: String,
    /// Length of all of them in bytes, if these are only their beginning.
    pub cut_from: Option<u64>,
}

impl Cmdline {
    /// Most of them that is stored, in bytes.
    const MOST: usize = LONG_ARGS;

    /// Of arguments with a zero at the end of each, or the beginning of them: `len` is the length of all, 0 if they are not
    /// known. Zeros may follow.
    pub fn of(args: &[u8], len: u64) -> Self {
        let whole = usize::try_from(len).unwrap_or(usize::MAX);
        let kept = args.len().min(whole).min(Self::MOST);
        let cut_from = (kept < whole).then_some(len);
        let args = &args[..kept];
        let args = args.strip_suffix(&[0]).unwrap_or(args);
        let args: Vec<_> = args.split(|&byte| byte == 0).map(String::from_utf8_lossy).collect();
        Self { text: args.join(" "), cut_from }
    }
}

/// Executables are moved by whole pages.
const PAGE: u64 = 4096;

/// Why a process cannot be traced.
#[derive(Debug, Error)]
pub enum ProcessError {
    /// There is no such process, or it ended just now.
    #[error("no process has the PID {0}: it may have ended; `ps -e` lists the processes")]
    NotFound(u32),
    /// It is a thread of another process.
    #[error("{tid} is a thread of the process {tgid}: attach to {tgid}")]
    IsThread {
        /// What was asked for.
        tid: u32,
        /// The process it belongs to.
        tgid: u32,
    },
    /// No process has this name.
    #[error("no process is called {0}: `ps -e` lists the processes")]
    NoneCalled(String),
    /// Several processes have this name.
    #[error("several processes are called {name}, give the PID of one: {list}")]
    SeveralCalled {
        /// The name.
        name: String,
        /// The processes, with what they run.
        list: String,
    },
    /// It belongs to the kernel.
    #[error("{pid} ({comm}) is a kernel thread: only processes of user space can be traced")]
    KernelThread {
        /// Its id.
        pid: u32,
        /// Its name.
        comm: String,
    },
    /// It has ended, and its parent has not looked.
    #[error("{pid} ({comm}) is a zombie: it has ended and waits for its parent {ppid} to notice")]
    Zombie {
        /// Its id.
        pid: u32,
        /// Its name.
        comm: String,
        /// Its parent.
        ppid: i32,
    },
    /// The kernel programs see other ids than tracerd.
    #[error(
        "tracerd is in a pid namespace of its own (a container?), where processes have other ids \
         than in the kernel: start it in the host's, with `docker run --pid=host` for example"
    )]
    PidNamespace,
    /// The kernel's clock is not known to tracerd.
    #[error(
        "tracerd is in a time namespace of its own whose clock is not known: start it in the host's, or \
         by another process of its namespace (`unshare --time --fork`)"
    )]
    TimeNamespace,
    /// It is tracerd itself.
    #[error("{0} is this tracerd: it cannot trace itself")]
    Myself(u32),
    /// /proc said something unexpected.
    #[error("cannot read /proc/{pid}: {reason}")]
    Proc {
        /// Its id.
        pid: u32,
        /// What went wrong.
        reason: String,
    },
}

/// A thread of a process at one moment.
#[derive(Clone, Debug)]
pub struct ThreadInfo {
    /// Its id.
    pub tid: u32,
    /// Its name.
    pub name: String,
    /// Its state, a letter as in proc_pid_stat(5).
    pub state: char,
    /// Number, with the bit COMPAT_CALL for the 32-bit interface, and arguments of the system call in which it sleeps, if it
    /// does and it is known which interface it uses.
    pub call: Option<(u32, [u64; 6])>,
}

/// A process at one moment.
#[derive(Clone, Debug)]
pub struct ProcessInfo {
    /// Process id in the root namespace.
    pub pid: u32,
    /// Path of the executable, empty if it cannot be read.
    pub exe: String,
    /// Arguments.
    pub cmdline: Cmdline,
    /// Whose it is ([`tracer_common::user::owner`]).
    pub uid: u32,
    /// The control group that says where it is ([`tracer_common::cgroup`]).
    pub cgroup: String,
    /// Name of the first thread.
    pub comm: String,
}

impl ProcessInfo {
    /// Looks at the process `pid` and makes sure that it can be traced.
    ///
    /// # Errors
    /// When it does not exist, has ended, or is not a process of user space.
    pub fn read(pid: u32) -> Result<Self, ProcessError> {
        if pid == std::process::id() {
            return Err(ProcessError::Myself(pid));
        }
        let process = open(pid)?;
        let status = status(pid)?;
        if status.tgid != pid.cast_signed() {
            return Err(ProcessError::IsThread { tid: pid, tgid: status.tgid.cast_unsigned() });
        }
        let stat = process.stat().map_err(|e| proc_error(pid, &e))?;
        if stat.flags & StatFlags::PF_KTHREAD.bits() != 0 {
            return Err(ProcessError::KernelThread { pid, comm: stat.comm });
        }
        if has_ended(&stat) {
            return Err(ProcessError::Zombie { pid, comm: stat.comm, ppid: stat.ppid });
        }
        Ok(Self::of(pid, owner_of(&status), stat.comm))
    }

    /// Looks at the process `pid`, whatever it is: of a thread of the kernel its name is all that there is to
    /// know.
    ///
    /// # Errors
    /// When it does not exist or has ended.
    pub fn of_any(pid: u32) -> Result<Self, ProcessError> {
        let status = status(pid)?;
        // Not the name in there, in which backslashes and newlines are escaped.
        let stat = open(pid)?.stat().map_err(|e| proc_error(pid, &e))?;
        Ok(Self::of(pid, owner_of(&status), stat.comm))
    }

    fn of(pid: u32, uid: u32, comm: String) -> Self {
        let shown = shown_by(pid);
        let args = std::fs::read(format!("/proc/{shown}/cmdline")).unwrap_or_default();
        Self {
            pid,
            exe: Self::exe(pid).unwrap_or_default(),
            cmdline: Cmdline::of(&args, args.len() as u64),
            uid,
            cgroup: cgroup_of(shown).unwrap_or_default(),
            comm,
        }
    }

    /// The process that is called this: itself (`comm`), or its executable. Threads of the kernel are none.
    ///
    /// # Errors
    /// When there is none, or several.
    pub fn only_called(name: &str) -> Result<u32, ProcessError> {
        let infos = Self::all().into_iter().filter_map(|pid| Self::read(pid).ok());
        let is_called = |info: &Self| {
            info.comm == name || info.exe.rsplit('/').next().is_some_and(|file| file == name)
        };
        let mut found: Vec<_> = infos.filter(is_called).collect();
        found.sort_unstable_by_key(|info| info.pid);
        match found.as_slice() {
            [] => Err(ProcessError::NoneCalled(name.to_owned())),
            [one] => Ok(one.pid),
            several => {
                let list =
                    several.iter().map(|info| format!("{} ({})", info.pid, info.cmdline.text));
                let list = list.collect::<Vec<_>>().join(", ");
                Err(ProcessError::SeveralCalled { name: name.to_owned(), list })
            }
        }
    }

    /// All processes that run, by pid.
    pub fn all() -> Vec<u32> {
        let names = std::fs::read_dir("/proc").into_iter().flatten().filter_map(Result::ok);
        names.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
    }

    /// Path of its executable, also if that is deleted or replaced; none if it has none or has ended.
    pub fn exe(pid: u32) -> Option<String> {
        let link = Self::exe_link(pid);
        let path = std::fs::read_link(&link).ok()?;
        let shown = path.to_string_lossy();
        let without = shown.strip_suffix(DELETED);
        // A file may be called so.
        let without = without.filter(|_| !leads_to(pid, &path, &link));
        Some(without.unwrap_or(&shown).to_owned())
    }

    /// Its control group; none if it has ended.
    pub fn cgroup(pid: u32) -> Option<String> {
        cgroup_of(shown_by(pid))
    }

    /// Whether the process with this pid was created at this time (CLOCK_BOOTTIME, ns), as /proc has it: in hundredths of a
    /// second.
    pub fn is_from(pid: u32, created: u64) -> bool {
        let tick = 1_000_000_000 / procfs::ticks_per_second();
        open(pid).is_ok_and(|p| p.stat().is_ok_and(|stat| stat.starttime == created / tick))
    }

    /// Makes sure that ids mean the same to tracerd and to the kernel programs.
    ///
    /// # Errors
    /// When tracerd is not in the initial pid namespace, or does not know the offset of its time namespace.
    pub fn check_namespace() -> Result<(), ProcessError> {
        time::own_offset().ok_or(ProcessError::TimeNamespace)?;
        // An unreadable link is no proof of anything: go on.
        let inode = std::fs::metadata("/proc/self/ns/pid").map(|m| m.ino()).ok();
        if inode.is_none_or(|inode| inode == INITIAL_PID_NAMESPACE) {
            Ok(())
        } else {
            Err(ProcessError::PidNamespace)
        }
    }

    /// The file that the kernel has mapped as the executable, even if it was deleted or replaced,
    /// or lies in another mount namespace.
    pub fn exe_link(pid: u32) -> PathBuf {
        PathBuf::from(format!("/proc/{}/exe", shown_by(pid)))
    }

    /// The kernel's ids of its threads by the ids that they have in their own pid namespace; none if
    /// that is the namespace of tracerd, where they are the same.
    pub fn thread_ids(pid: u32) -> Option<HashMap<u32, u32>> {
        let namespace = |of: &str| std::fs::metadata(format!("/proc/{of}/ns/pid")).map(|m| m.ino());
        if namespace(&pid.to_string()).ok()? == namespace("self").ok()? {
            return None;
        }
        let tasks = open(pid).ok()?.tasks().ok()?.filter_map(Result::ok);
        let ids = tasks.filter_map(|task| {
            let own = status(task.tid.cast_unsigned()).ok()?.nspid?.last().copied()?;
            Some((u32::try_from(own).ok()?, task.tid.cast_unsigned()))
        });
        Some(ids.collect())
    }

    /// How far the executable was moved from the addresses in its file, which has its first
    /// instruction at `entry`. The kernel tells the process itself in its auxiliary vector, whatever
    /// the file is called, wherever it lies, and whether it is still there.
    ///
    /// # Errors
    /// When the process has ended, or runs another file.
    pub fn load_bias(pid: u32, entry: u64) -> Result<u64, ProcessError> {
        let at = self::entry(shown_by(pid)).ok_or(ProcessError::NotFound(pid))?;
        let moved = at.checked_sub(entry);
        let reason = "the executable does not begin where the kernel says".to_owned();
        moved.filter(|bias| bias % PAGE == 0).ok_or(ProcessError::Proc { pid, reason })
    }

    /// Its threads now; threads that end meanwhile are left out.
    ///
    /// # Errors
    /// When the process has ended.
    pub fn threads(pid: u32) -> Result<Vec<ThreadInfo>, ProcessError> {
        let tasks = open(pid)?.tasks().map_err(|e| proc_error(pid, &e))?;
        let info = |task: procfs::process::Task| {
            let stat = task.stat().ok()?;
            let tid = task.tid.cast_unsigned();
            let call = std::fs::read_to_string(format!("/proc/{pid}/task/{tid}/syscall"));
            let call = call.ok().and_then(|text| parse_call(&text)).and_then(|call| call.by(tid));
            Some(ThreadInfo { tid, name: stat.comm, state: stat.state, call })
        };
        Ok(tasks.filter_map(Result::ok).filter_map(info).collect())
    }

    /// Whether it is there, be it as a zombie.
    pub fn exists(pid: u32) -> bool {
        std::fs::exists(format!("/proc/{pid}")).unwrap_or(true)
    }

    /// Whether the process still runs.
    pub fn alive(pid: u32) -> bool {
        open(pid).is_ok_and(|p| p.stat().is_ok_and(|stat| !has_ended(&stat)))
    }
}

/// The thread by which /proc shows the process `pid`: its first one, or another one if that has ended before the others.
/// The kernel shows no executable, memory, arguments or control group of a thread that has ended. Under /proc/TID all
/// threads have the files that the first one has.
pub fn shown_by(pid: u32) -> u32 {
    live_thread(pid).unwrap_or(pid)
}

/// The mappings of the process `pid`; none if it has ended.
pub fn mappings(pid: u32) -> Vec<MemoryMap> {
    let maps: Option<MemoryMaps> = read(shown_by(pid), "maps").ok();
    maps.into_iter().flatten().collect()
}

/// The address of the first instruction of the executable of a process, of which `pid` is a live thread.
pub fn entry(pid: u32) -> Option<u64> {
    let auxv = open(pid).ok()?.auxv().ok()?;
    auxv.get(&nix::libc::AT_ENTRY).copied()
}

/// A thread of the process `pid` that has not begun to exit, the first one if possible; none if there is none.
pub fn live_thread(pid: u32) -> Option<u32> {
    let lives = |stat: procfs::process::Stat| {
        let exits = stat.flags & StatFlags::PF_EXITING.bits() != 0;
        !exits && !matches!(stat.state, 'Z' | 'X' | 'x')
    };
    let process = open(pid).ok()?;
    if process.stat().is_ok_and(lives) {
        return Some(pid);
    }
    let mut tasks = process.tasks().ok()?.filter_map(Result::ok);
    let live = tasks.find(|task| task.stat().is_ok_and(lives))?;
    Some(live.tid.cast_unsigned())
}

/// Whether a path that /proc shows for an executable leads to it: here, or from the root of the process.
fn leads_to(pid: u32, path: &Path, link: &Path) -> bool {
    let id = |path: &Path| std::fs::metadata(path).map(|meta| (meta.dev(), meta.ino())).ok();
    let Some(file) = id(link) else { return false };
    let root = PathBuf::from(format!("/proc/{}/root", shown_by(pid)));
    let inside = path.strip_prefix("/").ok().map(|path| root.join(path));
    id(path) == Some(file) || inside.is_some_and(|path| id(&path) == Some(file))
}

/// The control group that says where a process is; none if it has ended, when it is in none of version 1 any more.
fn cgroup_of(pid: u32) -> Option<String> {
    let groups = read::<ProcessCGroups>(pid, "cgroup").ok()?.0;
    let all = groups.iter().map(|group| (group.hierarchy, group.pathname.as_str()));
    let path = cgroup::where_it_is(all)?.to_owned();
    let stat = open(pid).ok()?.stat().ok()?;
    (!has_ended(&stat)).then_some(path)
}

fn status(pid: u32) -> Result<Status, ProcessError> {
    read(pid, "status")
}

/// A file of a process or a thread in /proc, in which names need not be UTF-8.
pub fn read<T: FromBufRead>(pid: u32, file: &str) -> Result<T, ProcessError> {
    let failed = |error: std::io::Error| match error.raw_os_error() {
        Some(nix::libc::ENOENT | nix::libc::ESRCH) => ProcessError::NotFound(pid),
        _ => ProcessError::Proc { pid, reason: format!("{file}: {error}") },
    };
    let bytes = std::fs::read(format!("/proc/{pid}/{file}")).map_err(failed)?;
    let text = String::from_utf8_lossy(&bytes);
    T::from_buf_read(text.as_bytes()).map_err(|e| proc_error(pid, &e))
}

/// Whose a process is.
fn owner_of(status: &Status) -> u32 {
    tracer_common::user::owner(status.ruid, status.euid, status.suid)
}

/// Whether a process has ended: its first thread may do so before the others.
fn has_ended(stat: &procfs::process::Stat) -> bool {
    matches!(stat.state, 'Z' | 'X' | 'x') && stat.num_threads <= 1
}

/// A system call as proc_pid_syscall(5) shows it, which does not say whose number it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct ShownCall {
    nr: u32,
    args: [u64; 6],
    /// Address of the next instruction.
    pc: u64,
}

impl ShownCall {
    /// Number and arguments, by the instruction with which the thread `tid` made the call: 64-bit programs can use the
    /// interface of 32-bit ones, too. In those the kernel goes on behind an `int $0x80` whatever the instruction was.
    fn by(self, tid: u32) -> Option<(u32, [u64; 6])> {
        const SYSCALL: [u8; 2] = [0x0f, 0x05];
        const INT_80: [u8; 2] = [0xcd, 0x80];
        let instruction = Memory::of(tid).read(self.pc.checked_sub(2)?, 2).ok()?;
        match instruction.try_into().ok()? {
            SYSCALL => Some((self.nr, self.args)),
            INT_80 => Some((self.nr | COMPAT_CALL, self.args)),
            _ => None,
        }
    }
}

/// None for a thread that runs, or that sleeps without a call.
fn parse_call(text: &str) -> Option<ShownCall> {
    let mut words = text.split_ascii_whitespace();
    let nr = words.next()?.parse().ok()?;
    let mut register = || u64::from_str_radix(words.next()?.strip_prefix("0x")?, 16).ok();
    let mut args = [0; 6];
    for arg in &mut args {
        *arg = register()?;
    }
    let (_stack, pc) = (register()?, register()?);
    Some(ShownCall { nr, args, pc })
}

fn open(pid: u32) -> Result<Process, ProcessError> {
    let id = i32::try_from(pid).map_err(|_| ProcessError::NotFound(pid))?;
    Process::new(id).map_err(|e| proc_error(pid, &e))
}

fn proc_error(pid: u32, error: &ProcError) -> ProcessError {
    match error {
        ProcError::NotFound(_) => ProcessError::NotFound(pid),
        // Reading the files of a process that has just ended.
        ProcError::Io(e, _) if e.raw_os_error() == Some(nix::libc::ESRCH) => {
            ProcessError::NotFound(pid)
        }
        other => ProcessError::Proc { pid, reason: other.to_string() },
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::target::ElfFile;

    #[test]
    fn calls_are_read() {
        let text = "202 0x5581 0x189 0x0 0x0 0x0 0xffffffff 0x7ffc6a70b1c0 0x7f0b8c\n";
        let args = [0x5581, 0x189, 0, 0, 0, 0xffff_ffff];
        assert_eq!(parse_call(text), Some(ShownCall { nr: 202, args, pc: 0x7f_0b8c }));
        assert_eq!(parse_call("running\n"), None);
        assert_eq!(parse_call("-1 0x7ffc6a70b1c0 0x7f0b8c\n"), None);
    }

    #[test]
    fn a_name_has_its_colon() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("worker: 0:1");
        std::fs::copy("/bin/sleep", &path).expect("it is there");
        let mut child = std::process::Command::new(&path).arg("60").spawn().expect("it starts");
        let info = ProcessInfo::of_any(child.id());
        child.kill().and_then(|()| child.wait()).expect("it ends");
        assert_eq!(info.expect("it runs").comm, "worker: 0:1");
    }

    #[test]
    fn the_instruction_tells_whose_number_a_call_has() {
        let by = |code: [u8; 2]| {
            let pc = code.as_ptr_range().end as u64;
            ShownCall { nr: 3, args: [0; 6], pc }.by(std::process::id())
        };
        assert_eq!(by([0x0f, 0x05]), Some((3, [0; 6])));
        assert_eq!(by([0xcd, 0x80]), Some((3 | COMPAT_CALL, [0; 6])));
        assert_eq!(by([0x90, 0x90]), None);
    }

    #[test]
    fn a_deleted_executable_has_its_path() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("sleep");
        std::fs::copy("/bin/sleep", &path).expect("it is there");
        let mut child = std::process::Command::new(&path).arg("60").spawn().expect("it starts");
        std::fs::remove_file(&path).expect("it is there");
        let exe = ProcessInfo::exe(child.id());
        child.kill().and_then(|()| child.wait()).expect("it ends");
        assert_eq!(exe.as_deref(), path.to_str());
    }

    #[test]
    fn an_executable_may_be_called_deleted() {
        let folder = tempfile::tempdir().expect("a folder");
        let exe = |name: &str, then: &dyn Fn(&Path)| {
            let path = folder.path().join(name);
            std::fs::copy("/bin/sleep", &path).expect("it is there");
            let mut child = std::process::Command::new(&path).arg("60").spawn().expect("it starts");
            then(&path);
            let exe = ProcessInfo::exe(child.id());
            child.kill().and_then(|()| child.wait()).expect("it ends");
            (exe, path.to_str().map(str::to_owned))
        };
        let remove = |path: &Path| std::fs::remove_file(path).expect("it is there");
        let (seen, path) = exe("x (deleted)", &|_| {});
        assert_eq!(seen, path);
        // Beside it there is another one with the name that is shown.
        let (seen, path) = exe("x", &remove);
        assert_eq!(seen, path);
        let (seen, path) = exe("x (deleted)", &remove);
        assert_eq!(seen, path);
        // It has another name by now.
        let (seen, path) = exe("y", &|path| {
            std::fs::hard_link(path, folder.path().join("z")).expect("it is there");
            remove(path);
        });
        assert_eq!(seen, path);
    }

    #[test]
    fn names_need_not_be_utf_8() {
        use std::os::unix::{ffi::OsStrExt as _, process::CommandExt as _};
        let odd = std::ffi::OsStr::from_bytes(b"process-name-t\xc3\xb6\xc3\xb6\xc3\xb6");
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join(odd);
        std::fs::copy("/bin/sleep", &path).expect("it is there");
        let mut command = std::process::Command::new(&path);
        let mut child = command.arg0(std::ffi::OsStr::from_bytes(b"a\xff\\")).arg("60").spawn();
        let child = child.as_mut().expect("it starts");
        let (read, any) = (ProcessInfo::read(child.id()), ProcessInfo::of_any(child.id()));
        let threads = ProcessInfo::threads(child.id()).map(|all| all.len());
        let maps = read_maps(child.id()).map(|maps| maps.0.len());
        child.kill().and_then(|()| child.wait()).expect("it ends");
        // The kernel cuts it within a character.
        let comm = "process-name-t\u{fffd}";
        for info in [read.expect("readable"), any.expect("readable")] {
            assert_eq!((&*info.comm, &*info.cmdline.text), (comm, "a\u{fffd}\\ 60"));
            assert_eq!(Some(&*info.exe), path.to_str());
        }
        assert_eq!(threads.expect("readable"), 1);
        assert!(maps.expect("readable") > 0);
    }

    fn read_maps(pid: u32) -> Result<MemoryMaps, ProcessError> {
        read(pid, "maps")
    }

    #[test]
    fn arguments_are_whole_or_marked() {
        let of = |args: &[u8], len| {
            let Cmdline { text, cut_from } = Cmdline::of(args, len);
            (text, cut_from)
        };
        assert_eq!(of(b"a\0b c\0\0\0", 6), ("a b c".to_owned(), None));
        assert_eq!(of(b"a\0\0", 3), ("a ".to_owned(), None));
        assert_eq!(of(b"a\0b", 9), ("a b".to_owned(), Some(9)));
        assert_eq!(of(b"x", 0), (String::new(), None));
        let long = vec![b'x'; 10_000];
        assert_eq!(of(&long, 10_000), ("x".repeat(8192), Some(10_000)));
    }

    #[test]
    fn tells_how_far_this_test_was_moved() {
        let file = ElfFile::open(Path::new("/proc/self/exe")).expect("readable");
        let entry = file.parse().expect("an executable").entry();
        let bias = ProcessInfo::load_bias(std::process::id(), entry).expect("it runs");
        let maps = std::fs::read_to_string("/proc/self/maps").expect("readable");
        assert!(maps.starts_with(&format!("{bias:x}-")), "{bias:x} in {maps}");
        assert!(ProcessInfo::load_bias(std::process::id(), entry + 1).is_err());
    }
}
