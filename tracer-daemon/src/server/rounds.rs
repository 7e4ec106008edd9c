//! When others may ask: their questions come in rounds, with a pause after each.
//!
//! While a question is open the log of the database cannot begin anew, and when it is full rows are dropped. One
//! question is bounded by its time; without rounds the next one, begun before it ends, would keep the log for it.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};

/// The rounds.
#[derive(Debug)]
pub struct Rounds {
    /// For how long questions may join a round.
    joined_for: Duration,
    /// Without a question for so long, a round is over.
    pause: Duration,
    round: Mutex<Round>,
    /// The last question of a round has ended.
    emptied: Notify,
}

#[derive(Debug, Default)]
struct Round {
    began: Option<Instant>,
    /// Questions that are open.
    open: usize,
    /// When the last of them ended.
    ended: Option<Instant>,
}

/// A question that takes part in a round, until it is dropped.
#[derive(Debug)]
pub struct Part<'a>(&'a Rounds);

/// When to try again.
#[derive(Debug, PartialEq, Eq)]
enum Later {
    /// When the questions that are open have ended.
    Emptied,
    /// At this time.
    At(Instant),
}

impl Rounds {
    /// Rounds that can be joined for so long, and pauses of this length.
    pub fn new(joined_for: Duration, pause: Duration) -> Self {
        Self { joined_for, pause, round: Mutex::default(), emptied: Notify::new() }
    }

    /// Waits until a question may begin.
    pub async fn join(&self) -> Part<'_> {
        loop {
            let emptied = self.emptied.notified();
            tokio::pin!(emptied);
            // Before the look, so that none is missed.
            emptied.as_mut().enable();
            match self.try_join(Instant::now()) {
                Ok(part) => return part,
                Err(Later::Emptied) => emptied.await,
                Err(Later::At(time)) => sleep_until(time).await,
            }
        }
    }

    fn try_join(&self, now: Instant) -> Result<Part<'_>, Later> {
        let mut round = self.lock();
        let over = match round.ended {
            _ if round.open > 0 => None,
            ended => ended.map(|ended| ended + self.pause),
        };
        if over.is_some_and(|over| over <= now) {
            *round = Round::default();
        }
        let began = *round.began.get_or_insert(now);
        if now.saturating_duration_since(began) <= self.joined_for {
            round.open += 1;
            return Ok(Part(self));
        }
        Err(over.map_or(Later::Emptied, Later::At))
    }

    fn lock(&self) -> MutexGuard<'_, Round> {
        self.round.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Part<'_> {
    fn drop(&mut self) {
        let mut round = self.0.lock();
        round.open -= 1;
        if round.open == 0 {
            round.ended = Some(Instant::now());
            drop(round);
            self.0.emptied.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAUSE: Duration = Duration::from_millis(300);
    const JOINED_FOR: Duration = Duration::from_secs(5);

    #[test]
    fn a_round_is_joined_for_a_while_and_ends_with_its_last_question() {
        let rounds = Rounds::new(JOINED_FOR, Duration::ZERO);
        let begin = Instant::now();
        let one = rounds.try_join(begin).unwrap();
        let other = rounds.try_join(begin + JOINED_FOR).unwrap();
        let late = begin + JOINED_FOR * 2;
        assert_eq!(rounds.try_join(late).unwrap_err(), Later::Emptied);
        drop(one);
        assert_eq!(rounds.try_join(late).unwrap_err(), Later::Emptied);
        drop(other);
        // It has begun anew.
        let _one = rounds.try_join(late).unwrap();
        assert!(rounds.try_join(late + JOINED_FOR).is_ok());
    }

    #[test]
    fn questions_that_follow_each_other_without_a_pause_are_one_round() {
        let rounds = Rounds::new(JOINED_FOR, PAUSE);
        let begin = Instant::now();
        drop(rounds.try_join(begin).unwrap());
        // Both end at once, whenever they begin.
        drop(rounds.try_join(begin + PAUSE / 2).unwrap());
        let ended = rounds.lock().ended.unwrap();
        rounds.lock().began = begin.checked_sub(JOINED_FOR * 2);
        assert_eq!(rounds.try_join(ended).unwrap_err(), Later::At(ended + PAUSE));
        assert!(rounds.try_join(ended + PAUSE).is_ok());
        assert!(rounds.lock().began >= Some(begin));
    }

    #[test]
    fn who_chains_questions_waits_for_the_pause() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let rounds = Rounds::new(Duration::from_millis(50), PAUSE);
        let (mut all, mut pauses) = (0, 0);
        let mut last = Instant::now();
        runtime.block_on(async {
            let begin = Instant::now();
            let mut before = rounds.join().await;
            while begin.elapsed() < PAUSE * 4 {
                // The next one begins before this one ends, if it can.
                let next = tokio::time::timeout(Duration::from_millis(30), rounds.join()).await;
                drop(before);
                before = match next {
                    Ok(next) => next,
                    Err(_) => {
                        last = Instant::now();
                        let next = rounds.join().await;
                        pauses += usize::from(last.elapsed() >= PAUSE / 2);
                        next
                    }
                };
                all += 1;
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
        assert!(pauses >= 2 && all > pauses, "{all} questions, {pauses} pauses");
    }
}
