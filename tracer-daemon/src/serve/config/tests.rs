//! What config files may say, and how they are refused.

use super::*;

fn parse(text: &str) -> Result<Config, String> {
    Config::parse(text, "c.toml".as_ref()).map_err(|e| e.to_string())
}

#[test]
fn nothing_means_the_defaults() {
    let config = parse("").unwrap();
    assert_eq!(config.store.max_size, Size(10 << 30));
    assert_eq!(config.limits.memory, Size(256 << 20));
    assert!(config.rules.is_none());
}

#[test]
fn sizes_and_times_are_written_as_people_write_them() {
    let config = parse("[store]\nmax_size = \"1.5 GiB\"\nmax_age = \"36h\"\n").unwrap();
    assert_eq!(config.store.max_size, Size(3 << 29));
    assert_eq!(config.store.max_age, Time(Duration::from_secs(36 * 3600)));
    assert_eq!(parse("[limits]\nmemory = 4194304").unwrap().limits.memory, Size(4 << 20));
}

#[test]
fn an_error_names_file_line_and_key() {
    let error = |text| parse(text).unwrap_err();
    assert_eq!(
        error("[store]\nmax_siez = \"1 GiB\"\n"),
        "c.toml:2: max_siez: unknown field `max_siez`, expected one of `path`, `max_size`, `max_age`, `mode`"
    );
    assert_eq!(
        error("[store]\n\nmax_size = \"a lot\"\n"),
        "c.toml:3: max_size: `a lot` is not a size such as \"64 MiB\""
    );
    assert_eq!(
        error("[store]\nmax_size = \"1 MiB\"\n"),
        "c.toml:2: max_size: a database of less than 8 MiB holds too little to be of use"
    );
    let text = "[[rule]]\nlevel = \"go\"\n[[rule]]\nexe = \"/usr/*[\"\nlevel = \"sched\"\n";
    assert!(error(text).starts_with("c.toml:4: exe: "), "{}", error(text));
    assert!(error("[store").starts_with("c.toml:1: "), "{}", error("[store"));
    assert!(error("[[rule]]\nlevel = \"all\"").contains("c.toml:2: level: unknown variant"));
    let error = error("[metrics]\nlisten = \"0.0.0.0:9464\"\n");
    assert!(error.starts_with("c.toml:2: listen: 0.0.0.0:9464 can be reached"), "{error}");
}

#[test]
fn what_needs_a_restart_stays_and_is_named() {
    let old = parse("[store]\nmax_age = \"1h\"\n").unwrap();
    let text = "[store]\npath = \"/x\"\nmode = \"flight\"\nmax_age = \"2h\"\n[limits]\nring_size = \"1 MiB\"\n\
                [access]\ngroup = \"wheel\"\nothers = \"nothing\"\nqueries = 5\n";
    let mut new = parse(text).unwrap();
    assert_eq!(
        new.keep_what_needs_a_restart(&old),
        ["store.path", "store.mode", "limits.ring_size", "access.queries"]
    );
    assert_eq!(new.store.path, old.store.path);
    assert_eq!(new.store.mode, Mode::Store);
    assert_eq!(new.access.queries, old.access.queries);
    // What can change is as the file says.
    assert_eq!(new.store.max_age, Time(Duration::from_secs(7200)));
    assert_eq!((&*new.access.group, new.access.others), ("wheel", Others::Nothing));
    assert!(new.keep_what_needs_a_restart(&old).is_empty());
}

#[test]
fn a_trigger_says_when() {
    let text = "[[trigger]]\nwhen = \"signal\"\n[[trigger]]\nwhen = \"syscall\"\n";
    let error = parse(text).unwrap_err();
    assert!(error.starts_with("c.toml:3: [[trigger]]: this trigger needs a length"), "{error}");
    let text =
        "[[trigger]]\nwhen = \"goroutine-wait\"\nlonger = \"100ms\"\nname = \"chan receive\"\n";
    assert_eq!(parse(text).unwrap().triggers[0].cooldown, Time(Duration::from_secs(60)));
}

#[test]
fn a_wrong_trigger_is_found_however_it_is_written() {
    let error = |text| parse(text).unwrap_err();
    let needs = "this trigger needs a length: longer = \"100ms\"";
    let text = "#[[trigger]]\n#when = \"gc\"\n[[trigger]]\nwhen = \"signal\"\n[[ trigger ]]\nwhen = \"gc\"\n";
    assert_eq!(error(text), format!("c.toml:5: [[ trigger ]]: {needs}"));
    let text = "trigger = [\n  { when = \"signal\" },\n  { when = \"gc\" },\n]\n";
    assert_eq!(error(text), format!("c.toml:3: trigger: {needs}"));
    let text = "\ntrigger = [{ when = \"signal\" }, { when = \"gc\" }]\n";
    assert_eq!(error(text), format!("c.toml:2: trigger: {needs}"));
    let text = "trigger = [{ when = \"gc\", longer = \"1s\", above = 3 }]\n";
    assert_eq!(error(text), "c.toml:1: above: it means nothing for this trigger");
    let text = "[[trigger]]\nwhen = \"signal\"\n\n  longer = \"1s\"\n";
    assert_eq!(error(text), "c.toml:4: longer: it means nothing for this trigger");
}

