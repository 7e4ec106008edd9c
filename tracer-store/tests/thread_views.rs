//! The views over thread_state.

mod common;

use common::{Dir, batch, create, process, rows};
use tracer_store::{Clock, Interner, Reader, Streams, Syscall, Thread, ThreadState};

fn thread(utid: i64, tid: i64, name: &str) -> Thread {
    Thread { utid, upid: 1, tid, name: Some(name.into()), ..Thread::default() }
}

#[tokio::test]
async fn waits_have_their_call_and_their_end_and_migrations_two_cpus() {
    let dir = Dir::new();
    let path = dir.file("a.db");
    let mut writer = create(&path).await;
    let mut interner = Interner::new();
    let mut row = |ts, dur, state: &str| ThreadState {
        ts,
        dur: Some(dur),
        utid: 1,
        state: interner.intern(state),
        ..ThreadState::default()
    };
    let mut states = [
        row(10, 10, "running"),
        row(20, 30, "sleeping"),
        row(50, 5, "runnable"),
        row(55, 5, "running"),
        row(60, 5, "preempted"),
        row(65, 5, "running"),
        row(70, 5, "uninterruptible"),
    ];
    states[0].cpu = Some(3);
    states[1].syscall = Some(interner.intern("read"));
    states[1].syscall_ts = Some(15);
    states[1].reason = Some(interner.intern("syscall"));
    states[2].waker = Some(interner.intern("thread"));
    states[2].waker_utid = Some(2);
    states[3].cpu = Some(1);
    states[5].cpu = Some(1);
    let name = interner.intern("read");
    let call = |ts, utid| Syscall { ts, utid, name, args: [ts as u64; 6], ..Syscall::default() };
    let mut b = batch(&mut interner, 80);
    b.closed = Streams {
        thread_state: states.to_vec(),
        syscall: vec![call(15, 1), call(15, 2), call(56, 1)],
        ..Streams::default()
    };
    b.processes = vec![process(1)];
    b.threads = vec![thread(1, 101, "reader"), thread(2, 102, "writer")];
    writer.commit(b).await.unwrap();
    let end = Clock { ts: 80, realtime: 90 };
    writer.finish(80, "over", end).await.unwrap();

    let reader = Reader::open(&path).unwrap();
    let wait = "select ts, dur, tid, name, state, reason, syscall, syscall_ts, args, waker, waker_name, cpu_wait
         from thread_wait";
    assert_eq!(
        rows(&reader, wait),
        [
            "20|30|101|reader|sleeping|syscall|read|15|[15,15,15,15,15,15]|thread|writer|5",
            "70|5|101|reader|uninterruptible|-|-|-|-|-|-|-",
        ]
    );
    assert_eq!(rows(&reader, "select * from migration"), ["55|1|3|1"]);
    for view in ["thread_wait", "migration"] {
        let table = tracer_store::schema::table(view).expect("it is documented");
        let names = rows(&reader, &format!("select name from pragma_table_info('{view}')"));
        let documented: Vec<_> = table.columns().iter().map(|column| column.name).collect();
        assert_eq!(names, documented);
    }
}
