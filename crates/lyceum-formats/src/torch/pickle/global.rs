//! The names a pickle may refer to. Each is a word here; nothing is imported or called.

use crate::error::Result;
use crate::torch::tensor::Dtype;

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Global {
    RebuildTensor,
    RebuildParameter,
    OrderedDict,
    StorageType(Dtype),
    Reconstruct,
    Ndarray,
    NumpyDtype,
    NumpyScalar,
    Encode,
    Path,
    /// A configuration class of MTTL, whose attributes are all that is kept.
    Settings,
}

pub(super) fn global(module: &str, name: &str) -> Result<Global> {
    Ok(match (module, name) {
        ("torch._utils", "_rebuild_tensor_v2") => Global::RebuildTensor,
        ("torch._utils", "_rebuild_parameter") => Global::RebuildParameter,
        ("collections", "OrderedDict") => Global::OrderedDict,
        ("torch", name) if name.ends_with("Storage") => {
            let dtype = Dtype::of_storage(name);
            Global::StorageType(dtype.ok_or_else(|| format!("`torch.{name}` is not supported"))?)
        }
        ("numpy.core.multiarray" | "numpy._core.multiarray", "_reconstruct") => Global::Reconstruct,
        ("numpy.core.multiarray" | "numpy._core.multiarray", "scalar") => Global::NumpyScalar,
        ("numpy", "ndarray") => Global::Ndarray,
        ("numpy", "dtype") => Global::NumpyDtype,
        ("_codecs", "encode") => Global::Encode,
        ("pathlib" | "pathlib._local", "PosixPath") => Global::Path,
        (module, name) if module.starts_with("mttl.") && name.ends_with("Config") => {
            Global::Settings
        }
        _ => {
            return Err(format!(
                "it refers to `{module}.{name}`, which is not a tensor or plain data; refused, \
                 nothing was executed"
            )
            .into());
        }
    })
}