#[test]
fn the_key_is_that_of_the_value_which_is_wrong() {
    let text = "[[rule]]\nlevel = \"go\"\nexe = [\"/a\", \"/b[\"]\n";
    let at = |part| text.find(part);
    let key = |part| at(part).and_then(|at| key_at(text, at));
    assert_eq!(key("[[rule"), Some("[[rule]]"));
    assert_eq!((key("level"), key("\"go")), (Some("level"), Some("level")));
    assert_eq!((key("[\"/a"), key("\"/b")), (Some("exe"), Some("exe")));
    assert_eq!(key_at("\n [stroe] # x\n", 3), Some("[stroe]"));
    assert_eq!((key_at("", 0), key_at("\n", 1)), (None, None));
    let error = parse("trigger = [{ when = \"gc\", longer = \"1s\", onyl = {} }]").unwrap_err();
    assert!(error.starts_with("c.toml:1: onyl: unknown field `onyl`"), "{error}");
    let error = parse("trigger = [{ when = \"gc\", longer = \"soon\" }]").unwrap_err();
    assert!(error.starts_with("c.toml:1: longer: `soon` is not a time"), "{error}");
}

#[test]
fn what_may_not_be_as_it_is_meant_has_its_place() {
    let doubts = |text: &str| parse(text).unwrap().doubts;
    assert_eq!(doubts("[[rule]]\nexe = \"/bin/true\"\nlevel = \"go\"\n"), Vec::<String>::new());
    let missing = "there is no such file here (one in a container may be)";
    let text = "[[rule]]\nlevel = \"go\"\nexe = \"/no/such\"\n";
    assert_eq!(doubts(text), [format!("c.toml:3: exe: {missing}")]);
    let text = "[[trigger]]\nwhen = \"signal\"\nonly = { exe = \"/no/such\" }\n";
    assert_eq!(doubts(text), [format!("c.toml:3: only: exe: {missing}")]);
    let text = "[[rule]]\nlevel = \"go\"\n[[rule]]\nuid = 0\nlevel = \"off\"\n";
    let never = "this rule never counts: rule 1 before it names all";
    assert_eq!(doubts(text), [format!("c.toml:3: [[rule]]: {never}")]);
    let text = "[store]\n[access]\ngroup = \"no-such-group\"\n";
    assert_eq!(doubts(text), ["c.toml:3: group: there is no group `no-such-group`"]);
}

#[test]
fn values_that_match_nothing_are_found_by_their_place() {
    for (line, says) in [
        ("exe = \"etcd\"", "exe: is no path"),
        ("comm = \"longer-than-the-kernel-*\"", "comm: the kernel keeps 15 bytes"),
        ("uid = \"no-such-user\"", "uid: there is no user"),
        ("cgroup = \"system.slice\"", "cgroup: is no path"),
        ("container = \"web\"", "container: `web` is not the id"),
        ("unit = \"system.slice\"", "unit: processes belong to services"),
    ] {
        let error = parse(&format!("[[rule]]\nlevel = \"go\"\n{line}\n")).unwrap_err();
        assert!(error.starts_with(&format!("c.toml:3: {says}")), "{line}: {error}");
        let error = parse(&format!("[[trigger]]\nwhen = \"signal\"\nonly = {{ {line} }}\n"));
        let error = error.unwrap_err();
        assert!(error.starts_with(&format!("c.toml:3: {says}")), "{line}: {error}");
    }
    for (when, name, says) in [
        ("syscall\"\nlonger = \"1s", "reed", "there is no system call `reed`"),
        ("run-queue-wait\"\nlonger = \"1s", "x", "`runnable` or `preempted` is meant"),
        ("gc\"\nlonger = \"1s", "x", "it means nothing for this trigger"),
        ("goroutines\"\nabove = 7 #\"", "x", "it means nothing for this trigger"),
        ("signal\" # \"", "SIGSEGV", "the path of an executable is meant"),
    ] {
        let error = parse(&format!("[[trigger]]\nwhen = \"{when}\"\nname = \"{name}\"\n"));
        let error = error.unwrap_err();
        assert!(error.ends_with(&format!(": name: {says}")), "{when}: {error}");
    }
}
