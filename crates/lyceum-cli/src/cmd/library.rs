//! list, show, copy, remove, cluster.

use std::path::Path;

use anyhow::Result;
use lyceum::Name;
use lyceum::library::Library;
use lyceum::transform::{self, Mbc};
use serde_json::json;

use super::done;
use crate::out::{Format, show};

pub(crate) fn list(uri: &str, format: Format) -> Result<()> {
    let cards = Library::open(uri)?.cards()?;
    show(format, &cards, |cards| {
        let mut text = format!(
            "{:<60} {:>4} {:>6}  {:<12} tasks\n",
            "name", "rank", "alpha", "base"
        );
        for card in cards {
            let tasks: Vec<&str> = card.tasks.iter().map(Name::as_str).collect();
            let (rank, alpha) = (card.lora.rank, card.lora.alpha);
            text += &format!(
                "{:<60} {rank:>4} {alpha:>6}  {:<12.12} ",
                card.name,
                card.base.as_deref().unwrap_or("not known")
            );
            text += &format!("{}\n", tasks.join(","));
        }
        text
    })
}

pub(crate) fn show_expert(uri: &str, name: &str, format: Format) -> Result<()> {
    let library = Library::open(uri)?;
    let expert = library.expert(&Name::new(name)?)?;
    let mut sites = Vec::new();
    for (site, lora) in &expert.loras {
        let (rank, d_in, d_out) = (lora.rank(), lora.d_in(), lora.d_out());
        sites.push(json!({
            "site": site.as_str(), "rank": rank, "d_in": d_in, "d_out": d_out,
            "scale": lora.scale, "norm": lora.norm()?,
        }));
    }
    let mut derived = Vec::new();
    for kind in library.kinds()? {
        if library.artifact_of(&kind, &expert.card.name)?.is_some() {
            derived.push(kind);
        }
    }
    let value = json!({ "card": expert.card, "sites": sites, "artifacts": derived });
    show(format, &value, |value| {
        serde_json::to_string_pretty(value).unwrap_or_default()
    })
}

pub(crate) fn copy(source: &str, destination: &str, format: Format) -> Result<()> {
    let copied = Library::open(source)?.copy_to(&Library::create(destination)?)?;
    done(format, &format!("copied {copied} experts to {destination}"))
}

pub(crate) fn remove(uri: &str, name: &str, restore: bool) -> Result<()> {
    let (library, name) = (Library::open(uri)?, Name::new(name)?);
    match restore {
        true => library.restore(&name)?,
        false => library.remove(&name)?,
    }
    Ok(())
}

pub(crate) fn cluster(uri: &str, how: &Mbc, out: &Path, format: Format) -> Result<()> {
    let (clusters, _, _) = transform::cluster(&Library::open(uri)?, how)?;
    lyceum::file::write(out, &serde_json::to_vec_pretty(&clusters)?)?;
    show(format, &clusters, |clusters| {
        let line = |(name, members): (&Name, &Vec<Name>)| {
            let members: Vec<&str> = members.iter().map(Name::as_str).collect();
            format!("{name}: {}\n", members.join(", "))
        };
        clusters.iter().map(line).collect::<String>()
    })
}
