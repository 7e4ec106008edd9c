//! Random bytes, and conversations that were changed at random.

use std::{io::Write as _, sync::atomic::AtomicUsize};

use super::*;
use tracer_protocol::{AttachOptions, Question, Request};
use tracer_store::query::selection::{Asked, Selection};

/// A generator of random numbers (xorshift64*), so that a failure can be repeated.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }
}

fn conversation(random: &mut Random) -> Vec<u8> {
    let hello = Hello { protocol: VERSION, program: "test".into() };
    let mut bytes = Frame::message(Kind::Hello, &hello).unwrap().bytes();
    let sql =
        ["select 1", "select * from goroutine_state limit 5", "select '\0'", "", "pragma x=1"];
    let ask = |question| Request::Ask { question, timeout_ms: 200 };
    let target = Target::Pid(99);
    let requests = [
        ask(Question::Sql { sql: sql[random.below(sql.len())].into() }),
        ask(Question::Goroutines {
            asked: Asked::session(Some(random.next() as i64)),
            list: Some("x".into()),
        }),
        ask(Question::Waits(Asked { func: Some("*".into()), ..Asked::default() })),
        ask(Question::Export(Selection { upid: Some(1), ..Selection::default() })),
        Request::Control(Control::List),
        Request::Control(Control::Status),
        Request::Control(Control::Attach {
            target: target.clone(),
            options: AttachOptions::default(),
            hold: true,
        }),
        Request::Control(Control::Detach { target }),
        Request::Control(Control::Snapshot { reason: "\u{1b}[2J\n".into() }),
    ];
    for _ in 0..=random.below(3) {
        let request = &requests[random.below(requests.len())];
        bytes.extend(Frame::message(Kind::Request, request).unwrap().bytes());
    }
    bytes
}

fn change(random: &mut Random, bytes: &mut Vec<u8>) {
    for _ in 0..random.below(4) {
        if bytes.is_empty() {
            return;
        }
        let at = random.below(bytes.len());
        match random.below(6) {
            0 => bytes[at] ^= 1 << random.below(8),
            1 => bytes[at] = random.next() as u8,
            2 => bytes.truncate(at + 1),
            3 => drop(bytes.splice(
                at..at,
                (0..random.below(50)).map(|_| random.next() as u8).collect::<Vec<_>>(),
            )),
            4 => {
                let end = (at + random.below(40)).min(bytes.len());
                let part = bytes[at..end].to_vec();
                bytes.splice(at..at, part);
            }
            _ => {
                let end = (at + 4).min(bytes.len());
                bytes[at..end].fill([0, 0xff, 0x7f][random.below(3)]);
            }
        }
    }
}

/// `TRACER_FUZZ_SECONDS` sets how long, `TRACER_FUZZ_SEED` with what.
#[test]
fn nothing_that_is_sent_ends_the_server() {
    let of_environment = |name| std::env::var(name).ok().and_then(|text: String| text.parse().ok());
    let seconds: u64 = of_environment("TRACER_FUZZ_SECONDS").unwrap_or(3);
    let seed = of_environment("TRACER_FUZZ_SEED").unwrap_or(1);
    let served = Served::with(|config| {
        config.frame_timeout = Duration::from_millis(100);
        config.query_timeout = Duration::from_millis(200);
        config.queue_timeout = Duration::from_millis(200);
        config.write_timeout = Duration::from_millis(200);
    });
    // A panic ends only the task of one client, and must not pass unseen.
    static PANICS: AtomicUsize = AtomicUsize::new(0);
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if std::thread::current().name() == Some("socket") {
            PANICS.fetch_add(1, Ordering::Relaxed);
        }
        hook(info);
    }));
    let end = Instant::now() + Duration::from_secs(seconds);
    let threads: Vec<_> = (0..4)
        .map(|thread| {
            let socket = served.socket().to_owned();
            std::thread::spawn(move || {
                let mut random = Random(seed * 1_000 + thread + 1);
                let mut count = 0_u64;
                while Instant::now() < end {
                    let mut bytes = match random.below(8) {
                        0 => (0..random.below(5_000)).map(|_| random.next() as u8).collect(),
                        _ => conversation(&mut random),
                    };
                    change(&mut random, &mut bytes);
                    let mut stream = UnixStream::connect(&socket).unwrap();
                    stream.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
                    // The server may have had enough before all is sent.
                    let _ = stream.write_all(&bytes);
                    let whole = random.below(2) == 0;
                    while whole && Frame::read(&mut stream).is_ok() {}
                    count += 1;
                }
                count
            })
        })
        .collect();
    let count: u64 = threads.into_iter().map(|thread| thread.join().unwrap()).sum();
    println!("{count} conversations");
    assert_eq!(PANICS.load(Ordering::Relaxed), 0);
    assert!(count > 20 * seconds, "{count}");
    wait_until("clients are left", || served.server().counts().clients == 0);
    let mut client = served.client();
    assert!(matches!(client.control(Control::Status), Ok(Reply::Status(_))));
    assert_eq!(number(&mut client, "select 7"), 7);
}
