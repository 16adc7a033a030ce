//! Writing what `torch.load` reads: a pickle of protocol 2 in a stored zip.

use super::tensor::{Data, Dtype, Stored};
use super::value::Value;
use super::zip;
use crate::error::{Error, Result};

/// The file that `torch.load` reads as `value`; equal values give equal bytes. Tensors are written
/// as torch tensors or numpy arrays, as they were made.
///
/// # Errors
/// [`Error::Unrepresentable`] when it would be larger than 4 GiB or hold an array of another type than
/// f32.
pub fn save(value: &Value<'_>) -> Result<Vec<u8>> {
    let write = || {
        let mut pickle = Pickle {
            bytes: vec![0x80, 2],
            storages: Vec::new(),
        };
        pickle.value(value)?;
        pickle.bytes.push(b'.');
        let mut entries = vec![
            ("archive/data.pkl".to_owned(), pickle.bytes),
            ("archive/byteorder".to_owned(), b"little".to_vec()),
        ];
        for (key, storage) in pickle.storages.into_iter().enumerate() {
            entries.push((format!("archive/data/{key}"), storage));
        }
        entries.push(("archive/version".to_owned(), b"3\n".to_vec()));
        zip::write(&entries)
    };
    write().map_err(|error: Error| Error::Unrepresentable(error.to_string()))
}

struct Pickle {
    bytes: Vec<u8>,
    storages: Vec<Vec<u8>>,
}

impl Pickle {
    fn global(&mut self, module: &str, name: &str) {
        self.bytes.extend(format!("c{module}\n{name}\n").as_bytes());
    }

    fn text(&mut self, text: &str) -> Result<()> {
        let n = u32::try_from(text.len()).map_err(|_| "a text above 4 GiB")?;
        self.bytes.push(b'X');
        self.bytes.extend(n.to_le_bytes());
        self.bytes.extend(text.as_bytes());
        Ok(())
    }

    fn int(&mut self, i: i64) {
        if let Ok(small) = u8::try_from(i) {
            self.bytes.extend([b'K', small]);
        } else if let Ok(int) = i32::try_from(i) {
            self.bytes.push(b'J');
            self.bytes.extend(int.to_le_bytes());
        } else {
            self.bytes.extend([0x8a, 8]);
            self.bytes.extend(i.to_le_bytes());
        }
    }

    fn sizes(&mut self, sizes: &[usize]) -> Result<()> {
        self.bytes.push(b'(');
        for size in sizes {
            self.int(i64::try_from(*size).map_err(|_| "a tensor too large to write")?);
        }
        self.bytes.push(b't');
        Ok(())
    }

    fn value(&mut self, value: &Value<'_>) -> Result<()> {
        match value {
            Value::None => self.bytes.push(b'N'),
            Value::Bool(true) => self.bytes.push(0x88),
            Value::Bool(false) => self.bytes.push(0x89),
            Value::Int(i) => self.int(*i),
            Value::Float(x) => {
                self.bytes.push(b'G');
                self.bytes.extend(x.to_be_bytes());
            }
            Value::Text(text) => self.text(text)?,
            Value::Tuple(items) => {
                self.bytes.push(b'(');
                items.iter().try_for_each(|item| self.value(item))?;
                self.bytes.push(b't');
            }
            Value::List(items) => {
                self.bytes.extend(b"](");
                items.iter().try_for_each(|item| self.value(item))?;
                self.bytes.push(b'e');
            }
            Value::Dict(pairs) => {
                self.bytes.extend(b"}(");
                for (key, value) in pairs {
                    self.value(key)?;
                    self.value(value)?;
                }
                self.bytes.push(b'u');
            }
            Value::Tensor(stored) if stored.numpy => self.array(stored)?,
            Value::Tensor(stored) => self.tensor(stored)?,
        }
        Ok(())
    }

    fn raw(stored: &Stored<'_>) -> Result<Vec<u8>> {
        if stored.dtype != Dtype::F32 {
            return Err(format!("tensors are written in f32, not {:?}", stored.dtype).into());
        }
        let values = stored.values()?;
        // Through f64 and back loses nothing, but for the payload of a NaN.
        Ok(values
            .into_iter()
            .flat_map(|x| (x as f32).to_le_bytes())
            .collect())
    }

    fn tensor(&mut self, stored: &Stored<'_>) -> Result<()> {
        let raw = Pickle::raw(stored)?;
        let whole = Stored::array(Data::Latin1(""), Dtype::F32, stored.shape.clone(), false);
        self.global("torch._utils", "_rebuild_tensor_v2");
        self.bytes.extend(b"((");
        self.text("storage")?;
        self.global("torch", "FloatStorage");
        self.text(&self.storages.len().to_string())?;
        self.text("cpu")?;
        self.int(i64::try_from(stored.numel()).map_err(|_| "a tensor too large to write")?);
        self.bytes.extend(b"tQK\0");
        self.sizes(&whole.shape)?;
        self.sizes(&whole.strides)?;
        self.bytes.push(0x89);
        self.global("collections", "OrderedDict");
        self.bytes.extend(b")RtR");
        self.storages.push(raw);
        Ok(())
    }

    fn encoded(&mut self, raw: &[u8]) -> Result<()> {
        self.global("_codecs", "encode");
        let text: String = raw.iter().map(|byte| char::from(*byte)).collect();
        self.text(&text)?;
        self.text("latin1")?;
        self.bytes.extend([0x86, b'R']);
        Ok(())
    }

    fn array(&mut self, stored: &Stored<'_>) -> Result<()> {
        let raw = Pickle::raw(stored)?;
        // The module's old name, which every numpy opens.
        self.global("numpy.core.multiarray", "_reconstruct");
        self.global("numpy", "ndarray");
        self.bytes.extend([b'K', 0, 0x85]);
        self.encoded(b"b")?;
        self.bytes.extend([0x87, b'R', b'(', b'K', 1]);
        self.sizes(&stored.shape)?;
        self.global("numpy", "dtype");
        self.text("f4")?;
        self.bytes.extend([0x89, 0x88, 0x87, b'R', b'(', b'K', 3]);
        self.text("<")?;
        self.bytes.extend(b"NNN");
        self.bytes
            .extend([b'J', 255, 255, 255, 255, b'J', 255, 255, 255, 255, b'K', 0]);
        self.bytes.extend([b't', b'b', 0x89]);
        self.encoded(&raw)?;
        self.bytes.extend(b"tb");
        Ok(())
    }
}
