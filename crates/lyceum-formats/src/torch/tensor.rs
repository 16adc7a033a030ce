//! Tensors as files hold them: bytes, a type, a shape, strides and an offset into the bytes.

use std::borrow::Cow;

use half::{bf16, f16};

use crate::error::{Error, Result};

/// The type of one number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dtype {
    /// 32-bit float.
    F32,
    /// 64-bit float.
    F64,
    /// 16-bit IEEE float.
    F16,
    /// 16-bit brain float.
    Bf16,
    /// Signed, 64 bits.
    I64,
    /// Signed, 32 bits.
    I32,
    /// Signed, 16 bits.
    I16,
    /// Signed, 8 bits.
    I8,
    /// Unsigned, 8 bits.
    U8,
    /// One byte, 0 or 1.
    Bool,
}

impl Dtype {
    /// Bytes of one number.
    pub fn size(self) -> usize {
        match self {
            Dtype::F64 | Dtype::I64 => 8,
            Dtype::F32 | Dtype::I32 => 4,
            Dtype::F16 | Dtype::Bf16 | Dtype::I16 => 2,
            Dtype::I8 | Dtype::U8 | Dtype::Bool => 1,
        }
    }

    /// Returns `true` for a floating-point type.
    pub fn is_float(self) -> bool {
        matches!(self, Dtype::F32 | Dtype::F64 | Dtype::F16 | Dtype::Bf16)
    }

    /// That of torch's storage class `name`.
    pub(super) fn of_storage(name: &str) -> Option<Self> {
        Some(match name {
            "FloatStorage" => Dtype::F32,
            "DoubleStorage" => Dtype::F64,
            "HalfStorage" => Dtype::F16,
            "BFloat16Storage" => Dtype::Bf16,
            "LongStorage" => Dtype::I64,
            "IntStorage" => Dtype::I32,
            "ShortStorage" => Dtype::I16,
            "CharStorage" => Dtype::I8,
            "ByteStorage" => Dtype::U8,
            "BoolStorage" => Dtype::Bool,
            _ => return None,
        })
    }
}

/// That of numpy's type code.
pub(super) fn numpy_dtype(code: &str) -> Result<Dtype> {
    Ok(match code {
        "f4" => Dtype::F32,
        "f8" => Dtype::F64,
        "f2" => Dtype::F16,
        "i8" => Dtype::I64,
        "i4" => Dtype::I32,
        "i2" => Dtype::I16,
        "i1" => Dtype::I8,
        "u1" => Dtype::U8,
        "b1" => Dtype::Bool,
        other => {
            return Err(Error::unsupported(format!(
                "numpy arrays of `{other}` are not supported"
            )));
        }
    })
}

/// The bytes under a tensor.
#[derive(Debug, Clone, PartialEq)]
pub enum Data<'a> {
    /// As they are, little-endian.
    Raw(Cow<'a, [u8]>),
    /// Each as a character up to U+00FF, the way protocol 2 writes bytes.
    Latin1(&'a str),
}

impl Data<'_> {
    /// Number of bytes.
    pub(super) fn len(&self) -> usize {
        match self {
            Data::Raw(raw) => raw.len(),
            Data::Latin1(text) => text.chars().count(),
        }
    }

    fn bytes(&self) -> Result<Cow<'_, [u8]>> {
        match self {
            Data::Raw(raw) => Ok(Cow::Borrowed(raw)),
            Data::Latin1(text) => {
                let byte = |c: char| u8::try_from(u32::from(c));
                let bytes: Result<Vec<u8>, _> = text.chars().map(byte).collect();
                Ok(Cow::Owned(
                    bytes.map_err(|_| "bytes with a character above U+00FF")?,
                ))
            }
        }
    }
}

/// A tensor as the file holds it; its numbers are read when asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct Stored<'a> {
    pub(super) data: Data<'a>,
    pub(super) dtype: Dtype,
    pub(super) shape: Vec<usize>,
    /// In numbers, one per axis.
    pub(super) strides: Vec<usize>,
    /// In numbers.
    pub(super) offset: usize,
    /// A numpy array, not a torch tensor.
    pub(super) numpy: bool,
}

