//! `tracer export`.

use std::fs::File;
use std::io::{self, BufWriter, IsTerminal as _, Write};
use std::path::Path;
use std::time::Instant;

use anyhow::Result;
use tracer_protocol::client::ClientError;
use tracer_store::StoreError;
use tracer_store::export::gotrace::{Report, Selection};

use crate::args::{Export, Format};
use crate::duration::human;
use crate::source::{Source, note};

/// What was exported, and what there is to say of it.
type Exported = (Report, Vec<String>);

/// Writes a recording in the format of another tool.
pub fn run(args: &Export) -> Result<()> {
    let mut source = Source::open(&args.db)?;
    let Format::Gotrace = args.format;
    let selection = args.which.selection();
    let started = Instant::now();
    let exported = if args.output == Path::new("-") {
        write(&mut source, &selection, &mut io::stdout().lock())
    } else {
        to_file(&mut source, &selection, &args.output)
    };
    let (report, warnings) = args.which.explain(exported)?;
    warnings.iter().for_each(|warning| note(warning));
    summary(&report, args, started);
    Ok(())
}

fn to_file(source: &mut Source, selection: &Selection, path: &Path) -> Result<Exported> {
    let cannot = || format!("cannot write {}", path.display());
    // What was there is replaced when there is something to replace it with.
    let mut out = Late { path, file: None };
    let done = write(source, selection, &mut out);
    if let (Err(_), Some(file)) = (&done, &out.file)
        && file.metadata().is_ok_and(|meta| meta.is_file())
    {
        // Half a trace helps nobody.
        let _ = std::fs::remove_file(path);
    }
    done.map_err(|error| {
        let error = match error.downcast::<StoreError>() {
            Ok(StoreError::Output(source)) => return anyhow::Error::new(source).context(cannot()),
            Ok(other) => return other.into(),
            Err(other) => other,
        };
        match error.downcast::<ClientError>() {
            Ok(ClientError::Output(source)) => anyhow::Error::new(source).context(cannot()),
            Ok(other) => other.into(),
            Err(other) => other,
        }
    })
}

/// A file that is made when the first byte is written to it.
struct Late<'a> {
    path: &'a Path,
    file: Option<File>,
}

impl Write for Late<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.file {
            Some(file) => file.write(bytes),
            None => self.file.insert(File::create(self.path)?).write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.as_mut().map_or(Ok(()), Write::flush)
    }
}

fn write(source: &mut Source, selection: &Selection, out: &mut dyn Write) -> Result<Exported> {
    let mut out = BufWriter::with_capacity(1 << 18, out);
    let told = io::stderr().is_terminal();
    let mut tell = |share: f64| {
        if told {
            let _ = write!(io::stderr(), "\r{:3.0} %\r", share.clamp(0.0, 1.0) * 100.0);
        }
    };
    source.export(selection, &mut out, &mut tell)
}

fn summary(report: &Report, args: &Export, started: Instant) {
    let (from, to) = report.range;
    note(&format!(
        "tracer: {} events in {} generations, {} of the recording, {} bytes, in {:.1} s",
        report.events,
        report.generations,
        human(to.saturating_sub(from)),
        report.bytes,
        started.elapsed().as_secs_f64()
    ));
    let inferred: u64 = report.inferred.values().sum();
    if inferred > 0 {
        let parts = report.inferred.iter().map(|(what, n)| format!("{n} {}", what.text()));
        note(&format!(
            "note: {inferred} events are inferred from what came after: {}",
            parts.collect::<Vec<_>>().join(", ")
        ));
    }
    let left_out: u64 = report.left_out.values().sum();
    if left_out > 0 {
        let parts = report.left_out.iter().map(|(why, n)| format!("{n} {}", why.text()));
        note(&format!(
            "warning: {left_out} rows are left out: {}",
            parts.collect::<Vec<_>>().join(", ")
        ));
    }
    if args.output != Path::new("-") {
        note(&format!("tracer: next: go tool trace {}", args.output.display()));
    }
}
