//! What `tracer` and `tracerd` say to each other over the socket of `tracerd serve`.
//!
//! Both sides send frames ([`frame`]): first a [`Hello`] each, then one [`Request`] after the other, each
//! answered before the next is sent. A control request is answered by one [`Reply`]; a question by a stream of
//! bytes in data frames ([`stream`]), which ends with [`Answered`]; both by a [`Refusal`] if they cannot be.
//! Messages are JSON; the rows of SQL are in the binary form of [`rows`].

pub mod client;
pub mod frame;
mod messages;
pub mod rows;
pub mod stream;
mod text;

pub use messages::{
    Answered, AttachOptions, Control, Count, Hello, Level, Loss, ProbeFile, Question, Reason,
    Refusal, Reply, Request, ServerHello, SocketCounts, State, Status, Target, Traced,
};
pub use text::escaped;

/// Where `tracerd serve` listens unless it is told otherwise.
pub const DEFAULT_SOCKET: &str = "/run/tracerd/tracerd.sock";

/// Version of all that is said over the socket. Both sides must have the same.
pub const VERSION: u32 = 3;
