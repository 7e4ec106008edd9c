//! `tracer ls`, `attach`, `detach` and `snapshot`: what the daemon does.

use std::cmp::Reverse;
use std::io::Write as _;
use std::path::Path;

use anyhow::{Result, bail};
use tracer_protocol::client::Client;
use tracer_protocol::{AttachOptions, Control, Level, Reply, State, Target, Traced};

use crate::args::{self, Attach, Detach, Ls, ShortOutput, Snapshot, SortKey};
use crate::duration::human;
use crate::render::{Table, out};
use crate::source::{PROGRAM, note};

/// Asks the daemon.
pub fn ask(socket: &Path, control: Control) -> Result<Reply> {
    Ok(Client::connect(socket, PROGRAM)?.control(control)?)
}

/// Lists what is traced.
pub fn ls(args: &Ls) -> Result<()> {
    let Reply::List(all) = ask(&args.socket.socket, Control::List)? else {
        return unexpected();
    };
    let nothing = all.is_empty();
    let (shown, kernel, left_out) = choose(all, args);
    let mut out = out();
    match args.output {
        ShortOutput::Json => writeln!(out, "{:#}", serde_json::to_value(&shown)?)?,
        ShortOutput::Table if nothing => {
            note("nothing is traced: `tracer attach PID`, or rules in the config file");
        }
        ShortOutput::Table if shown.is_empty() => {}
        ShortOutput::Table => table(&shown).write(&mut out)?,
    }
    out.flush()?;
    if kernel > 0 {
        let s = if kernel == 1 { "" } else { "s" };
        note(&format!("note: {kernel} thread{s} of the kernel with --all"));
    }
    if left_out > 0 {
        let es = if left_out == 1 { "" } else { "es" };
        note(&format!("note: {left_out} process{es} more with a larger --limit"));
    }
    Ok(())
}

/// Those that are wanted in their order, how many threads of the kernel are not among them, and how many others.
fn choose(mut all: Vec<Traced>, args: &Ls) -> (Vec<Traced>, usize, usize) {
    let before = all.len();
    if !args.all {
        all.retain(|traced| !traced.exe.is_empty());
    }
    let kernel = before - all.len();
    let most = |key: fn(&Traced) -> f64| {
        move |a: &Traced, b: &Traced| key(b).total_cmp(&key(a)).then(a.pid.cmp(&b.pid))
    };
    match args.sort {
        SortKey::Rate => all.sort_by(most(|traced| traced.events_per_s)),
        SortKey::Cost => all.sort_by(most(|traced| traced.cost)),
        SortKey::Events => all.sort_by_key(|traced| (Reverse(traced.events), traced.pid)),
        SortKey::Lost => all.sort_by_key(|traced| (Reverse(traced.losses), traced.pid)),
        // The one that began first has been traced longest.
        SortKey::Since => all.sort_by_key(|traced| (traced.since, traced.pid)),
        SortKey::Pid => all.sort_by_key(|traced| traced.pid),
        SortKey::Name => all.sort_by(|a, b| (&a.name, a.pid).cmp(&(&b.name, b.pid))),
    }
    let left_out = args.limit.map_or(0, |limit| all.len().saturating_sub(limit));
    all.truncate(all.len() - left_out);
    (all, kernel, left_out)
}

fn table(all: &[Traced]) -> Table {
    let titles = [
        "PID",
        "NAME",
        "UID",
        "LEVEL",
        "FOR",
        "BECAUSE OF",
        "EVENTS/S",
        "EVENTS",
        "LOST",
        "COST",
        "STATE",
    ];
    let mut table = Table::new(titles);
    for traced in all {
        let rule = traced.rule.as_ref();
        table.row([
            traced.pid.to_string(),
            traced.name.clone(),
            traced.uid.to_string(),
            traced.level.to_string(),
            human(since_ns(traced.since)),
            rule.map_or_else(|| "attach".into(), |rule| format!("rule {rule}")),
            format!("{:.0}", traced.events_per_s),
            traced.events.to_string(),
            traced.losses.to_string(),
            format!("{:.1} %", traced.cost * 100.0),
            traced.state.to_string(),
        ]);
    }
    table.right([0, 2, 4, 6, 7, 8, 9]);
    table
}

/// How long ago this was, ns.
pub fn since_ns(realtime: i64) -> i64 {
    let now =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_nanos()).unwrap_or(i64::MAX).saturating_sub(realtime).max(0)
}

