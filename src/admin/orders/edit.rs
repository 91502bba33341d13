//! An order as a change of the text of `routing.toml`. Pure.
//!
//! Comments, order and layout of everything else stay as they are. Invariant: what people give (a
//! reason, a name) is data in the new text: it is quoted as TOML and its `$` expands nothing.

use jiff::Timestamp;
use jiff::tz::TimeZone;
use toml_edit::{
    Array, ArrayOfTables, DocumentMut, InlineTable, Item, Table, TableLike, Value, value,
};

use super::{Order, Wrong};

/// What an order is carried out against.
pub(super) struct Scene<'a> {
    /// Every service, by name.
    pub(super) services: &'a [String],
    /// The zone in which instants are written.
    pub(super) zone: &'a TimeZone,
    /// Who gives it.
    pub(super) by: &'a str,
}

/// `text` with `order` in it.
pub(super) fn edit(text: &str, order: &Order, scene: &Scene<'_>) -> Result<String, Wrong> {
    let mut file: DocumentMut = text
        .parse()
        .map_err(|error| Wrong::new(format!("the file cannot be edited: {error}"), ""))?;
    match order {
        Order::Pin { services, .. } => {
            let above = free(&mut file, chosen(services.as_ref(), scene), scene);
            add_pin(&mut file, order, scene, above.unwrap_or_default());
        }
        Order::Unpin { services } => {
            let comments = free(&mut file, chosen(services.as_ref(), scene), scene);
            let comments =
                comments.ok_or_else(|| Wrong::new("no pin is there", "see `tailhop status`"))?;
            let trailing = file.trailing().as_str().unwrap_or_default().to_owned();
            file.set_trailing(format!("{comments}{trailing}"));
        }
        Order::Drain { backend, .. } => {
            let drain = drain(order, scene);
            add_backend(&mut file, backend);
            let table = backend_table(&mut file, backend)?;
            let blank = take_blank(table);
            let mut drain = value(drain);
            give_blank(&mut drain, &blank);
            table.insert("drain", drain);
        }
        Order::Undrain { backend } => {
            let table = backend_table(&mut file, backend)?;
            let blank = take_blank(table);
            table.remove("drain").ok_or_else(|| {
                Wrong::new(format!("{backend} is not drained"), "see `tailhop status`")
            })?;
            if let Some((_, last)) = table.iter_mut().last() {
                give_blank(last, &blank);
            }
        }
    }
    Ok(file.to_string())
}

fn chosen<'a>(services: Option<&'a Vec<String>>, scene: &Scene<'a>) -> &'a [String] {
    services.map_or(scene.services, Vec::as_slice)
}

/// Takes the pins of `services` away, or `services` out of them; the comments above those that
/// went. `None`: there was none.
fn free(file: &mut DocumentMut, services: &[String], scene: &Scene<'_>) -> Option<String> {
    match file.get_mut("pin")? {
        Item::ArrayOfTables(list) => {
            let freed = free_tables(list, services, scene);
            if list.is_empty() {
                file.remove("pin");
            }
            freed
        }
        Item::Value(Value::Array(list)) => {
            let mut touched = false;
            list.retain(|_| true);
            let mut place = 0;
            while let Some(entry) = list.get_mut(place) {
                let Some(entry) = entry.as_inline_table_mut() else {
                    place += 1;
                    continue;
                };
                match reduce(entry, services, scene) {
                    Some(true) => {
                        touched = true;
                        place += 1;
                    }
                    Some(false) => {
                        touched = true;
                        list.remove(place);
                    }
                    None => place += 1,
                }
            }
            if list.is_empty() {
                file.remove("pin");
            }
            touched.then(String::new)
        }
        _ => None,
    }
}

fn free_tables(list: &mut ArrayOfTables, services: &[String], scene: &Scene<'_>) -> Option<String> {
    let mut comments = String::new();
    let mut touched = false;
    let mut place = 0;
    while let Some(table) = list.get_mut(place) {
        match reduce(table, services, scene) {
            Some(false) => {
                let above = table.decor().prefix().and_then(|text| text.as_str());
                if let Some(above) = above.filter(|above| above.contains('#')) {
                    comments += above;
                }
                list.remove(place);
                touched = true;
            }
            kept => {
                touched |= kept.is_some();
                place += 1;
            }
        }
    }
    touched.then_some(comments)
}

/// Takes `services` out of a pin; `None`: none of them is in it, `Some(false)`: no other is.
fn reduce(pin: &mut dyn TableLike, services: &[String], scene: &Scene<'_>) -> Option<bool> {
    let own = match pin.get("services").and_then(Item::as_array) {
        Some(list) => list
            .iter()
            .filter_map(|name| name.as_str().map(str::to_owned))
            .collect(),
        None => scene.services.to_vec(),
    };
    let left: Vec<_> = own.iter().filter(|name| !services.contains(name)).collect();
    if left.len() == own.len() {
        return None;
    }
    if left.is_empty() {
        return Some(false);
    }
    pin.insert("services", value(names(left)));
    Some(true)
}

