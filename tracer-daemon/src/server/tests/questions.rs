//! What is asked is answered.

use std::{fs, io::Read as _};

use super::*;
use tracer_protocol::{AttachOptions, Question};
use tracer_store::{
    Reader,
    export::gotrace::{self, Selection},
    query::goroutine_report::{self, Report},
    query::selection::Asked,
    query::waits,
};

#[test]
fn sql_sees_what_was_stored_a_moment_ago() {
    let served = Served::new();
    let mut client = served.client();
    assert!(client.server().everything);
    let count = "select count(*) from goroutine_state";
    let first = number(&mut client, count);
    assert!(first >= 100);
    wait_until("no new rows", || number(&mut client, count) > first);
    let answer =
        sql(&mut client, "select upid, cmdline, null, 1.5, x'00ff' from process order by 1")
            .unwrap();
    assert_eq!(answer.columns.len(), 5);
    let row = vec![
        Value::Integer(2),
        Value::Text("server 2".into()),
        Value::Null,
        Value::Real(1.5),
        Value::Blob(vec![0, 255]),
    ];
    assert_eq!(answer.rows[1], row);
}

#[test]
fn many_rows_come_whole_and_in_order() {
    let served = Served::new();
    let numbers = "with recursive n(i) as (select 1 union all select i + 1 from n limit 200000)
                   select i, printf('%032d', i) from n";
    let answer = sql(&mut served.client(), numbers).unwrap();
    assert_eq!(answer.rows.len(), 200_000);
    assert!(answer.rows.iter().zip(1..).all(|(row, i)| row[0] == Value::Integer(i)));
}

#[test]
fn rows_come_while_the_statement_still_runs() {
    let served = Served::new();
    let mut client = served.client();
    let slow = "with recursive n(i) as (select 1 union all select i + 1 from n)
                select i from n where i % 30000 = 0";
    let mut at = None;
    let question = Question::Sql { sql: slow.into() };
    let begin = Instant::now();
    let result = client.ask(question, Duration::from_secs(3), |answer| {
        // The names of the columns, then a row.
        let mut bytes = vec![0; 4 + 3 + 4 + 1];
        answer.read_exact(&mut bytes)?;
        at = Some(begin.elapsed());
        Ok(Ok(()))
    });
    assert_eq!(refused(result).reason, Reason::Timeout);
    let all = begin.elapsed();
    assert!(at.is_some_and(|at| at < all / 2), "{at:?} of {all:?}");
}

#[test]
fn answers_tell_of_losses_in_the_time_that_they_are_about() {
    let served = Served::new();
    let mut client = served.client();
    let mut warnings =
        |sql: &str| client.sql(sql, SOON, &mut QueryResult::default()).unwrap().warnings;
    let lost = "warning: 3 events were lost in this trace (select * from loss): totals may be low";
    assert_eq!(warnings("select count(*) from goroutine_state"), [lost]);
    assert_eq!(warnings("select 1"), [lost]);
    assert!(warnings("select count(*) from goroutine_state where ts > 2000").is_empty());
}

#[test]
fn what_sql_must_not_do_is_refused() {
    let served = Served::new();
    let mut client = served.client();
    for (text, says) in [
        ("delete from session", "only read"),
        ("attach '/etc/passwd' as x", "ATTACH"),
        ("select load_extension('/tmp/x.so')", "load_extension"),
        ("vacuum into '/tmp/x'", "writes"),
        ("select 1; select 2", "more than one statement"),
        ("selekt", "syntax error"),
        ("select x from nowhere", "no such table"),
    ] {
        let refusal = refused(sql(&mut client, text));
        assert!(refusal.message.contains(says), "{text}: {refusal}");
    }
    // An error leaves the connection as it was.
    assert_eq!(number(&mut client, "select 7"), 7);
}

