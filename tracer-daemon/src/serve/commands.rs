//! Who asks is answered beside what is recorded, and not in place of it.

use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use crate::server::Command;

/// For so long commands are answered before what is recorded has its turn again; the one that was begun is finished.
const TURN: Duration = Duration::from_millis(5);

/// A turn of those who ask.
pub struct Turn {
    begun: Instant,
    has_answered: bool,
}

impl Turn {
    /// It begins.
    pub fn begin() -> Self {
        Self { begun: Instant::now(), has_answered: false }
    }

    /// What is to be answered next, if there is anything; not without end, as more may come all the time.
    pub fn next(&mut self, commands: &mut mpsc::Receiver<Command>) -> Option<Command> {
        if self.has_answered && self.begun.elapsed() >= TURN {
            return None;
        }
        self.has_answered = true;
        commands.try_recv().ok()
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;
    use tracer_protocol::Control;

    use super::*;
    use crate::server::Peer;

    fn command() -> Command {
        let (reply, _) = oneshot::channel();
        Command { what: Control::List, only: Some(7), peer: Peer::myself(), reply }
    }

    #[test]
    fn a_client_who_asks_again_at_once_gets_no_more_than_a_turn() {
        let (send, mut commands) = mpsc::channel(4);
        send.try_send(command()).unwrap();
        let (mut turn, mut answered) = (Turn::begin(), 0);
        while turn.next(&mut commands).is_some() {
            answered += 1;
            send.try_send(command()).unwrap();
            assert!(turn.begun.elapsed() < Duration::from_secs(10), "it does not end");
        }
        assert!(answered > 1 && turn.begun.elapsed() >= TURN, "{answered}");
        // What takes longer than a turn is answered, too.
        let mut turn = Turn::begin();
        std::thread::sleep(2 * TURN);
        assert!(turn.next(&mut commands).is_some());
        assert!(turn.next(&mut commands).is_none() && Turn::begin().next(&mut commands).is_none());
    }
}
