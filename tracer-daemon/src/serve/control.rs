//! What the daemon is asked to do: attach, detach, list, reload.

use anyhow::Result;

use super::{config::Config, daemon::Daemon, processes::By, rules::Rule, settings};
use crate::{kernel::Level, record::Options};

impl Daemon {
    /// Reads the config file again, and applies its rules to all processes that run.
    pub(super) fn read_again(&mut self) -> Result<String> {
        let (config, file): (Config, _) = settings(&self.args)?;
        self.rules = config.rules.clone().unwrap_or_else(|| vec![Rule::everything()]);
        self.config = config;
        self.file = file;
        self.set_defaults()?;
        let pids: Vec<_> = self.processes.all().map(|process| process.pid).collect();
        let mut changed = 0;
        for pid in pids {
            let Some(before) = self.processes.get(pid) else { continue };
            if before.by == By::Hand {
                continue;
            }
            let mut process = before.clone();
            self.judge(&mut process);
            changed += usize::from(process.options != before.options);
            self.change(pid, process.by, process.options);
        }
        let file = self.file.as_deref().map_or("the defaults".into(), |f| f.display().to_string());
        Ok(format!("read again: {file}; {changed} processes are traced differently now"))
    }

    /// Traces a process that is known in another way, from now on.
    pub(super) fn change(&mut self, pid: u32, by: By, options: Option<Options>) {
        let Some(process) = self.processes.get_mut(pid) else { return };
        process.by = by;
        let before = process.options;
        if before == options {
            return;
        }
        let process = process.clone();
        match (before, options) {
            // More of a process that is traced: only its probes are added.
            (Some(before), Some(after)) if is_more(before, after) => self.raise(pid, after),
            (Some(_), then) => self.end(pid, then),
            (None, _) => self.begin_or_not(super::processes::Process { options, ..process }),
        }
    }
}

fn is_more(before: Options, after: Options) -> bool {
    after.level > before.level
        && before.level == Level::Sched
        && Options { level: after.level, stacks: after.stacks, ..before } == after
}