/// Traces processes from now on.
pub fn attach(args: &Attach) -> Result<()> {
    let level = match args.level {
        args::Level::Sched => Level::Sched,
        args::Level::Go => Level::Go,
        args::Level::Full => Level::Full,
    };
    let options =
        AttachOptions { level, no_stacks: args.no_stacks, kernel_stacks: args.kernel_stacks };
    let target = Target::from(args.target.as_str());
    let control = Control::Attach { target, options, hold: false };
    let Reply::Attached { processes, already } = ask(&args.socket.socket, control)? else {
        return unexpected();
    };
    for traced in &already {
        let why =
            traced.rule.as_ref().map_or_else(String::new, |rule| format!(" by the rule {rule}"));
        let Traced { name, pid, level, state, .. } = traced;
        note(&format!(
            "{name} ({pid}) is traced already{why}, at level {level}, and stays so: {state}"
        ));
    }
    for traced in &processes {
        note(&format!("{} ({}): {}", traced.name, traced.pid, traced.state));
    }
    let mut all = processes.iter().chain(&already);
    if all.all(|traced| matches!(traced.state, State::Refused(_))) {
        bail!("nothing is traced that was not before");
    }
    Ok(())
}

/// Traces processes no longer.
pub fn detach(args: &Detach) -> Result<()> {
    let control = Control::Detach { target: Target::from(args.target.as_str()) };
    let Reply::Detached(processes) = ask(&args.socket.socket, control)? else {
        return unexpected();
    };
    for traced in &processes {
        note(&format!(
            "{} ({}): detached after {}; {} events, {} lost",
            traced.name,
            traced.pid,
            human(since_ns(traced.since)),
            traced.events,
            traced.losses
        ));
    }
    Ok(())
}

/// Writes out what the flight recorder holds, and tells where.
pub fn snapshot(args: &Snapshot) -> Result<()> {
    let control = Control::Snapshot { reason: args.reason.clone() };
    let Reply::Written { file, note: told } = ask(&args.socket.socket, control)? else {
        return unexpected();
    };
    if let Some(told) = told {
        note(&told);
    }
    writeln!(std::io::stdout(), "{}", file.display())?;
    Ok(())
}

/// What a daemon of the same version of the protocol does not do.
pub fn unexpected<T>() -> Result<T> {
    bail!("tracerd gave an answer to another question: use tracer and tracerd of one version")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_busiest_come_first_and_threads_of_the_kernel_only_if_asked_for() {
        use clap::Parser as _;
        let all = |pid: u32, name: &str, exe: &str, rate: f64| Traced {
            pid,
            name: name.into(),
            exe: exe.into(),
            events_per_s: rate,
            events: u64::from(pid),
            since: i64::from(pid),
            ..traced()
        };
        let all = vec![
            all(2, "kworker/0:1", "", 9.0),
            all(7, "idle", "/bin/idle", 0.0),
            all(8, "busy", "/bin/busy", 5.5),
            all(9, "busier", "/bin/busier", 7.0),
        ];
        let pids = |args: &[&str]| {
            let args = ["tracer", "ls"].iter().chain(args);
            let args::Command::Ls(args) = args::Args::parse_from(args).command else { panic!() };
            let (shown, kernel, left_out) = choose(all.clone(), &args);
            (shown.iter().map(|traced| traced.pid).collect::<Vec<_>>(), kernel, left_out)
        };
        assert_eq!(pids(&[]), (vec![9, 8, 7], 1, 0));
        assert_eq!(pids(&["--all"]), (vec![2, 9, 8, 7], 0, 0));
        assert_eq!(pids(&["--limit", "2"]), (vec![9, 8], 1, 1));
        assert_eq!(pids(&["--sort", "pid"]), (vec![7, 8, 9], 1, 0));
        assert_eq!(pids(&["--sort", "name"]), (vec![9, 8, 7], 1, 0));
        assert_eq!(pids(&["--sort", "since", "--all"]), (vec![2, 7, 8, 9], 0, 0));
        assert_eq!(pids(&["--sort", "events"]), (vec![9, 8, 7], 1, 0));
    }

    fn traced() -> Traced {
        Traced {
            pid: 42,
            name: "serv\u{1b}er".into(),
            exe: "/usr/bin/server".into(),
            uid: 1000,
            level: Level::Full,
            since: i64::MAX,
            rule: Some("web".into()),
            events_per_s: 1234.5,
            events: 99,
            losses: 1,
            cost: 0.0123,
            state: State::Partly("goroutines are not: stripped".into()),
        }
    }

    #[test]
    fn what_is_traced_is_a_line_each() {
        let traced = traced();
        let mut text = Vec::new();
        let attached = Traced { rule: None, state: State::Tracing, ..traced.clone() };
        table(&[traced, attached]).write(&mut text).unwrap();
        insta::assert_snapshot!(String::from_utf8(text).unwrap(), @r"
PID  NAME           UID  LEVEL  FOR  BECAUSE OF  EVENTS/S  EVENTS  LOST   COST  STATE
 42  serv\u{1b}er  1000  full     0  rule web        1234      99     1  1.2 %  tracing, but goroutines are not: stripped
 42  serv\u{1b}er  1000  full     0  attach          1234      99     1  1.2 %  tracing
");
    }
}
