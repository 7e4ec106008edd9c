//! Clients that behave badly harm nobody else.

use std::io::{Read as _, Write as _};

use super::*;
use tracer_protocol::{Question, Request};

const ENDLESS: &str = "with recursive n(i) as (select 1 union all select i + 1 from n)
                       select i, 'a text that is sent again and again' from n";

/// A question that may take an hour, unless the server says otherwise: longer than any test waits.
fn ask(sql: &str) -> Frame {
    let question = Question::Sql { sql: sql.into() };
    Frame::message(Kind::Request, &Request::Ask { question, timeout_ms: 3_600_000 }).unwrap()
}

/// Reads until the server closes the connection, within [`SOON`]; returns what it said.
fn until_closed(mut stream: UnixStream) -> Vec<u8> {
    let mut said = Vec::new();
    let begin = Instant::now();
    match stream.read_to_end(&mut said) {
        Ok(_) => {}
        // Something was still on its way to it.
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {}
        Err(error) => panic!("after {:?}: {error}", begin.elapsed()),
    }
    said
}

#[test]
fn half_a_frame_is_waited_for_only_so_long() {
    let served = Served::with(|config| config.frame_timeout = Duration::from_millis(300));
    let request = ask("select 1").bytes();
    for cut in [1, 4, 5, 6, request.len() - 1] {
        let mut stream = served.greeted();
        stream.write_all(&request[..cut]).unwrap();
        served.is_well();
        let said = until_closed(stream);
        let refusal: Refusal =
            Frame::read(&mut said.as_slice()).unwrap().parse(Kind::Error).unwrap();
        assert_eq!(refusal.reason, Reason::Protocol, "{cut}");
    }
    // Nor for a hello.
    assert!(until_closed(served.raw()).is_empty());
}

#[test]
fn what_is_no_protocol_is_refused_in_words() {
    let served = Served::new();
    let mut long = vec![b'Q'];
    long.extend(u32::MAX.to_le_bytes());
    let junk = Frame { kind: Kind::Request, body: b"{\"ask\":{\"question\":7}}".to_vec() };
    let unknown = Frame { kind: Kind::Request, body: b"\"shutdown\"".to_vec() };
    let order = Frame { kind: Kind::Order, body: b"{}".to_vec() };
    for bytes in
        [b"GET / HTTP/1.1\r\n\r\n".to_vec(), long, junk.bytes(), unknown.bytes(), order.bytes()]
    {
        for mut stream in [served.raw(), served.greeted()] {
            stream.write_all(&bytes).unwrap();
            let said = until_closed(stream);
            let refusal: Refusal =
                Frame::read(&mut said.as_slice()).unwrap().parse(Kind::Error).unwrap();
            assert_eq!(refusal.reason, Reason::Protocol);
        }
    }
    // Another version is told which one is spoken here.
    let mut stream = served.raw();
    let hello = Hello { protocol: VERSION + 1, program: "tracer 99".into() };
    Frame::message(Kind::Hello, &hello).unwrap().write(&mut stream).unwrap();
    let said: ServerHello = Frame::read(&mut stream).unwrap().parse(Kind::Hello).unwrap();
    assert_eq!(said.protocol, VERSION);
    assert!(until_closed(stream).is_empty());
    served.is_well();
}

#[test]
fn a_client_that_never_reads_is_let_go() {
    let served = Served::with(|config| {
        config.write_timeout = Duration::from_millis(500);
        config.max_queries = 1;
    });
    let mut stream = served.greeted();
    ask(ENDLESS).write(&mut stream).unwrap();
    wait_until("it does not begin", || served.server().counts().queries == 1);
    served.is_well();
    // It had the only place; the next one waits for it.
    assert_eq!(number(&mut served.client(), "select 7"), 7);
    wait_until("it goes on", || served.server().counts().queries == 0);
    let said = until_closed(stream);
    assert!(said.len() > 10_000);
}

