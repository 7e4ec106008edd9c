//! The version that Go's linker leaves in every program (debug/buildinfo).

use object::elf::PF_W;

use super::Executable;

const MAGIC: &[u8] = b"\xff Go buildinf:";
/// The linker aligns it so.
const ALIGN: usize = 16;
const HEADER: usize = 32;
/// Flag: the strings follow the header, instead of pointers to them (since Go 1.18).
const INLINE: u8 = 2;
/// More than a version takes: the list of modules behind it is not of interest.
const SIZE: u64 = 1024;
/// Longest version: a development version with experiments has about 100 characters.
const MAX_VERSION: usize = 256;

/// Such as `go1.27.3`; none if there is no build information that can be read.
pub fn version(elf: &Executable<'_>) -> Option<String> {
    // Without section headers it is still in the data: the linker puts it first.
    elf.section(".go.buildinfo").and_then(parse).or_else(|| {
        let places = elf.search(MAGIC, ALIGN, |flags| flags & PF_W.0 != 0);
        places.into_iter().find_map(|at| parse(elf.bytes_from(at, SIZE)?))
    })
}
fn parse(section: &[u8]) -> Option<String> {
    let at = section.windows(MAGIC.len()).position(|window| window == MAGIC)?;
    let info = &section[at..];
    if info.get(15)? & INLINE == 0 {
        return None;
    }
    let (length, rest) = varint(info.get(HEADER..)?)?;
    let text = rest.get(..usize::try_from(length).ok()?)?;
    // It is shown: no control characters, and not a page of it.
    let text = std::str::from_utf8(text).ok().filter(|text| text.len() <= MAX_VERSION)?;
    (!text.is_empty() && !text.contains(char::is_control)).then(|| text.to_owned())
}

/// A number in base 128, least significant group first (encoding/binary.Uvarint).
fn varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0u64;
    for (i, byte) in bytes.iter().enumerate().take(9) {
        value |= u64::from(byte & 0x7f) << (7 * i);
        if byte & 0x80 == 0 {
            return Some((value, &bytes[i + 1..]));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn section(version: &[u8]) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend([8, INLINE]);
        bytes.resize(HEADER, 0);
        bytes.push(u8::try_from(version.len()).expect("short"));
        bytes.extend(version);
        bytes
    }

    #[test]
    fn reads_the_version() {
        assert_eq!(parse(&section(b"go1.27.3")).as_deref(), Some("go1.27.3"));
    }

    #[test]
    fn refuses_damage() {
        let good = section(b"go1.27.3");
        for len in 0..good.len() {
            assert_eq!(parse(&good[..len]), None, "{len} bytes were accepted");
        }
        assert_eq!(parse(&section(b"go1.27\x1b[31m")), None);
        let mut long = good;
        long[HEADER] = 0x7f;
        assert_eq!(parse(&long), None);
    }
}