impl<'a> Stored<'a> {
    /// A torch tensor `shape` of these numbers, row by row.
    pub fn tensor(shape: &[usize], values: &[f32]) -> Stored<'static> {
        let raw = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        Stored {
            numpy: false,
            ..Stored::array(
                Data::Raw(Cow::Owned(raw)),
                Dtype::F32,
                shape.to_vec(),
                false,
            )
        }
    }

    /// A numpy array `shape` of these numbers, row by row.
    pub fn ndarray(shape: &[usize], values: &[f32]) -> Stored<'static> {
        Stored {
            numpy: true,
            ..Stored::tensor(shape, values)
        }
    }

    pub(super) fn array(data: Data<'a>, dtype: Dtype, shape: Vec<usize>, fortran: bool) -> Self {
        let mut strides = vec![0; shape.len()];
        let mut step = 1usize;
        let last = shape.len();
        for i in 0..last {
            let axis = if fortran { i } else { last - 1 - i };
            strides[axis] = step;
            step = step.saturating_mul(shape[axis]);
        }
        Stored {
            data,
            dtype,
            shape,
            strides,
            offset: 0,
            numpy: true,
        }
    }

    /// Its shape.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Type of its numbers in the file.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// Number of elements; saturates.
    pub fn numel(&self) -> usize {
        self.shape
            .iter()
            .fold(1, |n: usize, d| n.saturating_mul(*d))
    }

    /// The bytes of its numbers in the file, if they follow one another there row by row.
    pub fn plain(&self) -> Option<&'a [u8]> {
        let Data::Raw(Cow::Borrowed(raw)) = &self.data else {
            return None;
        };
        self.check().ok()?;
        let mut step = 1;
        for (size, stride) in self.shape.iter().zip(&self.strides).rev() {
            if *size > 1 && *stride != step {
                return None;
            }
            step *= size;
        }
        let (from, len) = (self.offset * self.dtype.size(), step * self.dtype.size());
        raw.get(from..)?.get(..len)
    }

    /// Refuses shapes that reach outside the bytes, or claim more numbers than there are.
    pub(super) fn check(&self) -> Result<()> {
        if self.shape.len() != self.strides.len() {
            return Err("a tensor with more axes than strides".into());
        }
        let held = self.data.len() / self.dtype.size();
        let reach = || {
            let mut last = self.offset;
            for (size, stride) in self.shape.iter().zip(&self.strides) {
                last = last.checked_add(size.checked_sub(1)?.checked_mul(*stride)?)?;
            }
            Some(last)
        };
        let empty = self.shape.contains(&0);
        if !empty && reach().is_none_or(|last| last >= held) || self.numel() > held {
            return Err(format!(
                "a tensor {:?} with strides {:?} from {} reaches outside its {held} numbers",
                self.shape, self.strides, self.offset
            )
            .into());
        }
        Ok(())
    }

    /// Its numbers, row by row, in f64.
    pub(super) fn values(&self) -> Result<Vec<f64>> {
        self.check()?;
        let bytes = self.data.bytes()?;
        let mut out = Vec::with_capacity(self.numel());
        let mut index = vec![0usize; self.shape.len()];
        for _ in 0..self.numel() {
            let steps = index
                .iter()
                .zip(&self.strides)
                .map(|(i, stride)| i * stride);
            let at = (self.offset + steps.sum::<usize>()) * self.dtype.size();
            let number = bytes.get(at..).and_then(|rest| number(self.dtype, rest));
            out.push(number.ok_or("a tensor reaches outside its storage")?);
            for axis in (0..index.len()).rev() {
                index[axis] += 1;
                if index[axis] < self.shape[axis] {
                    break;
                }
                index[axis] = 0;
            }
        }
        Ok(out)
    }

    /// Its numbers, row by row, in f32. f64 is rounded.
    ///
    /// # Errors
    /// [`Error::Unrepresentable`] for integers that f32 does not hold exactly.
    pub fn to_f32(&self) -> Result<Vec<f32>> {
        let values = self.values()?;
        let exact = |x: &f64| self.dtype.is_float() || f64::from(*x as f32) == *x;
        if !values.iter().all(exact) {
            return Err(Error::Unrepresentable(
                "holds integers that f32 cannot hold exactly".into(),
            ));
        }
        Ok(values.into_iter().map(|x| x as f32).collect())
    }
}

fn number(dtype: Dtype, bytes: &[u8]) -> Option<f64> {
    Some(match dtype {
        Dtype::F32 => f32::from_le_bytes(*bytes.first_chunk()?).into(),
        Dtype::F64 => f64::from_le_bytes(*bytes.first_chunk()?),
        Dtype::F16 => f16::from_le_bytes(*bytes.first_chunk()?).into(),
        Dtype::Bf16 => bf16::from_le_bytes(*bytes.first_chunk()?).into(),
        Dtype::I64 => i64::from_le_bytes(*bytes.first_chunk()?) as f64,
        Dtype::I32 => i32::from_le_bytes(*bytes.first_chunk()?).into(),
        Dtype::I16 => i16::from_le_bytes(*bytes.first_chunk()?).into(),
        Dtype::I8 => i8::from_le_bytes(*bytes.first_chunk()?).into(),
        Dtype::U8 | Dtype::Bool => u8::from_le_bytes(*bytes.first_chunk()?).into(),
    })
}
