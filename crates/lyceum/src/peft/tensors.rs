//! Tensors as safetensors files, always f32 in memory.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor};
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;
use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// Tensors in f32 as a safetensors file; equal tensors give equal bytes.
pub(crate) fn to_bytes(
    tensors: &BTreeMap<String, Tensor>,
    metadata: BTreeMap<String, String>,
) -> Result<Vec<u8>> {
    let bad = |e| Error::format("safetensors", e);
    let raw: Vec<(&String, Vec<usize>, Vec<u8>)> = tensors
        .iter()
        .map(|(name, tensor)| {
            let values = tensor.flatten_all()?.to_vec1::<f32>()?;
            let bytes = bytemuck::cast_slice::<f32, u8>(&values).to_vec();
            Ok((name, tensor.dims().to_vec(), bytes))
        })
        .collect::<Result<_>>()?;
    let views = raw
        .iter()
        .map(|(name, shape, bytes)| {
            let view = TensorView::new(safetensors::Dtype::F32, shape.clone(), bytes);
            view.map(|v| (name.as_str(), v)).map_err(bad)
        })
        .collect::<Result<Vec<_>>>()?;
    // One key at most, or the header's order would differ between runs.
    let metadata = (!metadata.is_empty()).then(|| metadata.into_iter().collect());
    safetensors::serialize(views, metadata).map_err(bad)
}

/// The types of tensors that are read.
const READ: [(&str, DType); 4] = [
    ("F64", DType::F64),
    ("F32", DType::F32),
    ("F16", DType::F16),
    ("BF16", DType::BF16),
];

/// Tensors of a safetensors file, with its metadata; f16 and bf16 are widened, which is exact, and
/// f64 is rounded.
///
/// # Errors
/// [`Error::Invalid`] saying what is wrong with the file, and what to do.
pub(crate) fn from_bytes(
    bytes: &[u8],
) -> Result<(BTreeMap<String, Tensor>, BTreeMap<String, String>)> {
    whole(bytes)?;
    // What is wrong beyond that is damage, and the reader's own words say nothing more of it.
    let bad = |_| Error::invalid("its header is damaged: it does not describe its tensors");
    let (_, header) = SafeTensors::read_metadata(bytes).map_err(bad)?;
    let metadata = header.metadata().clone().unwrap_or_default();
    let file = SafeTensors::deserialize(bytes).map_err(bad)?;
    let mut tensors = BTreeMap::new();
    for (name, view) in file.tensors() {
        let dtype = view.dtype().to_string();
        let known = READ.iter().find(|(known, _)| *known == dtype);
        let (_, dtype) = known.ok_or_else(|| unread(&name, &dtype))?;
        let tensor = Tensor::from_raw_buffer(view.data(), *dtype, view.shape(), &Device::Cpu)?;
        tensors.insert(name, tensor.to_dtype(DType::F32)?);
    }
    Ok((tensors, metadata.into_iter().collect()))
}

fn unread(name: &str, dtype: &str) -> Error {
    let eight = dtype.starts_with("F8").then_some(" (floats of eight bits)");
    Error::invalid(format!(
        "`{name}` is {dtype}{}, and tensors are read in f64, f32, f16 and bf16: save it again in \
         one of these",
        eight.unwrap_or_default()
    ))
}

