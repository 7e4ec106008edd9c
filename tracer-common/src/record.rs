//! The shape of a record and the macro that makes everything else about an event from one block.

use crate::events::KIND_LIMIT;

/// The first bytes of every record.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// CLOCK_MONOTONIC in nanoseconds, read after the room in the ring was reserved.
    pub ts: u64,
    /// The [`EventKind`](crate::EventKind) as a number.
    pub kind: u16,
    /// CPU on which the event happened.
    pub cpu: u16,
    /// Thread that was current on that CPU (its id in the root pid namespace).
    pub tid: u32,
}

/// Size of [`Header`] in bytes.
pub const HEADER_SIZE: usize = size_of::<Header>();

/// How many events of each kind happened, and what became of them, by kind number. A part comes before the
/// whole, so that who reads from the front on never finds the part larger.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counters {
    /// Those for which a ring had no room.
    pub no_room: [u64; KIND_LIMIT],
    /// Those whose data could not be read from the process.
    pub unreadable: [u64; KIND_LIMIT],
    /// All that happened, recorded or not.
    pub produced: [u64; KIND_LIMIT],
}

impl crate::EventKind {
    /// Whether events of this kind have a ring of their own, in which those of which there are many cannot
    /// take their room: without them, much else cannot be understood.
    pub const fn has_priority(self) -> bool {
        matches!(
            self,
            Self::SchedFork
                | Self::SchedExec
                | Self::ExecNames
                | Self::ExecArgs
                | Self::CgroupMade
                | Self::CgroupMoved
                | Self::SchedExit
                | Self::ThreadName
                | Self::GoMaxProcs
                | Self::GoStwBegin
                | Self::GoStwEnd
                | Self::GoGcBegin
                | Self::GoGcEnd
                | Self::GoHeapGoal
        )
    }
}

/// Why bytes are not an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecodeError {
    /// Fewer bytes than a header.
    Short(usize),
    /// No event has this kind number.
    UnknownKind(u16),
    /// The kind is known, but its record has another size.
    Size {
        /// Kind number in the header.
        kind: u16,
        /// Bytes that a record of that kind has.
        expected: usize,
        /// Bytes that were there.
        got: usize,
    },
}

impl core::fmt::Display for DecodeError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match *self {
            Self::Short(got) => write!(f, "{got} bytes are too few for an event header"),
            Self::UnknownKind(kind) => write!(f, "no event has the kind number {kind}"),
            Self::Size { kind, expected, got } => {
                write!(f, "an event of kind {kind} has {expected} bytes, not {got}")
            }
        }
    }
}

/// A record that starts with a [`Header`].
pub trait Record: Copy + 'static {
    /// Kind number in its header.
    const KIND: crate::EventKind;
    /// Bytes that follow it in the ring.
    const TAIL: usize;
}

/// Reads a record and checks its length.
pub(crate) fn read_record<R: Record>(bytes: &[u8]) -> Result<R, DecodeError> {
    if bytes.len() != size_of::<R>() + R::TAIL {
        return Err(DecodeError::Size {
            kind: R::KIND as u16,
            expected: size_of::<R>() + R::TAIL,
            got: bytes.len(),
        });
    }
    // SAFETY: the length was checked, the read may be unaligned, and every record is made of
    // integers only, for which any bytes are valid.
    Ok(unsafe { bytes.as_ptr().cast::<R>().read_unaligned() })
}

/// Description of one field of a record, for the documentation.
#[derive(Clone, Copy, Debug)]
pub struct FieldDef {
    /// Field name.
    pub name: &'static str,
    /// Rust type.
    pub ty: &'static str,
    /// Unit or meaning of the number.
    pub unit: &'static str,
    /// What it says.
    pub doc: &'static str,
}

/// Description of one event kind, for the documentation.
#[derive(Clone, Copy, Debug)]
pub struct EventDef {
    /// The kind.
    pub kind: crate::EventKind,
    /// Table in which it ends up.
    pub table: &'static str,
    /// When it happens.
    pub doc: &'static str,
    /// Its fields after the header.
    pub fields: &'static [FieldDef],
}

/// Defines all events: for each the kind number, the name used in `loss.kind`, the table it ends up
/// in, what follows the fields (`tail`, if anything does), and per field type, unit and doc. Makes [`EventKind`](crate::EventKind), one `#[repr(C)]`
/// record each (checked to have no padding), [`Event`](crate::Event) with its decoder, and the
/// descriptions from which docs/events.md is generated.
macro_rules! events {
    ($(
        #[doc = $doc:literal]
        $name:ident = $number:literal, $text:literal => $table:literal $(tail $tail:ty)? {
            $( #[doc = $fdoc:literal] $field:ident: $ty:ty, $unit:literal; )*
        }
    )*) => {
        /// Every kind of record that a kernel program submits.
        #[repr(u16)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum EventKind { $( #[doc = $doc] $name = $number, )* }

        impl EventKind {
            /// All kinds, in the order of their definition.
            pub const ALL: &'static [Self] = &[$( Self::$name, )*];

            /// The name that `loss.kind` and `event_count.kind` show.
            pub const fn name(self) -> &'static str {
                match self { $( Self::$name => $text, )* }
            }
        }

        $(
            #[doc = $doc]
            #[repr(C)]
            #[derive(Clone, Copy, Debug, PartialEq, Eq)]
            pub struct $name {
                /// When, where and by whom.
                pub header: Header,
                $( #[doc = $fdoc] #[doc = concat!("Unit: ", $unit, ".")] pub $field: $ty, )*
            }

            const _: () = {
                assert!(size_of::<$name>() == HEADER_SIZE $( + size_of::<$ty>() )*,
                    concat!(stringify!($name), " has padding: a probe would submit unwritten bytes"));
                assert!(size_of::<$name>().is_multiple_of(8));
                assert!(($number as usize) < KIND_LIMIT);
            };

            impl Record for $name {
                const KIND: EventKind = EventKind::$name;
                const TAIL: usize = 0 $( + size_of::<$tail>() )?;
            }
        )*

        /// A decoded record.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Event { $( #[doc = $doc] $name($name), )* }

        impl Event {
            /// Reads one record.
            ///
            /// # Errors
            /// When the bytes are not exactly one record of a known kind.
            pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
                let Some(kind) = bytes.get(8..10).filter(|_| bytes.len() >= HEADER_SIZE) else {
                    return Err(DecodeError::Short(bytes.len()));
                };
                match u16::from_ne_bytes([kind[0], kind[1]]) {
                    $( $number => read_record(bytes).map(Self::$name), )*
                    unknown => Err(DecodeError::UnknownKind(unknown)),
                }
            }

            /// Its header.
            pub fn header(&self) -> &Header {
                match self { $( Self::$name(record) => &record.header, )* }
            }

            /// Its kind.
            pub fn kind(&self) -> EventKind {
                match self { $( Self::$name(_) => EventKind::$name, )* }
            }
        }

        /// Descriptions of all kinds.
        pub const DEFS: &[EventDef] = &[$( EventDef {
            kind: EventKind::$name,
            table: $table,
            doc: $doc,
            fields: &[$( FieldDef {
                name: stringify!($field), ty: stringify!($ty), unit: $unit, doc: $fdoc,
            }, )*],
        }, )*];
    };
}
pub(crate) use events;
