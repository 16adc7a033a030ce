//! CPU kernels of Lyceum: forward and backward, slices in, slices out.
