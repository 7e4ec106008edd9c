//! The programs that are measured, and how much they got done.

use std::{process::Command, time::Duration};

use anyhow::{Context as _, Result, ensure};
use tracer_tests::harness::{field, run};

use super::Bench;

/// How much longer than its work a program may take, start and end of a recording included.
pub const GRACE: Duration = Duration::from_secs(120);

/// A program that works as fast as it can for a given time, and says how much it did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Load {
    /// An HTTP server and four clients in one process.
    Http,
    /// Two goroutines that pass a number over a channel.
    PingPong,
}

impl Load {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Http, Self::PingPong];

    /// Name of the program in tests/programs/go.
    pub fn program(self) -> &'static str {
        match self {
            Self::Http => "httpload",
            Self::PingPong => "pingpong",
        }
    }

    /// Name for people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Http => "HTTP",
            Self::PingPong => "ping-pong",
        }
    }

    /// Unit of its rate.
    pub fn unit(self) -> &'static str {
        match self {
            Self::Http => "requests/s",
            Self::PingPong => "rounds/s",
        }
    }

    /// Key and label of one of its figures.
    pub fn figure(self, key: &str, label: &str) -> (String, String) {
        (format!("{}.{key}", self.program()), format!("{}: {label}", self.name()))
    }

    /// How much was done, from what the program printed; its last line says so.
    ///
    /// Fails when nothing was done, or something went wrong.
    pub fn done(self, stdout: &str) -> Result<f64> {
        let line = stdout.lines().map(str::trim).rfind(|line| !line.is_empty());
        let line = line.with_context(|| format!("{} printed nothing", self.program()))?;
        let done = match self {
            Self::PingPong => field(line, "rounds")?,
            Self::Http => {
                let requests = field(line, "requests")?;
                let good = field(line, "errors")? == 0 && field(line, "served")? == requests;
                ensure!(good, "requests went wrong: {line}");
                requests
            }
        };
        ensure!(done > 0, "{} got nothing done: {line}", self.program());
        Ok(done as f64)
    }

    /// The rate of a program that printed this after it had worked for a time.
    pub fn rate(self, stdout: &str, length: Duration) -> Result<f64> {
        Ok(self.done(stdout)? / length.as_secs_f64())
    }

    /// Runs the program, which works for a time, and gives its rate.
    pub fn run(self, command: &mut Command, length: Duration) -> Result<f64> {
        self.rate(&run(command, length + GRACE)?.ok()?.stdout, length)
    }
}

impl Bench {
    /// The words of a command that runs a load for a time.
    pub fn words(&self, load: Load, length: Duration) -> Result<Vec<String>> {
        let program = self.go.build(load.program())?;
        let program = program.into_os_string().into_string();
        let program = program.ok().context("the target folder's name is not UTF-8")?;
        Ok(vec![program, "-d".into(), format!("{}ms", length.as_millis())])
    }

    /// The command that runs a load for the time of a measurement.
    pub fn command(&self, load: Load) -> Result<Command> {
        let words = self.words(load, self.length)?;
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]);
        Ok(command)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_last_line_counts() {
        let http = "listening=127.0.0.1:4242 pid=7\nserved=120 requests=120 errors=0\n";
        assert_eq!(Load::Http.rate(http, 2 * SECOND).ok(), Some(60.0));
        let rounds = "rounds=1\nrounds=300\n\n";
        assert_eq!(Load::PingPong.rate(rounds, 3 * SECOND).ok(), Some(100.0));
    }

    #[test]
    fn harm_is_an_error() {
        for bad in [
            "served=119 requests=120 errors=1\n",
            "served=119 requests=120 errors=0\n",
            "served=0 requests=0 errors=0\n",
            "listening=127.0.0.1:4242 pid=7\n",
            "",
        ] {
            assert!(Load::Http.done(bad).is_err(), "{bad}");
        }
        for bad in ["rounds=0\n", "rounds=\n", "rounds=300\npanic: dead\n", ""] {
            assert!(Load::PingPong.done(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_programs_print_what_is_read() {
        let go = tracer_tests::go::Go::find().expect("setup has run");
        for load in Load::ALL {
            let mut program = Command::new(go.build(load.program()).expect("it compiles"));
            let rate = load.run(program.args(["-d", "50ms"]), SECOND / 20);
            assert!(rate.expect("it works") > 0.0);
        }
    }
}
