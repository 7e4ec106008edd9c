//! `tracerd dump`, compared with what the Go runtime prints of itself at SIGQUIT right after.

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader, Write as _},
    net::TcpStream,
    path::Path,
    process::{Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;
use tracer_tests::{
    go::Go,
    harness::{Process, SOON, run, tracerd, wait_until},
};

/// Goroutines in the shape of a traceback, by number: the header, and the lines below it.
type Goroutines = BTreeMap<u64, Vec<String>>;

/// Reads a traceback, without what `tracerd` does not show: values of arguments become `...`, and
/// addresses are left out.
fn parse(text: &str) -> Goroutines {
    let mut goroutines = Goroutines::new();
    let mut last = None;
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("goroutine ") {
            last = rest.split(' ').next().and_then(|goid| goid.parse().ok());
        }
        if line.is_empty() {
            last = None;
        }
        let Some(goid) = last else { continue };
        let line = line.split(" fp=").next().unwrap_or(line);
        let header =
            line.split_once(" gp=").and_then(|(goid, rest)| Some((goid, rest.find('[')?, rest)));
        if let Some((goid, state, rest)) = header {
            let header = format!("{goid} {}", &rest[state..]);
            goroutines.entry(last.unwrap_or_default()).or_default().push(header);
            continue;
        }
        let is_call = !line.starts_with(['\t', '.']) && line.ends_with(')');
        let line = match line.rfind('(').filter(|_| is_call) {
            Some(arguments) => format!("{}(...)", &line[..arguments]),
            None => line.to_owned(),
        };
        goroutines.entry(goid).or_default().push(line);
    }
    goroutines
}

/// The program `parked`, when all its goroutines wait.
fn parked(command: &mut Command) -> Result<Process> {
    let process = Process::start(command)?;
    let main_waits = || {
        let dump = dump(process.pid(), &["--user"]).unwrap_or_default();
        // It prints "ready", then waits for good; before, it sleeps for a moment.
        let main =
            dump.contains("goroutine 1 [sleep]:") || dump.contains("goroutine 1 [chan receive]:");
        main && dump.contains("\nmain.recursive(") && !dump.contains("[runnable")
    };
    wait_until("the program is ready", SOON, main_waits)?;
    // That it slept for a moment has passed.
    thread::sleep(Duration::from_millis(300));
    Ok(process)
}

fn dump(pid: i32, flags: &[&str]) -> Result<String> {
    let mut command = tracerd(&["dump", &pid.to_string()])?;
    Ok(run(command.args(flags), SOON)?.ok()?.stdout)
}

/// Compares a dump with what the program prints when it gets a signal, but for some goroutines.
fn compare(
    command: &mut Command,
    flags: &[&str],
    signal: Signal,
    but: &[u64],
    what: &str,
) -> Result<()> {
    let process = parked(command)?;
    // Those of the runtime have things to do now and then.
    let rests = || {
        dump(process.pid(), &[])
            .is_ok_and(|all| !all.contains("[run") && !all.contains("changed while"))
    };
    wait_until("everything waits", SOON, rests)?;
    let mut found = parse(&dump(process.pid(), flags)?);
    process.signal(signal)?;
    let mut expected = parse(&process.wait(SOON)?.stderr);
    ensure!(found.len() > 20, "{what}: only {} goroutines", found.len());
    for goid in but {
        found.remove(goid);
        expected.remove(goid);
    }
    let goids = |goroutines: &Goroutines| goroutines.keys().copied().collect::<Vec<_>>();
    ensure!(
        goids(&found) == goids(&expected),
        "{what}: {:?} are not {:?}",
        goids(&found),
        goids(&expected)
    );
    for (goid, mut lines) in found {
        // This one wakes up for the signal.
        if lines.iter().any(|line| line == "os/signal.loop(...)") {
            continue;
        }
        let mut expected = expected.remove(&goid).unwrap_or_default();
        // Go 1.19 and 1.20 do not show the outer end of a deep stack, and do not always say so.
        let is_deep =
            |lines: &[String]| lines.iter().any(|line| line.ends_with(" frames elided..."));
        if is_deep(&lines) && !expected.iter().any(|line| line.starts_with("main.main.func")) {
            ensure!(["1.19", "1.19, stripped"].contains(&what), "{what}: {expected:#?}");
            expected.truncate(100);
            lines.truncate(100);
        }
        ensure!(lines == expected, "{what}: not the same:\n{lines:#?}\n{expected:#?}");
    }
    Ok(())
}

