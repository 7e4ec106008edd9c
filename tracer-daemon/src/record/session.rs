//! What a database says about the machine and the recording itself.

use std::fs::read_to_string;

use tracer_store::NewSession;

use super::clock;

/// A session that begins now.
pub fn begin() -> NewSession {
    let kernel = |name: &str| {
        let text = read_to_string(format!("/proc/sys/kernel/{name}")).unwrap_or_default();
        text.trim().to_owned()
    };
    let clock = clock::pair();
    let arguments: Vec<_> =
        std::env::args_os().map(|argument| argument.to_string_lossy().into_owned()).collect();
    NewSession {
        started_ts: clock.ts,
        boot_id: kernel("random/boot_id"),
        hostname: kernel("hostname"),
        kernel: kernel("osrelease"),
        tracerd_version: env!("CARGO_PKG_VERSION").to_owned(),
        command: arguments.join(" "),
        clock,
    }
}
