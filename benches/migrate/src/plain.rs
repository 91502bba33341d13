//! What fills a source, and the plain algorithm to migrate it.
//!
//! `plain fill URL COLLECTION POINTS DIMS PAYLOAD`: so many points, each with a payload of so many
//! bytes.
//!
//! `plain copy FROM TO COLLECTION BATCH`: as the official tool does with one worker: scroll a batch,
//! upsert it with `wait=true`, keep the offset in a collection of the target, and so on; no
//! comparison. The tool itself speaks gRPC and is not measured. Of the pages that come this takes the
//! points as they are and looks into none, so that next to nothing of its time is its own.

use std::fmt::Write as _;
use std::io::{Error, Result};
use std::net::TcpStream;

use migrate_bench::http::Connection;

/// Bytes of one request that fills.
const FILL: usize = 4 * 1024 * 1024;
const OFFSETS: &str = "/collections/_migration_offsets";

fn main() -> Result<()> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["fill", url, name, points, dims, payload] => fill(
            url,
            name,
            [number(points)?, number(dims)?, number(payload)?],
        ),
        ["copy", from, to, name, batch] => copy([from, to], name, number(batch)?),
        _ => {
            eprintln!(
                "plain fill URL COLLECTION POINTS DIMS PAYLOAD\nplain copy FROM TO COLLECTION BATCH"
            );
            std::process::exit(2)
        }
    }
}

fn number(text: &str) -> Result<usize> {
    text.parse().map_err(Error::other)
}

fn connect(url: &str) -> Result<Connection> {
    let place = url.strip_prefix("http://").unwrap_or(url);
    Connection::new(TcpStream::connect(place)?)
}

fn fill(url: &str, name: &str, [points, dims, payload]: [usize; 3]) -> Result<()> {
    let mut side = connect(url)?;
    let collection = format!("/collections/{name}");
    let made = format!("{{\"vectors\":{{\"size\":{dims},\"distance\":\"Cosine\"}}}}");
    side.ask("PUT", &collection, made.as_bytes())?;
    let target = format!("{collection}/points?wait=true");
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let text = "x".repeat(payload);
    let mut body = String::new();
    for id in 0..points {
        body += if body.is_empty() {
            "{\"points\":["
        } else {
            ","
        };
        // Writing to a String cannot fail.
        let _ = write!(
            body,
            "{{\"id\":{id},\"payload\":{{\"n\":{id},\"text\":\"{text}\"}},\"vector\":["
        );
        for place in 0..dims {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let comma = if place > 0 { "," } else { "" };
            let value = (random >> 40) as f32 / 16_777_216.0 - 0.5;
            let _ = write!(body, "{comma}{value}");
        }
        body += "]}";
        if body.len() > FILL || id + 1 == points {
            body += "]}";
            side.ask("PUT", &target, body.as_bytes())?;
            body.clear();
        }
    }
    Ok(())
}

fn copy([from, to]: [&str; 2], name: &str, batch: usize) -> Result<()> {
    let (mut source, mut target) = (connect(from)?, connect(to)?);
    let collection = format!("/collections/{name}");
    let offsets = "{\"vectors\":{\"size\":1,\"distance\":\"Dot\"}}";
    target.ask("PUT", OFFSETS, offsets.as_bytes())?;
    source.ask(
        "POST",
        &format!("{collection}/points/count"),
        b"{\"exact\":true}",
    )?;
    let told = text(source.ask("GET", &collection, b"")?)?;
    let vectors = between(&told, "\"vectors\":", "}")?;
    let made = format!("{{\"vectors\":{vectors}}}}}");
    target.ask("PUT", &collection, made.as_bytes())?;
    let scroll = format!("{collection}/points/scroll");
    let upsert = format!("{collection}/points?wait=true");
    let keep = format!("{OFFSETS}/points?wait=true");
    let mut offset = String::new();
    loop {
        let asked =
            format!("{{\"limit\":{batch},\"with_payload\":true,\"with_vector\":true{offset}}}");
        let page = text(source.ask("POST", &scroll, asked.as_bytes())?)?;
        let (points, rest) = page.rsplit_once(",\"next_page_offset\":").ok_or_else(odd)?;
        let points = points.strip_prefix("{\"result\":").ok_or_else(odd)?;
        target.ask("PUT", &upsert, format!("{points}}}").as_bytes())?;
        let next = rest.split('}').next().ok_or_else(odd)?;
        let kept = format!(
            "{{\"points\":[{{\"id\":1,\"payload\":{{\"offset\":{next}}},\"vector\":[1]}}]}}"
        );
        target.ask("PUT", &keep, kept.as_bytes())?;
        if next == "null" {
            break;
        }
        offset = format!(",\"offset\":{next}");
    }
    target.ask(
        "POST",
        &format!("{collection}/points/count"),
        b"{\"exact\":true}",
    )?;
    target.ask("DELETE", OFFSETS, b"")?;
    Ok(())
}

fn text(bytes: Vec<u8>) -> Result<String> {
    String::from_utf8(bytes).map_err(Error::other)
}

fn odd() -> Error {
    Error::other("an answer that is not the stand-in's")
}

fn between<'a>(text: &'a str, from: &str, to: &str) -> Result<&'a str> {
    let begin = text.find(from).ok_or_else(odd)? + from.len();
    let length = text[begin..].find(to).ok_or_else(odd)?;
    Ok(&text[begin..begin + length])
}