#[test]
fn a_dump_is_what_sigquit_prints() -> Result<()> {
    // Number 0 is the thread that got the signal: no goroutine of the program.
    let compare = |path: &Path, what: &str| {
        compare(&mut Command::new(path), &[], Signal::SIGQUIT, &[0], what)
    };
    for minor in Go::minors() {
        compare(&Go::of(minor)?.build("parked")?, minor)?;
        compare(&Go::of(minor)?.build_stripped("parked")?, &format!("{minor}, stripped"))?;
    }
    compare(&Go::find()?.build_pie("parked")?, "position-independent")
}

#[test]
fn bubbles_of_synctest_have_their_number() -> Result<()> {
    for minor in ["1.25", "1.27"] {
        let process = Process::start(&mut Command::new(Go::of(minor)?.build("bubble")?))?;
        let is_ready = || dump(process.pid(), &[]).is_ok_and(|text| text.contains("main.reads("));
        wait_until("the program is ready", SOON, is_ready)?;
        thread::sleep(Duration::from_millis(300));
        let found = parse(&dump(process.pid(), &[])?);
        process.signal(Signal::SIGQUIT)?;
        let expected = parse(&process.wait(SOON)?.stderr);
        let mut inside = 0;
        for (goid, lines) in found {
            inside += usize::from(lines[0].contains("synctest bubble "));
            ensure!(expected.get(&goid) == Some(&lines), "{minor}: {lines:#?} in {expected:#?}");
        }
        ensure!(inside >= 5, "{minor}: {inside} goroutines in a bubble");
    }
    Ok(())
}

#[test]
fn without_the_runtime_it_is_what_a_panic_prints() -> Result<()> {
    for minor in Go::minors() {
        let mut command = Command::new(Go::of(minor)?.build("parked")?);
        command.arg("-panic").env("GOTRACEBACK", "all");
        // The main goroutine is the one that panics then.
        compare(&mut command, &["--user"], Signal::SIGUSR1, &[1], minor)?;
    }
    Ok(())
}

#[test]
fn one_that_runs_is_shown_without_a_stack() -> Result<()> {
    let process = parked(Command::new(Go::find()?.build("parked")?).arg("-spin"))?;
    let text = dump(process.pid(), &[])?;
    let running = parse(&text).into_values().find(|lines| lines[0].ends_with("[running]:"));
    let running = running.context(text)?;
    ensure!(running[1] == "\tgoroutine running on other thread; stack unavailable", "{running:?}");
    ensure!(running[2] == "created by main.main in goroutine 1", "{running:?}");
    Ok(())
}

#[test]
fn goroutines_with_the_same_stack_are_one_group() -> Result<()> {
    let process = parked(Command::new(Go::find()?.build("parked")?).args(["-n", "2000"]))?;
    let groups = dump(process.pid(), &["--user", "--group"])?;
    let first = groups.lines().next().unwrap_or_default();
    ensure!(first.starts_with("2,000 goroutines [chan receive]: "), "{first}");
    ensure!(first.ends_with(" and 1,995 more"), "{first}");
    ensure!(groups.lines().nth(1) == Some("main.receives(...)"), "{groups}");
    // In the document is each of them.
    let document: Value = serde_json::from_str(&dump(process.pid(), &["--user", "--json"])?)?;
    let goroutines = document["goroutines"].as_array().context("no array")?;
    let receive = goroutines.iter().filter(|g| {
        g["frames"][0]["function"] == "main.receives" && g["created_by"]["function"] == "main.main"
    });
    // And one that began with it, and one that began with another function.
    ensure!(receive.count() == 2002, "{}", goroutines.len());
    ensure!(document["heap"]["live"].as_u64().is_some_and(|live| live > 0), "{}", document["heap"]);
    Ok(())
}

/// Answers of the server `httpload` to one client, which asks again and again.
struct Client {
    stream: BufReader<TcpStream>,
}

