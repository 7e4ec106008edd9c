//! End-to-end tests: `tracerd` records real processes, and what `tracer` answers is compared with
//! what the program, the Go runtime, strace or the kernel say of the same run.
//!
//! They need root, and share the machine's CPUs with what they trace: run them one at a time.

mod anywhere;
mod attach_states;
mod bad_input;
mod command_line;
mod crowds;
mod daisy;
mod debug_sections;
mod debuggers;
mod disk_full;
mod dump;
mod etcd;
mod export;
mod faults;
mod follow;
mod frames_at_attach;
mod inherited;
mod kernel_stacks;
mod kill9;
mod leaderless;
mod loss;
mod oracle;
mod overlays;
mod plugins;
mod reasons;
mod refused_calls;
mod samples;
mod schedstat;
mod serve;
mod soak;
mod socket;
mod successors;
mod syscalls_decoded;
mod syscalls_vs_strace;
mod system_wide;
mod targets;
mod thirty_two_bits;
mod thread_lives;
mod thread_waits;
mod time_namespaces;
mod waits;