/// Checks that `bytes` are a safetensors file, all of it, of types that are read.
fn whole(bytes: &[u8]) -> Result<()> {
    let wrong = |why: String| Err(Error::invalid(why));
    if let Some(why) = crate::file::stand_in(bytes) {
        return wrong(why.to_owned());
    }
    if bytes.starts_with(b"PK\x03\x04") {
        return wrong("it is a zip, as `torch.save` writes, and no safetensors file".into());
    }
    let len = bytes.len() as u64;
    let Some((first, rest)) = bytes.split_first_chunk::<8>() else {
        return wrong(format!(
            "it has {len} bytes: it was not written or downloaded whole"
        ));
    };
    let header = u64::from_le_bytes(*first);
    if header > 100_000_000 {
        return wrong("it is not a safetensors file".into());
    }
    let Some(header) = rest.get(..header as usize) else {
        let least = header + 8;
        return wrong(format!(
            "it has {len} bytes and its header alone needs {least}: it was not written or \
             downloaded whole"
        ));
    };
    let fields: Map<String, Value> = match serde_json::from_slice(header) {
        Ok(fields) => fields,
        Err(_) => {
            return wrong(
                "its header is not JSON: it is damaged, or not a safetensors file".into(),
            );
        }
    };
    let tensors = fields.iter().filter(|(name, _)| *name != "__metadata__");
    let mut end = 0;
    for (name, tensor) in tensors {
        let dtype = tensor["dtype"].as_str().unwrap_or_default();
        if !READ.iter().any(|(known, _)| *known == dtype) {
            return Err(unread(name, dtype));
        }
        end = end.max(tensor["data_offsets"][1].as_u64().unwrap_or(0));
    }
    let wanted = end.saturating_add(8 + header.len() as u64);
    match len >= wanted {
        true => Ok(()),
        false => wrong(format!(
            "it has {len} bytes of {wanted}: it was not written or downloaded whole; fetch it again"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file of one tensor `t` with this type, shape and so many bytes.
    fn file(dtype: &str, shape: &[usize], bytes: &[u8]) -> Vec<u8> {
        let offsets = [0, bytes.len()];
        let header = serde_json::json!({
            "t": { "dtype": dtype, "shape": shape, "data_offsets": offsets }
        });
        let header = header.to_string();
        let mut all = (header.len() as u64).to_le_bytes().to_vec();
        all.extend(header.as_bytes());
        all.extend(bytes);
        all
    }

    #[test]
    fn doubles_are_rounded_and_halves_widened() {
        let doubles: Vec<u8> = [0.1f64, -2.0]
            .iter()
            .flat_map(|x| x.to_le_bytes())
            .collect();
        let (tensors, _) = from_bytes(&file("F64", &[2], &doubles)).unwrap();
        assert_eq!(tensors["t"].to_vec1::<f32>().unwrap(), [0.1, -2.0]);
        let (tensors, _) = from_bytes(&file("BF16", &[1], &[0x80, 0x3f])).unwrap();
        assert_eq!(tensors["t"].to_vec1::<f32>().unwrap(), [1.0]);
        let (tensors, _) = from_bytes(&file("F32", &[0], &[])).unwrap();
        assert_eq!(tensors["t"].dims(), [0]);
    }

    #[test]
    fn what_cannot_be_read_is_said_in_our_words() {
        let good = file("F32", &[2], &[0; 8]);
        let said = |bytes: &[u8]| from_bytes(bytes).unwrap_err().to_string();
        for dtype in ["F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ"] {
            let text = said(&file(dtype, &[2], &[0; 2]));
            assert!(
                text.contains(&format!("`t` is {dtype} (floats of eight")),
                "{text}"
            );
        }
        let text = said(&file("U8", &[2], &[0; 2]));
        assert!(text.contains("`t` is U8, and"), "{text}");
        let cut = said(&good[..good.len() - 1]);
        let (len, wanted) = (good.len() - 1, good.len());
        assert!(
            cut.contains(&format!("it has {len} bytes of {wanted}")),
            "{cut}"
        );
        assert!(said(&good[..20]).contains("its header alone needs"));
        assert!(said(&good[..5]).contains("it has 5 bytes"));
        assert!(said(b"").contains("empty"));
        assert!(said(b"PK\x03\x04 and more").contains("`torch.save`"));
        assert!(said(b"version https://git-lfs.github.com/spec/v1\n").contains("git lfs pull"));
        assert!(said(&[b'x'; 64]).contains("not a safetensors file"));
        let mut damaged = good.clone();
        damaged[8] = b'[';
        assert!(said(&damaged).contains("not JSON"));
        // More values than bytes, and bytes that belong to no tensor.
        let text = said(&file("F32", &[9], &[0; 8]));
        assert!(text.contains("header is damaged"), "{text}");
        let longer = [&good[..], b"more"].concat();
        assert!(said(&longer).contains("header is damaged"));
    }
}
