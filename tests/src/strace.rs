//! What `strace -f -yy -o FILE` wrote, call by call.

use std::{collections::BTreeMap, str::FromStr};

use anyhow::{Context as _, Result};

/// Calls whose texts are data rather than paths.
const DATA: &[&str] = &[
    "getrandom",
    "memfd_create",
    "pread64",
    "preadv",
    "prctl",
    "pwrite64",
    "pwritev",
    "read",
    "readv",
    "recvfrom",
    "recvmsg",
    "sendmsg",
    "sendto",
    "setsockopt",
    "uname",
    "write",
    "writev",
];

/// A call, as strace shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Call {
    /// The thread.
    pub tid: i64,
    /// Its name.
    pub name: String,
    /// What it returned, if it returned a number.
    pub ret: Option<i64>,
    /// The name of its error.
    pub error: Option<String>,
    /// What the file descriptors among its arguments and results in arguments refer to, in their order.
    pub files: Vec<(i64, String)>,
    /// What the file descriptor that it returned refers to.
    pub ret_file: Option<String>,
    /// Its paths.
    pub paths: Vec<String>,
    /// Its socket address.
    pub addr: Option<String>,
    /// The whole line.
    pub line: String,
}

/// The calls of each thread, in the order in which they were begun.
///
/// # Errors
/// When a line is not understood.
pub fn parse(text: &str) -> Result<Vec<Call>> {
    let mut calls = Vec::new();
    let mut unfinished: BTreeMap<i64, (usize, String)> = BTreeMap::new();
    for line in text.lines() {
        let (tid, rest) = line.split_once(' ').context("a line without a thread")?;
        let tid = tid.parse().with_context(|| format!("no thread in {line}"))?;
        let rest = rest.trim_start();
        if rest.starts_with("+++") || rest.starts_with("---") {
            continue;
        }
        if let Some(start) = rest.strip_suffix(" <unfinished ...>") {
            unfinished.insert(tid, (calls.len(), start.to_owned()));
            calls.push(Call::default());
            continue;
        }
        if rest.starts_with("<... ") {
            let (_, end) = rest.split_once(" resumed>").context("no end of a resumed call")?;
            let (at, start) = unfinished.remove(&tid).context("a call that was not begun")?;
            calls[at] = call(tid, &format!("{start}{end}")).with_context(|| line.to_owned())?;
            continue;
        }
        calls.push(call(tid, rest).with_context(|| line.to_owned())?);
    }
    calls.retain(|call| !call.name.is_empty());
    Ok(calls)
}

fn call(tid: i64, line: &str) -> Result<Call> {
    let (name, rest) = line.split_once('(').context("no call")?;
    let (arguments, result) = arguments(rest);
    let result = result.trim_start().strip_prefix("= ").context("no result")?;
    let (value, more) = result.split_once(' ').unwrap_or((result, ""));
    let number = value.split_once('<').map_or(value, |(number, _)| number);
    let error = more.split(' ').next().filter(|word| word.starts_with('E')).map(str::to_owned);
    let ret = if value == "?" || error.is_some() { None } else { Some(integer(number)?) };
    let ret_file = file(result).map(|(_, file)| file);
    // Of two returned descriptors: each on its own.
    let tokens = arguments.iter().flat_map(|argument| match argument.strip_prefix('[') {
        Some(inner) if matches!(name, "pipe" | "pipe2" | "socketpair") => {
            self::arguments(inner.trim_end_matches(']')).0
        }
        _ => vec![argument.clone()],
    });
    let files = tokens.filter_map(|token| file(&token)).collect();
    let mut paths: Vec<String> =
        arguments.iter().filter_map(|argument| quoted(argument)).map(|(text, _)| text).collect();
    let is_data = DATA.contains(&name) || (name.starts_with('f') && name.ends_with("xattr"));
    if is_data {
        paths.clear();
    }
    if name.starts_with("readlink") || name.contains("xattr") {
        paths.truncate(1);
    }
    let addr = arguments.iter().find_map(|argument| address(argument));
    let (name, line) = (name.to_owned(), line.to_owned());
    Ok(Call { tid, name, ret, error, files, ret_file, paths, addr, line })
}

fn integer(text: &str) -> Result<i64> {
    let number = match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).map(u64::cast_signed),
        // rt_sigreturn returns whatever was in the register, as a number without a sign.
        None => i64::from_str(text).or_else(|_| u64::from_str(text).map(u64::cast_signed)),
    };
    number.with_context(|| format!("no number: {text}"))
}

/// The arguments up to the closing parenthesis, and what follows it.
fn arguments(text: &str) -> (Vec<String>, &str) {
    let (mut all, mut one) = (Vec::new(), String::new());
    let (mut depth, mut in_text, mut escaped) = (0, false, false);
    for (at, c) in text.char_indices() {
        if in_text {
            in_text = escaped || c != '"';
            escaped = !escaped && c == '\\';
            one.push(c);
            continue;
        }
        // In a file name quotes have a backslash, too.
        if escaped || c == '\\' {
            escaped = !escaped;
            one.push(c);
            continue;
        }
        match c {
            '"' => in_text = true,
            '(' | '[' | '{' | '<' => depth += 1,
            ')' if depth == 0 => {
                all.push(one.trim().to_owned());
                return (all, &text[at + 1..]);
            }
            // The arrow between the ends of a socket.
            '>' if one.ends_with('-') || one.ends_with('=') => {}
            ')' | ']' | '}' | '>' => depth -= 1,
            ',' if depth == 0 => {
                all.push(std::mem::take(&mut one).trim().to_owned());
                continue;
            }
            _ => {}
        }
        one.push(c);
    }
    all.push(one.trim().to_owned());
    (all, "")
}

