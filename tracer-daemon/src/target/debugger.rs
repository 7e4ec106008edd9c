//! Who debugs a process. A debugger keeps the byte that it finds where it puts a breakpoint, and writes it back when it
//! takes that away or leaves. If that byte was the breakpoint of a probe, which is gone by then, the process dies of it.

use std::{collections::BTreeMap, fs};

/// Programs that use ptrace(2) and write no breakpoints.
const HARMLESS: &[&str] = &["strace", "tracerd"];

/// A process that debugs another one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Debugger {
    /// Its process id.
    pub pid: u32,
    /// Its name, as the kernel has it.
    pub name: String,
}

impl std::fmt::Display for Debugger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.name, self.pid)
    }
}

impl Debugger {
    /// The debugger that controls a thread of the process `pid`; none if there is none, the process has ended, or the
    /// one that controls it (strace, this tracerd) writes no breakpoints.
    pub fn of(pid: u32) -> Option<Self> {
        threads(pid).find_map(|thread| Self::named(thread.tracer?))
    }

    /// By the id of a thread of it.
    fn named(tid: u32) -> Option<Self> {
        let status = fs::read(format!("/proc/{tid}/status")).ok()?;
        let pid = number(&status, "Tgid:")?;
        let name = fs::read(format!("/proc/{pid}/comm")).ok()?;
        let name = String::from_utf8_lossy(name.trim_ascii_end()).into_owned();
        let harmless = pid == std::process::id() || HARMLESS.contains(&name.as_str());
        (!harmless).then_some(Self { pid, name })
    }
}

/// The threads of a process that stand still under the control of a debugger. As long as all of them do, and none has run
/// meanwhile, the debugger has not let the process go on; it writes its breakpoints when it does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standstill {
    /// How often each has left its CPU, by tid.
    stopped: BTreeMap<u32, u64>,
    is_whole: bool,
}

impl Standstill {
    /// As it is now.
    pub fn of(pid: u32) -> Self {
        let mut standstill = Self { stopped: BTreeMap::new(), is_whole: true };
        for thread in threads(pid) {
            match thread.tracer.and_then(|_| thread.stands_since()) {
                Some(switches) => drop(standstill.stopped.insert(thread.tid, switches)),
                None => standstill.is_whole = false,
            }
        }
        standstill.is_whole &= !standstill.stopped.is_empty();
        standstill
    }

    /// Whether these are all threads of the process.
    pub fn is_whole(&self) -> bool {
        self.is_whole
    }

    /// Whether none of these threads has run since, as a later look shows.
    pub fn lasts(&self, later: &Self) -> bool {
        self.stopped.iter().all(|(tid, switches)| later.stopped.get(tid) == Some(switches))
    }

    /// Of these threads, by tid and how often they have left their CPU.
    #[cfg(test)]
    pub fn for_tests(stopped: &[(u32, u64)], is_whole: bool) -> Self {
        Self { stopped: stopped.iter().copied().collect(), is_whole }
    }
}

/// What the kernel shows of a thread.
struct Thread {
    tid: u32,
    /// Id of the thread that controls it.
    tracer: Option<u32>,
    /// Whether it stands still because of that, or is about to.
    is_stopped: bool,
}

impl Thread {
    /// How often it has left its CPU, if it stands still because a debugger controls it.
    fn stands_since(&self) -> Option<u64> {
        if !self.is_stopped {
            return None;
        }
        // Between the change of its state and the switch to another thread it is still counted as running; the kernel waits
        // for that switch (fs/proc/base.c: proc_pid_syscall, wait_task_inactive).
        let call = fs::read(format!("/proc/{}/syscall", self.tid)).ok()?;
        if call.starts_with(b"running") {
            return None;
        }
        let status = fs::read(format!("/proc/{}/status", self.tid)).ok()?;
        let fields = ["voluntary_ctxt_switches:", "nonvoluntary_ctxt_switches:"];
        let switches = fields.iter().filter_map(|field| number(&status, field)).map(u64::from);
        is_traced_stop(&status).then(|| switches.sum())
    }
}

