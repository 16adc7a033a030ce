//! base show.

use std::path::Path;

use anyhow::Result;
use lyceum::backbone::{Base, Precision};
use serde_json::json;

use crate::out::{Format, show as print};

pub(crate) fn show(dir: Option<&Path>, format: Format) -> Result<()> {
    let base = match dir {
        Some(dir) => Base::open(dir, Precision::F32)?,
        None => lyceum::assets::base(Precision::F32)?,
    };
    let config = base.decoder.config();
    let shape = |shape: &[usize]| shape.iter().product::<usize>();
    let parameters: usize = config.tensors().iter().map(|(_, s)| shape(s)).sum();
    let sites: Vec<_> = config
        .sites()
        .into_iter()
        .map(|(site, (d_out, d_in))| json!({ "site": site.as_str(), "d_out": d_out, "d_in": d_in }))
        .collect();
    let value = json!({
        "name": base.name, "family": config.model_type, "parameters": parameters,
        "fingerprint": base.fingerprint, "config": config, "stops": base.stops,
        "chat": base.chat.is_some(), "sites": sites,
    });
    print(format, &value, |_| {
        let (a, m) = (&config.attention, &config.mlp);
        let mut text = format!("{} ({})\n", base.name, config.model_type);
        text += &format!("parameters   {parameters}\n");
        text += &format!("vocabulary   {}\n", config.vocab_size);
        text += &format!("positions    {}\n", config.max_position_embeddings);
        text += &format!("blocks       {}\n", config.layers.len());
        let (heads, groups, dim) = (a.heads, a.kv_heads, a.dim);
        text += &format!("width        {}, MLP {}\n", config.hidden_size, m.inner);
        text += &format!("heads        {heads} of {dim}, {groups} of keys and values\n");
        let said = if base.chat.is_some() { "yes" } else { "no" };
        text += &format!("chat         {said}\n");
        text += &format!("fingerprint  {}\n\nsites [d_out, d_in]\n", base.fingerprint);
        for (site, (d_out, d_in)) in config.sites() {
            text += &format!("  {site} [{d_out}, {d_in}]\n");
        }
        text
    })
}
