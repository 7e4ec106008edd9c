//! Values of flags, with the bounds that the config file has: what is beyond them is wrong usage.

use std::{net::SocketAddr, str::FromStr};

use super::{
    super::units::{self, Size, Time},
    Limits, Store, on_loopback,
};

/// `--max-size`.
pub fn max_size(text: &str) -> Result<Size, String> {
    Store::check_bound(text.parse()?)
}

/// `--max-age`.
pub fn max_age(text: &str) -> Result<Time, String> {
    units::long_enough(text.parse()?)
}

/// `--memory`.
pub fn memory(text: &str) -> Result<Size, String> {
    let (least, most) = Limits::MEMORY;
    units::within(text.parse()?, least..=most)
}

/// `--ring-size`.
pub fn ring_size(text: &str) -> Result<Size, String> {
    let (least, most) = Limits::RING;
    units::within(text.parse()?, least..=most)
}

/// `--metrics`.
pub fn metrics(text: &str) -> Result<SocketAddr, String> {
    let address = SocketAddr::from_str(text)
        .map_err(|_| format!("`{text}` is not an address such as \"127.0.0.1:9464\""))?;
    on_loopback(address)
}
