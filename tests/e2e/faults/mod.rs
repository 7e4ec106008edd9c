//! What goes wrong while `tracerd serve` runs: it goes on, and says what is missing.

mod clients;
mod clock;
mod disk;
mod killed;
mod rights;
mod starting;
mod stopped;