#[test]
fn goroutines_and_exports_are_those_of_the_file() {
    let served = Served::new();
    let database = served.dir.path().join("secret/trace.db");
    let mut client = served.client();
    let question = Question::Goroutines { asked: Asked::default(), list: Some("work2".into()) };
    let read = |answer: &mut tracer_protocol::stream::Receiver<&UnixStream>| {
        let mut bytes = Vec::new();
        answer.read_to_end(&mut bytes)?;
        Ok(Ok(bytes))
    };
    let (bytes, answered) = client.ask_for(question, SOON, read).unwrap();
    let over_socket: Report = serde_json::from_slice(&bytes).unwrap();
    let of_file = goroutine_report::report(
        &Reader::open(&database).unwrap(),
        &Asked::default(),
        Some("work2"),
    )
    .unwrap();
    assert_eq!(over_socket.matches, ["main.work2"]);
    assert_eq!(over_socket.matches, of_file.matches);
    let ids = |report: &Report| report.goroutines.iter().map(|g| g.ugid).collect::<Vec<_>>();
    assert_eq!(ids(&over_socket), [2]);
    assert_eq!(ids(&over_socket), ids(&of_file));
    assert_eq!(answered.warnings.len(), 1);

    // One process in a part of the time, and one that is not there.
    let of = |upid| {
        let (from, to) = (gotrace::Moment::Ts(1_050), gotrace::Moment::Ts(5_000));
        let selection =
            Selection { upid: Some(upid), from: Some(from), to: Some(to), ..Selection::default() };
        Asked { selection, func: Some("main.*".into()), ..Asked::default() }
    };
    let mut bytes = Vec::new();
    client.copy(Question::Waits(of(1)), SOON, &mut bytes).unwrap();
    let over_socket: waits::Report = serde_json::from_slice(&bytes).unwrap();
    assert_eq!(over_socket, waits::report(&Reader::open(&database).unwrap(), &of(1)).unwrap());
    let [function] = &over_socket.functions[..] else { panic!("{over_socket:?}") };
    assert_eq!((function.start_func.as_str(), function.dur), ("main.work1", 50 + 19 * 100));
    let refusal = refused(client.copy(Question::Waits(of(99)), SOON, &mut Vec::new()));
    assert_eq!(refusal.reason, Reason::NotFound);

    let selection =
        Selection { upid: Some(1), to: Some(gotrace::Moment::Ts(5_000)), ..Selection::default() };
    let mut over_socket = Vec::new();
    let question = Question::Export(selection.clone());
    let answered = client.copy(question, SOON, &mut over_socket).unwrap();
    let report: gotrace::Report = serde_json::from_value(answered.report.unwrap()).unwrap();
    assert_eq!(report.bytes, over_socket.len() as u64);
    let reader = Reader::open(&database).unwrap();
    let options = gotrace::choose(&reader, &selection).unwrap();
    let mut of_file = Vec::new();
    gotrace::export(&reader, &options, &mut of_file, &mut |_| ()).unwrap();
    assert!(over_socket == of_file && of_file.starts_with(b"go 1.23 trace"));

    let nothing = Question::Export(Selection { pid: Some(99), ..Selection::default() });
    let refusal = refused(client.copy(nothing, SOON, &mut Vec::new()));
    assert_eq!(refusal.reason, Reason::NotFound);
    assert!(refusal.message.contains("no such process"), "{refusal}");
}

