//! Who may do what: clients that are other users, as the kernel sees them.

use std::os::raw::c_long;

use super::*;
use crate::server::Others;
use nix::libc;
use tracer_protocol::AttachOptions;

/// Does something in a thread that is another user; only that thread is.
pub(super) fn as_user<T: Send>(uid: u32, groups: &[u32], what: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let (none, id) = (-1 as c_long, c_long::from(uid));
            // SAFETY: the system calls themselves, other than the functions of the C library, change one thread.
            unsafe {
                assert_eq!(libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()), 0);
                assert_eq!(libc::syscall(libc::SYS_setresgid, none, id, none), 0);
                assert_eq!(libc::syscall(libc::SYS_setresuid, none, id, none), 0);
            }
            what()
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn privileged() -> [Control; 5] {
    let target = || Target::Pid(10);
    [
        Control::Attach { target: target(), options: AttachOptions::default(), hold: false },
        Control::Detach { target: target() },
        Control::Status,
        Control::Snapshot { reason: "x".into() },
        Control::Reload,
    ]
}

#[test]
fn others_see_their_own_processes_and_change_nothing() {
    let served = Served::new();
    let socket = served.socket();
    as_user(OTHER_UID, &[], || {
        let mut client = Client::connect(socket, "test").unwrap();
        assert!(!client.server().everything);
        for control in privileged() {
            let refusal = refused(client.control(control.clone()));
            assert_eq!(refusal.reason, Reason::Denied, "{control:?}");
            assert!(refusal.message.contains("group tracer"), "{refusal}");
        }
        let Reply::List(all) = client.control(Control::List).unwrap() else { panic!() };
        assert_eq!(all.iter().map(|traced| traced.pid).collect::<Vec<_>>(), [20]);
    });
    as_user(OTHER_UID + 1, &[], || {
        let mut client = Client::connect(socket, "test").unwrap();
        assert_eq!(client.control(Control::List).unwrap(), Reply::List(Vec::new()));
    });
    let Reply::List(all) = served.client().control(Control::List).unwrap() else { panic!() };
    assert_eq!(all.len(), 2);
}

#[test]
fn others_may_be_refused_altogether() {
    let served = Served::with(|config| config.rights.others = Others::Nothing);
    let socket = served.socket();
    as_user(OTHER_UID, &[], || {
        let refusal = refused(Client::connect(socket, "test"));
        assert_eq!(refusal.reason, Reason::Denied);
        assert!(refusal.message.contains("group tracer"), "{refusal}");
    });
    served.is_well();
}

#[test]
fn members_of_the_group_may_do_everything() {
    // A group that exists everywhere, and that nobody is in by the user database.
    let group = nix::unistd::Group::from_name("daemon").unwrap().unwrap();
    let served = Served::with(|config| config.rights.group = "daemon".to_owned());
    let socket = served.socket();
    let is_member = |uid, groups: &[u32]| {
        as_user(uid, groups, || {
            let mut client = Client::connect(socket, "test").unwrap();
            let all = privileged().map(|control| client.control(control).is_ok());
            // Detached by the second, it cannot be detached again.
            assert!(all.iter().all(|done| *done == client.server().everything));
            if client.server().everything {
                let attach = privileged().into_iter().next().unwrap();
                client.control(attach).unwrap();
            }
            client.server().everything
        })
    };
    assert!(is_member(OTHER_UID, &[7, group.gid.as_raw()]));
    assert!(!is_member(OTHER_UID, &[7]));
    // By the user database: the user `daemon` has it as his group.
    let user = nix::unistd::User::from_name("daemon").unwrap().unwrap();
    assert!(is_member(user.uid.as_raw(), &[]));
}

#[test]
fn one_user_cannot_take_all_the_room() {
    let served = Served::with(|config| config.max_clients = 8);
    let socket = served.socket();
    as_user(OTHER_UID, &[], || {
        let _two = [(); 2].map(|()| Client::connect(socket, "test").unwrap());
        let refusal = refused(Client::connect(socket, "test"));
        assert_eq!(refusal.reason, Reason::Busy);
        assert!(refusal.message.contains("user 4711"), "{refusal}");
    });
    served.is_well();
}

#[test]
fn some_places_are_for_root_and_the_group() {
    let group = nix::unistd::Group::from_name("daemon").unwrap().unwrap();
    let served = Served::with(|config| {
        config.max_clients = 16;
        config.rights.group = "daemon".to_owned();
    });
    let socket = served.socket();
    let connect = || Client::connect(socket, "test");
    // Of four users, each with as many as one may have.
    let mut clients: Vec<_> =
        (0..14).map(|n| as_user(OTHER_UID + n / 4, &[], || connect().unwrap())).collect();
    for _ in 0..3 {
        let refusal = as_user(OTHER_UID + 9, &[], || refused(connect()));
        assert_eq!(refusal.reason, Reason::Busy);
        assert!(refusal.message.contains("14 clients"), "{refusal}");
    }
    clients.push(connect().unwrap());
    let member = |uid| as_user(uid, &[group.gid.as_raw()], connect);
    let mut client = member(OTHER_UID + 10).unwrap();
    assert!(matches!(client.control(Control::Status), Ok(Reply::Status(_))));
    // Now it is full for all.
    assert_eq!(refused(connect()).reason, Reason::Busy);
    assert_eq!(refused(member(OTHER_UID + 11)).reason, Reason::Busy);
    drop((clients, client));
    wait_until("they are still there", || served.server().counts().clients == 0);
    served.is_well();
}