/// `3</etc/hosts>`, `AT_FDCWD</root>`.
fn file(token: &str) -> Option<(i64, String)> {
    let (number, rest) = token.split_once('<')?;
    let number = if number == "AT_FDCWD" { -100 } else { number.parse().ok()? };
    let (end, deleted) = match rest.rfind(">(deleted)") {
        Some(end) => (end, " (deleted)"),
        None => (rest.rfind('>')?, ""),
    };
    let text = &rest[..end];
    // The number of a device.
    let text = ["<char ", "<block "]
        .iter()
        .find_map(|device| text.split_once(device))
        .map_or(text, |(path, _)| path);
    Some((number, unescape(text) + deleted))
}

/// A text in quotes, and what follows it.
fn quoted(token: &str) -> Option<(String, &str)> {
    let inner = token.strip_prefix('"')?;
    let mut escaped = false;
    for (at, c) in inner.char_indices() {
        if c == '"' && !escaped {
            return Some((unescape(&inner[..at]), &inner[at + 1..]));
        }
        escaped = !escaped && c == '\\';
    }
    None
}

fn unescape(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&byte, more)) = rest.split_first() {
        rest = more;
        if byte != b'\\' {
            bytes.push(byte);
            continue;
        }
        let octal = rest.iter().take(3).take_while(|digit| (b'0'..b'8').contains(digit)).count();
        if octal > 0 {
            let digits = std::str::from_utf8(&rest[..octal]).unwrap_or_default();
            bytes.push(u8::from_str_radix(digits, 8).unwrap_or_default());
            rest = &rest[octal..];
        } else if let Some((&byte, more)) = rest.split_first() {
            let plain = match byte {
                b'n' => b'\n',
                b't' => b'\t',
                b'r' => b'\r',
                b'v' => 11,
                b'f' => 12,
                other => other,
            };
            bytes.push(plain);
            rest = more;
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// `{sa_family=AF_INET, ...}`, or a message with one; none if it has no name.
fn address(token: &str) -> Option<String> {
    let at = token.find("{sa_family=AF_")?;
    let text = &token[at..token[at..].find('}').map_or(token.len(), |end| at + end)];
    let after = |key: &str| text.split_once(key).map(|(_, rest)| rest);
    let until = |rest: &str, end: char| rest.split(end).next().unwrap_or_default().to_owned();
    if let Some(path) = after("sun_path=") {
        return match path.strip_prefix('@') {
            Some(name) => quoted(name).map(|(name, _)| format!("@{name}")),
            None => quoted(path).map(|(path, _)| path),
        };
    }
    if let Some(port) = after("sin_port=htons(") {
        let ip = until(after("inet_addr(\"")?, '"');
        return Some(format!("{ip}:{}", until(port, ')')));
    }
    if let Some(port) = after("sin6_port=htons(") {
        let ip = until(after("inet_pton(AF_INET6, \"")?, '"');
        return Some(format!("[{ip}]:{}", until(port, ')')));
    }
    if let Some(port) = after("nl_pid=") {
        return Some(format!("netlink:{}:{}", until(port, ','), after("nl_groups=")?));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_understood() {
        let text = "7 openat(AT_FDCWD</tmp/\\\"a b>, \"x\\n\\303\\244\", O_RDONLY) = 3</tmp/a b/x>(deleted)\n\
            7 write(2</dev/null<char 1:3>>, \"a\\\"),\"..., 4) = 4\n\
            7 close(9 <unfinished ...>\n\
            8 accept4(3<TCP:[1.2.3.4:80]>, {sa_family=AF_INET, sin_port=htons(5), sin_addr=inet_addr(\"1.2.3.4\")}, [16], 0) = 4<TCP:[1.2.3.4:80->1.2.3.4:5]>\n\
            7 <... close resumed>)              = -1 EBADF (Bad file descriptor)\n\
            8 pipe2([3<pipe:[9]>, 4<pipe:[9]>], 0) = 0\n\
            8 rename(\"x\", \"y\") = 0\n\
            8 exit_group(0) = ?\n8 +++ exited with 0 +++\n";
        let calls = parse(text).expect("valid");
        assert_eq!(calls.len(), 7);
        assert_eq!(calls[0].files, [(-100, "/tmp/\"a b".to_owned())]);
        assert_eq!(calls[0].paths, ["x\nä"]);
        assert_eq!(calls[0].ret_file.as_deref(), Some("/tmp/a b/x (deleted)"));
        assert_eq!((calls[1].files[0].1.as_str(), calls[1].ret), ("/dev/null", Some(4)));
        assert!(calls[1].paths.is_empty());
        assert_eq!(calls[2].error.as_deref(), Some("EBADF"));
        assert_eq!(calls[3].addr.as_deref(), Some("1.2.3.4:5"));
        assert_eq!(calls[3].ret_file.as_deref(), Some("TCP:[1.2.3.4:80->1.2.3.4:5]"));
        assert_eq!(calls[4].files.len(), 2);
        assert_eq!(calls[5].paths, ["x", "y"]);
        assert_eq!((calls[6].name.as_str(), calls[6].ret), ("exit_group", None));
        let calls = parse("7 rt_sigreturn({mask=[]}) = 9223440825118076533\n").expect("valid");
        assert_eq!(calls[0].ret, Some(9_223_440_825_118_076_533_u64.cast_signed()));
    }
}
