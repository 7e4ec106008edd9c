//! What SQL can do to the process that answers, and not to the daemon.

use super::*;

/// Resident memory of this process, bytes.
fn rss() -> u64 {
    let statm = fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

#[test]
fn sql_that_needs_too_much_ends_and_the_daemon_does_not_grow() {
    let served = Served::with(|config| {
        config.query_timeout = Duration::from_secs(1);
        config.query_memory = 96 << 20;
    });
    let mut client = served.client();
    let numbers = "with recursive n(i) as (select 1 union all select i + 1 from n limit 100000000)";
    let by_time = [
        "with recursive n(i) as (select 1 union all select i + 1 from n) select max(i) from n"
            .to_owned(),
        format!("{numbers} select count(*) from n a, n b, n c"),
        "select count(*) from goroutine_state a, goroutine_state b, goroutine_state c".to_owned(),
    ];
    let by_memory = [
        "select hex(zeroblob(400000000))".to_owned(),
        format!("{numbers} select length(group_concat(printf('%.*c', 1000000, 'x'))) from n"),
        format!("{numbers} select printf('%.*c', 100000, i) as x from n order by x || '1'"),
        format!("{numbers} select count(*) from (select distinct printf('%.*c', 10000, i) || i as x from n)"),
        "with recursive n(i) as (select 'x' union all select i || i from n) select length(i) from n".to_owned(),
    ];
    for text in &by_time {
        let refusal = refused(sql(&mut client, text));
        assert_eq!(refusal.reason, Reason::Timeout, "{text}: {refusal}");
    }
    for text in &by_memory {
        let refusal = refused(sql(&mut client, text));
        let too_much = refusal.reason == Reason::Memory
            || refusal.message.contains("too big")
            || refusal.reason == Reason::Timeout;
        assert!(too_much, "{text}: {refusal:?}");
    }
    let refusal = refused(sql(&mut client, &by_memory[0]));
    assert_eq!(refusal.reason, Reason::Memory, "{refusal}");
    // SQLite answers NULL to this one.
    let longest = sql(&mut client, "select length(printf('%.*c', 900000000, 'x'))").unwrap();
    assert_eq!(longest.rows, [[Value::Null]]);
    // Rows without end go through the daemon, and do not stay in it.
    let endless = format!("{numbers} select printf('%.*c', 100000, 'x') from n");
    struct Count(u64);
    impl tracer_store::RowSink for Count {
        fn columns(&mut self, _names: &[String]) -> std::io::Result<()> {
            Ok(())
        }
        fn row(&mut self, values: &[tracer_store::ValueRef<'_>]) -> std::io::Result<()> {
            self.0 += values[0].as_str().map_or(0, |text| text.len() as u64);
            Ok(())
        }
    }
    // Tests beside this one need memory of this process, too, but not always.
    let stays = |before: u64| rss().saturating_sub(before) < 24 << 20;
    let stayed = (0..5).any(|_| {
        let before = rss();
        let mut count = Count(0);
        let refusal = refused(client.sql(&endless, SOON, &mut count));
        assert_eq!(refusal.reason, Reason::Timeout);
        assert!(count.0 > 30 << 20, "{} bytes", count.0);
        stays(before)
    });
    assert!(stayed, "it grows with each answer");
    served.is_well();
}

#[test]
fn the_process_that_answers_can_do_nothing_else() {
    let served = Served::new();
    let mut stream = served.greeted();
    let question = tracer_protocol::Question::Sql {
        sql: "with recursive n(i) as (select 1 union all select i + 1 from n) select max(i) from n"
            .into(),
    };
    let request = tracer_protocol::Request::Ask { question, timeout_ms: 60_000 };
    Frame::message(Kind::Request, &request).unwrap().write(&mut stream).unwrap();
    let marker = "server::tests::answer_one_question";
    let is_worker = |pid: &u32| {
        fs::read_to_string(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.contains(marker))
            && status(*pid).contains(&format!("PPid:\t{}\n", std::process::id()))
            && limit(*pid, "Max open files").starts_with('0')
    };
    let mut found = None;
    wait_until("there is no such process", || {
        let pids = fs::read_dir("/proc").unwrap().flatten();
        let mut pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        // Tests beside this one have such processes, too, but for a moment only.
        found = pids.find(|pid| is_worker(pid));
        found.is_some()
    });
    let pid = found.unwrap();
    let status = status(pid);
    let lines = [
        "Uid:\t65534\t65534\t65534\t65534",
        "Gid:\t65534\t65534\t65534\t65534",
        "Groups:\t ",
        "NoNewPrivs:\t1",
        "CapInh:\t0000000000000000",
        "CapPrm:\t0000000000000000",
        "CapEff:\t0000000000000000",
        "CapAmb:\t0000000000000000",
    ];
    for line in lines {
        assert!(status.lines().any(|found| found == line), "{line}: {status}");
    }
    for name in ["Max core file size", "Max file size", "Max processes", "Max open files"] {
        assert!(limit(pid, name).starts_with("0 "), "{name}: {}", limit(pid, name));
    }
    // The database, its log and its index are open for reading, and nothing else is a file.
    let flags = |fd: &fs::DirEntry| {
        let name = fd.file_name().into_string().unwrap();
        let info = fs::read_to_string(format!("/proc/{pid}/fdinfo/{name}")).unwrap();
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:\t")).unwrap().to_owned();
        u32::from_str_radix(&flags, 8).unwrap()
    };
    let mut files = Vec::new();
    for fd in fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten() {
        let target = fs::read_link(fd.path()).unwrap();
        if target.is_absolute() && target != Path::new("/dev/null") {
            assert_eq!(flags(&fd) & 3, 0, "{} is open for writing", target.display());
            files.push(target.file_name().unwrap().to_str().unwrap().to_owned());
        }
    }
    files.sort();
    assert_eq!(files, ["trace.db", "trace.db-shm", "trace.db-wal"]);
}

/// Of the thread that answers: the test harness has one before it.
fn status(pid: u32) -> String {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let tids = tasks.filter_map(|task| task.file_name().to_str()?.parse::<u32>().ok());
    let tid = tids.max().unwrap_or(pid);
    fs::read_to_string(format!("/proc/{pid}/task/{tid}/status")).unwrap_or_default()
}

fn limit(pid: u32, name: &str) -> String {
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap_or_default();
    let line = limits.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}