fn add_pin(file: &mut DocumentMut, order: &Order, scene: &Scene<'_>, above: String) {
    let pin = pin(order, scene);
    match file.get_mut("pin") {
        Some(Item::Value(Value::Array(list))) => {
            // As the others stand, each on a line of its own or all on one.
            let decor = list.iter().last().map(|last| last.decor().clone());
            let mut pin = Value::InlineTable(pin);
            if let Some(decor) = decor {
                *pin.decor_mut() = decor;
            }
            list.push_formatted(pin);
        }
        Some(Item::ArrayOfTables(list)) => list.push(spread(pin, above)),
        _ => {
            let mut list = ArrayOfTables::new();
            list.push(spread(pin, above));
            file.insert("pin", Item::ArrayOfTables(list));
        }
    }
}

/// A pin as `[[pin]]`, with what stood above the one before it.
fn spread(pin: InlineTable, above: String) -> Table {
    let mut table = pin.into_table();
    let above = if above.is_empty() {
        "\n".to_owned()
    } else {
        above
    };
    table.decor_mut().set_prefix(above);
    table
}

fn pin(order: &Order, scene: &Scene<'_>) -> InlineTable {
    let mut pin = InlineTable::new();
    if let Order::Pin {
        to,
        until,
        reason,
        services,
        writes,
        hold_writes,
    } = order
    {
        pin.insert("to", text(to));
        until.map(|until| pin.insert("until", moment(until, scene.zone)));
        pin.insert("reason", text(reason));
        pin.insert("by", text(scene.by));
        if let Some(services) = services {
            pin.insert("services", names(services).into());
        }
        if *writes {
            pin.insert("writes", true.into());
        }
        if *hold_writes {
            pin.insert("hold_writes", true.into());
        }
    }
    pin
}

fn drain(order: &Order, scene: &Scene<'_>) -> InlineTable {
    let mut drain = InlineTable::new();
    if let Order::Drain { until, reason, .. } = order {
        until.map(|until| drain.insert("until", moment(until, scene.zone)));
        if let Some(reason) = reason {
            drain.insert("reason", text(reason));
        }
        drain.insert("by", text(scene.by));
    }
    drain
}

/// Makes a place for what is said of a backend that stands in an included file.
fn add_backend(file: &mut DocumentMut, backend: &str) {
    let backends = file.entry("backends").or_insert_with(|| {
        let mut table = Table::new();
        table.set_implicit(true);
        Item::Table(table)
    });
    let Some(backends) = backends.as_table_like_mut() else {
        return;
    };
    if backends.contains_key(backend) {
        return;
    }
    let item = if backends.is_empty() {
        Item::Table(Table::new())
    } else {
        value(InlineTable::new())
    };
    backends.insert(backend, item);
}

/// The table of a backend, however it is written.
fn backend_table<'f>(
    file: &'f mut DocumentMut,
    backend: &str,
) -> Result<&'f mut dyn TableLike, Wrong> {
    let backends = file.get_mut("backends").and_then(Item::as_table_like_mut);
    let table = backends
        .and_then(|backends| backends.get_mut(backend))
        .and_then(Item::as_table_like_mut);
    table.ok_or_else(|| Wrong::new(format!("there is no backend {backend} in the file"), ""))
}

/// Takes the blank before a closing brace away from the value that it is kept with.
fn take_blank(table: &mut dyn TableLike) -> String {
    let last = table.iter_mut().last();
    let Some(last) = last.and_then(|(_, item)| item.as_value_mut()) else {
        return String::new();
    };
    let kept = last.decor().suffix().and_then(|text| text.as_str());
    let blank = kept.unwrap_or_default().to_owned();
    // Elsewhere a comment may stand there.
    if blank != " " {
        return String::new();
    }
    last.decor_mut().set_suffix("");
    blank
}

fn give_blank(item: &mut Item, blank: &str) {
    if let Some(value) = item.as_value_mut().filter(|_| !blank.is_empty()) {
        value.decor_mut().set_suffix(blank);
    }
}

/// A text that expands nothing.
fn text(given: &str) -> Value {
    given.replace('$', "$$").into()
}

fn names<'n>(all: impl IntoIterator<Item = &'n String>) -> Array {
    all.into_iter().map(String::as_str).collect()
}

