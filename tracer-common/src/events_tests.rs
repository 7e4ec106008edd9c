use super::*;

#[test]
fn kinds_are_distinct_and_named() {
    for (i, kind) in EventKind::ALL.iter().enumerate() {
        for other in &EventKind::ALL[i + 1..] {
            assert_ne!(kind.name(), other.name());
        }
    }
    assert_eq!(DEFS.len(), EventKind::ALL.len());
}

#[test]
fn decodes_what_a_probe_writes_and_refuses_the_rest() {
    let record = SysExit {
        header: Header { ts: 7, kind: EventKind::SysExit as u16, cpu: 1, tid: 42 },
        tgid: 41,
        nr: 1,
        ret: -2,
        file: 0,
    };
    // SAFETY: a repr(C) record without padding is plain bytes.
    let bytes: [u8; size_of::<SysExit>()] = unsafe { core::mem::transmute(record) };
    assert_eq!(Event::decode(&bytes), Ok(Event::SysExit(record)));
    for len in 0..bytes.len() {
        assert!(Event::decode(&bytes[..len]).is_err(), "{len} bytes were accepted");
    }
    let mut unknown = bytes;
    unknown[8] = 0xff;
    assert_eq!(Event::decode(&unknown), Err(DecodeError::UnknownKind(0xff)));
}
