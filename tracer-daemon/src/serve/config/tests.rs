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
    let text = "[[rule]]\nlevel = \"go\"\n[[rule]]\nexe = \"/usr/[\"\nlevel = \"sched\"\n";
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
