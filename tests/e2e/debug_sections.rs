//! Compressed debug sections that are small in the file, and large in memory.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, process::Command};

use anyhow::{Context as _, Result, ensure};
use tracer_tests::{
    go::Go,
    harness::{Database, Process, SOON, run, tracerd, wait_until},
};

/// Those that readers of names, lines and types use.
const NAMES: [&str; 8] = [
    "debug_info",
    "debug_abbrev",
    "debug_line",
    "debug_str",
    "debug_ranges",
    "debug_addr",
    "debug_line_str",
    "debug_str_offsets",
];
/// How many bytes each of them says that it has.
const SIZE: u64 = 256 << 20;
/// What they may cost altogether.
const MOST_KIB: u64 = 200 << 10;

/// A section of zeros, compressed (Elf64_Chdr and zlib's format).
fn zeros() -> Vec<u8> {
    // One block of deflate with the fixed code: a zero, and copies of it of 258 bytes each (length symbol 285, distance
    // symbol 0: 13 bits).
    let mut bits = Bits::default();
    bits.push(0b011, 3);
    bits.code(0x30, 8);
    let copies = (SIZE - 1) / 258;
    for _ in 0..copies {
        bits.code(0b1100_0101, 8);
        bits.code(0, 5);
    }
    for _ in 0..(SIZE - 1) % 258 {
        bits.code(0x30, 8);
    }
    bits.code(0, 7);
    let mut section = Vec::new();
    section.extend(1_u32.to_le_bytes());
    section.extend(0_u32.to_le_bytes());
    section.extend(SIZE.to_le_bytes());
    section.extend(1_u64.to_le_bytes());
    section.extend([0x78, 0x01]);
    section.extend(bits.end());
    // Adler-32 of zeros.
    let sum = u32::try_from(SIZE % 65_521).unwrap_or(0) << 16 | 1;
    section.extend(sum.to_be_bytes());
    section
}

/// A stream of bits, the lowest of each byte first.
#[derive(Default)]
struct Bits {
    bytes: Vec<u8>,
    last: u32,
    used: u32,
}

impl Bits {
    fn push(&mut self, bits: u32, count: u32) {
        self.last |= bits << self.used;
        self.used += count;
        while self.used >= 8 {
            self.bytes.push((self.last & 0xff) as u8);
            self.last >>= 8;
            self.used -= 8;
        }
    }

    /// Codes of Huffman begin with their highest bit.
    fn code(&mut self, code: u32, count: u32) {
        self.push(code.reverse_bits() >> (32 - count), count);
    }

    fn end(mut self) -> Vec<u8> {
        if self.used > 0 {
            self.push(0, 8 - self.used);
        }
        self.bytes
    }
}

fn word<const N: usize>(bytes: &[u8], at: usize) -> Result<usize> {
    let part = bytes.get(at..at + N).context("a short file")?;
    let mut word = [0; 8];
    word[..N].copy_from_slice(part);
    Ok(usize::try_from(u64::from_le_bytes(word))?)
}

/// Adds such sections to an executable.
fn with_sections(mut file: Vec<u8>) -> Result<Vec<u8>> {
    const HEADER: usize = 64;
    let (at, count) = (word::<8>(&file, 0x28)?, word::<2>(&file, 0x3c)?);
    let names = at + HEADER * word::<2>(&file, 0x3e)?;
    let mut headers = file.get(at..at + HEADER * count).context("a short file")?.to_vec();
    let (names_at, names_size) = (word::<8>(&file, names + 0x18)?, word::<8>(&file, names + 0x20)?);
    let mut strings = file.get(names_at..names_at + names_size).context("a short file")?.to_vec();
    let content = zeros();
    for name in NAMES {
        let name_at = strings.len();
        strings.extend(format!(".{name}\0").bytes());
        file.resize(file.len().next_multiple_of(16), 0);
        // sh_name, sh_type; sh_flags, sh_addr, sh_offset, sh_size; sh_link, sh_info; sh_addralign, sh_entsize.
        headers.extend(u32::try_from(name_at)?.to_le_bytes());
        headers.extend(1_u32.to_le_bytes());
        for value in [0x800, 0, file.len() as u64, content.len() as u64, 0, 1, 0] {
            headers.extend(value.to_le_bytes());
        }
        file.extend(&content);
    }
    let at_in_headers = names - at;
    headers[at_in_headers + 0x18..][..8].copy_from_slice(&(file.len() as u64).to_le_bytes());
    headers[at_in_headers + 0x20..][..8].copy_from_slice(&(strings.len() as u64).to_le_bytes());
    file.extend(strings);
    file.resize(file.len().next_multiple_of(16), 0);
    let headers_at = file.len() as u64;
    file.extend(headers);
    file[0x28..0x30].copy_from_slice(&headers_at.to_le_bytes());
    file[0x3c..0x3e].copy_from_slice(&u16::try_from(count + NAMES.len())?.to_le_bytes());
    Ok(file)
}

/// Runs `tracerd` with these arguments; the most memory that it had at a time, in KiB.
fn peak(args: &[&str]) -> Result<u64> {
    let mut most = 0;
    let mut process = Process::start(&mut tracerd(args)?)?;
    let status = format!("/proc/{}/status", process.pid());
    wait_until("tracerd ends", SOON, || {
        let text = fs::read_to_string(&status).unwrap_or_default();
        let peak =
            text.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB"));
        most = most.max(peak.and_then(|kib| kib.parse().ok()).unwrap_or(0));
        !process.is_running()
    })?;
    process.wait(SOON)?.ok()?;
    Ok(most)
}

/// A small program with two gigabytes of zeros, which runs.
fn start(dir: &Path) -> Result<Process> {
    let path = dir.join("inflated");
    fs::write(&path, with_sections(fs::read(Go::find()?.build_stripped("pingpong")?)?)?)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    ensure!(fs::metadata(&path)?.len() < 16 << 20, "it is not small");
    let read = run(Command::new("readelf").arg("-St").arg(&path), SOON)?.ok()?.stdout;
    ensure!(read.matches("ZLIB").count() == NAMES.len(), "{read}");
    Process::start(Command::new(&path).args(["-d", "600s"]))
}

#[test]
fn they_cost_the_tracer_little() -> Result<()> {
    let database = Database::new()?;
    let target = start(database.dir())?;
    let plain =
        Process::start(Command::new(Go::find()?.build_stripped("pingpong")?).args(["-d", "600s"]))?;
    let dump = |pid: i32| peak(&["dump", &pid.to_string()]);
    let (with, without) = (dump(target.pid())?, dump(plain.pid())?);
    ensure!(with < without + MOST_KIB, "dump: {with} KiB, {without} KiB without them");
    let attach = |pid: i32, name: &str| {
        let file = database.dir().join(name);
        let file = file.to_str().context("an odd path")?;
        peak(&["attach", &pid.to_string(), "--duration", "300ms", "--db", file])
    };
    let (with, without) = (attach(target.pid(), "with.db")?, attach(plain.pid(), "without.db")?);
    ensure!(with < without + MOST_KIB, "attach: {with} KiB, {without} KiB without them");
    ensure!(without > 1024, "the peak was not seen: {without} KiB");
    Ok(())
}
