//! Sizes and times as people write them.

use std::{ops::RangeInclusive, time::Duration};

use bytesize::ByteSize;
use serde::{Deserialize, Deserializer, de::Error as _};

/// A number of bytes, written like `64 MiB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size(pub u64);

impl Size {
    /// As a size of memory.
    pub fn memory(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl std::str::FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let size: Result<ByteSize, _> = text.parse();
        size.map(|size| Self(size.as_u64()))
            .map_err(|_| format!("`{text}` is not a size such as \"64 MiB\""))
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "a size such as \"64 MiB\", or a number of bytes")]
        enum Written {
            Bytes(u64),
            Text(String),
        }
        match Written::deserialize(deserializer)? {
            Written::Bytes(bytes) => Ok(Self(bytes)),
            Written::Text(text) => text.parse().map_err(D::Error::custom),
        }
    }
}

/// A time, written like `7d` or `500ms`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Time(pub Duration);

impl std::str::FromStr for Time {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        humantime::parse_duration(text)
            .map(Self)
            .map_err(|e| format!("`{text}` is not a time such as \"7d\" or \"500ms\" ({e})"))
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// A time that is not none.
pub fn some_time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Time, D::Error> {
    match Time::deserialize(deserializer)? {
        Time(Duration::ZERO) => Err(D::Error::custom("in no time nothing can be done")),
        time => Ok(time),
    }
}

/// A time of a second or more.
pub fn a_second_or_more<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Time, D::Error> {
    long_enough(Time::deserialize(deserializer)?).map_err(D::Error::custom)
}

/// The time, if it is a second or more.
///
/// # Errors
/// When it is not.
pub fn long_enough(time: Time) -> Result<Time, String> {
    if time.0 >= Duration::from_secs(1) {
        return Ok(time);
    }
    Err(format!("{} is less than a second", humantime::format_duration(time.0)))
}

/// A number from 1 to `MAX`.
pub fn count_up_to<'de, const MAX: usize, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<usize, D::Error> {
    match usize::deserialize(deserializer)? {
        count if (1..=MAX).contains(&count) => Ok(count),
        count => Err(D::Error::custom(format!("{count} is not a number from 1 to {MAX}"))),
    }
}

/// A size from `MIN` to `MAX` bytes.
pub fn size_within<'de, const MIN: u64, const MAX: u64, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Size, D::Error> {
    within(Size::deserialize(deserializer)?, MIN..=MAX).map_err(D::Error::custom)
}

/// The size, if it is one of these (bytes).
///
/// # Errors
/// When it is not.
pub fn within(size: Size, bounds: RangeInclusive<u64>) -> Result<Size, String> {
    if bounds.contains(&size.0) {
        return Ok(size);
    }
    let [least, most] = [bounds.start(), bounds.end()].map(|bytes| ByteSize(*bytes));
    Err(format!("{} is not a size from {least} to {most}", ByteSize(size.0)))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::config::Config;

    #[test]
    fn what_would_refuse_everything_or_cannot_be_is_an_error() {
        let access = |line: &str| {
            let config = Config::parse(&format!("[access]\n{line}\n"), Path::new("c.toml"));
            config.map(drop).map_err(|e| e.to_string())
        };
        for good in [
            "queries = 1",
            "queries = 1000",
            "clients = 10000",
            "query_timeout = \"1ms\"",
            "query_memory = \"16 MiB\"",
        ] {
            access(good).unwrap();
        }
        let limits =
            |line: &str| Config::parse(&format!("[limits]\n{line}\n"), Path::new("c.toml"));
        assert!(limits("memory = \"1 MiB\"\nring_size = \"4 KiB\"").is_ok());
        for line in ["[store]\nmax_age = \"0s\"", "[flight]\nkeep = \"0s\""] {
            let error = Config::parse(line, Path::new("c.toml")).unwrap_err().to_string();
            let key = line.lines().last().and_then(|line| line.split(' ').next()).unwrap();
            assert_eq!(error, format!("c.toml:2: {key}: 0s is less than a second"));
        }
        let times = "[store]\nmax_age = \"1s\"\n[flight]\nkeep = \"1s\"\n";
        assert!(Config::parse(times, Path::new("c.toml")).is_ok());
        let error = limits("memory = 0").unwrap_err().to_string();
        assert_eq!(error, "c.toml:2: memory: 0 B is not a size from 1.0 MiB to 1.0 TiB");
        let error = limits("ring_size = \"100 GiB\"").unwrap_err().to_string();
        assert_eq!(error, "c.toml:2: ring_size: 100.0 GiB is not a size from 4.0 KiB to 1.0 GiB");
        for (line, why) in [
            ("queries = 0", "c.toml:2: queries: 0 is not a number from 1 to 1000"),
            (
                "queries = 9000000000000000000",
                "c.toml:2: queries: 9000000000000000000 is not a number from 1 to 1000",
            ),
            ("clients = 0", "c.toml:2: clients: 0 is not a number from 1 to 10000"),
            ("clients = 10001", "c.toml:2: clients: 10001 is not a number from 1 to 10000"),
            (
                "query_memory = 0",
                "c.toml:2: query_memory: 0 B is not a size from 16.0 MiB to 1.0 TiB",
            ),
            ("query_timeout = \"0s\"", "c.toml:2: query_timeout: in no time nothing can be done"),
        ] {
            assert_eq!(access(line).unwrap_err(), why);
        }
    }
}
