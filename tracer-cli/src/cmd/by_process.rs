//! What `tracer waits` and `tracer goroutines` have in common: answers about several processes.

use serde_json::{Map, Value};
use tracer_store::query::selection::{Asked, Named};

use crate::args::{Functions, Which};
use crate::render::Table;
use crate::source::note;

/// How a process is named in CSV and JSON: see [`process_cells`] and [`add_process`].
pub const AS_FIELDS: [&str; 3] = ["upid", "pid", "process"];

/// The question that the command line stands for.
pub fn asked(which: &Which, functions: &Functions) -> Asked {
    Asked { selection: which.selection(), func: functions.func.clone(), limit: functions.limit }
}

/// Says why there is nothing, or that there is more.
pub fn tell(empty: Option<&str>, left_out: usize, what: &str) {
    if let Some(why) = empty {
        note(why);
    }
    if left_out > 0 {
        let s = if left_out == 1 { "" } else { "s" };
        note(&format!("note: {left_out} {what}{s} more with a larger --limit"));
    }
}

/// The process of a row.
pub fn process_of(processes: &[Named], upid: i64) -> Option<&Named> {
    processes.iter().find(|process| process.upid == upid)
}

/// The process of a row as [`AS_FIELDS`].
pub fn process_cells(processes: &[Named], upid: i64) -> [String; 3] {
    let process = process_of(processes, upid);
    let pid = process.map(|process| process.pid.to_string()).unwrap_or_default();
    let name = process.and_then(|process| process.name.clone()).unwrap_or_default();
    [upid.to_string(), pid, name]
}

/// The same in JSON.
pub fn add_process(object: &mut Map<String, Value>, processes: &[Named], upid: i64) {
    let process = process_of(processes, upid);
    let pid = process.map(|process| process.pid);
    let name = process.and_then(|process| process.name.clone());
    for (field, value) in AS_FIELDS.into_iter().zip([upid.into(), pid.into(), name.into()]) {
        object.insert(field.into(), value);
    }
}

/// Lines between the rows of a table: the name of each process if there are several, and where the functions of Go's
/// runtime begin.
pub struct Heading<'a> {
    processes: &'a [Named],
    before: Option<(i64, bool)>,
}

impl<'a> Heading<'a> {
    /// Of a table about these processes.
    pub fn new(processes: &'a [Named]) -> Self {
        Self { processes, before: None }
    }

    /// To be called for each row before it.
    pub fn write(&mut self, table: &mut Table, upid: i64, runtime_internal: bool) {
        let before = self.before.replace((upid, runtime_internal));
        let is_other_process = before.is_none_or(|(other, _)| other != upid);
        if is_other_process && self.processes.len() > 1 {
            if before.is_some() {
                table.row([""]);
            }
            let process = process_of(self.processes, upid);
            table.row([process.map_or_else(String::new, Named::to_string)]);
        }
        let follows = before.is_some_and(|(_, internal)| !internal) && !is_other_process;
        if runtime_internal && (follows || is_other_process) {
            if follows {
                table.row([""]);
            }
            table.row(["runtime-internal:"]);
        }
    }
}