impl Client {
    fn connect(address: &str) -> Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(SOON))?;
        Ok(Self { stream: BufReader::new(stream) })
    }

    /// How long an answer takes.
    fn ask(&mut self) -> Result<Duration> {
        let start = Instant::now();
        self.stream.get_mut().write_all(b"GET /double?n=21 HTTP/1.1\r\nHost: test\r\n\r\n")?;
        let mut line = String::new();
        while line.trim_end() != "42" {
            line.clear();
            ensure!(self.stream.read_line(&mut line)? > 0, "the server has hung up");
        }
        Ok(start.elapsed())
    }

    /// How long each answer takes within `time`, the slowest first.
    fn listen(&mut self, time: Duration) -> Result<Vec<Duration>> {
        let start = Instant::now();
        let mut took = Vec::new();
        while start.elapsed() < time {
            took.push(self.ask()?);
        }
        took.sort_unstable();
        took.reverse();
        Ok(took)
    }
}

/// How long each answer takes, the slowest first, while the goroutines of a process are read again and again; and how often
/// they were.
fn listen_while_dumping(
    client: &mut Client,
    pid: i32,
    time: Duration,
) -> Result<(Vec<Duration>, usize)> {
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let dumps = scope.spawn(|| -> Result<usize> {
            let mut dumps = 0;
            while !done.load(Ordering::Relaxed) {
                dump(pid, &["--group"])?;
                dumps += 1;
            }
            Ok(dumps)
        });
        let during = client.listen(time);
        done.store(true, Ordering::Relaxed);
        let dumps = dumps.join().map_err(|_| anyhow!("a dump panicked"))??;
        Ok((during?, dumps))
    })
}

#[test]
fn ten_thousand_goroutines_of_a_server_are_read_while_it_answers() -> Result<()> {
    const CONNECTIONS: usize = 10_000;
    const LISTENING: Duration = Duration::from_secs(4);
    let mut server = Command::new(Go::find()?.build("httpload")?)
        .args(["-c", "0"])
        .stdout(Stdio::piped())
        .spawn()?;
    let pid = i32::try_from(server.id())?;
    let other = Process::start(Command::new(Go::find()?.build("httpload")?).args(["-c", "0"]))?;
    let mut line = String::new();
    BufReader::new(server.stdout.take().context("piped")?).read_line(&mut line)?;
    let address = line.split(['=', ' ']).nth(1).context("no address")?;

    let result = (|| -> Result<()> {
        let mut clients = Vec::new();
        for _ in 0..CONNECTIONS {
            let mut client = Client::connect(address)?;
            client.ask()?;
            clients.push(client);
        }
        let mut client = clients.pop().context("there are 10,000")?;
        // As long as another process is read: that takes as much of the machine.
        let (before, _) = listen_while_dumping(&mut client, other.pid(), LISTENING)?;
        let start = Instant::now();
        let text = dump(pid, &[])?;
        let took = start.elapsed();
        let parked = parse(&text).values().filter(|lines| lines[0].contains("[IO wait")).count();
        ensure!(parked >= CONNECTIONS - 1, "only {parked} goroutines wait for the network");
        // Long enough for some dumps on a loaded machine, too.
        let (during, dumps) = listen_while_dumping(&mut client, pid, LISTENING.max(6 * took))?;
        let p99 = |slowest: &[Duration]| slowest[slowest.len() / 100];
        let (p99_before, p99_during) = (p99(&before), p99(&during));
        // A server that stops for each dump has as many slow answers as there were dumps. Half of
        // that many may have another cause.
        let stops = during[dumps / 2];
        println!(
            "a dump takes {took:?}; p99 {p99_before:?}, and {p99_during:?} during {dumps} dumps; \
             slow answers: {stops:?}"
        );
        ensure!(
            dumps > 3 && stops < took / 4,
            "{dumps} dumps of {took:?}; slow answers: {stops:?}"
        );
        ensure!(p99_during < 3 * p99_before, "p99 was {p99_before:?}, and is {p99_during:?}");
        Ok(())
    })();
    server.kill()?;
    server.wait()?;
    result
}

#[test]
fn what_is_no_go_program_is_refused() -> Result<()> {
    let process = Process::start(Command::new("sleep").arg("60"))?;
    let ended = run(&mut tracerd(&["dump", &process.pid().to_string()])?, SOON)?;
    ensure!(ended.code() == 1 && ended.stdout.is_empty(), "{ended:?}");
    ensure!(ended.stderr.contains("is not a Go program"), "{ended:?}");
    Ok(())
}
