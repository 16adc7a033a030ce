//! show: one expert of a library.

use anyhow::Result;
use lyceum::Name;
use lyceum::expert::Card;
use serde_json::{Value, json};

use super::Settings;
use super::library::{date, open};
use crate::out;
use crate::table::sparkline;

pub(crate) fn show(uri: &str, at: Option<u64>, name: &str, settings: &Settings) -> Result<()> {
    let library = open(uri, at, &settings.session)?;
    let name = Name::new(name)?;
    let entry = library.entry(&name)?;
    let expert = library.expert(&name)?;
    let (mut sites, mut norms) = (Vec::new(), Vec::new());
    for (site, lora) in &expert.loras {
        let (rank, d_in, d_out) = (lora.rank(), lora.d_in(), lora.d_out());
        let norm = lora.norm()?;
        sites.push(json!({
            "site": site.as_str(), "rank": rank, "d_in": d_in, "d_out": d_out,
            "scale": lora.scale, "norm": norm,
        }));
        norms.push(norm);
    }
    let derived: Vec<&Name> = entry.artifacts.keys().filter(|k| entry.has(k)).collect();
    let (added, version) = (date(entry.added), library.version());
    let value = json!({
        "card": expert.card, "sites": sites, "artifacts": derived, "added": added,
        "version": version,
    });
    out::show(settings.format, &value, |_| {
        let mut lines = summary(&expert.card, &norms);
        if !derived.is_empty() {
            lines.push(("artifacts", joined(derived)));
        }
        lines.push(("added", format!("{added}, read at version {version}")));
        let mut text = format!("{name}\n");
        for (field, value) in lines {
            text += &format!("  {field:<10} {value}\n");
        }
        text
    })
}

/// The lines about an expert: its card, and the norms of its updates, one per site.
fn summary(card: &Card, norms: &[f64]) -> Vec<(&'static str, String)> {
    let base = card.base.as_deref();
    let base = base.map_or("fingerprint not known".into(), |base| format!("{base:.12}"));
    let (rank, alpha, targets) = (card.lora.rank, card.lora.alpha, &card.lora.targets);
    let lora = format!("rank {rank}, alpha {alpha}, on {}", targets.join(", "));
    let mut lines = vec![
        ("tasks", joined(&card.tasks)),
        ("base", format!("{} ({base})", card.base_name)),
        ("lora", lora),
    ];
    if let Some(settings) = settings_of(&card.origin) {
        lines.push(("trained", settings));
    }
    let least = norms.iter().copied().reduce(f64::min);
    if let (Some(least), Some(most)) = (least, norms.iter().copied().reduce(f64::max)) {
        let text = format!("{}, norms {least:.3} to {most:.3}", norms.len());
        lines.push(("sites", text));
    }
    if let (Some(first), Some(last)) = (card.losses.first(), card.losses.last()) {
        let (curve, n) = (sparkline(&card.losses, 32), card.losses.len());
        let text = format!("{first:.3} -> {last:.3} in {n} steps  {curve}");
        lines.push(("loss", text));
    }
    lines.push(("weights", card.weights.clone()));
    lines
}

fn joined<'a>(names: impl IntoIterator<Item = &'a Name>) -> String {
    let names: Vec<&str> = names.into_iter().map(Name::as_str).collect();
    names.join(", ")
}

/// The settings of its training or merge, from a card's origin: `name value`, comma-separated.
fn settings_of(origin: &Value) -> Option<String> {
    let spec = origin.get("train").or_else(|| origin.get("merge"))?;
    let plain = |(key, value): (&String, &Value)| match value {
        Value::Object(_) | Value::Array(_) | Value::Null => None,
        Value::String(text) => Some(format!("{key} {text}")),
        other => Some(format!("{key} {other}")),
    };
    let settings: Vec<String> = spec.as_object()?.iter().filter_map(plain).collect();
    (!settings.is_empty()).then(|| settings.join(", "))
}
