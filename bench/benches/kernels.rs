//! Every kernel against the machine: GFLOP/s shown as elements, GB/s as bytes.
//!
//! The ceilings come first: a large copy for what is bound by memory, and the best product for
//! what is bound by arithmetic.
#![allow(missing_docs, reason = "criterion's macros write functions")]

use std::hint::black_box;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};
use lyceum::rng::Rng;
use lyceum_kernels::activation::{self, Activation};
use lyceum_kernels::attention::{self, Heads, Part, Qkv, Rows, Span, Stretch};
use lyceum_kernels::gemm::{Added, Packed, Rounding};
use lyceum_kernels::loss;
use lyceum_kernels::norm::{self, NormBackward};
use lyceum_kernels::rope::{self, Angles, Rotation};
use rayon::prelude::*;

/// Tokens of a batch, its sequences, and the width of GPT-Neo-125M.
const T: usize = 2048;
const SEQUENCES: usize = 8;
const D: usize = 768;

fn values(n: usize) -> Vec<f32> {
    Rng::new(1).uniform(n, 1.0)
}

type Group<'a> = BenchmarkGroup<'a, WallTime>;

fn flops(group: &mut Group<'_>, name: &str, count: usize, run: impl FnMut()) {
    measure(group, name, Throughput::Elements(count as u64), run);
}

fn bytes(group: &mut Group<'_>, name: &str, count: usize, run: impl FnMut()) {
    measure(group, name, Throughput::Bytes(count as u64), run);
}

fn measure(group: &mut Group<'_>, name: &str, amount: Throughput, mut run: impl FnMut()) {
    group.throughput(amount);
    group.bench_function(name, |b| b.iter(&mut run));
}

fn ceilings(c: &mut Criterion) {
    let mut group = c.benchmark_group("ceiling");
    let from = vec![1u64; 1 << 25];
    let mut to = vec![0u64; 1 << 25];
    bytes(&mut group, "copy", 2 * 8 * from.len(), || {
        let parts = to.par_chunks_mut(1 << 16).zip(from.par_chunks(1 << 16));
        parts.for_each(|(to, from)| to.copy_from_slice(from));
    });
}

fn products(c: &mut Criterion) {
    let mut group = c.benchmark_group("product");
    for (t, k, n) in [(T, D, D), (T, D, 4 * D), (T, 4 * D, D), (256, D, 50257)] {
        let (w, x, dy) = (values(n * k), values(t * k), values(t * n));
        for (name, packed) in [
            ("bf16", Packed::bf16(&w, n, k)),
            ("f32", Packed::f32(&w, n, k)),
        ] {
            flops(
                &mut group,
                &format!("{name} {t}x{k}x{n}"),
                2 * t * k * n,
                || {
                    black_box(packed.forward(&x, Added::default()));
                },
            );
            flops(
                &mut group,
                &format!("{name} {t}x{k}x{n} backward"),
                2 * t * k * n,
                || {
                    black_box(packed.backward(&dy));
                },
            );
        }
    }
    let w = values(1 << 26);
    for (name, packed) in [
        ("bf16", Packed::bf16(&w, 8192, 8192)),
        ("f32", Packed::f32(&w, 8192, 8192)),
    ] {
        for rows in [1, 8] {
            let x = values(rows * 8192);
            bytes(
                &mut group,
                &format!("{name} {rows} rows of 8192"),
                packed.bytes(),
                || {
                    black_box(packed.forward(&x, Added::default()));
                },
            );
        }
    }
}

fn attend(c: &mut Criterion) {
    let mut group = c.benchmark_group("attention");
    let heads = Heads {
        heads: 12,
        kv_heads: 12,
        dim: 64,
        scale: 0.125,
        window: None,
        soft_cap: None,
        rounding: Rounding::Bf16,
    };
    let (q, k, v) = (values(T * D), values(T * D), values(T * D));
    let len = T / SEQUENCES;
    // Two products over the lower triangle.
    let count = SEQUENCES * 2 * 2 * D * len * (len + 1) / 2;
    let spans: Vec<Span<'_>> = { k.chunks(len * D).zip(v.chunks(len * D)) }
        .map(|(k, v)| Span {
            rows: len,
            parts: vec![Part {
                k: Rows::F32(k),
                v: Rows::F32(v),
            }],
        })
        .collect();
    flops(&mut group, "forward", count, || {
        black_box(attention::forward(&q, &spans, &heads));
    });
    let (dout, lens) = (values(T * D), [Stretch::whole(len); SEQUENCES]);
    // The scores again, and four products for the gradients.
    flops(&mut group, "backward", 5 * count / 2, || {
        let qkv = Qkv {
            q: &q,
            k: &k,
            v: &v,
        };
        black_box(attention::backward(qkv, &dout, &lens, &heads));
    });
}

fn elementwise(c: &mut Criterion) {
    let mut group = c.benchmark_group("elementwise");
    let wide = values(T * 4 * D);
    bytes(&mut group, "gelu_new", 8 * wide.len(), || {
        black_box(activation::forward(Activation::GeluTanh, &wide));
    });
    // Zeros, which stay what they are: others would shrink until they are no longer normal.
    let mut zeros = vec![0.0; wide.len()];
    bytes(&mut group, "gelu_new backward", 12 * wide.len(), || {
        activation::backward(Activation::GeluTanh, &wide, &mut zeros);
    });
    let dy = values(wide.len());
    bytes(&mut group, "silu gated", 12 * wide.len(), || {
        black_box(activation::gated(Activation::Silu, &wide, &dy));
    });
    let (x, w, b) = (values(T * D), values(D), values(D));
    bytes(&mut group, "layer norm", 8 * x.len(), || {
        black_box(norm::layer_norm(&x, &w, &b, 1e-5));
    });
    let dy = values(x.len());
    let arguments = NormBackward {
        x: &x,
        weight: &w,
        eps: 1e-5,
        dy: &dy,
        onto: None,
    };
    bytes(&mut group, "layer norm backward", 12 * x.len(), || {
        black_box(norm::layer_norm_backward(arguments, None));
    });
    bytes(&mut group, "rms norm", 8 * x.len(), || {
        black_box(norm::rms_norm(&x, &w, 1e-5));
    });
    let angles = Angles {
        cos: values(T * 32),
        sin: values(T * 32),
        half: 32,
    };
    bytes(&mut group, "rope", 8 * x.len(), || {
        black_box(rope::rotate(&x, &angles, 12, 64, Rotation::Forward));
    });
}

fn losses(c: &mut Criterion) {
    let mut group = c.benchmark_group("cross-entropy");
    let (n, v) = (256, 50257);
    let (logits, ids) = (values(n * v), vec![7u32; n]);
    let mut losses = vec![0.0; n];
    bytes(&mut group, "forward", 4 * n * v, || {
        loss::cross_entropy(&logits, &ids, &mut losses);
    });
    let mut d = vec![0.0; n * v];
    bytes(&mut group, "backward", 8 * n * v, || {
        loss::cross_entropy_backward(&logits, &ids, &losses, &mut d);
    });
}

criterion_group!(
    name = kernels;
    config = Criterion::default().sample_size(10);
    targets = ceilings, products, attend, elementwise, losses
);
criterion_main!(kernels);