/// As long as it is open, the log of the database cannot be begun anew.
#[test]
fn of_others_no_question_stays_open_much_longer_than_it_may_take() {
    let served = Served::with(|config| config.query_timeout = Duration::from_secs(3));
    // Reads slowly until the question ends, at most for so long; returns whether it did, and how long that took.
    let slowly = |uid, most: Duration| {
        let mut stream = access::as_user(uid, &[], || served.greeted());
        ask(ENDLESS).write(&mut stream).unwrap();
        wait_until("it does not begin", || served.server().counts().queries == 1);
        let begin = Instant::now();
        while served.server().counts().queries == 1 && begin.elapsed() < most {
            stream.read_exact(&mut [0; 4 << 10]).unwrap();
            std::thread::sleep(Duration::from_millis(100));
        }
        (served.server().counts().queries == 0, begin.elapsed())
    };
    let (ended, took) = slowly(OTHER_UID, SOON);
    assert!(ended, "it is open after {took:?}");
    // Who may do everything may be slow.
    let (ended, took) = slowly(0, 2 * took);
    assert!(!ended, "it ended after {took:?}");
    served.is_well();
}

#[test]
fn a_question_ends_with_its_client() {
    let served = Served::with(|config| config.query_timeout = Duration::from_secs(3600));
    let quiet =
        "with recursive n(i) as (select 1 union all select i + 1 from n) select max(i) from n";
    for end in ["close", "speak"] {
        let mut stream = served.greeted();
        ask(quiet).write(&mut stream).unwrap();
        wait_until("it does not begin", || served.server().counts().queries == 1);
        match end {
            "close" => drop(stream),
            _ => ask("select 1").write(&mut stream).unwrap(),
        }
        wait_until(end, || served.server().counts().queries == 0);
    }
    served.is_well();
}

#[test]
fn two_hundred_clients_at_once() {
    let served = Served::with(|config| config.queue_timeout = Duration::from_secs(300));
    let (go, wait) = (std::sync::Barrier::new(200), std::sync::Barrier::new(200));
    std::thread::scope(|scope| {
        for i in 0..200 {
            let (served, go, wait) = (&served, &go, &wait);
            scope.spawn(move || {
                let mut client = served.client();
                go.wait();
                assert!(matches!(client.control(Control::List), Ok(Reply::List(_))));
                if i % 4 == 0 {
                    let mut result = QueryResult::default();
                    let sql = format!("select count(*) * 0 + {i} from goroutine_state");
                    client.sql(&sql, Duration::from_secs(300), &mut result).unwrap();
                    assert_eq!(result.rows, [[Value::Integer(i)]]);
                }
                // All of them are connected until the last one is done.
                wait.wait();
            });
        }
    });
    wait_until("they are still there", || served.server().counts().clients == 0);
    assert_eq!(served.server().counts().answered, 50);
    served.is_well();
}

#[test]
fn one_client_too_many_is_told_so() {
    let served = Served::with(|config| config.max_clients = 3);
    let clients: Vec<_> = (0..3).map(|_| served.client()).collect();
    let refusal = refused(Client::connect(served.socket(), "test"));
    assert_eq!(refusal.reason, Reason::Busy);
    assert!(refusal.message.contains("3 clients"), "{refusal}");
    drop(clients);
    wait_until("they are still there", || served.server().counts().clients == 0);
    served.is_well();
}

#[test]
fn one_question_too_many_is_told_so() {
    let served = Served::with(|config| {
        config.max_queries = 1;
        config.queue_timeout = Duration::from_millis(200);
    });
    let mut first = served.greeted();
    ask(ENDLESS).write(&mut first).unwrap();
    wait_until("it does not begin", || served.server().counts().queries == 1);
    let refusal = refused(sql(&mut served.client(), "select 1"));
    assert_eq!(refusal.reason, Reason::Busy);
    drop(first);
    wait_until("it goes on", || served.server().counts().queries == 0);
    assert_eq!(number(&mut served.client(), "select 7"), 7);
}