#[test]
fn the_recording_is_asked_and_told() {
    let served = Served::new();
    let mut client = served.client();
    let list = |client: &mut Client| match client.control(Control::List).unwrap() {
        Reply::List(all) => all.into_iter().map(|traced| traced.pid).collect::<Vec<_>>(),
        other => panic!("{other:?}"),
    };
    let attach = |client: &mut Client, pid, hold| {
        let control =
            Control::Attach { target: Target::Pid(pid), options: AttachOptions::default(), hold };
        assert!(matches!(client.control(control).unwrap(), Reply::Attached { .. }));
    };
    assert_eq!(list(&mut client), [10, 20]);
    attach(&mut client, 30, false);
    let mut second = served.client();
    attach(&mut second, 40, true);
    attach(&mut second, 50, true);
    let detach = |pid| Control::Detach { target: Target::Pid(pid) };
    assert!(matches!(second.control(detach(50)).unwrap(), Reply::Detached(_)));
    assert_eq!(list(&mut client), [10, 20, 30, 40]);
    // What is held goes with the connection, the rest stays.
    drop(second);
    wait_until("it is still traced", || list(&mut client) == [10, 20, 30]);
    assert_eq!(refused(client.control(detach(40))).reason, Reason::NotFound);
    // Not what has the same pid by then, and is somebody else's wish.
    let mut third = served.client();
    attach(&mut third, 60, true);
    attach(&mut third, 70, true);
    client.control(detach(60)).unwrap();
    attach(&mut client, 60, false);
    drop(third);
    wait_until("it is still traced", || list(&mut client) == [10, 20, 30, 60]);
    client.control(detach(60)).unwrap();
    let Reply::Status(status) = client.control(Control::Status).unwrap() else { panic!() };
    assert_eq!(status.targets, 3);
    let socket = status.socket.unwrap();
    assert_eq!((socket.path.as_path(), socket.clients), (served.socket(), 1));
    assert!(socket.refused >= 1);
    let snapshot = client.control(Control::Snapshot { reason: "why".into() }).unwrap();
    assert_eq!(snapshot, Reply::Written { file: "/a".into(), note: Some("0: why".into()) });
}

#[test]
fn a_process_is_followed_until_its_end_or_as_long_as_is_asked() {
    use crate::record::{Stop, remote::follow};
    let served = Served::new();
    let pids = || match served.client().control(Control::List).unwrap() {
        Reply::List(all) => all.into_iter().map(|traced| traced.pid).collect::<Vec<_>>(),
        other => panic!("{other:?}"),
    };
    let options = AttachOptions::default();
    // As long as is asked, and then it is detached.
    let mut rounds = 0;
    let followed = follow(&mut served.client(), 30, options, |_| {
        assert_eq!(pids(), [10, 20, 30]);
        rounds += 1;
        (rounds == 3).then_some(Stop::Duration)
    });
    assert_eq!(followed.unwrap().pid, 30);
    assert_eq!(pids(), [10, 20]);
    // Until its end.
    let begin = Instant::now();
    let followed = follow(&mut served.client(), 40, options, |_| {
        if pids().contains(&40) {
            let ended = Control::Detach { target: Target::Pid(40) };
            served.client().control(ended).unwrap();
        }
        assert!(begin.elapsed() < SOON, "it is not seen to end");
        None
    });
    assert_eq!(followed.unwrap().pid, 40);
    // What was traced before stays so.
    let followed = follow(&mut served.client(), 10, options, |_| Some(Stop::Duration));
    assert_eq!(followed.unwrap().pid, 10);
    assert_eq!(pids(), [10, 20]);
}

#[test]
fn the_socket_is_taken_from_the_dead_and_not_from_the_living() {
    let served = Served::new();
    let again = |path: &Path| {
        let (send, _commands) = mpsc::channel(1);
        start(ServerConfig::new(path, "/nowhere"), send).map_err(|error| format!("{error:#}"))
    };
    let error = again(served.socket()).unwrap_err();
    assert!(error.contains("another tracerd listens there"), "{error}");
    served.is_well();
    let stale = served.dir.path().join("stale.sock");
    drop(std::os::unix::net::UnixListener::bind(&stale).unwrap());
    let server = again(&stale).unwrap();
    assert!(UnixStream::connect(&stale).is_ok());
    drop(server);
    assert!(!stale.exists());
    let file = served.dir.path().join("notes.txt");
    fs::write(&file, "dear diary").unwrap();
    assert!(again(&file).unwrap_err().contains("something else than a socket"));
    assert_eq!(fs::read(&file).unwrap(), b"dear diary");
    assert!(matches!(Client::connect(&stale, "test").map(drop), Err(ClientError::NoDaemon { .. })));
}
