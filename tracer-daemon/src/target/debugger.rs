//! Who debugs a process. A debugger keeps the byte that it finds where it puts a breakpoint, and writes it back when it
//! takes that away or leaves. If that byte was the breakpoint of a probe, which is gone by then, the process dies of it.

use std::fs;

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

    /// How often threads of the process `pid` have left their CPU, if all stand still under the control of a debugger. As
    /// long as it stays the same the debugger has not let one go on, and debuggers write their breakpoints when they do.
    pub fn standstill(pid: u32) -> Option<u64> {
        let stands =
            |thread: Thread| (thread.tracer.is_some() && thread.stands).then_some(thread.switches);
        threads(pid).map(stands).sum()
    }
}

/// What the kernel shows of a thread.
struct Thread {
    /// Id of the thread that controls it.
    tracer: Option<u32>,
    /// Whether it stands still because of that.
    stands: bool,
    /// How often it has left its CPU.
    switches: u64,
}

/// The threads of a process; none if it has ended. Those that end meanwhile are left out.
fn threads(pid: u32) -> impl Iterator<Item = Thread> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten();
    let statuses = tasks.filter_map(|task| fs::read(task.ok()?.path().join("status")).ok());
    statuses.filter_map(|status| {
        let state = value(&status, "State:")?.first().copied()?;
        // One that has ended stays as it is for as long as others of its process run.
        (!matches!(state, b'Z' | b'X')).then(|| Thread {
            tracer: number(&status, "TracerPid:").filter(|&tid| tid != 0),
            stands: state == b't',
            switches: ["voluntary_ctxt_switches:", "nonvoluntary_ctxt_switches:"]
                .iter()
                .filter_map(|field| number(&status, field))
                .map(u64::from)
                .sum(),
        })
    })
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
        assert_eq!(Debugger::standstill(pid), None);
        let mut gdb = Command::new("gdb");
        gdb.args(["-nx", "-q", "-p", &pid.to_string()]).stdin(Stdio::piped());
        let mut debugger = Child(gdb.stdout(Stdio::null()).spawn().expect("setup has run"));
        let begun = Instant::now();
        while !(Debugger::of(pid).is_some() && Debugger::standstill(pid).is_some()) {
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
        let before = Debugger::standstill(child.0.id());
        assert!(before.is_some());
        assert_eq!(Debugger::standstill(child.0.id()), before);
        ptrace::syscall(pid, None).unwrap();
        waitpid(pid, None).unwrap();
        let after = Debugger::standstill(child.0.id());
        assert!(after > before, "{before:?} {after:?}");
        ptrace::detach(pid, None).unwrap();
        assert_eq!(Debugger::standstill(child.0.id()), None);
    }
}