/// The threads of a process; none if it has ended. Those that end meanwhile are left out.
fn threads(pid: u32) -> impl Iterator<Item = Thread> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten();
    tasks.filter_map(|task| {
        let task = task.ok()?;
        let status = fs::read(task.path().join("status")).ok()?;
        let state = value(&status, "State:")?.first().copied()?;
        // One that has ended stays as it is for as long as others of its process run.
        if matches!(state, b'Z' | b'X') {
            return None;
        }
        Some(Thread {
            tid: task.file_name().to_str()?.parse().ok()?,
            tracer: number(&status, "TracerPid:").filter(|&tid| tid != 0),
            is_stopped: is_traced_stop(&status),
        })
    })
}

fn is_traced_stop(status: &[u8]) -> bool {
    value(status, "State:").is_some_and(|state| state.starts_with(b"t"))
}

/// The value of a field of /proc/PID/status (proc_pid_status(5)), whose first field may hold any bytes.
fn value<'a>(status: &'a [u8], field: &str) -> Option<&'a [u8]> {
    let mut lines = status.split(|&byte| byte == b'\n').skip(1);
    lines.find_map(|line| Some(line.strip_prefix(field.as_bytes())?.trim_ascii()))
}

fn number(status: &[u8], field: &str) -> Option<u32> {
    std::str::from_utf8(value(status, field)?).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::{
        process::{Command, Stdio},
        time::{Duration, Instant},
    };

    use nix::{
        sys::{ptrace, wait::waitpid},
        unistd::Pid,
    };

    use super::*;

    #[test]
    fn fields_are_found() {
        let status = b"Name:\tTracerPid:\t7\nState:\tt (tracing stop)\nTgid:\t12\nTracerPid:\t0\n";
        assert_eq!(value(status, "State:"), Some(&b"t (tracing stop)"[..]));
        assert_eq!((number(status, "Tgid:"), number(status, "TracerPid:")), (Some(12), Some(0)));
        assert_eq!(number(b"Name:\tx\nTracerPid:\t\n", "TracerPid:"), None);
    }

    /// A process that lives until it is dropped.
    struct Child(std::process::Child);

    impl Drop for Child {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    #[test]
    fn a_debugger_is_seen_as_long_as_it_stays() {
        let child = Child(Command::new("sleep").arg("60").spawn().unwrap());
        let pid = child.0.id();
        assert_eq!(Debugger::of(pid), None);
        assert!(!Standstill::of(pid).is_whole());
        let mut gdb = Command::new("gdb");
        gdb.args(["-nx", "-q", "-p", &pid.to_string()]).stdin(Stdio::piped());
        let mut debugger = Child(gdb.stdout(Stdio::null()).spawn().expect("setup has run"));
        let begun = Instant::now();
        while !(Debugger::of(pid).is_some() && Standstill::of(pid).is_whole()) {
            assert!(begun.elapsed() < Duration::from_secs(60), "gdb does not come");
            std::thread::sleep(Duration::from_millis(10));
        }
        let name = "gdb".to_owned();
        assert_eq!(Debugger::of(pid), Some(Debugger { pid: debugger.0.id(), name }));
        debugger.0.kill().unwrap();
        debugger.0.wait().unwrap();
        assert_eq!(Debugger::of(pid), None, "whoever is killed controls nobody");
    }

    #[test]
    fn this_process_and_strace_are_none() {
        let child = Child(Command::new("sleep").arg("60").spawn().unwrap());
        let pid = Pid::from_raw(child.0.id().cast_signed());
        ptrace::attach(pid).unwrap();
        waitpid(pid, None).unwrap();
        assert_eq!(Debugger::of(child.0.id()), None);
        let (of, id) = (Standstill::of, child.0.id());
        let before = of(id);
        assert!(before.is_whole());
        assert!(before.lasts(&of(id)));
        ptrace::syscall(pid, None).unwrap();
        waitpid(pid, None).unwrap();
        let after = of(id);
        assert!(after.is_whole() && !before.lasts(&after), "{before:?} {after:?}");
        ptrace::detach(pid, None).unwrap();
        assert!(!of(id).is_whole() && !after.lasts(&of(id)));
    }
}
