//! Starts a command such that probes are in place before its first instruction: it stops itself
//! before execve, and the kernel stops it again (ptrace) when the new program is mapped.

use std::{
    ffi::{CString, OsStr, OsString},
    io::{self, Read},
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail};
use nix::{
    errno::Errno,
    fcntl::OFlag,
    libc,
    sys::{
        ptrace,
        signal::{SigmaskHow, Signal, kill, raise, sigprocmask},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::{AccessFlags, ForkResult, Pid, access, execv, fork, pipe2},
};

use super::{Exit, hold::Guard, signals::Signals};
use crate::inherited::Inherited;

/// A command that was started for tracing. Killed if dropped before it was released.
pub struct Launched {
    pid: Pid,
    command: PathBuf,
    /// Through it comes the errno of a failed execve.
    error: std::fs::File,
    released: bool,
    /// Lets it go on if this process is killed while the command is held at a later execve.
    _guard: Option<Guard>,
}

impl Launched {
    /// Forks, and lets the child wait before its execve. To be called while this process has only
    /// one thread.
    pub fn prepare(command: &[OsString], signals: &Signals, inherited: &Inherited) -> Result<Self> {
        let name = command.first().ok_or_else(|| anyhow!("no command given"))?;
        let path = resolve(name)?;
        let c_string = |text: &OsStr| {
            CString::new(text.as_bytes()).context("an argument contains a zero byte")
        };
        let program = c_string(path.as_os_str())?;
        let arguments = command.iter().map(|a| c_string(a)).collect::<Result<Vec<_>>>()?;
        let (read, write) = pipe2(OFlag::O_CLOEXEC).context("cannot make a pipe")?;

        // SAFETY: this process has one thread, and the child only makes system calls.
        match unsafe { fork() }.context("cannot start a process")? {
            ForkResult::Child => child(&program, &arguments, signals, inherited, &write),
            ForkResult::Parent { child: pid } => {
                drop(write);
                let error = read.into();
                let mut launched =
                    Self { pid, command: path, error, released: false, _guard: None };
                match wait_for(pid)? {
                    WaitStatus::Stopped(_, Signal::SIGSTOP) => {}
                    _ => {
                        launched.released = true;
                        let error = launched.exec_error();
                        return Err(error.context(
                            "the new process cannot be controlled with ptrace (a debugger, strace \
                             or a seccomp filter around tracerd forbids it)",
                        ));
                    }
                }
                // Until it is released it must not survive tracerd.
                let options =
                    ptrace::Options::PTRACE_O_TRACEEXEC | ptrace::Options::PTRACE_O_EXITKILL;
                ptrace::setoptions(pid, options).context("cannot control the new process")?;
                launched._guard = Some(Guard::start(pid)?);
                Ok(launched)
            }
        }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.pid.as_raw().cast_unsigned()
    }

    /// Lets it go as far as the first instruction of the command.
    pub fn exec(&mut self) -> Result<()> {
        ptrace::cont(self.pid, None).context("cannot start the command")?;
        loop {
            match wait_for(self.pid)? {
                WaitStatus::PtraceEvent(_, _, event) if event == libc::PTRACE_EVENT_EXEC => {
                    return Ok(());
                }
                // A signal that came meanwhile is delivered.
                WaitStatus::Stopped(_, signal) => {
                    ptrace::cont(self.pid, signal).context("cannot start the command")?
                }
                WaitStatus::Exited(..) | WaitStatus::Signaled(..) => {
                    self.released = true;
                    return Err(self.exec_error());
                }
                _ => ptrace::cont(self.pid, None).context("cannot start the command")?,
            }
        }
    }

    /// Lets it run, no longer under control.
    pub fn release(&mut self) -> Result<()> {
        ptrace::detach(self.pid, None).context("cannot release the command")?;
        self.released = true;
        Ok(())
    }

    /// How it ended, if it did.
    pub fn try_wait(&self) -> Option<Exit> {
        match waitpid(self.pid, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(_, code)) => Some(Exit::Code(code as u8)),
            Ok(WaitStatus::Signaled(_, signal, _)) => Some(Exit::Signal(signal)),
            Err(Errno::ECHILD) => Some(Exit::Code(1)),
            _ => None,
        }
    }

    /// Waits until it ends, calling `meanwhile` now and then.
    pub fn wait(&self, mut meanwhile: impl FnMut(&Self)) -> Exit {
        loop {
            if let Some(exit) = self.try_wait() {
                return exit;
            }
            meanwhile(self);
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        // It may have ended just now.
        let _ = kill(self.pid, signal);
    }

    fn exec_error(&mut self) -> anyhow::Error {
        let mut errno = [0; 4];
        let error = match self.error.read_exact(&mut errno) {
            Ok(()) => io::Error::from_raw_os_error(i32::from_ne_bytes(errno)),
            Err(_) => io::Error::other("it was killed before it began"),
        };
        anyhow!("cannot run {}: {error}", self.command.display())
    }
}

impl Drop for Launched {
    fn drop(&mut self) {
        if !self.released {
            let _ = kill(self.pid, Signal::SIGKILL);
            let _ = waitpid(self.pid, None);
        }
    }
}

/// What the child does between fork and execve: only system calls, no allocation.
fn child(
    program: &CString,
    arguments: &[CString],
    signals: &Signals,
    inherited: &Inherited,
    error: &OwnedFd,
) -> ! {
    let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(signals.before()), None);
    inherited.restore();
    if ptrace::traceme().is_ok() && raise(Signal::SIGSTOP).is_ok() {
        let _ = execv(program, arguments);
    }
    let errno = (Errno::last_raw()).to_ne_bytes();
    // SAFETY: writes four bytes of a local array and ends the process.
    unsafe {
        libc::write(error.as_raw_fd(), errno.as_ptr().cast(), errno.len());
        libc::_exit(127)
    }
}

fn wait_for(pid: Pid) -> Result<WaitStatus> {
    loop {
        match waitpid(pid, None) {
            Err(Errno::EINTR) => {}
            other => return other.context("cannot wait for the new process"),
        }
    }
}

/// The file that a command names, looked for in PATH as a shell does.
fn resolve(name: &OsStr) -> Result<PathBuf> {
    let executable = |path: &Path| path.is_file() && access(path, AccessFlags::X_OK).is_ok();
    if name.as_bytes().contains(&b'/') {
        let path = PathBuf::from(name);
        if !path.exists() {
            bail!("cannot run {}: no such file", path.display());
        }
        if !executable(&path) {
            bail!("cannot run {}: it is not an executable file", path.display());
        }
        return Ok(path);
    }
    let paths = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&paths)
        .map(|folder| folder.join(name))
        .find(|path| executable(path))
        .ok_or_else(|| anyhow!("cannot run {}: no such command in PATH", name.to_string_lossy()))
}
