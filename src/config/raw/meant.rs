//! What was probably meant by a value of the wrong form.
//!
//! Pure. Yields the text to write instead only where it is clear, and never invents a value.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use toml::de::DeValue;

use super::Shape;

/// The value of `shape` that `found`, which is written so, stands for.
pub(super) fn converted(shape: Shape, found: &DeValue<'_>, written: &str) -> Option<String> {
    match (shape, found) {
        (Shape::Flag, DeValue::String(text)) if matches!(&**text, "true" | "false") => {
            Some(text.to_string())
        }
        (Shape::Port | Shape::Count, DeValue::String(text)) => {
            let port: u16 = text.parse().ok().filter(|port| *port > 0)?;
            Some(port.to_string())
        }
        (Shape::Many, DeValue::String(text)) => {
            let number: i64 = text.parse().ok().filter(|number| *number > 0)?;
            Some(number.to_string())
        }
        (Shape::Duration | Shape::Bound, DeValue::Integer(_)) => Some(format!("\"{written}s\"")),
        (Shape::Address, DeValue::Integer(_)) => {
            let port: u16 = written.parse().ok()?;
            Some(format!(
                "\"{}\"",
                SocketAddr::from((Ipv4Addr::LOCALHOST, port))
            ))
        }
        (Shape::Text, DeValue::Integer(_) | DeValue::Boolean(_)) => Some(format!("\"{written}\"")),
        (Shape::Texts, DeValue::String(_)) => Some(format!("[{written}]")),
        // An inline table becomes a list of one; so does the header of a table.
        (Shape::Tables(_), DeValue::Table(_)) if written.starts_with(['{', '[']) => {
            Some(format!("[{written}]"))
        }
        _ => None,
    }
}

/// An address with `localhost` or without its host is one on loopback.
pub(super) fn address(text: &str) -> Option<String> {
    let (host, port) = text.rsplit_once(':')?;
    let port: u16 = port.parse().ok()?;
    let ip: IpAddr = match host {
        "" | "localhost" => Ipv4Addr::LOCALHOST.into(),
        "*" => Ipv4Addr::UNSPECIFIED.into(),
        host => host.parse().ok()?,
    };
    Some(SocketAddr::new(ip, port).to_string())
}

/// A bare number is one of seconds, as in most other configurations.
pub(super) fn duration(text: &str) -> Option<String> {
    let number: u32 = text.trim().parse().ok()?;
    Some(format!("{number}s"))
}

/// A date with other marks between year, month and day.
pub(super) fn date(text: &str) -> Option<String> {
    let date = text.trim().replace(['/', '.'], "-");
    let [year, month, day] = <[&str; 3]>::try_from(date.split('-').collect::<Vec<_>>()).ok()?;
    if year.len() != 4 {
        return None;
    }
    let iso = format!("{year}-{month:0>2}-{day:0>2}");
    iso.parse::<jiff::civil::Date>().ok().map(|_| iso)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_clear_has_a_text_to_write_instead() {
        for (meant, written) in [
            (address("localhost:8484"), Some("127.0.0.1:8484")),
            (address(":8484"), Some("127.0.0.1:8484")),
            (address("*:1"), Some("0.0.0.0:1")),
            (address("8484"), None),
            (address("host:1"), None),
            (duration("10"), Some("10s")),
            (duration("-1"), None),
            (duration("soon"), None),
            (date("2025/2/17"), Some("2025-02-17")),
            (date("2025.02.17"), Some("2025-02-17")),
            (date("17.02.2025"), None),
            (date("2025-02-30"), None),
        ] {
            assert_eq!(meant.as_deref(), written);
        }
    }
}
