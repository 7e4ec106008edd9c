//! Questions about goroutines.

use insta::assert_snapshot;

use crate::fixture::{Fixture, stderr};

#[test]
fn goroutines_are_listed_by_start_function() {
    let fixture = Fixture::new();
    assert_snapshot!(fixture.answer(&["goroutines"]), @r"
START FUNCTION               N   TOTAL  RUNNING  RUNNABLE  WAITING  SYSCALL     CPU  OFF CPU
runtime.main                 1  42.0ms   2.00ms         0   40.0ms        0  2.00ms        0
  waiting: chan receive                                     40.0ms
main.pass                    2  14.8ms    750us    1.50us   13.3ms    700us   770us    130us
  waiting: chan receive                                     12.3ms
  waiting: sync.Mutex.Lock                                  1.00ms

runtime-internal:
runtime.gcBgMarkWorker       1  99.0ms        0         0   99.0ms        0       0        0
  waiting: GC worker (idle)                                 99.0ms
");
    assert_snapshot!(fixture.answer(&["goroutines", "-o", "csv"]), @r#"
upid,pid,process,start_func,runtime_internal,n,total,running,runnable,waiting,syscall,unknown,cpu,off_cpu,waiting_by_reason
1,42,,runtime.main,false,1,42000000,2000000,0,40000000,0,0,2000000,0,"{""chan receive"":40000000}"
1,42,,main.pass,false,2,14797178,750000,1500,13345678,700000,0,770000,130000,"{""chan receive"":12345678,""sync.Mutex.Lock"":1000000}"
1,42,,runtime.gcBgMarkWorker,true,1,99000000,0,0,99000000,0,0,0,0,"{""GC worker (idle)"":99000000}"
"#);
    let json: serde_json::Value =
        serde_json::from_str(&fixture.answer(&["goroutines", "-o", "json"])).unwrap();
    let names: Vec<_> =
        json["rows"].as_array().unwrap().iter().map(|f| f["start_func"].clone()).collect();
    assert_eq!(names, ["runtime.main", "main.pass", "runtime.gcBgMarkWorker"]);
    assert_eq!(
        json["rows"][1],
        serde_json::json!({
            "upid": 1,
            "pid": 42,
            "process": null,
            "start_func": "main.pass",
            "runtime_internal": false,
            "n": 2,
            "total": 14_797_178,
            "running": 750_000,
            "runnable": 1_500,
            "waiting": 13_345_678,
            "syscall": 700_000,
            "unknown": 0,
            "cpu": 770_000,
            "off_cpu": 130_000,
            "waiting_by_reason": { "chan receive": 12_345_678, "sync.Mutex.Lock": 1_000_000 },
        })
    );
    assert_eq!(json["rows"][2]["runtime_internal"], true);
}

#[test]
fn the_goroutines_of_a_function_are_listed() {
    let fixture = Fixture::new();
    assert_snapshot!(fixture.answer(&["goroutines", "--list", "main.pass"]), @r"
main.pass: times of creation and end are since the start of the recording

GOID  PARENT  CREATED   ENDED   TOTAL  RUNNING  RUNNABLE  WAITING  SYSCALL    CPU  OFF CPU  WAITING FOR
  18      17   1.00ms  14.6ms  13.6ms    250us    1.50us   13.3ms        0  150us    100us  chan receive 12.3ms, sync.Mutex.Lock 1.00ms
  19      17   1.00ms       -  1.20ms    500us         0        0    700us  620us   30.0us
");
    assert_eq!(
        fixture.answer(&["goroutines", "--list", "pass"]),
        fixture.answer(&["goroutines", "--list", "main.pass"])
    );
    let json: serde_json::Value =
        serde_json::from_str(&fixture.answer(&["goroutines", "--list", "pass", "-o", "json"]))
            .unwrap();
    assert_eq!(json["rows"][0]["goid"], 18);
    assert_eq!(json["rows"][0]["parent_goid"], 17);
    assert_eq!(json["rows"][0]["created_ts"], 2_000_000);
    assert_eq!(json["rows"][1]["ended_ts"], serde_json::Value::Null);
    assert_eq!(json["rows"][1]["syscall"], 700_000);
    let csv = fixture.answer(&["goroutines", "--list", "runtime.main", "-o", "csv"]);
    assert_snapshot!(csv, @r#"
upid,pid,process,ugid,goid,parent_goid,start_func,created_ts,ended_ts,total,running,runnable,waiting,syscall,unknown,cpu,off_cpu,waiting_by_reason
1,42,,1,17,,runtime.main,,,42000000,2000000,0,40000000,0,0,2000000,0,"{""chan receive"":40000000}"
"#);
    assert_snapshot!(fixture.failure(&["goroutines", "--list", "main.pas"]), @"no goroutine began in main.pas (did you mean main.pass?); `tracer goroutines` lists all functions");
}

#[test]
fn a_program_without_goroutines_is_told() {
    let fixture = Fixture::with(|batch| {
        batch.goroutines.clear();
        batch.closed.goroutine_state.clear();
    });
    let output = fixture.tracer(&["goroutines", "-o", "json"]).output().unwrap();
    assert!(output.status.success());
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json, serde_json::json!({ "rows": [], "warnings": [] }));
    assert!(stderr(&output).contains("no Go program was recognised"));
    let output = fixture.tracer(&["waits"]).output().unwrap();
    assert!(output.status.success() && output.stdout.is_empty());
    assert!(stderr(&output).contains("no Go program was recognised"));
}

#[test]
fn what_kept_goroutines_from_running_is_said_in_words() {
    let fixture = Fixture::new();
    assert_snapshot!(fixture.answer(&["waits"]), @r"
START FUNCTION          N    TIME   SHARE  WHERE IT WENT
runtime.main            1  42.0ms
                           40.0ms   95.2%  blocked: chan receive
                           2.00ms    4.8%  on CPU
main.pass               2  14.8ms
                           12.3ms   83.4%  blocked: chan receive
                           1.00ms    6.8%  blocked: sync.Mutex.Lock
                            650us    4.4%  on CPU
                            550us    3.7%  in a system call, asleep
                            120us    0.8%  in a system call, on CPU
                            100us    0.7%  thread off CPU, preempted by hog (1234)
                           30.0us    0.2%  thread off CPU, waiting for one

runtime-internal:
runtime.gcBgMarkWorker  1  99.0ms
                           99.0ms  100.0%  blocked: GC worker (idle)
");
    assert_snapshot!(fixture.answer(&["waits", "-o", "csv"]), @r"
upid,pid,process,start_func,runtime_internal,n,part,reason,by,dur
1,42,,runtime.main,false,1,blocked,chan receive,,40000000
1,42,,runtime.main,false,1,on_cpu,,,2000000
1,42,,main.pass,false,2,blocked,chan receive,,12345678
1,42,,main.pass,false,2,blocked,sync.Mutex.Lock,,1000000
1,42,,main.pass,false,2,on_cpu,,,650000
1,42,,main.pass,false,2,syscall_asleep,,,550000
1,42,,main.pass,false,2,syscall_cpu,,,120000
1,42,,main.pass,false,2,off_cpu,,hog (1234),100000
1,42,,main.pass,false,2,off_cpu,,,30000
1,42,,main.pass,false,2,runnable,,,1500
1,42,,runtime.gcBgMarkWorker,true,1,blocked,GC worker (idle),,99000000
");
    let json: serde_json::Value =
        serde_json::from_str(&fixture.answer(&["waits", "-o", "json"])).unwrap();
    let json = &json["rows"];
    for function in json.as_array().unwrap() {
        let causes = function["causes"].as_array().unwrap();
        let sum: i64 = causes.iter().map(|cause| cause["dur"].as_i64().unwrap()).sum();
        assert_eq!(function["dur"], sum, "{function}");
    }
    assert_eq!(json[1]["start_func"], "main.pass");
    assert_eq!((&json[1]["n"], &json[1]["cpu"]), (&2.into(), &770_000.into()));
    let by_hog = serde_json::json!({
        "part": "off_cpu",
        "reason": null,
        "by": "hog (1234)",
        "dur": 100_000,
        "words": "thread off CPU, preempted by hog (1234)",
    });
    assert!(json[1]["causes"].as_array().unwrap().contains(&by_hog), "{}", json[1]);
}

#[test]
fn several_processes_are_told_apart() {
    let fixture = Fixture::with(|batch| {
        batch.processes[0].comm = Some("daisy".into());
        batch.processes[1].exe = Some("/srv/server".into());
        for goroutine in &mut batch.goroutines {
            goroutine.upid = if goroutine.ugid == 3 { 2 } else { 1 };
        }
    });
    assert_snapshot!(fixture.answer(&["waits"]), @r"
START FUNCTION          N    TIME   SHARE  WHERE IT WENT
daisy (42)
runtime.main            1  42.0ms
                           40.0ms   95.2%  blocked: chan receive
                           2.00ms    4.8%  on CPU
main.pass               1  13.6ms
                           12.3ms   90.8%  blocked: chan receive
                           1.00ms    7.4%  blocked: sync.Mutex.Lock
                            150us    1.1%  on CPU
                            100us    0.7%  thread off CPU, preempted by hog (1234)

runtime-internal:
runtime.gcBgMarkWorker  1  99.0ms
                           99.0ms  100.0%  blocked: GC worker (idle)

server (1234)
main.pass               1  1.20ms
                            550us   45.8%  in a system call, asleep
                            500us   41.7%  on CPU
                            120us   10.0%  in a system call, on CPU
                           30.0us    2.5%  thread off CPU, waiting for one
");
    assert_snapshot!(fixture.answer(&["goroutines", "--from", "+1200us", "--to", "+3ms"]), @r"
START FUNCTION               N   TOTAL  RUNNING  RUNNABLE  WAITING  SYSCALL    CPU  OFF CPU
daisy (42)
runtime.main                 1  1.80ms    800us         0   1.00ms        0  800us        0
  waiting: chan receive                                     1.00ms
main.pass                    1  1.80ms   51.5us         0   1.75ms        0      0   51.5us
  waiting: chan receive                                     1.75ms

runtime-internal:
runtime.gcBgMarkWorker       1  1.80ms        0         0   1.80ms        0      0        0
  waiting: GC worker (idle)                                 1.80ms

server (1234)
main.pass                    1  1.00ms    300us         0        0    700us  420us   30.0us
");
    assert_snapshot!(fixture.answer(&["goroutines", "--list", "main.pass", "--limit", "2"]), @r"
main.pass: times of creation and end are since the start of the recording

PROCESS        GOID  PARENT  CREATED   ENDED   TOTAL  RUNNING  RUNNABLE  WAITING  SYSCALL    CPU  OFF CPU  WAITING FOR
daisy (42)       18      17   1.00ms  14.6ms  13.6ms    250us    1.50us   13.3ms        0  150us    100us  chan receive 12.3ms, sync.Mutex.Lock 1.00ms
server (1234)    19      17   1.00ms       -  1.20ms    500us         0        0    700us  620us   30.0us
");
    let csv = fixture.answer(&["waits", "--pid", "1234", "-o", "csv"]);
    assert!(csv.lines().skip(1).all(|line| line.starts_with("2,1234,server,main.pass,")), "{csv}");
    let json = fixture.answer(&["waits", "--name", "server", "--func", "pass", "-o", "json"]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["rows"].as_array().unwrap().len(), 1);
    assert_eq!((&json["rows"][0]["pid"], &json["rows"][0]["n"]), (&1234.into(), &1.into()));

    let output = fixture.tracer(&["waits", "--limit", "1"]).output().unwrap();
    assert_eq!(stderr(&output), "note: 2 functions more with a larger --limit\n");
    assert_snapshot!(fixture.failure(&["waits", "--name", "daisies"]), @"there is no such process in recording 1, whose Go processes are: daisy (42), server (1234)");
    assert_snapshot!(fixture.failure(&["goroutines", "--from", "+1s"]), @"nothing was recorded after 2023-11-14 22:13:21 UTC: recording 1 is from 2023-11-14 22:13:20 to 2023-11-14 22:13:20 UTC, 0.099 s");
    // The recording is of 2023, so that today and yesterday have nothing of it; the message says which of them was meant.
    let said = fixture.failure(&["waits", "--from", "02:47"]);
    assert!(
        said.contains("nothing was recorded after") && said.contains("02:47 is taken as"),
        "{said}"
    );
}
