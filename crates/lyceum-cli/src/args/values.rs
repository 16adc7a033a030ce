//! Values that are read from one word of the command line.

use clap::ValueEnum;

/// A number of experts, or all.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TopK(pub(crate) Option<usize>);

pub(super) fn top_k(text: &str) -> Result<TopK, String> {
    match text {
        "all" | "-1" => Ok(TopK(None)),
        number => match number.parse() {
            Ok(k) if k > 0 => Ok(TopK(Some(k))),
            _ => Err("give a number from 1, or `all`".into()),
        },
    }
}

pub(super) fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err("give a number from 1".into()),
        Ok(number) => Ok(number),
    }
}

/// A task's name; white space around it is none of it.
pub(super) fn task(text: &str) -> Result<lyceum::Name, String> {
    lyceum::Name::new(text.trim()).map_err(|e| e.to_string())
}

pub(super) fn weight(text: &str) -> Result<(lyceum::Name, f64), String> {
    let (name, weight) = text.rsplit_once('=').ok_or("write EXPERT=WEIGHT")?;
    let weight = weight
        .parse()
        .map_err(|_| format!("`{weight}` is not a number"))?;
    Ok((lyceum::Name::new(name).map_err(|e| e.to_string())?, weight))
}

pub(super) fn grace(text: &str) -> Result<std::time::Duration, String> {
    let units = [("s", 1), ("m", 60), ("h", 3600), ("d", 86_400)];
    let unit = units.iter().find_map(|(unit, seconds)| {
        let number: u64 = text.strip_suffix(unit)?.parse().ok()?;
        number.checked_mul(*seconds)
    });
    let seconds = unit.ok_or("give a time like 30m, 12h or 14d")?;
    Ok(std::time::Duration::from_secs(seconds))
}

pub(super) fn bytes(text: &str) -> Result<u64, String> {
    let units = [("k", 3), ("M", 6), ("G", 9), ("T", 12), ("B", 0)];
    let bytes = units.iter().find_map(|(unit, power)| {
        let number = text.strip_suffix(unit)?.parse::<u64>().ok()?;
        number.checked_mul(10u64.pow(*power))
    });
    bytes.ok_or_else(|| "give a size with its unit, like 500M, 50G or 1T".into())
}

/// The formats that `export` writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ExportTo {
    /// One of MTTL's libraries
    Mttl,
    /// A PEFT folder per expert
    Peft,
}