/// To the second, as people read it.
fn moment(at: Timestamp, zone: &TimeZone) -> Value {
    let shown = at
        .to_zoned(zone.clone())
        .strftime("%Y-%m-%dT%H:%M:%S%:z")
        .to_string();
    match shown.parse::<toml_edit::Datetime>() {
        Ok(moment) => moment.into(),
        // The file takes times as strings, too.
        Err(_) => shown.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edited(before: &str, order: &Order) -> String {
        let services = ["ollama", "qdrant"].map(str::to_owned);
        let zone = jiff::tz::TimeZoneDatabase::bundled()
            .get("Asia/Tokyo")
            .unwrap();
        let scene = Scene {
            services: &services,
            zone: &zone,
            by: "ops",
        };
        edit(before, order, &scene).unwrap_or_else(|wrong| wrong.message)
    }

    fn pin_to(to: &str, services: Option<&str>) -> Order {
        Order::Pin {
            to: to.into(),
            until: Some("2025-02-17T00:00:00Z".parse().unwrap()),
            reason: "why".into(),
            services: services.map(|one| vec![one.to_owned()]),
            writes: false,
            hold_writes: false,
        }
    }

    const NEW: &str =
        "[[pin]]\nto = \"b\"\nuntil = 2025-02-17T09:00:00+09:00\nreason = \"why\"\nby = \"ops\"\n";

    #[test]
    fn a_pin_is_added_where_pins_stand_and_replaces_those_of_its_services() {
        let all = pin_to("b", None);
        let one = pin_to("b", Some("ollama"));
        let only = "services = [\"ollama\"]\n";
        for (before, order, after) in [
            ("# a\nx = 1 # b\n", &all, format!("# a\nx = 1 # b\n\n{NEW}")),
            (
                "[t]\n# c\n\n# mine\n[[pin]]\nto = \"a\"\n# end\n",
                &all,
                format!("[t]\n# c\n\n# mine\n{NEW}# end\n"),
            ),
            (
                "[[pin]]\nto = \"a\" # stays\n",
                &one,
                format!("[[pin]]\nto = \"a\" # stays\nservices = [\"qdrant\"]\n\n{NEW}{only}"),
            ),
            (
                "pin = [{ to = \"a\", services = [\"qdrant\"] }]\n[t]\n",
                &one,
                "pin = [{ to = \"a\", services = [\"qdrant\"] },{ to = \"b\", until = 2025-02-17T09:00:00+09:00, reason = \"why\", by = \"ops\", services = [\"ollama\"] }]\n[t]\n"
                    .to_owned(),
            ),
        ] {
            assert_eq!(edited(before, order), after, "{before}");
        }
    }

    #[test]
    fn unpin_takes_the_pin_away_and_leaves_the_comment_above_it() {
        let unpin = |services: Option<&str>| Order::Unpin {
            services: services.map(|one| vec![one.to_owned()]),
        };
        for (before, order, after) in [
            (
                "x = 1\n\n# mine\n[[pin]]\nto = \"a\"\n",
                unpin(None),
                "x = 1\n\n# mine\n",
            ),
            (
                "pin = [{ to = \"a\" }]\n# c\nx = 1\n",
                unpin(None),
                "# c\nx = 1\n",
            ),
            ("x = 1\n", unpin(None), "no pin is there"),
            (
                "[[pin]]\nto = \"a\"\nservices = [\"qdrant\"]\n",
                unpin(Some("ollama")),
                "no pin is there",
            ),
        ] {
            assert_eq!(edited(before, &order), after, "{before}");
        }
    }

    #[test]
    fn a_drain_is_written_into_every_way_to_write_a_backend() {
        let drain = Order::Drain {
            backend: "a".into(),
            until: None,
            reason: Some("disk ${HOME}".into()),
        };
        let undrain = Order::Undrain {
            backend: "a".into(),
        };
        let set = "drain = { reason = \"disk $${HOME}\", by = \"ops\" }";
        for (before, after) in [
            (
                "[backends]\na = {}\n",
                format!("[backends]\na = {{ {set} }}\n"),
            ),
            (
                "[backends]\na = { host = \"h\" } # c\n",
                format!("[backends]\na = {{ host = \"h\", {set} }} # c\n"),
            ),
            (
                "[backends.a] # m\nhost = \"h\" # c\n",
                format!("[backends.a] # m\nhost = \"h\" # c\n{set}\n"),
            ),
            (
                "backends.a.host = \"h\"\n",
                format!("backends.a.host = \"h\"\nbackends.a.{set}\n"),
            ),
            (
                "[backends.a]\n[backends.a.drain]\nby = \"x\"\n[s]\n",
                format!("[backends.a]\n{set}\n[s]\n"),
            ),
        ] {
            let drained = edited(before, &drain);
            assert_eq!(drained, after, "{before}");
            let back = edited(&drained, &undrain);
            let own = before.contains("drain");
            assert!(!back.contains("drain") && (own || back == before), "{back}");
        }
        assert_eq!(edited("[backends]\na = {}\n", &undrain), "a is not drained");
        // It stands in an included file.
        for (before, after) in [
            (
                "[backends]\nb = {}\n",
                format!("[backends]\nb = {{}}\na = {{ {set} }}\n"),
            ),
            (
                "include = [\"x\"]\n",
                format!("include = [\"x\"]\n\n[backends.a]\n{set}\n"),
            ),
        ] {
            assert_eq!(edited(before, &drain), after, "{before}");
        }
        assert_eq!(
            edited("[backends]\nb = {}\n", &undrain),
            "there is no backend a in the file"
        );
    }
}
